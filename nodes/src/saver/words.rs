//! What the user says of a saved file: the `metadata` of savers.

use std::collections::BTreeMap;
use std::path::Path;

use pipe_core::node::{CheckCx, missing_help};
use pipe_core::run::RunError;
use pipe_data::metadata::{LARGEST_THUMBNAIL, data_url, image_type};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::adapter::size::No;

/// Metadata of an adapter's file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AdapterWords {
    /// Only what readers need: the kind of model and adapter, and modelspec.
    Least(No),
    /// What the user says of it.
    Own(Box<CommentedWords>),
}

impl Default for AdapterWords {
    fn default() -> Self {
        AdapterWords::Own(Box::default())
    }
}

impl AdapterWords {
    /// Whether only the least is written.
    pub fn least(&self) -> bool {
        matches!(self, AdapterWords::Least(_))
    }
    /// The user's words.
    pub fn own(&self) -> CommentedWords {
        match self {
            AdapterWords::Least(_) => CommentedWords::default(),
            AdapterWords::Own(words) => (**words).clone(),
        }
    }
}

/// A comment, and words of modelspec.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct CommentedWords {
    /// A comment on the training (`ss_training_comment`).
    #[serde(default)]
    pub comment: Option<String>,
    #[serde(flatten)]
    pub words: Words,
}

/// Words of modelspec.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct Words {
    /// Title. Default: the base name of the file.
    #[serde(default)]
    pub title: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub author: Option<String>,
    /// What it is.
    #[serde(default)]
    pub description: Option<String>,
    /// Under which licence.
    #[serde(default)]
    pub license: Option<String>,
    /// Tags: a list, or one text with commas.
    #[serde(default)]
    pub tags: Option<Tags>,
    /// How to use it.
    #[serde(default)]
    pub usage_hint: Option<String>,
    /// A picture (png, jpg, webp or gif) that is put into the file, of at most 4 MiB.
    #[serde(default)]
    #[schemars(extend("x-path" = "file"))]
    pub thumbnail: Option<String>,
    /// Names of the models it was merged from.
    #[serde(default)]
    pub merged_from: Option<String>,
    /// Words that call up what was learnt.
    #[serde(default)]
    pub trigger_phrase: Option<String>,
    /// What images have to go through first.
    #[serde(default)]
    pub preprocessor: Option<String>,
    /// It is an embedding for negative prompts. Default: not said.
    #[serde(default)]
    pub is_negative_embedding: Option<bool>,
}

/// Tags.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Tags {
    /// One text.
    Text(String),
    /// A list.
    List(Vec<String>),
}

impl Words {
    /// Reports a thumbnail that cannot be one.
    pub fn check(&self, cx: &mut CheckCx) {
        let Some(path) = self.thumbnail.as_deref().map(|text| cx.path(text)) else { return };
        if cx.stands_in(&path) {
            return;
        }
        let field = "metadata.thumbnail";
        let size = match std::fs::metadata(&path) {
            Ok(about) => about.len(),
            Err(_) => {
                let help = missing_help(&path);
                return cx.error("P0301", field, format!("`{}` does not exist", path.display()), Some(help));
            }
        };
        if image_type(&path).is_none() {
            let message = format!("`{}` is no png, jpg, webp or gif", path.display());
            cx.error("P0302", field, message, None);
        } else if size > LARGEST_THUMBNAIL {
            let message = format!("`{}` has {size} bytes, which would stand in every saved file", path.display());
            cx.error("P0403", field, message, Some("give a picture of at most 4 MiB".into()));
        }
    }

    /// The entries of modelspec, without its prefix and without the title. `path` resolves the thumbnail.
    pub fn entries(&self, path: impl Fn(&str) -> std::path::PathBuf) -> Result<BTreeMap<String, String>, RunError> {
        let tags = self.tags.clone().map(|tags| match tags {
            Tags::Text(text) => text,
            Tags::List(list) => list.join(", "),
        });
        let thumbnail = self.thumbnail.as_deref().map(|text| picture(&path(text))).transpose()?;
        let negative = self.is_negative_embedding.map(|is| if is { "True" } else { "False" }.to_owned());
        let fields = [
            ("author", self.author.clone()),
            ("description", self.description.clone()),
            ("license", self.license.clone()),
            ("tags", tags),
            ("usage_hint", self.usage_hint.clone()),
            ("thumbnail", thumbnail),
            ("merged_from", self.merged_from.clone()),
            ("trigger_phrase", self.trigger_phrase.clone()),
            ("preprocessor", self.preprocessor.clone()),
            ("is_negative_embedding", negative),
        ];
        Ok(fields.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?))).collect())
    }
}

fn picture(path: &Path) -> Result<String, RunError> {
    data_url(path).map_err(|e| RunError::new("P0302", format!("`{}`: {e}", path.display())).at("metadata.thumbnail"))
}
