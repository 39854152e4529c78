//! `sampler.preview`: pictures from prompts, before, during and after training.

use std::path::{Path, PathBuf};

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Moment, Position, RunError};
use pipe_core::settings::Every;
use pipe_data::images::png::{self, Parameters};
use pipe_data::images::{Rgb8, decode, from_tensor};
use pipe_data::weights::Family;
use pipe_networks::Network;
use pipe_ops::DType;
use pipe_train::solve::Solver;
use schemars::JsonSchema;
use serde::Deserialize;

use super::draw::{self, Recipe};
use crate::common::autoencoder::Autoencoder;
use crate::common::denoise::Runner;
use crate::common::errors;
use crate::common::facts::{network_of, texts_of_port};
use crate::common::family;
use crate::common::text::TextEncoder;
use crate::common::texts_fit;
use crate::common::trainable::{Held, Trainable};

/// Fields of `sampler.preview`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// What to draw.
    #[schemars(length(min = 1, max = 64))]
    prompts: Vec<Prompt>,
    /// When to draw, besides before the first step and at the end. Default: only those.
    #[serde(default)]
    every: Option<Every>,
    /// SD 1.x, 2.x and SDXL: sampler. Default `ddim`. The others are sampled by Euler steps of the flow.
    #[serde(default)]
    sampler: Option<Solver>,
    /// Steps of the sampler. Default 25.
    #[serde(default = "default_steps")]
    #[schemars(range(min = 1, max = 1000))]
    steps: u64,
    /// Classifier-free guidance scale; 1 is none. Default 7.5 for SD 1.x, 2.x and SDXL, 5 for SD3, 4 for Lumina, 1 for FLUX.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    guidance_scale: Option<f64>,
    /// FLUX.1 dev: distilled guidance the model is given. Default 3.5.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    embedded_guidance: Option<f64>,
    /// Width in pixels. Default 512.
    #[serde(default = "default_side")]
    #[schemars(range(min = 8, max = 8192))]
    width: u64,
    /// Height in pixels. Default 512.
    #[serde(default = "default_side")]
    #[schemars(range(min = 8, max = 8192))]
    height: u64,
}

/// One picture.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Prompt {
    /// What the picture should show.
    prompt: String,
    /// What it should not show.
    #[serde(default)]
    negative_prompt: String,
    /// Seed of the noise. Default: the run's seed plus the prompt's number.
    #[serde(default)]
    seed: Option<u64>,
}

impl Config {
    /// Prompts whose negative prompt nothing would read: without guidance only the positive one is drawn.
    fn unused_negatives(&self, family: Family) -> Vec<usize> {
        let guidance = self.guidance_scale.unwrap_or(draw::default_guidance(family));
        let prompts = self.prompts.iter().enumerate();
        let unused = prompts.filter(|(_, p)| guidance == 1.0 && !p.negative_prompt.is_empty());
        unused.map(|(i, _)| i).collect()
    }

