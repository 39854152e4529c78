//! `loader.images`: a folder of images with captions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx, missing_help};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::images::buckets::Fit;
use pipe_data::images::{ImageError, probe, scan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fitting::Fitting;
use super::split::{self, Split};
use crate::common::plain_value;

/// Fields of `loader.images`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Folder with the images (png, jpg, jpeg, webp, bmp; not its sub-folders).
    #[schemars(extend("x-path" = "folder"))]
    path: String,
    /// Size of the training images in pixels: one number for a square, or `[width, height]`.
    resolution: Resolution,
    /// Aspect-ratio buckets. Without them every image is fitted to `resolution` and cropped at the centre.
    #[serde(default)]
    buckets: Option<Buckets>,
    /// Extension of caption files. Default `.txt`.
    #[serde(default = "default_extension")]
    caption_extension: String,
    /// Caption of images without a caption file. Without it such an image is an error.
    #[serde(default)]
    default_caption: Option<String>,
    /// Text put before every caption, with a space.
    #[serde(default)]
    caption_prefix: Option<String>,
    /// Text put behind every caption, with a space.
    #[serde(default)]
    caption_suffix: Option<String>,
    /// Probability of training a use of an image with an empty caption. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    caption_dropout_rate: f64,
    /// Shuffle the comma-separated tags of a caption at each use. Needs a text encoder that runs in training.
    #[serde(default)]
    shuffle_caption: bool,
    /// Tags at the front that `shuffle_caption` leaves in place. Default 0.
    #[serde(default)]
    keep_tokens: u64,
    /// How often each image is used in an epoch. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100000))]
    repeats: u64,
    /// Mirror images left to right with probability ½ at each use. Default false.
    #[serde(default)]
    flip_aug: bool,
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

fn default_extension() -> String {
    ".txt".into()
}
fn one() -> u64 {
    1
}
fn default_step() -> u64 {
    64
}

impl Config {
    fn fitting(&self) -> Result<Fitting, Vec<Found>> {
        Fitting::new(self.resolution.sides(), self.buckets).map_err(|why| vec![found("P0403", "buckets", why, None)])
    }

    fn samples(&self, items: Vec<Sample>, folder: &std::path::Path) -> Samples {
        Samples {
            items: Arc::new(items),
            repeats: self.repeats,
            flip: self.flip_aug,
            captions: CaptionRules {
                dropout: self.caption_dropout_rate,
                shuffle: self.shuffle_caption,
                keep_tokens: self.keep_tokens,
            },
            folder: folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            resolution: self.resolution.sides(),
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

/// An image of the data set.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// Caption as read, prefix and suffix added.
    pub caption: String,
    /// Size of the file in pixels.
    pub size: (usize, usize),
    /// How it is fitted.
    pub fit: Fit,
    /// Set aside for validation.
    pub held_out: bool,
}

/// How captions change from use to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptionRules {
    /// Probability of an empty caption.
    pub dropout: f64,
    /// Shuffle tags.
    pub shuffle: bool,
    /// Tags that stay in front.
    pub keep_tokens: u64,
}

/// The value of a `Samples` port.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Images in order of path.
    pub items: Arc<Vec<Sample>>,
    /// Uses of each image in an epoch.
    pub repeats: u64,
    /// Mirrored with probability ½.
    pub flip: bool,
    /// Caption rules.
    pub captions: CaptionRules,
    /// Name of the folder.
    pub folder: String,
    /// Requested size.
    pub resolution: (usize, usize),
}

plain_value!(Samples);

/// The node type.
pub struct Images;

impl Node for Images {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "loader.images",
        summary: "A folder of images with caption files, sorted into aspect-ratio buckets.",
        details: "Reads every image directly in `path` with the caption file of the same stem. An image is scaled to cover its \
                  bucket (area average when shrinking, Lanczos when enlarging) and cropped at the centre. The first line of a \
                  caption file counts. EXIF orientation is ignored and transparency is dropped, as other trainers do.",
        example: "photos:\n  type: loader.images\n  path: ./photos\n  resolution: 512\n  buckets:\n    min: 256\n    max: 1024\n    step: 64",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Samples, Rate::Setup, "The images with their captions and sizes.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let folder = cx.path(&config.path);
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
        if config.keep_tokens > 0 && !config.shuffle_caption {
            cx.error(
                "P0402",
                "keep_tokens",
                "`keep_tokens` has no effect without `shuffle_caption`",
                Some("add `shuffle_caption: true`, or leave `keep_tokens` out".into()),
            );
        }
        if config.validation_seed.is_some() && config.validation_split.is_none() {
            let message = "`validation_seed` has no effect without `validation_split`";
            cx.error("P0402", "validation_seed", message, Some("add `validation_split: 0.1`, or leave it out".into()));
        }
        let samples = if cx.stands_in(&folder) { assumed(config) } else { read(config, &folder) };
        match samples {
            Ok(samples) => facts(&samples),
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
            let n = buckets.len();
            let plural = if n == 1 { "" } else { "s" };
            plan.notes.push(format!("{images} images, each used {uses} an epoch, in {n} bucket{plural}"));
            for b in buckets.iter().take(12) {
                plan.notes.push(format!("  {}×{}: {}", b[0], b[1], b[2]));
            }
            if let Some(n @ 1..) = cx.facts.u64("held_out") {
                plan.notes.push(format!("{n} more set aside for validation"));
            }
        }
        plan
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let folder = cx.path(&config.path);
        let samples = read(&config, &folder).map_err(|problems| match problems.into_iter().next() {
            Some(p) => RunError::new(p.code, p.message).at(p.field),
            None => RunError::new("P0306", "no images"),
        })?;
        Ok(Built { outputs: vec![Arc::new(samples)], ..Default::default() })
    }
}

