//! Batches: what a source of training data gives, as a pure function of (epoch, index).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pipe_core::run::RunError;
use pipe_core::settings::Settings;
use pipe_data::captions::CaptionOptions;
use pipe_data::images::Filter;
use pipe_data::weights::Component;
use pipe_ops::rng::{self, Purpose};
use rand::seq::SliceRandom;

use super::plain_value;

/// One forward pass of data, on the host.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Names of the images, for messages.
    pub names: Vec<String>,
    /// Captions after processing; empty strings where dropped.
    pub captions: Vec<String>,
    /// VAE moments `[B, 2Z, h, w]` (mean | logvar), when a VAE was cached.
    pub moments: Option<HostTensor>,
    /// Scale and shift that make model-space latents of the moments.
    pub latent_scale: Option<(f32, f32)>,
    /// Images `[B, 3, H, W]` in [−1, 1], when no VAE was cached.
    pub images: Option<HostTensor>,
    /// Outputs of cached text encoders.
    pub text: BTreeMap<Component, TextRows>,
    /// Original height and width, crop top and left, target height and width of each sample, in pixels.
    pub sizes: Vec<[f32; 6]>,
    /// Given latents, noise and timesteps, which override every draw.
    pub replay: Option<Replay>,
    /// Weight of each sample in the loss.
    pub weights: Vec<f32>,
    /// `[B, h, w]` of 0 to 1 at the size of the latents: how much each place counts; nothing: all do.
    pub mask: Option<HostTensor>,
    /// Samples whose target is what the base model predicts; empty: none.
    pub preserve: Vec<bool>,
    /// Captions of the class for a second loss, towards what the base model predicts.
    pub class: Option<ClassText>,
}

/// The text of a batch with the class in place of the trigger.
#[derive(Clone, Debug, Default)]
pub struct ClassText {
    /// Captions.
    pub captions: Vec<String>,
    /// Outputs of cached text encoders for them.
    pub text: BTreeMap<Component, TextRows>,
    /// Embeddings as the denoiser reads them `[B, S, D]`, in a replay.
    pub context: Option<HostTensor>,
    /// Pooled text `[B, P]`, in a replay.
    pub pooled: Option<HostTensor>,
    /// Weight of each sample in the second loss; 0 where the caption names no trigger.
    pub weights: Vec<f32>,
}

/// f32 values with a shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostTensor {
    /// The values, row-major.
    pub values: Vec<f32>,
    /// Sizes.
    pub shape: Vec<usize>,
}

/// Outputs of a text encoder for a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextRows {
    /// Hidden states `[B, S, D]`.
    pub hidden: HostTensor,
    /// Pooled vectors `[B, P]`.
    pub pooled: Option<HostTensor>,
    /// `[B, S]`: 1 for real tokens; where the model is to hide padding.
    pub mask: Option<HostTensor>,
}

/// Draws and conditions taken from a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Model-space latents `[B, C, h, w]`.
    pub latents: HostTensor,
    /// Noise of the same shape.
    pub noise: HostTensor,
    /// Timesteps 0 to 1000; a flow model's σ is a thousandth.
    pub timesteps: Vec<f32>,
    /// Text embeddings as the denoiser reads them `[B, S, D]`.
    pub context: Option<HostTensor>,
    /// Pooled text `[B, P]`.
    pub pooled: Option<HostTensor>,
    /// `[B, S]`: 1 for real tokens.
    pub mask: Option<HostTensor>,
    /// Distilled guidance of each sample.
    pub guidance: Vec<f32>,
}

impl HostTensor {
    /// The values row by row.
    pub fn rows(&self) -> Vec<Vec<f32>> {
        let span: usize = self.shape[1..].iter().product();
        self.values.chunks(span.max(1)).map(<[f32]>::to_vec).collect()
    }
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.names.len()
    }
    /// True without samples.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
    /// The same images with the captions of the class.
    pub fn of_class(&self, class: &ClassText) -> Batch {
        let mut batch = Batch { captions: class.captions.clone(), text: class.text.clone(), ..self.clone() };
        if let Some(replay) = &mut batch.replay {
            (replay.context, replay.pooled) = (class.context.clone(), class.pooled.clone());
        }
        batch
    }
}

/// A source of batches.
pub trait BatchSource: Send + Sync {
    /// Batches of an epoch.
    fn per_epoch(&self) -> u64;
    /// Batch `index` of `epoch`; the same answer every time.
    fn batch(&self, epoch: u64, index: u64) -> Result<Batch, RunError>;
    /// Batches in which each image is once and as it is, to measure with: the same for every seed.
    fn plain_batches(&self) -> u64 {
        self.per_epoch()
    }
    /// Batch `index` of those.
    fn plain_batch(&self, index: u64) -> Result<Batch, RunError> {
        self.batch(0, index)
    }
    /// Text encoders whose outputs the batches carry.
    fn text_encoders(&self) -> Vec<Component> {
        Vec::new()
    }
    /// Optimizer step from which captions have all their tags, where they come in one after another.
    fn tags_until(&self) -> Option<u64> {
        None
    }
    /// Hash of the data: images, captions, latents.
    fn content(&self) -> String;
    /// Facts for the metadata of saved files.
    fn about(&self) -> DataAbout;
}

