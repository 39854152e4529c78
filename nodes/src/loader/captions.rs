//! Captions of a folder: the fields, and how captions change from use to use.

use pipe_core::node::CheckCx;
use pipe_data::captions::{self, CaptionOptions, flexible_tags};
use pipe_data::images::caption_text;
use schemars::JsonSchema;
use serde::Deserialize;

use super::sample::{CaptionRules, Sample};
use crate::common::batch::Words;

/// Fields of `loader.images` about captions.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct CaptionFields {
    /// Extension of caption files. Default `.txt`.
    #[serde(default)]
    caption_extension: Option<String>,
    /// Caption of images without a caption file. Without it such an image is an error.
    #[serde(default)]
    pub(super) default_caption: Option<String>,
    /// Text put before every caption, with a space; of several lines before the first.
    #[serde(default)]
    pub(super) caption_prefix: Option<String>,
    /// Text put behind every caption, with a space; of several lines behind the last.
    #[serde(default)]
    pub(super) caption_suffix: Option<String>,
    /// Probability of training a use of an image with an empty caption. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) caption_dropout_rate: f64,
    /// Empty captions in every so many epochs: 3 is the third, the sixth and so on. Default: never.
    #[serde(default)]
    #[schemars(range(min = 1))]
    caption_dropout_every_epochs: Option<u64>,
    /// Draw one of several lines of a caption at each use, and one text of each `{a|b|c}` in it; `{{` and `}}` are braces.
    /// Default false: the first line that is not blank counts, and braces are text.
    #[serde(default)]
    pub(super) wildcards: bool,
    /// What separates the tags of a caption for the fields below; they are joined with a comma and a space. Default `,`.
    #[serde(default)]
    #[schemars(length(min = 1))]
    caption_separator: Option<String>,
    /// Shuffle the tags of a caption at each use. Default false.
    #[serde(default)]
    shuffle_caption: bool,
    /// Leave out each tag with this probability at each use. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    tag_dropout_rate: f64,
    /// Tags come in one after another over the first steps: captions grow from `min` tags to all. Default: off.
    #[serde(default)]
    token_warmup: Option<Warmup>,
    /// Tags at the front that are neither moved nor left out. Default 0.
    #[serde(default)]
    keep_tokens: u64,
    /// A mark in captions: what stands before it is kept in place, and so is what stands behind a second one. Where a
    /// caption has the mark, `keep_tokens` does not count. Default: none.
    #[serde(default)]
    #[schemars(length(min = 1))]
    keep_tokens_separator: Option<String>,
    /// A mark that joins tags to a group, which is moved or left out as one; in the end it becomes the `caption_separator`.
    /// Default: none.
    #[serde(default)]
    #[schemars(length(min = 1))]
    secondary_separator: Option<String>,
}

/// How tags come in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("x-one-of" = ["steps", "ratio"]))]
struct Warmup {
    /// Tags at the first step, besides those that are kept. Default 1.
    #[serde(default = "one")]
    min: u64,
    /// Optimizer steps until all tags are used.
    #[serde(default)]
    #[schemars(range(min = 1))]
    steps: Option<u64>,
    /// The same as a part of the run, rounded down to whole steps.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1.0))]
    ratio: Option<f64>,
}

fn one() -> u64 {
    1
}

const LINE_ENDS: [char; 2] = ['\n', '\r'];

impl CaptionFields {
    /// The rules that the fields make.
    pub(super) fn rules(&self) -> CaptionRules {
        let options = CaptionOptions {
            dropout: self.caption_dropout_rate,
            dropout_every_epochs: self.caption_dropout_every_epochs,
            wildcards: self.wildcards,
            separator: self.separator().into(),
            keep_tokens: self.keep_tokens as usize,
            keep_tokens_separator: self.keep_tokens_separator.clone().unwrap_or_default(),
            secondary_separator: self.secondary_separator.clone().unwrap_or_default(),
            shuffle: self.shuffle_caption,
            tag_dropout: self.tag_dropout_rate,
            ..CaptionOptions::default()
        };
        let warmup = self.token_warmup.as_ref().map(|w| (w.min, w.steps, w.ratio));
        CaptionRules { options, warmup }
    }

    /// Words that captions get, and the name of the metadata file they are from.
    pub(super) fn words(&self, metadata: Option<&str>) -> Words {
        let name = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
        Words {
            prefix: self.caption_prefix.clone(),
            suffix: self.caption_suffix.clone(),
            default: self.default_caption.clone(),
            metadata: metadata.map(name),
        }
    }

    /// Extension of caption files.
    pub(super) fn extension(&self) -> &str {
        self.caption_extension.as_deref().unwrap_or(".txt")
    }