struct Found {
    code: &'static str,
    field: &'static str,
    message: String,
    help: Option<String>,
}

fn found(code: &'static str, field: &'static str, message: impl Into<String>, help: Option<&str>) -> Found {
    Found { code, field, message: message.into(), help: help.map(String::from) }
}

/// Reads the folder: names, captions and image headers, no pixels.
fn read(config: &Config, folder: &std::path::Path) -> Result<Samples, Vec<Found>> {
    let extension = config.caption_extension.clone();
    let entries = scan(folder, std::slice::from_ref(&extension)).map_err(|e| {
        let (code, help) = match &e {
            ImageError::Missing { .. } => ("P0301", Some(missing_help(folder))),
            ImageError::NotFolder { .. } => ("P0302", Some("name the folder that the images are in".into())),
            _ => ("P0310", None),
        };
        vec![Found { code, field: "path", message: e.to_string(), help }]
    })?;
    if entries.is_empty() {
        let help = "put png, jpg, webp or bmp files directly into the folder; sub-folders are not read";
        return Err(vec![found("P0306", "path", format!("no images in `{}`", folder.display()), Some(help))]);
    }
    let fitting = config.fitting()?;
    let mut problems = Vec::new();
    let mut items = Vec::with_capacity(entries.len());
    let mut uncaptioned = Vec::new();
    for entry in entries {
        let size = match probe(&entry.path) {
            Ok((w, h)) => (w as usize, h as usize),
            Err(e) => {
                problems.push(found(
                    "P0307",
                    "path",
                    e.to_string(),
                    Some("remove the file, or save it again from an image editor"),
                ));
                continue;
            }
        };
        let caption = match (&entry.caption_path, &config.default_caption) {
            (Some(path), _) => match pipe_data::images::read_caption(path) {
                Ok(text) => pipe_data::images::caption_text(&text, false),
                Err(e) => {
                    let (code, help) = match &e {
                        ImageError::EmptyCaption { .. } => {
                            ("P0309", "write the caption, or delete the file and set `default_caption`")
                        }
                        _ => ("P0308", "save the caption as UTF-8 text"),
                    };
                    problems.push(found(code, "path", e.to_string(), Some(help)));
                    continue;
                }
            },
            (None, Some(text)) => text.clone(),
            (None, None) => {
                uncaptioned.push(entry.path.clone());
                continue;
            }
        };
        match fitting.of(size) {
            Ok(fit) => {
                let caption = decorate(config, caption);
                items.push(Sample { path: entry.path, caption, size, fit, held_out: false });
            }
            Err(why) => problems.push(found("P0307", "path", format!("`{}`: {why}", entry.path.display()), None)),
        }
    }
    if !uncaptioned.is_empty() {
        problems.push(uncaptioned_problem(folder, &extension, &uncaptioned));
    }
    if !problems.is_empty() {
        let more = problems.len().saturating_sub(10);
        problems.truncate(10);
        if more > 0 {
            problems.push(found("P0307", "path", format!("and {more} more files with problems"), None));
        }
        return Err(problems);
    }
    config.hold_out(&mut items)?;
    Ok(config.samples(items, folder))
}

