//! `loader.images`: a folder of images with captions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::images::buckets::Fit;
use pipe_data::images::probe_whole;
use schemars::JsonSchema;
use serde::Deserialize;

use super::captions::CaptionFields;
use super::faults::{Found, found, uncaptioned, untriggered, unwritten};
use super::fitting::Fitting;
use super::pixels::PixelFields;
use super::sample::{MaskSource, PreserveClass, Regularization, Sample, Samples};
use super::split::{self, Split};
use super::weights::{self, Factor};
use super::{facts, listing, masks, notices};
use crate::common::batch::BucketRules;

/// Fields of `loader.images`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("x-exclusive" = [["alpha_mask", "masks"], ["preserve_class", "preserve_output"], ["loss_weight", "regularization"]]))]
pub struct Config {
    /// Folder with the images (png, jpg, jpeg, webp, bmp; not its sub-folders).
    #[schemars(extend("x-path" = "folder"))]
    path: String,
    /// Metadata file (`.json` or `.jsonl`) with the captions and tags of the images, as kohya's tools write it; tags stand
    /// behind the caption, after the `caption_separator`. Only images that it lists are used. A key is a path from
    /// `path`, an absolute one, or a name without extension. Default: caption files beside the images.
    #[serde(default)]
    #[schemars(extend("x-path" = "file"))]
    metadata: Option<String>,
    /// Size of the training images in pixels: one number for a square, or `[width, height]`.
    resolution: Resolution,
    /// Aspect-ratio buckets. Without them every image is fitted to `resolution` and cropped at the centre.
    #[serde(default)]
    buckets: Option<Buckets>,
    #[serde(flatten)]
    pub(super) captions: CaptionFields,
    #[serde(flatten)]
    pub(super) pixels: PixelFields,
    /// How often each image is used in an epoch. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100000))]
    pub(super) repeats: u64,
    /// Mirror images left to right with probability ½ at each use. Default false.
    #[serde(default)]
    pub(super) flip_aug: bool,
    /// What the loss of these images is multiplied by. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1000.0))]
    pub(super) loss_weight: Option<f64>,
    /// Further factors for single images: file name, in which `*` stands for any characters, and factor.
    #[serde(default)]
    pub(super) image_weights: Option<BTreeMap<String, Factor>>,
    /// Folder of masks: for each image a picture of the same name, white where its loss counts and black where not.
    #[serde(default)]
    #[schemars(extend("x-path" = "folder"))]
    pub(super) masks: Option<String>,
    /// Take the alpha channel of images as their mask; all of an image without one counts. Default false.
    #[serde(default)]
    alpha_mask: bool,
    /// These are images of the class that a concept belongs to, to preserve it (prior preservation, Ruiz et al. 2023): of them as many
    /// are used in an epoch as of the others of their `resolution`; where there are none of it, as of those that no
    /// regularization images of their own balance. Default: images of the concept.
    #[serde(default)]
    regularization: Option<Regularization>,
    /// Train these images towards what the base model makes of them, so that the adapter changes nothing there. Default false.
    #[serde(default)]
    preserve_output: bool,
    /// A second loss that keeps what the base model makes of the class: in each step also the captions with the class in
    /// place of the trigger are predicted, with and without the adapter. Default: off.
    #[serde(default)]
    pub(super) preserve_class: Option<PreserveClass>,
    /// Images set aside for a `logger.validation` and not trained on: a part of all, or `{ images: 10 }`. The cacher gives
    /// them as `cached.validation`, each once, with its whole caption and not mirrored. Default: none.
    #[serde(default)]
    validation_split: Option<Split>,
    /// Chooses which images are set aside, with their names; the run's `seed` does not. Default 0.
    #[serde(default)]
    validation_seed: Option<u64>,
}

/// One side or both.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Resolution {
    /// A square.
    Square(#[schemars(range(min = 8, max = 16384))] u64),
    /// Width and height.
    Sides(#[schemars(inner(range(min = 8, max = 16384)))] [u64; 2]),
}

/// Sides of buckets in pixels.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(super) struct Buckets {
    /// Smallest side. Default 256. Not together with `no_upscale`.
    #[serde(default)]
    #[schemars(range(min = 8, max = 16384))]
    pub(super) min: Option<u64>,
    /// Largest side. Default 1024. Not together with `no_upscale`.
    #[serde(default)]
    #[schemars(range(min = 8, max = 16384))]
    pub(super) max: Option<u64>,
    /// Sides are multiples of this. Default 64.
    #[serde(default = "default_step")]
    #[schemars(range(min = 8, max = 1024))]
    pub(super) step: u64,
    /// Never enlarge an image: each gets a bucket of its own aspect ratio, so `min` and `max` have no place. Default false.
    #[serde(default)]
    pub(super) no_upscale: bool,
}

