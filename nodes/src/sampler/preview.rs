//! `sampler.preview`: pictures from prompts, before, during and after training.

use std::path::Path;
use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx, SharedValue, missing_help};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_core::settings::Every;
use pipe_data::weights::Family;
use pipe_networks::Network;
use pipe_train::solve::Solver;
use schemars::JsonSchema;
use serde::Deserialize;

use super::embed::{self, Embedded, Text};
use super::pictures::Pictures;
use super::prompts::Prompt;
use super::shots::{self, Place, Sides};
use crate::cacher::text_cost;
use crate::common::denoise::Runner;
use crate::common::engine::compute_type;
use crate::common::facts::{network_of, texts_of_port};
use crate::common::family;
use crate::common::latents_fit;
use crate::common::texts_fit;
use crate::common::trainable::{Held, Trainable};

/// Fields of `sampler.preview`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// What to draw.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub(super) prompts: Vec<Prompt>,
    /// A file with more to draw, as sd-scripts reads them: `.txt` with a prompt a line and options behind ` --`
    /// (`a fox --n blurry --w 768 --h 512 --d 7 --s 30 --l 7.5 --g 3.5 --ss euler_a`), `.toml` or `.json`.
    #[serde(default)]
    #[schemars(extend("x-path" = "file"))]
    pub(super) prompts_file: Option<String>,
    /// When to draw, besides before the first step and at the end: by steps, by epochs, or by both. Default: only those.
    #[serde(default)]
    pub(super) every: Option<Every>,
    /// Draw before the first step, to see that pictures can be drawn and to compare with. Default true.
    #[serde(default = "yes")]
    pub(super) at_start: bool,
    /// SD 1.x, 2.x and SDXL: sampler. Default `ddim`. The others are sampled by Euler steps of the flow.
    #[serde(default)]
    pub(super) sampler: Option<Solver>,
    /// Steps of the sampler. Default 25.
    #[serde(default = "default_steps")]
    #[schemars(range(min = 1, max = 1000))]
    pub(super) steps: u64,
    /// Classifier-free guidance scale; 1 is none. Default 7.5 for SD 1.x, 2.x and SDXL, 5 for SD3, 4 for Lumina, 1 for FLUX.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub(super) guidance_scale: Option<f64>,
    /// FLUX.1 dev: distilled guidance the model is given. Default 3.5.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub(super) embedded_guidance: Option<f64>,
    /// Width in pixels. Default 512.
    #[serde(default = "default_side")]
    #[schemars(range(min = 8, max = 8192))]
    pub(super) width: u64,
    /// Height in pixels. Default 512.
    #[serde(default = "default_side")]
    #[schemars(range(min = 8, max = 8192))]
    pub(super) height: u64,
}

impl Config {
    /// The prompts, as far as they can be read; what cannot be is reported.
    fn check_prompts(&self, cx: &mut CheckCx) -> Vec<(Place, Prompt)> {
        let base = cx.base_dir;
        let path = |text: &str| pipe_core::node::resolve(base, text);
        if let Some(file) = self.prompts_file.as_deref().map(path) {
            if cx.stands_in(&file) {
                return shots::all(&Config { prompts_file: None, ..self.clone() }, path).0;
            }
            if !file.exists() {
                let help = missing_help(&file);
                cx.error("P0301", "prompts_file", format!("`{}` does not exist", file.display()), Some(help));
                return Vec::new();
            }
        }
        let (list, faults) = shots::all(self, path);
        for fault in faults.iter().take(FAULTS) {
            let message = shots::told(&path(self.prompts_file.as_deref().unwrap_or_default()), fault);
            cx.error("P0312", "prompts_file", message, None);
        }
        if list.is_empty() && faults.is_empty() {
            let help = "add `prompts: [{ prompt: a photo of a cat }]`, or a `prompts_file`";
            cx.error("P0403", "prompts", "there is nothing to draw", Some(help.into()));
        }
        if list.len() > shots::MOST {
            let message = format!("there are {} prompts, the limit is {}", list.len(), shots::MOST);
            cx.error("P0403", "prompts_file", message, None);
        }
        list
    }

