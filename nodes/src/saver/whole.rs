//! Writing a whole model: what a `saver.checkpoint` does in a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pipe_core::run::{Artifact, EventCx, Listener, Moment, Position, Progress as Told, RunError};
use pipe_data::weights::keymap::Form;
use pipe_data::weights::{DType, Family, Progress, TensorOut, write_ckpt, write_safetensors};
use pipe_networks::Weights;
use pipe_train::ddpm::Prediction;
use serde_json::{Value, json};

use super::best::Best;
use super::cadence::Plan;
use super::checkpoint::Format;
use super::parts::Part;
use super::range::Range;
use super::words::Words;
use super::{make_folder, metadata};
use crate::common::autoencoder::Autoencoder;
use crate::common::errors;
use crate::common::lazy::Lazy;
use crate::common::text::TextEncoder;
use crate::common::trainable::{Held, Method, Subject, Trainable};
use crate::common::weights_source::Source;
use crate::optimizer::Update;

/// A saver during a run.
pub(super) struct Saver {
    /// What learned.
    pub(super) trainable: Trainable,
    /// Autoencoder to save with it.
    pub(super) vae: Option<Held<Autoencoder>>,
    /// Text encoders to save with it.
    pub(super) texts: Vec<Held<TextEncoder>>,
    /// Layout.
    pub(super) format: Format,
    /// Type of the tensors.
    pub(super) dtype: DType,
    /// When, and under which names.
    pub(super) plan: Plan,
    /// The optimizer, for the metadata.
    pub(super) update: Option<Held<Update>>,
    /// What a file says of itself.
    pub(super) words: Words,
    /// Entries of modelspec that the user gave.
    pub(super) entries: BTreeMap<String, String>,
    /// Whether the weights are the best yet.
    pub(super) best: Best,
    /// What does not fit into the type.
    pub(super) range: Range,
    /// Where what is worth knowing is told.
    pub(super) progress: Arc<dyn Told>,
}

/// What a part that did not learn needs in memory to be saved: nothing where it has a file.
fn unchanged(source: &Source, weights: &Lazy<Weights>) -> Result<Arc<Weights>, RunError> {
    match source {
        Source::File { .. } => Ok(Arc::default()),
        Source::Random { .. } => weights.get(),
    }
}

impl Saver {
    /// The parts to write. What is in memory is shared, what did not learn is read from its file tensor by tensor.
    fn parts(&self) -> Result<Vec<Part>, RunError> {
        let train = self.trainable.read();
        let own = Some(&*train);
        let mut parts = Vec::new();
        match &*self.trainable.subject {
            Subject::Autoencoder { vae, weights } => parts.push(Part::of_vae(vae, weights, own)?),
            Subject::Denoiser { model, weights, texts } => {
                parts.push(Part::of_denoiser(model, weights, own));
                if let Some(vae) = &self.vae {
                    parts.push(Part::of_vae(vae, &*unchanged(&vae.source, &vae.weights)?, None)?);
                }
                for text in texts {
                    parts.push(Part::of_text(&text.encoder, &text.weights, own)?);
                }
                for text in self.texts.iter().filter(|t| self.trainable.trained_text(t.component).is_none()) {
                    parts.push(Part::of_text(text, &*unchanged(&text.source, &text.weights)?, None)?);
                }
            }
        }
        Ok(parts)
    }

    fn family(&self) -> Family {
        match &*self.trainable.subject {
            Subject::Denoiser { model, .. } => model.family,
            Subject::Autoencoder { vae, .. } if vae.config.latent == 16 => Family::Flux,
            Subject::Autoencoder { .. } => Family::Sd1,
        }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let update = self.update.as_deref();
        metadata::of_checkpoint(&self.trainable, &self.plan.name, &self.words, &self.entries, update)
    }

    fn write(&self, path: &Path, position: Position, rehearsal: bool) -> Result<(), RunError> {
        debug_assert!(matches!(*self.trainable.method, Method::Full(_)));
        make_folder(path)?;
        let parts = self.parts()?;
        let family = self.family();
        let error = |e| errors::write_error(&e);
        let form = match self.format {
            Format::SingleFile | Format::Ckpt => Form::SingleFile,
            Format::ModelOnly => Form::OwnFile,
            Format::Diffusers => {
                return pipe_core::folder::atomic_dir(path, |making| {
                    self.write_folder(making, family, &parts, rehearsal)
                });
            }
        };
        let mut list = Vec::new();
        let marks = self.marks();
        for part in &parts {
            list.extend(part.tensors(family, form, self.dtype)?);
        }
        list.extend(marks);
        self.range.fit(&mut list, !rehearsal)?;
        if self.format == Format::Ckpt {
            return write_ckpt(path, list, Progress { epoch: position.epochs_done(), global_step: position.step })
                .map_err(error);
        }
        write_safetensors(path, list, &self.metadata()).map_err(error)
    }

