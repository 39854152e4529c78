//! Metadata of saved adapters: the `ss_*` keys other trainers write, and modelspec.
//!
//! The keys, their spelling and what stands for "not used" are [`pipe_data::metadata`]'s; this file knows where in a
//! run each value is found.

use std::collections::BTreeMap;

use pipe_core::run::Position;
use pipe_core::settings::Settings;
use pipe_data::metadata::{
    AdapterMetadata, BaseModel, BucketCount, DatasetFolder, ModelSpec, bucket_info, complete, dataset_dirs, iso_date,
    tag_frequency,
};
use pipe_data::weights::detect::detect_shapes;
use pipe_data::weights::{Architecture, Family, hash};
use pipe_networks::pass::Policy;
use pipe_train::ddpm::Prediction;

use crate::common::batch::DataAbout;
use crate::common::denoiser::Denoiser;
use crate::common::trainable::{Method, Subject, Trainable};
use crate::common::weights_source::Source;
use crate::optimizer::Update;

/// Everything known when the run is built.
pub struct Facts {
    training: AdapterMetadata,
    spec: ModelSpec,
}

impl Facts {
    /// Collects what does not change during a run.
    pub fn new(
        settings: &Settings,
        trainable: &Trainable,
        update: &Update,
        model: &Denoiser,
        position: Position,
    ) -> Self {
        let about = update.loss.source().about();
        let mut training = run(settings, update, position);
        training.gradient_checkpointing = Some(model.policy == Policy::Recompute);
        training.mixed_precision = Some(mixed(model).into());
        let base_model = base_model(model);
        training.v2 = Some(base_model.is_v2());
        training.base_model_version = base_model.version().map(String::from);
        training.zero_terminal_snr = Some(model.zero_terminal_snr);
        // Latents are encoded once and kept, whatever keeps them.
        training.cache_latents = Some(true);
        base(&mut training, &model.source);
        learning(&mut training, trainable, update);
        data(&mut training, settings, &about);
        training.more = update.loss.metadata().into_iter().collect();
        let usual = base_model.resolution().unwrap_or((512, 512));
        let known = |(w, h): (usize, usize)| if (w, h) == (0, 0) { usual } else { (w, h) };
        let spec = ModelSpec {
            architecture: base_model.architecture().unwrap_or_default().into(),
            lora: true,
            implementation: base_model.implementation(true).unwrap_or_default().into(),
            title: settings.name.clone(),
            resolution: Some(known(about.resolution)),
            prediction_type: base_model.prediction_type().map(String::from),
            implementation_version: Some(concat!("pipe/", env!("CARGO_PKG_VERSION")).into()),
            ..ModelSpec::default()
        };
        Facts { training, spec }
    }

    /// The metadata of a file saved now.
    pub fn at(&self, position: Position) -> BTreeMap<String, String> {
        let now = seconds_now();
        let training = AdapterMetadata {
            training_finished_at: Some(now as f64),
            steps: Some(position.step),
            epoch: Some(position.step.div_ceil(position.steps_per_epoch.max(1))),
            ..self.training.clone()
        };
        let mut all = training.to_map();
        complete(&mut all);
        all.extend(ModelSpec { date: Some(iso_date(now)), ..self.spec.clone() }.to_map());
        all
    }
}

/// How long, how fast and with what.
fn run(settings: &Settings, update: &Update, position: Position) -> AdapterMetadata {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // A number for this run that another will hardly have.
    let session = blake3::hash(format!("{} {}", clock.as_nanos(), std::process::id()).as_bytes());
    let session = session.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    AdapterMetadata {
        session_id: Some(session.into()),
        training_started_at: Some(clock.as_secs() as f64),
        output_name: Some(settings.name.clone()),
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

/// The base model's file. The hash of the whole file would take as long as reading it; the short one does not.
fn base(training: &mut AdapterMetadata, source: &Source) {
    let Source::File(path) = source else { return };
    training.sd_model_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    if path.is_file() {
        training.sd_model_hash = hash::file_short_hash(path).ok();
    }
}

/// The adapter, and the text encoder where it learns too.
fn learning(training: &mut AdapterMetadata, trainable: &Trainable, update: &Update) {
    if let Subject::Denoiser { model, texts, .. } = &*trainable.subject {
        if let Some(text) = texts.first() {
            training.text_encoder_lr = update.rates.of(text.encoder.part());
            let skip = text.encoder.take.clip_skip;
            training.clip_skip = (text.encoder.take.final_norm && skip > 1).then_some(skip as u64);
        }
        training.network_module = base_model(model).network_module().map(String::from);
    }
    if let Method::Adapter(adapted) = &*trainable.method {
        let about = &adapted.about;
        if let Some(module) = about.module {
            training.network_module = Some(module.into());
        }
        (training.network_dim, training.network_alpha) = (Some(about.rank), Some(about.alpha));
        training.network_dropout = about.dropout;
        training.scale_weight_norms = about.norm_limit;
        training.network_args = Some(about.args.clone()).filter(|args| !args.is_empty());
    }
}

/// The images.
fn data(training: &mut AdapterMetadata, settings: &Settings, about: &DataAbout) {
    training.num_train_images = Some(about.images);
    training.num_validation_images = Some(about.held_out);
    training.batch_size_per_device = Some(about.batch_size);
    training.total_batch_size = Some(about.batch_size * settings.train.accumulate);
    let (width, height) = about.resolution;
    training.resolution = Some((width as u64, height as u64)).filter(|sides| *sides != (0, 0));
    let tags = |name: &str| about.tags.iter().find(|(folder, _)| folder == name).map(|(_, tags)| tags);
    let folder = |(name, repeats, images): &(String, u64, u64)| DatasetFolder {
        name: name.clone(),
        repeats: *repeats,
        images: *images,
        tags: tags(name).into_iter().flatten().cloned().collect(),
    };
    let folders: Vec<DatasetFolder> = about.folders.iter().map(folder).collect();
    let buckets: Vec<BucketCount> =
        about.buckets.iter().map(|(size, count)| BucketCount { size: *size, count: *count }).collect();
    training.dataset_dirs = Some(dataset_dirs(&folders));
    training.tag_frequency = Some(tag_frequency(&folders));
    training.bucket_info = Some(bucket_info(&buckets, None));
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

/// Seconds since 1970.
pub(super) fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