    /// Options that this family does not read, and encoders that it lacks.
    fn check_family(&self, cx: &mut CheckCx, family: Family, model: &Facts) {
        if self.sampler.is_some() && family::flow(family).is_some() {
            let message = format!("`sampler` has no effect: {family} is sampled by Euler steps of its flow");
            cx.error("P0402", "sampler", message, Some("leave it out".into()));
        }
        let embedded = matches!(network_of(model), Some(Network::Flux(c)) if c.guidance);
        if self.embedded_guidance.is_some() && !embedded {
            let message = "`embedded_guidance` has no effect: the model has no guidance embedding";
            cx.error("P0402", "embedded_guidance", message, Some("only FLUX.1 dev has one".into()));
        }
        let texts = texts_of_port(cx.inputs, "text");
        for text in texts.iter().filter(|t| !family.has(t.component())) {
            let message = format!("{family} has no {}", text.component().name());
            cx.error("P0401", "text", message, None);
        }
        // An encoder that could not be read has been reported where it is.
        if cx.inputs.many("text").len() > texts.len() {
            return;
        }
        texts_fit::check(cx, "text", family, model, &texts.iter().collect::<Vec<_>>());
        let missing: Vec<String> = family
            .text_encoders()
            .iter()
            .filter(|c| texts.iter().all(|t| t.component() != **c))
            .map(|c| format!("`{}`", family::encoder_type(family, *c)))
            .collect();
        let some_of_sd3 = family == Family::Sd3 && !texts.is_empty();
        if !missing.is_empty() && !some_of_sd3 {
            let message = format!("the prompts need the text encoder {}", missing.join(" and "));
            cx.error("P0207", "text", message, Some("add `text: …`".into()));
        }
        // Widths by the outputs that the model joins; the loss compares them in full.
        if let ([text], Some(wanted)) = (texts.as_slice(), model.u64("context_dim"))
            && family.text_encoders().len() == 1
            && text.width != wanted
        {
            let width = text.width;
            let message =
                format!("the model reads text embeddings of width {wanted}, the text encoder makes width {width}");
            cx.error("P0401", "text", message, None);
        }
    }
}

/// Faults of a prompts file that are told at once.
const FAULTS: usize = 20;

fn yes() -> bool {
    true
}
fn default_steps() -> u64 {
    25
}
fn default_side() -> u64 {
    512
}

/// The node type.
pub struct Preview;