    /// What separates tags.
    pub(super) fn separator(&self) -> &str {
        self.caption_separator.as_deref().unwrap_or(",")
    }

    /// Whether captions are cut into tags.
    fn cuts(&self) -> bool {
        self.shuffle_caption || self.tag_dropout_rate > 0.0 || self.token_warmup.is_some()
    }

    /// Fields that change captions from use to use, in another way than leaving all of one out.
    pub(super) fn varying(&self) -> Vec<&'static str> {
        let list = [
            ("wildcards", self.wildcards),
            ("shuffle_caption", self.shuffle_caption),
            ("tag_dropout_rate", self.tag_dropout_rate > 0.0),
            ("token_warmup", self.token_warmup.is_some()),
        ];
        list.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }

    /// Fields that are set and that change only what is trained on.
    pub(super) fn for_training(&self) -> Vec<&'static str> {
        let dropout = (self.caption_dropout_rate > 0.0).then_some("caption_dropout_rate");
        let by_epochs = self.caption_dropout_every_epochs.map(|_| "caption_dropout_every_epochs");
        // Measurements draw one of several lines as well.
        let tags = self.varying().into_iter().filter(|field| *field != "wildcards");
        dropout.into_iter().chain(by_epochs).chain(tags).collect()
    }

    /// With prefix and suffix. A line end at their ends, as YAML's blocks have it, is none of a caption.
    pub(super) fn decorate(&self, caption: String) -> String {
        let mut text = caption;
        if let Some(prefix) = &self.caption_prefix {
            text = format!("{} {text}", prefix.trim_matches(LINE_ENDS));
        }
        if let Some(suffix) = &self.caption_suffix {
            text = format!("{text} {}", suffix.trim_matches(LINE_ENDS));
        }
        text
    }

    /// The caption of images without a caption file.
    pub(super) fn of_others(&self) -> Option<String> {
        self.default_caption.as_ref().map(|text| caption_text(text, self.wildcards))
    }

    /// Texts of several lines where captions have one: what is behind the first would be lost.
    fn lines(&self, cx: &mut CheckCx) {
        for (field, text) in [
            ("default_caption", &self.default_caption),
            ("caption_prefix", &self.caption_prefix),
            ("caption_suffix", &self.caption_suffix),
        ] {
            if text.as_ref().is_some_and(|text| text.trim_matches(LINE_ENDS).contains(LINE_ENDS)) {
                let message = format!("`{field}` has several lines, and captions have one without `wildcards`");
                cx.error("P0403", field, message, Some("write it in one line, or set `wildcards: true`".into()));
            }
        }
    }

    /// Fields without effect. Where captions come from a metadata file the separator joins its tags.
    pub(super) fn check(&self, cx: &mut CheckCx, metadata: bool) {
        let cut = self.cuts();
        let separates = cut || metadata || self.secondary_separator.is_some();
        for (field, set, needed) in [
            ("keep_tokens", self.keep_tokens > 0, cut),
            ("keep_tokens_separator", self.keep_tokens_separator.is_some(), cut),
            ("caption_separator", self.caption_separator.is_some(), separates),
        ] {
            if set && !needed {
                let message = format!("`{field}` has no effect: tags are neither moved nor left out");
                let help = format!(
                    "add `shuffle_caption: true`, `tag_dropout_rate` or `token_warmup`, or leave `{field}` out"
                );
                cx.error("P0402", field, message, Some(help));
            }
        }
        if !self.wildcards {
            self.lines(cx);
        }
        if metadata && self.caption_extension.is_some() {
            let message = "`caption_extension` has no effect beside `metadata`, which has the captions";
            cx.error("P0402", "caption_extension", message, Some("leave one of the two out".into()));
        }
        if self.secondary_separator.as_deref() == Some(self.separator()) {
            let message = "`secondary_separator` has no effect: it is the `caption_separator`";
            cx.error("P0402", "secondary_separator", message, Some("choose a mark of its own, such as `;;;`".into()));
        }
        let run = cx.settings.train.steps.or(cx.settings.train.epochs.is_none().then_some(1600));
        if let (Some(ratio), Some(steps)) = (self.token_warmup.as_ref().and_then(|w| w.ratio), run)
            && ratio * (steps as f64) < 1.0
        {
            let message = format!("`ratio` has no effect: {ratio} of {steps} steps is less than one");
            cx.error("P0402", "token_warmup.ratio", message, Some("give `steps`, or leave `token_warmup` out".into()));
        }
        self.dropped(cx);
    }

    /// Whether no caption is left.
    pub(super) fn drops_all(&self) -> bool {
        self.caption_dropout_rate >= 1.0 || self.caption_dropout_every_epochs == Some(1)
    }

    /// Fields that have no caption or no tag to change.
    fn dropped(&self, cx: &mut CheckCx) {
        let (rate, every) = (self.caption_dropout_rate, self.caption_dropout_every_epochs);
        let by_epochs = every.map(|_| "caption_dropout_every_epochs");
        let by_chance = (rate > 0.0).then_some("caption_dropout_rate");
        let (why, other) = match (rate, every) {
            (1.0.., _) => ("caption_dropout_rate: 1", by_epochs),
            (_, Some(1)) => ("caption_dropout_every_epochs: 1", by_chance),
            _ => {
                if self.tag_dropout_rate >= 1.0 {
                    for field in self.varying().into_iter().filter(|f| ["shuffle_caption", "token_warmup"].contains(f))
                    {
                        let message = format!(
                            "`{field}` has no effect: with `tag_dropout_rate: 1` no tag is left but those that are kept"
                        );
                        cx.error("P0402", field, message, None);
                    }
                }
                return;
            }
        };
        for field in self.varying().into_iter().chain(other) {
            let message = format!("`{field}` has no effect: with `{why}` every caption is empty");
            cx.error("P0402", field, message, None);
        }
    }

    /// Fields that move tags or leave them out, where captions have too few; and a separator that none has.
    fn too_few(&self, items: &[Sample]) -> Vec<(&'static str, String)> {
        if !self.cuts() || self.drops_all() {
            return Vec::new();
        }
        let separator = self.separator();
        if self.caption_separator.is_some() && !items.iter().any(|item| item.caption.contains(separator)) {
            return vec![("caption_separator", format!("no caption has `{separator}`: each is one tag"))];
        }
        let options = self.rules().options;
        let most = items.iter().map(|item| flexible_tags(&item.caption, &options)).max().unwrap_or(0);
        let kept = self.keep_tokens > 0 || self.keep_tokens_separator.is_some();
        let besides = if kept { " besides those that are kept" } else { "" };
        let warmup = self.token_warmup.as_ref().map_or(u64::MAX, |warmup| warmup.min);
        let list = [
            ("shuffle_caption", self.shuffle_caption && most < 2, 1),
            ("tag_dropout_rate", self.tag_dropout_rate > 0.0 && most < 1, 0),
            ("token_warmup", warmup >= most as u64 && self.token_warmup.is_some(), warmup),
        ];
        let said = |(field, idle, count): (&'static str, bool, u64)| {
            let tags = match count {
                0 => "any tag".to_owned(),
                1 => "more than one tag".to_owned(),
                n => format!("more than {n} tags"),
            };
            idle.then(|| (field, format!("`{field}` has no effect: no caption has {tags}{besides}")))
        };
        list.into_iter().filter_map(said).collect()
    }

    /// Marks that no caption has, as far as captions are known.
    pub(super) fn notices(&self, items: &[Sample]) -> Vec<(&'static str, String)> {
        let without = |mark: &str| !items.iter().any(|item| item.caption.contains(mark));
        let mut list = Vec::new();
        let kept = self.keep_tokens_separator.as_ref().filter(|_| self.cuts());
        let groups = self.secondary_separator.as_ref().filter(|mark| *mark != self.separator());
        for (field, mark) in [("keep_tokens_separator", kept), ("secondary_separator", groups)] {
            if let Some(mark) = mark.filter(|mark| without(mark)) {
                list.push((field, format!("`{field}` has no effect: no caption has `{mark}`")));
            }
        }
        let plain = |item: &Sample| {
            let mut least = || 0;
            let options = CaptionOptions { wildcards: true, ..CaptionOptions::default() };
            captions::whole(&item.caption, &options, &mut least) == item.caption
        };
        if self.wildcards && items.iter().all(plain) {
            let message = "`wildcards` has no effect: no caption has several lines or braces";
            list.push(("wildcards", message.to_owned()));
        }
        if let (Some(mark), true) = (kept, self.keep_tokens > 0)
            && items.iter().all(|item| item.caption.contains(mark.as_str()))
        {
            let message = format!("`keep_tokens` has no effect: every caption has `{mark}`, which counts in its place");
            list.push(("keep_tokens", message));
        }
        list.extend(self.too_few(items));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: serde_json::Value) -> CaptionFields {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_line_end_of_a_field_is_none_of_the_caption() {
        let block = fields(serde_json::json!({ "caption_prefix": "sks\n", "caption_suffix": "\r\nphoto\n" }));
        assert_eq!(block.decorate("a cat".into()), "sks a cat photo");
        let other = fields(serde_json::json!({ "default_caption": "\n red cat\n" }));
        assert_eq!(other.of_others().as_deref(), Some("red cat"));
    }
}
