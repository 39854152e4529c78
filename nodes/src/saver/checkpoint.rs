//! `saver.checkpoint`: whole models, as one file or a Diffusers folder.

use pipe_core::node::{About, CheckCx, Facts, InputFacts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::weights::Layout;
use pipe_networks::Shapes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::best::{self, Best};
use super::files::Files;
use super::metadata;
use super::range::Range;
use super::whole::Saver;
use super::words::Words;
use crate::common::autoencoder::Autoencoder;
use crate::common::facts::{read, texts_of_port, trained_texts};
use crate::common::family;
use crate::common::text::TextEncoder;
use crate::common::trainable::{Held, Subject, Trainable};
use crate::common::write;
use crate::optimizer::Update;

/// Fields of `saver.checkpoint`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    #[serde(flatten)]
    files: Files,
    /// Layout. Default: the one the model was loaded from.
    #[serde(default)]
    format: Option<Format>,
    /// What a safetensors file says of itself: title, author, licence and more. Default: the file's name as title.
    #[serde(default)]
    metadata: Option<Words>,
}

/// Layout of a saved model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// One safetensors file with the original (LDM) names.
    SingleFile,
    /// The denoiser alone with its authors' names and no prefix, as FLUX and Lumina are usually passed on.
    ModelOnly,
    /// A PyTorch `.ckpt` of the whole model; anyone but an allow-list reader must trust such files.
    Ckpt,
    /// A Diffusers folder: `model_index.json`, `unet/` or `transformer/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`.
    Diffusers,
}

impl Format {
    /// The layout of the file a model came from, as far as it can hold what is saved.
    fn of(layout: Option<Layout>, with_parts: bool) -> Format {
        match layout {
            Some(Layout::LdmFile) if !with_parts => Format::ModelOnly,
            Some(Layout::DiffusersFile | Layout::DiffusersDir | Layout::ComponentDir) => Format::Diffusers,
            _ => Format::SingleFile,
        }
    }
}

impl Config {
    /// The layout: the one asked for, else that of the model's file.
    fn layout(&self, inputs: &InputFacts) -> Format {
        let source = || Layout::of_id(inputs.one("model")?.facts.str("layout")?);
        let trained = inputs.one("model").is_some_and(|m| !trained_texts(&m.facts).is_empty());
        let parts = trained || ["vae", "text"].iter().any(|port| !inputs.many(port).is_empty());
        self.format.unwrap_or_else(|| Format::of(source(), parts))
    }
}

/// The node type.
pub struct CheckpointSaver;