    /// Options that this family does not read, and encoders that it lacks.
    fn check_family(&self, cx: &mut CheckCx, family: Family, model: &Facts) {
        for i in self.unused_negatives(family) {
            let message = "`negative_prompt` has no effect with a `guidance_scale` of 1";
            let field = format!("prompts.{i}.negative_prompt");
            cx.error("P0402", &field, message, Some("leave it out, or raise `guidance_scale`".into()));
        }
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
                  same step, so that a failing preview loses nothing.",
        example: "preview:\n  type: sampler.preview\n  model: lora\n  vae: vae\n  text: clip\n  prompts:\n    - prompt: a photo of a cat\n  every:\n    epochs: 1",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable], Rate::Event, "Model to draw with."),
            Input::one("vae", &[PortType::Vae], Rate::Event, "Autoencoder that decodes the latents."),
            Input::many("text", &[PortType::TextEncoder], Rate::Event, "Text encoders of the prompts."),
        ]
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let (model, vae) = (cx.inputs.one("model").cloned(), cx.inputs.one("vae").cloned());
        if let Some(vae) = &vae {
            let factor = vae.facts.u64("factor").unwrap_or(8);
            let network = model.as_ref().and_then(|m| network_of(&m.facts));
            let step = factor * network.map_or(1, |n| n.cell() as u64);
            for (field, side) in [("width", config.width), ("height", config.height)] {
                if side % step != 0 {
                    let message = format!("`{field}` is {side}, not a multiple of {step}, which the model needs");
                    cx.error("P0403", field, message, None);
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
            }
        }
        if let (Some(family), Some(model)) = (family, &model) {
            config.check_family(cx, family, &model.facts);
        }
        cx.will_write("", Path::new("samples").join(cx.name));
        Facts::new()
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let every = config.every.clone().unwrap_or_default();
        let train = &cx.settings.train;
        let steps = train.steps.unwrap_or(if train.epochs.is_some() { 0 } else { 1600 });
        let by_steps = every.steps.map_or(0, |n| steps.saturating_sub(1) / n);
        let by_epochs = every.epochs.map_or(0, |n| train.epochs.unwrap_or(0).saturating_sub(1) / n);
        let count = 2 + by_steps + by_epochs;
        let pixels = config.width * config.height;
        // The decoder's widest activation: first-level width at full size, a few of them at once.
        let width =
            cx.inputs.one("vae").and_then(|v| v.facts.get("vae")?.get("widths")?.get(1)?.as_u64()).unwrap_or(256);
        NodePlan {
            event: vec![Bytes { category: Category::Activations, bytes: pixels * width * 4 * 4 }],
            event_count: count,
            disk: count * config.prompts.len() as u64 * pixels * 2,
            ..Default::default()
        }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let trainable = cx.one::<Trainable>("model")?.clone();
        let texts: Vec<Held<TextEncoder>> = Held::all(cx, "text");
        let components: Vec<_> = texts.iter().map(|t| t.component).collect();
        let sampler = Pictures {
            runner: Runner::for_prompts(trainable, &components)?,
            vae: Held::one(cx, "vae")?,
            texts,
            seed: cx.settings.seed,
            title: cx.settings.name.clone(),
            name: cx.name.to_string(),
            config,
            drawn: None,
        };
        Ok(Built { listener: Some(Box::new(sampler)), ..Default::default() })
    }
}

struct Pictures {
    config: Config,
    runner: Runner,
    vae: Held<Autoencoder>,
    texts: Vec<Held<TextEncoder>>,
    seed: u64,
    title: String,
    name: String,
    drawn: Option<u64>,
}

impl Pictures {
    fn file(&self, folder: &Path, step: u64, prompt: usize) -> PathBuf {
        folder.join("samples").join(&self.name).join(format!("step{step:08}-{prompt:02}.png"))
    }