impl Node for Preview {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "sampler.preview",
        summary: "Draws pictures from prompts before, during and after training, and a before/after sheet.",
        details: "Deterministic: the noise depends on the seed alone, so pictures of different steps can be compared. Files are PNG \
                  with the settings in a `parameters` chunk, in the run's `samples` folder. A preview comes after the save of the \
                  same step, so that a failing preview loses nothing.\n\nPrompts are encoded once, before the model is loaded, and \
                  kept; only a text encoder that learns encodes them again each time. A prompt's own size, seed, steps, guidance \
                  and sampler count before the node's. `prompts_file` takes the files of sd-scripts; a line that cannot be \
                  read, or an option that this model does not read, is an error with its line.",
        example: "preview:\n  type: sampler.preview\n  model: lora\n  vae: vae\n  text: clip\n  prompts:\n    - prompt: a photo of a cat\n  every:\n    epochs: 1",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable], Rate::Event, "Model to draw with."),
            Input::one("vae", &[PortType::Vae], Rate::Event, "Autoencoder that decodes the latents."),
            Input::many("text", &[PortType::TextEncoder], Rate::Setup, "Text encoders of the prompts.").early(),
        ]
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let (model, vae) = (cx.inputs.one("model").cloned(), cx.inputs.one("vae").cloned());
        let prompts = config.check_prompts(cx);
        let network = model.as_ref().and_then(|m| network_of(&m.facts));
        let mut sides = Sides::default();
        if let Some(vae) = &vae {
            let factor = vae.facts.u64("factor").unwrap_or(8);
            let step = factor * network.as_ref().map_or(1, |n| n.cell() as u64);
            let most = network.as_ref().and_then(Network::largest).map(|side| side as u64 * factor);
            sides = Sides { step: Some(step), most };
            let common = |own: fn(&Prompt) -> Option<u64>| prompts.iter().any(|(_, prompt)| own(prompt).is_none());
            for (field, side, used) in
                [("width", config.width, common(|p| p.width)), ("height", config.height, common(|p| p.height))]
            {
                if used && side % step != 0 {
                    let message = format!("`{field}` is {side}, not a multiple of {step}, which the model needs");
                    cx.error("P0403", field, message, None);
                }
                if let Some(most) = most.filter(|most| used && side > *most) {
                    let message = format!("`{field}` is {side}, the model's position table ends at {most} pixels");
                    cx.error("P0401", field, message, Some("draw a smaller picture".into()));
                }
            }
        }
        let family = model.as_ref().and_then(|m| family::of_id(m.facts.str("architecture")?));
        if let Some(model) = &model {
            if model.facts.get("vae").is_some() {
                cx.error("P0401", "model", "an autoencoder draws nothing from prompts", None);
            } else if let (Some(v), Some(wanted)) = (&vae, model.facts.u64("latent_channels"))
                && v.facts.u64("latent_channels").is_some_and(|c| c != wanted)
                && v.facts.get("guessed").is_none()
            {
                cx.error(
                    "P0401",
                    "vae",
                    format!("the model works on {wanted} latent channels, the autoencoder on others"),
                    None,
                );
            } else if let (Some(v), Some(family)) = (&vae, family)
                && let Some((message, help)) = latents_fit::misfit(family, &v.facts, "", &v.node)
            {
                cx.error("P0401", "vae", message, Some(help));
            }
        }
        if let (Some(family), Some(model)) = (family, &model) {
            config.check_family(cx, family, &model.facts);
        }
        shots::check(config, cx, &prompts, (family, network.as_ref()), sides);
        cx.will_write("", Path::new("samples").join(cx.name));
        Facts::new()
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let every = config.every.clone().unwrap_or_default();
        let train = &cx.settings.train;
        let count =
            u64::from(config.at_start) + 1 + cx.length.map_or(0, |(total, per_epoch)| every.between(total, per_epoch));
        let (prompts, _) = shots::all(config, |text| pipe_core::node::resolve(cx.base_dir, text));
        let pixels: Vec<u64> = prompts
            .iter()
            .map(|(_, prompt)| shots::size(config, prompt))
            .map(|(width, height)| width.saturating_mul(height))
            .collect();
        let largest = pixels.iter().copied().max().unwrap_or(config.width * config.height);
        // The decoder's widest activation: first-level width at full size, a few of them at once.
        let width =
            cx.inputs.one("vae").and_then(|v| v.facts.get("vae")?.get("widths")?.get(1)?.as_u64()).unwrap_or(256);
        let compute = compute_type(train.precision, crate::planned_kind(cx.settings));
        let encoding = embed::frozen(cx.inputs).iter().map(|text| text_cost(text, compute, 1).0).max();
        let bytes = |category, bytes| Bytes { category, bytes };
        NodePlan {
            prepare: encoding.map(|peak| bytes(Category::Activations, peak)).into_iter().collect(),
            resident: vec![bytes(Category::Batch, embed::kept_bytes(cx.inputs, texts_of(&prompts).len() as u64))],
            event: vec![bytes(Category::Activations, largest.saturating_mul(width * 4 * 4))],
            event_count: count,
            disk: count * pixels.iter().map(|pixels| pixels * 2).sum::<u64>(),
            ..Default::default()
        }
    }

    fn prepare(config: &Config, cx: &mut BuildCx) -> Result<Option<SharedValue>, RunError> {
        let prompts = shots::for_run(config, |text| cx.path(text))?;
        let prompts: Vec<(Place, Prompt)> = prompts.into_iter().map(|prompt| (Place::Here(0), prompt)).collect();
        Ok(Some(Arc::new(Embedded::make(cx, &texts_of(&prompts))?)))
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let trainable = cx.one::<Trainable>("model")?.clone();
        let prepared = cx.prepared.take();
        let embedded =
            prepared.and_then(|value| value.as_any().downcast_ref::<Embedded>().cloned()).unwrap_or_default();
        let runner = Runner::for_prompts(trainable, &embedded.components)?;
        let family = runner.subject().0.family;
        let prompts = shots::for_run(&config, |text| cx.path(text))?;
        let shot = |(i, prompt)| shots::shot(&config, i, prompt, family, cx.settings.seed);
        let sampler = Pictures {
            shots: prompts.iter().enumerate().map(shot).collect(),
            runner,
            vae: Held::one(cx, "vae")?,
            embedded,
            title: cx.settings.name.clone(),
            name: cx.name.to_string(),
            config,
            drawn: None,
        };
        Ok(Built { listener: Some(Box::new(sampler)), ..Default::default() })
    }
}

/// Every text of the prompts once, negative ones marked.
fn texts_of(prompts: &[(Place, Prompt)]) -> Vec<Text> {
    let mut texts: Vec<Text> = Vec::new();
    for (_, prompt) in prompts {
        for text in [(prompt.negative_prompt.clone(), true), (prompt.prompt.clone(), false)] {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    texts
}
