//! Metadata of saved files: the `ss_*` keys other trainers write, and modelspec.
//!
//! The keys, their spelling and what stands for "not used" are [`pipe_data::metadata`]'s; this file knows where in a
//! run each value is found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pipe_core::run::{Position, RunError};
use pipe_core::settings::Settings;
use pipe_data::metadata::{
    AdapterMetadata, BaseModel, BucketCount, DatasetFolder, MINIMUM, ModelSpec, bucket_info, complete, dataset_dirs,
    iso_date, py_float, tag_frequency,
};
use pipe_data::weights::detect::detect_shapes;
use pipe_data::weights::{Architecture, Component, Family, hash};
use pipe_networks::pass::Policy;
use pipe_ops::Storage;
use pipe_train::ddpm::Prediction;

use super::datasets::datasets;
use super::words::{CommentedWords, Words};
use crate::common::batch::{DataAbout, TextAbout, filter_name};
use crate::common::denoiser::Denoiser;
use crate::common::trainable::{Method, Subject, Trainable};
use crate::optimizer::Update;

/// Program and version in `modelspec.implementation_version`.
const PROGRAM: &str = concat!("pipe/", env!("CARGO_PKG_VERSION"));

/// What an adapter's files say that does not change during a run.
pub struct Session {
    training: AdapterMetadata,
    spec: ModelSpec,
    least: bool,
    /// Hashes of whole files by key, which are made while the run goes on.
    hashing: Option<JoinHandle<BTreeMap<String, String>>>,
    hashes: BTreeMap<String, String>,
}

/// What a saver is told to write.
pub struct Wanted<'a> {
    /// Base name of the files.
    pub name: &'a str,
    /// Only the least.
    pub least: bool,
    /// The user's words.
    pub words: &'a CommentedWords,
    /// Entries of modelspec made of them.
    pub entries: &'a BTreeMap<String, String>,
    /// Keys of the run's validation.
    pub held_out: &'a BTreeMap<String, String>,
}

impl Session {
    /// Collects what is known when training begins or goes on.
    pub fn begin(
        wanted: &Wanted,
        settings: &Settings,
        trainable: &Trainable,
        update: &Update,
        model: &Denoiser,
        position: Position,
    ) -> Self {
        let about = update.loss.source().about();
        let texts = texts(trainable, &about);
        let mut training = run(settings, update, position);
        training.output_name = Some(wanted.name.to_owned());
        training.training_comment = wanted.words.comment.clone();
        training.gradient_checkpointing = Some(model.policy != Policy::Keep);
        training.fp8_base = Some(model.keeping.storage == Some(Storage::F8E4M3));
        training.mixed_precision = Some(mixed(model).into());
        let base_model = base_model(model);
        training.v2 = Some(base_model.is_v2());
        training.base_model_version = base_model.version().map(String::from);
        training.zero_terminal_snr = Some(model.zero_terminal_snr);
        training.cache_latents = Some(about.cached);
        training.clip_skip = texts.iter().find_map(|text| text.clip_skip);
        training.max_token_length = texts.iter().find_map(|text| text.long_tokens);
        masks(&mut training, model.family, &texts);
        let hashing = files(&mut training, model.source.path(), about.vae.as_deref(), wanted.least);
        learning(&mut training, trainable, update);
        training.more = update.loss.metadata().into_iter().collect();
        training.more.extend(wanted.held_out.clone());
        data(&mut training, settings, &about);
        let spec = ModelSpec {
            lora: true,
            encoder_layer: training.clip_skip.map(|layer| layer as u32),
            ..spec(base_model, wanted.name, &wanted.words.words, wanted.entries, Some(update), true)
        };
        Session { training, spec, least: wanted.least, hashing, hashes: BTreeMap::new() }
    }