fn one() -> u64 {
    1
}
fn default_step() -> u64 {
    64
}

impl Config {
    fn fitting(&self) -> Result<Fitting, Vec<Found>> {
        let (w, h) = self.resolution.sides();
        let sides = |b: Buckets| (b.min.unwrap_or(256) as usize, b.max.unwrap_or(1024) as usize);
        let help = self.buckets.map(sides).and_then(|(min, max)| match (w.min(h) < min, w.max(h) > max) {
            (true, _) => Some(format!("set `buckets.min: {}`", w.min(h))),
            (_, true) => Some(format!("set `buckets.max: {}`", w.max(h))),
            _ => None,
        });
        Fitting::new((w, h), self.buckets).map_err(|why| vec![found("P0403", "buckets", why, help.as_deref())])
    }

    fn samples(&self, items: Vec<Sample>, folder: &Path) -> Samples {
        Samples {
            items: Arc::new(items),
            repeats: self.repeats,
            flip: self.flip_aug,
            captions: self.captions.rules(),
            pixels: self.pixels.rules(self.buckets.is_some()),
            words: self.captions.words(self.metadata.as_deref()),
            folder: folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            resolution: self.resolution.sides(),
            regularization: self.regularization.is_some(),
            preserve: self.preserve_output,
            class: self
                .preserve_class
                .clone()
                .map(|class| PreserveClass { trigger: self.captions.rules().rejoined(&class.trigger), ..class }),
            buckets: self
                .buckets
                .map(|b| BucketRules { sides: (!b.no_upscale).then(|| (b.min.unwrap_or(256), b.max.unwrap_or(1024))) }),
        }
    }

    fn sample(&self, path: PathBuf, caption: String, size: (usize, usize), fit: Fit) -> Sample {
        let weight = self.regularization.map(|r| r.weight).or(self.loss_weight).unwrap_or(1.0) as f32;
        let mask = self.alpha_mask.then_some(MaskSource::Alpha);
        Sample { path, caption, size, fit, weight, mask, held_out: false }
    }

    /// What is worth knowing of images that can be trained on.
    fn remark(&self, places: &Places, items: &[Sample], cx: &mut CheckCx) {
        let mut list = notices::of(&places.folder, items);
        list.extend(match &places.metadata {
            Some(_) => listing::unlisted(&places.folder, items),
            None => listing::passed_over(&places.folder, &self.captions),
        });
        for (code, field, message, help) in list {
            cx.warn(code, field, message, Some(help));
        }
        if self.alpha_mask
            && let Some(message) = notices::opaque(items)
        {
            cx.error("P0402", "alpha_mask", message, Some("leave `alpha_mask` out".into()));
        }
        if let Some(message) = self.pixels.faceless(items) {
            cx.error("P0402", "face_crop", message, Some("leave `face_crop` out".into()));
        }
        let of_pixels = self.pixels.notices(items, self.buckets.is_some());
        let of_pixels = of_pixels.into_iter().map(|(field, message)| (field, message.to_owned()));
        for (field, message) in self.captions.notices(items).into_iter().chain(of_pixels) {
            cx.warn("P0402", field, message, Some(format!("leave `{field}` out")));
        }
    }

    /// Marks the images that are set aside.
    fn hold_out(&self, items: &mut [Sample]) -> Result<(), Vec<Found>> {
        let Some(split) = self.validation_split else { return Ok(()) };
        split::hold_out(items, split, self.validation_seed.unwrap_or(0))
            .map_err(|why| vec![found("P0403", "validation_split", why, Some("set fewer images aside"))])
    }
}

impl Resolution {
    fn sides(self) -> (usize, usize) {
        match self {
            Resolution::Square(n) => (n as usize, n as usize),
            Resolution::Sides([w, h]) => (w as usize, h as usize),
        }
    }
}

/// The node type.
pub struct Images;