impl Node for CheckpointSaver {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "saver.checkpoint",
        summary: "Saves the whole model: one safetensors file or a Diffusers folder.",
        details: "Holds the denoiser and, of `vae` and `text`, what is given; a text encoder that was trained is saved as trained. A \
                  trained autoencoder is saved alone. Without `format` the model is saved in the layout it was loaded from \
                  (a `.ckpt` as one safetensors file). Head counts and group counts, which tensors do not tell, go into the Diffusers \
                  `config.json`; a reduced model in one file needs them again under `config:` when it is loaded.",
        example: "save:\n  type: saver.checkpoint\n  model: full\n  vae: vae\n  text: clip\n  format: diffusers",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable], Rate::Event, "Model to save."),
            Input::optional("vae", &[PortType::Vae], Rate::Event, "Autoencoder to save with it.").unloaded(),
            Input::many("text", &[PortType::TextEncoder], Rate::Event, "Text encoders to save with it.").unloaded(),
            Input::optional(
                "update",
                &[PortType::Update],
                Rate::Event,
                "The optimizer, from which the metadata have the resolution and the range of timesteps.",
            ),
            best::input(),
        ]
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if let Some(source) = cx.inputs.one("model").cloned() {
            if source.facts.str("method") == Some("adapter") {
                let help = "use `saver.adapter`";
                cx.error(
                    "P0401",
                    "model",
                    format!("`{}` trains an adapter, not the model itself", source.node),
                    Some(help.into()),
                );
            }
            if source.facts.get("vae").is_some() {
                for port in ["vae", "text"] {
                    if cx.inputs.one(port).is_some() {
                        cx.error("P0402", port, format!("`{port}` has no effect when an autoencoder is trained"), None);
                    }
                }
            }
        }
        if config.format == Some(Format::ModelOnly) {
            for port in ["vae", "text"] {
                if !cx.inputs.many(port).is_empty() {
                    cx.error("P0402", port, format!("`{port}` has no effect with `format: model_only`"), None);
                }
            }
            if cx.inputs.one("model").is_some_and(|m| !trained_texts(&m.facts).is_empty()) {
                let message = "`format: model_only` would leave out the text encoders that learn";
                cx.error("P0401", "format", message, Some("use `single_file` or `diffusers`".into()));
            }
        }
        if let Some(family) = cx.inputs.one("model").and_then(|m| family::of_id(m.facts.str("architecture")?)) {
            for text in texts_of_port(cx.inputs, "text").iter().filter(|t| !family.has(t.component())) {
                cx.error("P0401", "text", format!("{family} has no {}", text.component().name()), None);
            }
        }
        let texts = texts_of_port(cx.inputs, "text");
        for (i, one) in texts.iter().enumerate() {
            if texts[..i].iter().any(|other| other.kind == one.kind) {
                let message =
                    format!("two of the text encoders are a {}, which a model has once", one.component().name());
                cx.error("P0401", "text", message, Some("leave one of them out".into()));
            }
        }
        let layout = config.layout(cx.inputs);
        config.files.check(cx, extension(layout));
        if let Some(words) = &config.metadata {
            words.check(cx);
            if matches!(layout, Format::Ckpt | Format::Diffusers) {
                let message = "`metadata` has no effect: only a safetensors file in one piece holds it";
                cx.error("P0402", "metadata", message, Some("leave it out, or use `format: single_file`".into()));
            }
        }
        best::check(cx, &config.files.name(cx.settings), extension(layout));
        Facts::new()
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let mut parameters = cx.inputs.one("model").and_then(|a| a.facts.u64("parameters")).unwrap_or(0);
        let values =
            |shapes: &Shapes| -> Vec<u64> { shapes.iter().map(|(_, s)| s.iter().product::<usize>() as u64).collect() };
        // Of the parts that did not learn one tensor at a time is read.
        let mut read_values = 0;
        let mut count = |shapes: Shapes| {
            let values = values(&shapes);
            read_values = values.iter().copied().fold(read_values, u64::max);
            values.iter().sum::<u64>()
        };
        let vae = cx.inputs.one("vae").and_then(|v| read::<pipe_networks::vae::VaeConfig>(&v.facts, "vae"));
        parameters += vae.map_or(0, |c| count(c.shapes()));
        let trained = cx.inputs.one("model").map(|m| trained_texts(&m.facts)).unwrap_or_default();
        for text in texts_of_port(cx.inputs, "text") {
            if trained.iter().all(|t| t.kind != text.kind) {
                parameters += count(text.network.shapes());
            }
        }
        let size = parameters * config.files.dtype.dtype().size() as u64;
        let mut plan = config.files.plan(cx.settings, extension(config.layout(cx.inputs)));
        let train = &cx.settings.train;
        let (total, per_epoch) = match (cx.length, train.steps, train.epochs) {
            (Some(told), ..) => told,
            // No optimizer tells the steps of an epoch: what fires by the unit that the run is not measured in is left
            // out.
            (None, None, Some(epochs)) => {
                plan.every.steps = None;
                (epochs, 1)
            }
            (None, steps, _) => {
                plan.every.epochs = None;
                (steps.unwrap_or(1600), 1)
            }
        };
        let largest = cx.inputs.one("model").map_or(0, |model| write::largest(&model.facts));
        let plan = plan.between(total, per_epoch).disk(size);
        let disk = plan.disk + best::bytes(cx.inputs, size);
        let mut event = write::event(cx.settings, largest);
        event.push(Bytes { category: Category::Working, bytes: 4 * read_values });
        NodePlan { event, disk, ..plan }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let trainable = cx.one::<Trainable>("model")?.clone();
        let vae = Held::<Autoencoder>::all(cx, "vae").into_iter().next();
        let texts = Held::<TextEncoder>::all(cx, "text");
        let (layout, trained) = match &*trainable.subject {
            Subject::Denoiser { model, texts, .. } => (model.layout, !texts.is_empty()),
            Subject::Autoencoder { .. } => (None, false),
        };
        let parts = trained || vae.is_some() || !texts.is_empty();
        let format = config.format.unwrap_or_else(|| Format::of(layout, parts));
        let saver = Saver {
            trainable,
            vae,
            texts,
            format,
            dtype: config.files.dtype.dtype(),
            plan: config.files.plan(cx.settings, extension(format)),
            update: Held::<Update>::all(cx, "update").into_iter().next(),
            entries: metadata::entries(&config.metadata.clone().unwrap_or_default(), cx)?,
            words: config.metadata.unwrap_or_default(),
            best: Best::of(cx)?,
            range: Range::new(cx.progress.clone()),
            progress: cx.progress.clone(),
        };
        Ok(Built { listener: Some(Box::new(saver)), ..Default::default() })
    }
}

fn extension(format: Format) -> &'static str {
    match format {
        Format::SingleFile | Format::ModelOnly => ".safetensors",
        Format::Ckpt => ".ckpt",
        Format::Diffusers => "",
    }
}