    /// The metadata of a file saved now. A rehearsal does not wait for the hashes of whole files.
    pub fn at(&mut self, position: Position, rehearsal: bool) -> BTreeMap<String, String> {
        if !rehearsal && let Some(hashing) = self.hashing.take() {
            self.hashes = hashing.join().unwrap_or_default();
        }
        let now = now();
        let training = AdapterMetadata {
            training_finished_at: Some(now.as_secs_f64()),
            steps: Some(position.step),
            epoch: Some(epoch(position)),
            ..self.training.clone()
        };
        let mut all = training.to_map();
        all.extend(self.hashes.clone());
        complete(&mut all);
        if self.least {
            all.retain(|key, _| MINIMUM.contains(&key.as_str()));
        }
        all.extend(ModelSpec { date: Some(iso_date(now.as_secs())), ..self.spec.clone() }.to_map());
        all
    }
}

/// The epoch that a step belongs to, from 1, in files saved by steps and by epochs alike.
fn epoch(position: Position) -> u64 {
    position.step.div_ceil(position.steps_per_epoch.max(1))
}

/// Modelspec of a file of a denoiser.
fn spec(
    base: BaseModel,
    name: &str,
    words: &Words,
    entries: &BTreeMap<String, String>,
    update: Option<&Update>,
    lora: bool,
) -> ModelSpec {
    let trained = update.map(|update| update.loss.source().about().resolution).filter(|sides| *sides != (0, 0));
    ModelSpec {
        architecture: base.architecture().unwrap_or_default().into(),
        implementation: base.implementation(lora).unwrap_or_default().into(),
        title: words.title.clone().unwrap_or_else(|| name.to_owned()),
        resolution: trained.or(base.resolution()),
        prediction_type: base.prediction_type().map(String::from),
        timestep_range: update.and_then(|update| update.loss.timestep_range()),
        implementation_version: Some(PROGRAM.into()),
        more: entries.clone(),
        ..ModelSpec::default()
    }
}

/// Metadata of a whole model saved now: modelspec alone, as other trainers write it.
pub fn of_checkpoint(
    trainable: &Trainable,
    name: &str,
    words: &Words,
    entries: &BTreeMap<String, String>,
    update: Option<&Update>,
) -> BTreeMap<String, String> {
    let spec = match &*trainable.subject {
        Subject::Denoiser { model, texts, .. } => {
            let skip = texts.iter().find_map(|text| text.encoder.about().clip_skip);
            ModelSpec {
                encoder_layer: skip.map(|layer| layer as u32),
                ..spec(base_model(model), name, words, entries, update, false)
            }
        }
        Subject::Autoencoder { .. } => ModelSpec {
            architecture: "stable-diffusion-v1/vae".into(),
            implementation: "https://github.com/Stability-AI/generative-models".into(),
            title: words.title.clone().unwrap_or_else(|| name.to_owned()),
            implementation_version: Some(PROGRAM.into()),
            more: entries.clone(),
            ..ModelSpec::default()
        },
    };
    ModelSpec { date: Some(iso_date(now().as_secs())), ..spec }.to_map()
}

/// How long, how fast and with what.
fn run(settings: &Settings, update: &Update, position: Position) -> AdapterMetadata {
    let clock = now();
    // A number for this run that another will hardly have.
    let session = blake3::hash(format!("{} {}", clock.as_nanos(), std::process::id()).as_bytes());
    let session = session.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    AdapterMetadata {
        session_id: Some(session.into()),
        training_started_at: Some(clock.as_secs_f64()),
        learning_rate: update.rates.base,
        unet_lr: update.rates.base,
        optimizer: Some(update.optimizer.clone()),
        max_grad_norm: Some(update.max_grad_norm.unwrap_or(0.0)),
        lr_scheduler: Some(update.scheduler.clone()),
        lr_warmup_steps: Some(update.warmup),
        gradient_accumulation_steps: Some(settings.train.accumulate),
        max_train_steps: Some(position.total_steps),
        num_epochs: Some(position.total_steps.div_ceil(position.steps_per_epoch.max(1))),
        num_batches_per_epoch: Some(update.loss.source().per_epoch()),
        seed: Some(settings.seed),
        ..AdapterMetadata::default()
    }
}

/// The text encoders: those that learn, and those whose outputs were cached.
fn texts(trainable: &Trainable, about: &DataAbout) -> Vec<TextAbout> {
    let mut texts = about.texts.clone();
    if let Subject::Denoiser { texts: learning, .. } = &*trainable.subject {
        texts.extend(learning.iter().map(|text| text.encoder.about()));
    }
    texts
}