    fn sampler_name(&self) -> &'static str {
        match family::flow(self.runner.subject().0.family) {
            Some(_) => "Flow Euler",
            None => self.config.sampler.unwrap_or_default().name(),
        }
    }

    fn guidance(&self) -> f64 {
        self.config.guidance_scale.unwrap_or(draw::default_guidance(self.runner.subject().0.family))
    }

    fn draw(&self, i: usize, prompt: &Prompt) -> Result<(Rgb8, u64), RunError> {
        let (model, ..) = self.runner.subject();
        let seed = prompt.seed.unwrap_or(self.seed.wrapping_add(i as u64));
        let f = self.vae.config.factor();
        let (w, h) = (self.config.width as usize, self.config.height as usize);
        let shape = [1, self.vae.config.latent, h / f, w / f];
        let recipe = Recipe {
            solver: self.config.sampler.unwrap_or_default(),
            steps: self.config.steps as usize,
            guidance: self.guidance() as f32,
            embedded: self.config.embedded_guidance.unwrap_or(3.5) as f32,
            seed,
        };
        let rows = draw::embed(&self.runner.trainable, &self.texts, &prompt.negative_prompt, &prompt.prompt)?;
        let latents = draw::latents(&self.runner, &rows, shape, [h, w], &recipe)?;
        let latents = model.engine.device.tensor(latents, &shape, DType::F32);
        Ok((from_tensor(&self.vae.decode(&latents)?, w, h), seed))
    }

    fn run(&mut self, cx: &mut EventCx, is_final: bool) -> Result<(), RunError> {
        let step = cx.position.step;
        for (i, prompt) in self.config.prompts.iter().enumerate() {
            let (image, seed) = self.draw(i, prompt)?;
            let parameters = Parameters {
                prompt: prompt.prompt.clone(),
                negative_prompt: prompt.negative_prompt.clone(),
                steps: Some(self.config.steps as u32),
                sampler: Some(self.sampler_name().into()),
                guidance: Some(self.guidance()),
                seed: Some(seed),
                size: Some((image.width, image.height)),
                model: Some(self.title.clone()),
                more: vec![("Training step".into(), step.to_string())],
            };
            let path = self.file(cx.folder, step, i);
            crate::saver::make_folder(&path)?;
            png::write(&path, &image, &[("parameters", &parameters.text())]).map_err(|e| errors::file_error(&e, ""))?;
        }
        self.drawn = Some(step);
        if is_final {
            self.sheet(cx)?;
        } else {
            let path = self.file(cx.folder, step, 0);
            cx.artifacts.push(Artifact { kind: "preview", path, final_result: false });
        }
        Ok(())
    }

    /// The pictures of step 0 above those of now.
    fn sheet(&self, cx: &mut EventCx) -> Result<(), RunError> {
        let n = self.config.prompts.len();
        let mut images = Vec::new();
        let mut labels = Vec::new();
        for step in [0, cx.position.step] {
            for (i, prompt) in self.config.prompts.iter().enumerate() {
                match decode(self.file(cx.folder, step, i)) {
                    Ok(image) => images.push(enlarge(&image)),
                    Err(_) => return Ok(()), // no pictures of step 0: the run was continued in a cleaned folder
                }
                labels.push(format!("{}: {}", if step == 0 { "before" } else { "after" }, prompt.prompt));
            }
        }
        let path = cx.folder.join("samples").join(&self.name).join("before-after.png");
        png::write(&path, &png::grid(&images, n, Some(&labels)), &[]).map_err(|e| errors::file_error(&e, ""))?;
        cx.artifacts.push(Artifact { kind: "preview", path, final_result: true });
        Ok(())
    }
}

/// Whole-number enlargement of small pictures, so that a sheet can be looked at.
fn enlarge(image: &Rgb8) -> Rgb8 {
    let factor = (192 / image.width.max(1)).max(1);
    let mut out = Rgb8::new(image.width * factor, image.height * factor);
    for y in 0..out.height {
        let source = image.row(y / factor);
        for x in 0..out.width {
            let from = x / factor * 3;
            let to = (y * out.width + x) * 3;
            out.pixels[to..to + 3].copy_from_slice(&source[from..from + 3]);
        }
    }
    out
}

impl Listener for Pictures {
    fn priority(&self) -> u32 {
        10
    }

    fn looks(&self, moment: Moment, position: Position) -> bool {
        match moment {
            Moment::Start => true,
            Moment::Step => position.is_last() || position.due(&self.config.every.clone().unwrap_or_default()),
            Moment::Resume | Moment::End => false,
        }
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        if self.looks(cx.moment, cx.position) {
            let last = cx.moment == Moment::Step && cx.position.is_last();
            self.run(cx, last)?;
            self.vae.weights.unload();
            for text in &self.texts {
                if self.runner.trainable.trained_text(text.component).is_none() {
                    text.weights.unload();
                }
            }
        }
        Ok(())
    }
}