/// Images assumed where there are none yet, for a plan without files.
const ASSUMED_IMAGES: usize = 100;

/// What stands for a folder that is not there: a hundred images of the requested size, each with a caption.
fn assumed(config: &Config) -> Result<Samples, Vec<Found>> {
    let size = config.resolution.sides();
    let fit = config.fitting()?.of(size).map_err(|why| vec![found("P0403", "buckets", why, None)])?;
    let item = |n| Sample { path: format!("{n}.png").into(), caption: String::new(), size, fit, held_out: false };
    let mut items: Vec<Sample> = (0..ASSUMED_IMAGES).map(item).collect();
    config.hold_out(&mut items)?;
    Ok(config.samples(items, std::path::Path::new(&config.path)))
}

fn decorate(config: &Config, caption: String) -> String {
    let mut text = caption;
    if let Some(prefix) = &config.caption_prefix {
        text = format!("{prefix} {text}");
    }
    if let Some(suffix) = &config.caption_suffix {
        text = format!("{text} {suffix}");
    }
    text
}

fn uncaptioned_problem(folder: &std::path::Path, extension: &str, missing: &[PathBuf]) -> Found {
    let example = missing[0].file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let others = pipe_data::images::caption_candidates(folder).unwrap_or_default();
    let other = others.iter().find(|e| e.as_str() != extension.trim_start_matches('.'));
    let help = match other {
        Some(e) => format!("there are `.{e}` files: set `caption_extension: .{e}`"),
        None => "write the captions, or set `default_caption` for images without one".into(),
    };
    let n = missing.len();
    let message =
        format!("{n} image{} without `{extension}` caption, the first is `{example}`", if n == 1 { "" } else { "s" });
    Found { code: "P0309", field: "caption_extension", message, help: Some(help) }
}

fn facts(samples: &Samples) -> Facts {
    let buckets = |held_out: bool| {
        let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for s in samples.items.iter().filter(|s| s.held_out == held_out) {
            *counts.entry(s.fit.bucket).or_default() += 1;
        }
        counts.iter().map(|((w, h), n)| json!([w, h, n])).collect::<Vec<_>>()
    };
    let held_out = samples.items.iter().filter(|s| s.held_out).count();
    Facts::new()
        .with("images", (samples.items.len() - held_out) as u64)
        .with("held_out", held_out as u64)
        .with("held_out_buckets", buckets(true))
        .with("repeats", samples.repeats)
        .with("flip", samples.flip)
        .with("buckets", buckets(false))
        .with("captions", serde_json::to_value(samples.captions).unwrap_or_default())
        .with("longest_caption", samples.items.iter().map(|s| s.caption.len()).max().unwrap_or(0) as u64)
}
