//! Drawing the pictures of a preview when they are due, and the sheet of before and after.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use pipe_core::run::{Artifact, EventCx, Listener, Moment, Position, RunError};
use pipe_data::images::png::{self, Parameters};
use pipe_data::images::{Rgb8, decode, from_tensor};
use pipe_ops::DType;

use super::draw;
use super::embed::Embedded;
use super::preview::Config;
use super::shots::Shot;
use crate::common::autoencoder::Autoencoder;
use crate::common::denoise::Runner;
use crate::common::errors;
use crate::common::family;
use crate::common::trainable::Held;

/// A preview at work.
pub struct Pictures {
    /// The node's fields.
    pub config: Config,
    /// What is drawn.
    pub shots: Vec<Shot>,
    /// Model to draw with.
    pub runner: Runner,
    /// Decodes the latents.
    pub vae: Held<Autoencoder>,
    /// Embeddings of the prompts.
    pub embedded: Embedded,
    /// Name of the run.
    pub title: String,
    /// Name of the node.
    pub name: String,
    /// Step of the latest pictures.
    pub drawn: Option<u64>,
}

impl Pictures {
    fn file(&self, folder: &Path, step: u64, prompt: usize) -> PathBuf {
        folder.join("samples").join(&self.name).join(format!("step{step:08}-{prompt:02}.png"))
    }

    fn sampler_name(&self, shot: &Shot) -> &'static str {
        match family::flow(self.runner.subject().0.family) {
            Some(_) => "Flow Euler",
            None => shot.recipe.solver.name(),
        }
    }

    /// Draws a picture; `step` is called before each pass of the network.
    fn draw(&self, shot: &Shot, step: impl Fn() -> Result<(), RunError>) -> Result<Rgb8, RunError> {
        let (model, ..) = self.runner.subject();
        let f = self.vae.config.factor();
        let (w, h) = (shot.size.0 as usize, shot.size.1 as usize);
        let shape = [1, self.vae.config.latent, h / f, w / f];
        let rows = self.embedded.pair(&self.runner.trainable, &shot.negative, &shot.prompt)?;
        let latents = draw::latents(&self.runner, &rows, shape, [h, w], &shot.recipe, step)?;
        let latents = model.engine.device.tensor(latents, &shape, DType::F32);
        Ok(from_tensor(&self.vae.decode(&latents)?, w, h))
    }

    fn run(&mut self, cx: &mut EventCx, is_final: bool) -> Result<(), RunError> {
        let step = cx.position.step;
        let what = format!("draw {}", self.name);
        let all: u64 = self.shots.iter().map(|shot| shot.recipe.steps as u64).sum();
        let mut before = 0;
        for (i, shot) in self.shots.iter().enumerate() {
            let (steps, passes) = (shot.recipe.steps as u64, Cell::new(0));
            let image = self.draw(shot, || {
                if cx.stop.is_set() {
                    return Err(RunError::interrupted());
                }
                // Some samplers make two passes in a step.
                cx.progress.tick(&what, before + passes.get().min(steps), all);
                passes.set(passes.get() + 1);
                Ok(())
            })?;
            before += steps;
            let parameters = Parameters {
                prompt: shot.prompt.clone(),
                negative_prompt: shot.negative.clone(),
                steps: Some(shot.recipe.steps as u32),
                sampler: Some(self.sampler_name(shot).into()),
                guidance: Some(shot.guidance),
                seed: Some(shot.recipe.seed),
                size: Some((image.width, image.height)),
                model: Some(self.title.clone()),
                more: vec![("Training step".into(), step.to_string())],
            };
            let path = self.file(cx.folder, step, i);
            crate::saver::make_folder(&path)?;
            png::write(&path, &image, &[("parameters", &parameters.text())]).map_err(|e| errors::file_error(&e, ""))?;
        }
        cx.progress.tick(&what, all, all);
        self.drawn = Some(step);
        if !is_final || !self.sheet(cx)? {
            let path = self.file(cx.folder, step, 0);
            cx.artifacts.push(Artifact { kind: "preview", path, final_result: is_final });
        }
        Ok(())
    }

    /// The pictures of step 0 above those of now. False where there are none of step 0.
    fn sheet(&self, cx: &mut EventCx) -> Result<bool, RunError> {
        if !self.config.at_start {
            return Ok(false);
        }
        let n = self.shots.len();
        let mut images = Vec::new();
        let mut labels = Vec::new();
        for step in [0, cx.position.step] {
            for (i, shot) in self.shots.iter().enumerate() {
                match decode(self.file(cx.folder, step, i)) {
                    Ok(image) => images.push(enlarge(&image)),
                    Err(_) => return Ok(false), // the run was continued in a cleaned folder
                }
                labels.push(format!("{}: {}", if step == 0 { "before" } else { "after" }, shot.prompt));
            }
        }
        let path = cx.folder.join("samples").join(&self.name).join("before-after.png");
        png::write(&path, &png::grid(&images, n, Some(&labels)), &[]).map_err(|e| errors::file_error(&e, ""))?;
        cx.artifacts.push(Artifact { kind: "preview", path, final_result: true });
        Ok(true)
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
            Moment::Start => self.config.at_start,
            Moment::Step => position.is_last() || position.due(&self.config.every.clone().unwrap_or_default()),
            Moment::Resume | Moment::End => false,
        }
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        if self.looks(cx.moment, cx.position) {
            let last = cx.moment == Moment::Step && cx.position.is_last();
            self.run(cx, last)?;
            self.vae.weights.unload();
        }
        Ok(())
    }
}