impl Node for Images {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "loader.images",
        summary: "A folder of images with caption files, sorted into aspect-ratio buckets.",
        details: "Reads every image directly in `path` with the caption file of the same stem, or those that a `metadata` file lists. An image is scaled to cover its \
                  bucket (area average when shrinking, Lanczos when enlarging) and cropped at the centre, unless fields say otherwise. \
                  Without `wildcards` the first line of a caption file that is not blank counts. EXIF orientation is ignored and transparency is dropped, as other trainers do; CMYK becomes RGB. \
                  `pipe check` reads headers and ends of images, not their pixels: an image damaged in its middle is \
                  reported and set aside when it is decoded.",
        example: "photos:\n  type: loader.images\n  path: ./photos\n  resolution: 512\n  buckets:\n    min: 256\n    max: 1024\n    step: 64",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Samples, Rate::Setup, "The images with their captions and sizes.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let path = |path: &Option<String>| path.as_ref().map(|path| cx.path(path));
        let (folder, metadata) = (cx.path(&config.path), path(&config.metadata));
        let masks = path(&config.masks).filter(|path| !cx.stands_in(path));
        if let Some(Buckets { no_upscale: true, min, max, .. }) = config.buckets {
            for (field, _) in [("min", min), ("max", max)].into_iter().filter(|(_, side)| side.is_some()) {
                cx.error(
                    "P0402",
                    &format!("buckets.{field}"),
                    format!("`{field}` has no effect with `no_upscale`: an image's own size sets its bucket"),
                    Some(format!("leave `{field}` out, or leave `no_upscale` out")),
                );
            }
        }
        config.captions.check(cx, config.metadata.is_some());
        config.pixels.check(cx, config.buckets.is_some());
        if config.validation_split.is_some() && config.regularization.is_some() {
            let message = "`validation_split` has no effect on what is learned of regularization images";
            cx.error("P0402", "validation_split", message, Some("set images of the concept aside".into()));
        }
        if config.preserve_class.is_some() && config.captions.drops_all() {
            let message = "`preserve_class` has no effect: every caption is empty, and none names the trigger";
            cx.error("P0402", "preserve_class", message, None);
        }
        if config.image_weights.as_ref().is_some_and(weights::are_one) {
            let message = "`image_weights` has no effect: every factor is 1";
            cx.error("P0402", "image_weights", message, Some("leave it out".into()));
        }
        if config.validation_seed.is_some() && config.validation_split.is_none() {
            let message = "`validation_seed` has no effect without `validation_split`";
            cx.error("P0402", "validation_seed", message, Some("add `validation_split: 0.1`, or leave it out".into()));
        }
        let stands_in = cx.stands_in(&folder) || metadata.as_ref().is_some_and(|path| cx.stands_in(path));
        let places = Places { folder, masks, metadata };
        let samples = if stands_in { assumed(config) } else { read(config, &places) };
        match samples {
            Ok(samples) => {
                if !stands_in {
                    config.remark(&places, &samples.items, cx);
                }
                facts::of(config, &samples, stands_in)
            }
            Err(problems) => {
                for p in problems {
                    cx.error(p.code, p.field, p.message, p.help);
                }
                Facts::new()
            }
        }
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        let mut plan = NodePlan::default();
        if let Some(buckets) = cx.facts.get("buckets").and_then(|b| b.as_array()) {
            let images = cx.facts.u64("images").unwrap_or(0);
            let repeats = cx.facts.u64("repeats").unwrap_or(1);
            let uses = if repeats == 1 { "once".to_string() } else { format!("{repeats} times") };
            let regular = cx.facts.get("regularization").is_some();
            let n = buckets.len();
            let plural = if n == 1 { "" } else { "s" };
            let assumed = cx.facts.get("assumed").is_some_and(|assumed| assumed == true);
            let assumed = if assumed { " assumed, since the folder is not there" } else { "" };
            plan.notes.push(match cx.facts.get("regularization") {
                Some(_) => format!(
                    "{images} regularization images, used as often as the others of their resolution, in {n} bucket{plural}"
                ),
                None => format!("{images} images{assumed}, each used {uses} an epoch, in {n} bucket{plural}"),
            });
            for b in buckets.iter().take(12) {
                let uses = b[2].as_u64().unwrap_or(0) * repeats;
                let uses = if repeats == 1 || regular { String::new() } else { format!(", {uses} uses an epoch") };
                plan.notes.push(format!("  {}×{}: {}{uses}", b[0], b[1], b[2]));
            }
            if let Some(error) = cx.facts.f64("ratio_error").filter(|error| *error >= 0.005) {
                plan.notes
                    .push(format!("their shapes differ from the images' by {error:.2} (width/height) on average"));
            }
            if let Some(n @ 1..) = cx.facts.u64("held_out") {
                plan.notes.push(format!("{n} more set aside for validation"));
            }
        }
        plan
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let path = |path: &Option<String>| path.as_ref().map(|path| cx.path(path));
        let places =
            Places { folder: cx.path(&config.path), masks: path(&config.masks), metadata: path(&config.metadata) };
        let samples = read(&config, &places).map_err(|problems| match problems.into_iter().next() {
            Some(p) => RunError::new(p.code, p.message).at(p.field),
            None => RunError::new("P0306", "no images"),
        })?;
        Ok(Built { outputs: vec![Arc::new(samples)], ..Default::default() })
    }
}