/// What saved files say of their data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataAbout {
    /// Images with repeats, without those of [`DataAbout::reg_folders`].
    pub images: u64,
    /// Regularization images with repeats.
    pub reg_images: u64,
    /// What the loss of regularization images is multiplied by.
    pub prior_weight: Option<f64>,
    /// As `folders`, of regularization images.
    pub reg_folders: Vec<(String, u64, u64)>,
    /// Images set aside for validation.
    pub held_out: u64,
    /// Folder name → (repeats, images).
    pub folders: Vec<(String, u64, u64)>,
    /// Folder name → tag → count.
    pub tags: Vec<(String, Vec<(String, u64)>)>,
    /// Training resolution `W, H`.
    pub resolution: (usize, usize),
    /// Bucket → images with repeats.
    pub buckets: Vec<((usize, usize), u64)>,
    /// Mean distance between the aspect ratios of images and of their buckets.
    pub ratio_error: Option<f64>,
    /// Images of a batch.
    pub batch_size: u64,
    /// What is done to images and captions, where they come from a folder; of several the first.
    pub rules: Option<DataRules>,
    /// Each folder, where there are several.
    pub several: Vec<FolderAbout>,
    /// Latents are made once and kept.
    pub cached: bool,
    /// File of the autoencoder.
    pub vae: Option<PathBuf>,
    /// Text encoders whose outputs the batches carry.
    pub texts: Vec<TextAbout>,
}

/// What saved files say of one of several folders.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolderAbout {
    /// Its base name.
    pub name: String,
    /// Training resolution `W, H`.
    pub resolution: (usize, usize),
    /// Images.
    pub images: u64,
    /// Images with repeats.
    pub uses: u64,
    /// Repeats that its loader asks for.
    pub repeats: u64,
    /// Images of the class.
    pub regularization: bool,
    /// Tag → count.
    pub tags: BTreeMap<String, u64>,
    /// Bucket → images with repeats.
    pub buckets: BTreeMap<(usize, usize), u64>,
    /// Mean distance between the aspect ratios of images and of their buckets.
    pub ratio_error: Option<f64>,
    /// What is done to images and captions.
    pub rules: DataRules,
    /// Words of its captions.
    pub words: Words,
}

/// Words that a loader gives captions, and where they are from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Words {
    /// Before every caption.
    pub prefix: Option<String>,
    /// Behind every caption.
    pub suffix: Option<String>,
    /// Of images without caption.
    pub default: Option<String>,
    /// Name of the metadata file.
    pub metadata: Option<String>,
}

/// A filter as sd-scripts names it.
pub fn filter_name(filter: Filter) -> String {
    format!("{filter:?}").to_lowercase()
}

/// What a loader does to images and captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataRules {
    /// How captions change.
    pub captions: CaptionOptions,
    /// How images are cut, coloured and resized.
    pub pixels: PixelRules,
    /// Images are mirrored at random.
    pub flip: bool,
    /// Aspect-ratio buckets.
    pub buckets: Option<BucketRules>,
}

/// How images are cut, coloured and resized.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PixelRules {
    /// How they are resized; nothing: area averages or Lanczos.
    pub filter: Option<Filter>,
    /// Cut at a random place.
    pub random_crop: bool,
    /// A random cut is one of the image in its own size.
    pub own_size: bool,
    /// Cut around a face.
    pub face_crop: Option<[f64; 2]>,
    /// Colours change.
    pub color: bool,
}

impl PixelRules {
    /// Whether uses of an image differ in more than mirroring.
    pub fn vary(&self) -> bool {
        self.random_crop || self.face_crop.is_some() || self.color
    }
}

/// Limits of aspect-ratio buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketRules {
    /// Smallest and largest side; none where images are never enlarged.
    pub sides: Option<(u64, u64)>,
}

/// What saved files say of a text encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextAbout {
    /// Which.
    pub component: Component,
    /// Layer taken, from the end, where it is chosen.
    pub clip_skip: Option<u64>,
    /// Tokens of a caption beyond one window of CLIP.
    pub long_tokens: Option<u64>,
    /// Padding is hidden from attention, in the encoder or in the model.
    pub masked: bool,
}

/// The value of a `Batches` port.
#[derive(Clone)]
pub struct Batches(pub Arc<dyn BatchSource>);

plain_value!(Batches);

/// The order of an epoch: entries are shuffled inside their bucket, cut into batches that never mix
/// buckets, and the batches are shuffled. A function of (seed, epoch).
pub fn epoch_order(buckets: &[Vec<usize>], batch: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut rng = rng::stream(seed, Purpose::Order, epoch, 0);
    let mut batches = Vec::new();
    for bucket in buckets {
        let mut entries = bucket.clone();
        entries.shuffle(&mut rng);
        batches.extend(entries.chunks(batch.max(1)).map(<[usize]>::to_vec));
    }
    batches.shuffle(&mut rng);
    batches
}

/// Optimizer steps of an epoch of `batches`, and of the run.
pub fn run_steps(settings: &Settings, batches: u64) -> (u64, u64) {
    let per_epoch = batches.div_ceil(settings.train.accumulate.max(1)).max(1);
    let total = match (settings.train.steps, settings.train.epochs) {
        (Some(steps), _) => steps,
        (None, Some(epochs)) => epochs * per_epoch,
        (None, None) => 1600,
    };
    (per_epoch, total)
}

/// Batches of an epoch without making them.
pub fn batches_per_epoch(buckets: impl IntoIterator<Item = u64>, batch: u64) -> u64 {
    buckets.into_iter().map(|n| n.div_ceil(batch.max(1))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_covers_everything_once_and_changes_with_the_epoch() {
        let buckets = vec![(0..7).collect::<Vec<_>>(), (7..12).collect()];
        let order = epoch_order(&buckets, 3, 9, 0);
        assert_eq!(order.len() as u64, batches_per_epoch([7, 5], 3));
        let mut all: Vec<usize> = order.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..12).collect::<Vec<_>>());
        assert!(order.iter().all(|b| b.iter().all(|&i| i < 7) || b.iter().all(|&i| i >= 7)));
        assert_eq!(order, epoch_order(&buckets, 3, 9, 0));
        assert_ne!(order, epoch_order(&buckets, 3, 9, 1));
    }
}