/// What sd-scripts says of masks and variants for one family alone.
fn masks(training: &mut AdapterMetadata, family: Family, texts: &[TextAbout]) {
    let masked = |of: &[Component]| texts.iter().any(|text| text.masked && of.contains(&text.component));
    let t5 = masked(&[Component::T5]);
    match family {
        Family::Flux => {
            training.model_type = Some("flux".into());
            training.apply_t5_attn_mask = Some(t5);
        }
        Family::Sd3 => {
            training.apply_t5_attn_mask = Some(t5);
            training.apply_lg_attn_mask = Some(masked(&[Component::TextEncoder, Component::ClipG]));
        }
        _ => {}
    }
}

/// Names and hashes of the files that were trained on. The hash of a whole file takes as long as reading it, so it is
/// made beside the training.
fn files(
    training: &mut AdapterMetadata,
    model: Option<&Path>,
    vae: Option<&Path>,
    least: bool,
) -> Option<JoinHandle<BTreeMap<String, String>>> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let short = |path: &Path| match path.is_dir() {
        true => Some("IsADirectory".to_owned()),
        false => hash::file_short_hash(path).ok(),
    };
    // An autoencoder of the model's own file is no other file.
    let vae = vae.filter(|vae| Some(*vae) != model);
    if let Some(path) = model {
        (training.sd_model_name, training.sd_model_hash) = (name(path), short(path));
    }
    if let Some(path) = vae {
        (training.vae_name, training.vae_hash) = (name(path), short(path));
    }
    let list: Vec<(&str, PathBuf)> = [("ss_new_sd_model_hash", model), ("ss_new_vae_hash", vae)]
        .into_iter()
        .filter_map(|(key, path)| Some((key, path?.to_path_buf())))
        .collect();
    let whole = |path: &Path| match path.is_dir() {
        true => Some("IsADirectory".to_owned()),
        false => hash::file_sha256(path).ok(),
    };
    let work = move || list.into_iter().filter_map(|(key, path)| Some((key.to_owned(), whole(&path)?))).collect();
    (!least).then(|| std::thread::Builder::new().name("hash".into()).spawn(work).ok()).flatten()
}

/// The adapter, and the text encoders where they learn too.
fn learning(training: &mut AdapterMetadata, trainable: &Trainable, update: &Update) {
    if let Subject::Denoiser { model, texts, .. } = &*trainable.subject {
        let rates: Vec<f64> = texts.iter().filter_map(|text| update.rates.of(text.encoder.part())).collect();
        training.text_encoder_lr = Some(rates).filter(|rates| !rates.is_empty());
        training.network_module = base_model(model).network_module().map(String::from);
    }
    if let Method::Adapter(adapted) = &*trainable.method {
        let about = &adapted.about;
        if let Some(module) = about.module {
            training.network_module = Some(module.into());
        }
        (training.network_dim, training.network_alpha) = (Some(about.rank), Some(about.alpha));
        // Held as f32: the number that was given, not its nearest f64.
        training.network_dropout = about.dropout.and_then(|p| (p as f32).to_string().parse().ok());
        training.scale_weight_norms = about.norm_limit;
        training.network_args = Some(about.args.clone()).filter(|args| !args.is_empty());
    }
}