/// What a loader reads: the folder of images, that of masks, and the metadata file.
struct Places {
    folder: PathBuf,
    masks: Option<PathBuf>,
    metadata: Option<PathBuf>,
}

/// Pixels before the cut for each pixel behind it, from which on an image is refused: it would need more memory than the
/// training.
const MOST_WASTE: usize = 64;

/// Reads the folders: names, captions and image headers, no pixels.
fn read(config: &Config, places: &Places) -> Result<Samples, Vec<Found>> {
    let (folder, extension) = (&places.folder, config.captions.extension());
    let entries = match &places.metadata {
        Some(metadata) => listing::of_metadata(folder, metadata, &config.captions).map_err(notices::limit)?,
        None => listing::of_folder(folder, extension)?,
    };
    let fitting = config.fitting()?;
    let mut problems = Vec::new();
    let mut items = Vec::with_capacity(entries.len());
    let mut without = Vec::new();
    for entry in entries {
        let size = match probe_whole(&entry.path) {
            Ok(probe) => (probe.width as usize, probe.height as usize),
            Err(e) => {
                problems.push(found("P0307", "path", e.to_string(), Some(notices::image_help(&e))));
                continue;
            }
        };
        let caption = match entry.caption(&config.captions) {
            Ok(Some(caption)) => config.captions.decorate(caption),
            Ok(None) => {
                without.push(entry.path);
                continue;
            }
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        match fitting.of(size) {
            Ok(fit) if fit.waste() > MOST_WASTE => {
                let (w, h) = fit.resized;
                let what = format!(
                    "`{}` would be resized to {w}×{h} pixels, of which nearly all are cut off",
                    entry.path.display()
                );
                let help = "cut the image, or remove it";
                problems.push(found("P0307", "path", what, Some(help)));
            }
            Ok(fit) => items.push(config.sample(entry.path, caption, size, fit)),
            Err(why) => problems.push(found("P0307", "path", format!("`{}`: {why}", entry.path.display()), None)),
        }
    }
    if !without.is_empty() {
        problems.push(match &places.metadata {
            Some(_) => unwritten(&without),
            None => uncaptioned(folder, extension, &without),
        });
    }
    if problems.is_empty() {
        problems = counted(config, places.masks.as_deref(), &mut items);
    }
    if !problems.is_empty() {
        return Err(notices::limit(problems));
    }
    config.hold_out(&mut items)?;
    Ok(config.samples(items, folder))
}

/// Gives the images their masks and weights, and says what is wrong with those.
fn counted(config: &Config, masks: Option<&Path>, items: &mut [Sample]) -> Vec<Found> {
    let mut problems = masks.map(|folder| masks::assign(folder, items)).unwrap_or_default();
    if let Some(factors) = &config.image_weights
        && let Err((message, help)) = weights::apply(factors, items)
    {
        problems.push(found("P0403", "image_weights", message, Some(&help)));
    }
    let rules = config.captions.rules();
    problems.extend(config.preserve_class.as_ref().and_then(|class| untriggered(class, items, &rules)));
    problems
}

/// Images assumed where there are none yet, for a plan without files.
const ASSUMED_IMAGES: usize = 100;

/// What stands for a folder that is not there: a hundred images of the requested size, each with a caption.
fn assumed(config: &Config) -> Result<Samples, Vec<Found>> {
    let size = config.resolution.sides();
    let fit = config.fitting()?.of(size).map_err(|why| vec![found("P0403", "buckets", why, None)])?;
    let item = |n| config.sample(format!("{n}.png").into(), String::new(), size, fit);
    let mut items: Vec<Sample> = (0..ASSUMED_IMAGES).map(item).collect();
    config.hold_out(&mut items)?;
    Ok(config.samples(items, Path::new(&config.path)))
}