    /// Empty tensors by which programs know SDXL models that predict v or end in pure noise.
    fn marks(&self) -> Vec<TensorOut<'static>> {
        let Subject::Denoiser { model, .. } = &*self.trainable.subject else { return Vec::new() };
        if model.family != Family::Sdxl || self.format == Format::Diffusers {
            return Vec::new();
        }
        let v = model.prediction == Prediction::V;
        [("v_pred", v), ("ztsnr", model.zero_terminal_snr)]
            .into_iter()
            .filter(|(_, set)| *set)
            .map(|(name, _)| TensorOut::f32(name, DType::F32, [0], Vec::new()))
            .collect()
    }

    fn write_folder(&self, folder: &Path, family: Family, parts: &[Part], rehearsal: bool) -> Result<(), RunError> {
        let failed = |e: std::io::Error| RunError::new("P0903", format!("cannot write `{}`: {e}", folder.display()));
        let json = |path: &Path, value: &Value| {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            pipe_core::folder::atomic_write(path, |f| std::io::Write::write_all(f, text.as_bytes()))
        };
        let mut index = super::describe::empty_index(family);
        for part in parts {
            let (Some(name), Some((library, class))) = (family.folder(part.component), family.class(part.component))
            else {
                continue;
            };
            let file = if library == "diffusers" { "diffusion_pytorch_model" } else { "model" };
            let inner = folder.join(name);
            std::fs::create_dir_all(&inner).map_err(failed)?;
            let mut list = part.tensors(family, Form::Diffusers, self.dtype)?;
            self.range.fit(&mut list, !rehearsal)?;
            let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
            write_safetensors(inner.join(format!("{file}.safetensors")), list, &metadata)
                .map_err(|e| errors::write_error(&e))?;
            json(&inner.join("config.json"), &part.config)?;
            index[name] = json!([library, class]);
            if let Some(class) = part.write_tokenizer(folder, name)? {
                index[name.replace("text_encoder", "tokenizer")] = json!(["transformers", class]);
            }
        }
        if let Subject::Denoiser { model, .. } = &*self.trainable.subject {
            let (class, scheduler) = super::parts::scheduler(model);
            std::fs::create_dir_all(folder.join("scheduler")).map_err(failed)?;
            json(&folder.join("scheduler/scheduler_config.json"), &scheduler)?;
            index["scheduler"] = json!(["diffusers", class]);
            json(&folder.join("model_index.json"), &index)?;
        }
        Ok(())
    }
}

impl Listener for Saver {
    fn priority(&self) -> u32 {
        0
    }

    fn looks(&self, moment: Moment, position: Position) -> bool {
        moment == Moment::Start || !self.plan.due(moment, position, Path::new("")).is_empty()
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        if cx.moment == Moment::Start {
            let path = self.plan.rehearsal(cx.folder);
            let result = self.write(&path, cx.position, true);
            drop(if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) });
            return result;
        }
        if cx.goes_back {
            self.plan.go_back(cx, &*self.progress);
        }
        if cx.moment == Moment::Resume {
            self.plan.goes_on(cx);
        }
        for due in self.plan.due(cx.moment, cx.position, cx.folder) {
            if !due.is_there(cx.moment) {
                self.write(&due.path, cx.position, false)?;
            }
            self.plan.prune(&due);
            cx.artifacts.push(Artifact { kind: "checkpoint", path: due.path, final_result: due.is_final });
        }
        Ok(())
    }

    fn after(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        let (name, extension) = (self.plan.name.clone(), self.plan.extension);
        if let Some(path) = self.best.due(cx, &name, extension) {
            self.write(&path, cx.position, false)?;
            cx.artifacts.push(Artifact { kind: "checkpoint", path, final_result: false });
        }
        if let Some(path) = self.best.kept(cx, &name, extension) {
            cx.artifacts.push(Artifact { kind: "checkpoint", path, final_result: true });
        }
        Ok(())
    }
}