/// The images.
fn data(training: &mut AdapterMetadata, settings: &Settings, about: &DataAbout) {
    training.num_train_images = Some(about.images);
    training.num_reg_images = Some(about.reg_images);
    training.prior_loss_weight = about.prior_weight;
    training.num_validation_images = Some(about.held_out);
    training.batch_size_per_device = Some(about.batch_size);
    training.total_batch_size = Some(about.batch_size * settings.train.accumulate);
    let (width, height) = about.resolution;
    training.resolution = Some((width as u64, height as u64)).filter(|sides| *sides != (0, 0));
    let folder = |(name, repeats, images): &(String, u64, u64)| DatasetFolder {
        name: name.clone(),
        repeats: *repeats,
        images: *images,
        ..Default::default()
    };
    // By place: several folders may have one name.
    let mut folders: Vec<DatasetFolder> = about.folders.iter().map(folder).collect();
    for (folder, (_, tags)) in folders.iter_mut().zip(&about.tags) {
        folder.tags = tags.iter().cloned().collect();
    }
    let buckets: Vec<BucketCount> =
        about.buckets.iter().map(|(size, count)| BucketCount { size: *size, count: *count }).collect();
    training.dataset_dirs = Some(dataset_dirs(&folders));
    let regularization: Vec<DatasetFolder> = about.reg_folders.iter().map(folder).collect();
    training.reg_dataset_dirs = Some(dataset_dirs(&regularization));
    training.tag_frequency = Some(tag_frequency(&folders));
    training.bucket_info = Some(bucket_info(&buckets, about.ratio_error));
    if about.several.len() > 1 {
        training.more.insert("ss_datasets".into(), datasets(&about.several, about.batch_size));
    }
    let Some(rules) = &about.rules else { return };
    training.caption_dropout_rate = Some(rules.captions.dropout);
    training.caption_dropout_every_n_epochs = Some(rules.captions.dropout_every_epochs.unwrap_or(0));
    training.caption_tag_dropout_rate = Some(rules.captions.tag_dropout).filter(|rate| *rate > 0.0);
    training.shuffle_caption = Some(rules.captions.shuffle);
    training.keep_tokens = Some(rules.captions.keep_tokens as u64);
    training.flip_aug = Some(rules.flip);
    (training.color_aug, training.random_crop) = (Some(rules.pixels.color), Some(rules.pixels.random_crop));
    if let Some([low, high]) = rules.pixels.face_crop {
        let range = format!("({}, {})", py_float(low), py_float(high));
        training.more.insert("ss_face_crop_aug_range".into(), range);
    }
    if let Some(filter) = rules.pixels.filter {
        training.more.insert("ss_resize_interpolation".into(), filter_name(filter));
    }
    training.enable_bucket = Some(rules.buckets.is_some());
    training.bucket_no_upscale = Some(rules.buckets.is_some_and(|buckets| buckets.sides.is_none()));
    match rules.buckets.and_then(|buckets| buckets.sides) {
        Some((min, max)) => (training.min_bucket_reso, training.max_bucket_reso) = (Some(min), Some(max)),
        None => {
            let none = |key: &str| (key.to_owned(), "None".to_owned());
            training.more.extend(["ss_min_bucket_reso", "ss_max_bucket_reso"].map(none));
        }
    }
}

/// The model as other programs name it.
pub(super) fn base_model(model: &Denoiser) -> BaseModel {
    let shapes = model.network.shapes();
    let named = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
    // Reduced models are named by their family.
    let architecture = match detect_shapes(named, None).architecture {
        found if found.family() == Some(model.family) => found,
        _ => match model.family {
            Family::Sd1 => Architecture::Sd1,
            Family::Sd2 => Architecture::Sd2,
            Family::Sdxl => Architecture::Sdxl,
            Family::Sd3 => Architecture::Sd3Medium,
            Family::Flux => Architecture::FluxDev,
            Family::Lumina2 => Architecture::Lumina2,
            Family::LuminaNext => Architecture::LuminaNext,
        },
    };
    BaseModel { architecture, v_prediction: model.prediction == Prediction::V }
}

fn mixed(model: &Denoiser) -> &'static str {
    match model.engine.compute {
        pipe_ops::DType::F32 => "no",
        pipe_ops::DType::F16 => "fp16",
        pipe_ops::DType::BF16 => "bf16",
    }
}

/// Time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The entries of modelspec made of the user's words.
pub fn entries(words: &Words, cx: &pipe_core::run::BuildCx) -> Result<BTreeMap<String, String>, RunError> {
    words.entries(|text| cx.path(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_belongs_to_one_epoch() {
        let at = |step| epoch(Position { step, total_steps: 30, steps_per_epoch: 10 });
        // Saved by steps in the second epoch, and by epochs at its end.
        assert_eq!([1, 10, 11, 15, 20, 21].map(at), [1, 1, 2, 2, 2, 3]);
    }
}
