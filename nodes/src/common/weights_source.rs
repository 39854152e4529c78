//! Where a network's weights come from: a file in any public layout, or random numbers.

use std::path::{Path, PathBuf};

use pipe_core::diagnostic::quote;
use pipe_core::node::{CheckCx, missing_weights_help};
use pipe_core::run::RunError;
use pipe_data::weights::{Component, ComponentWeights, FileError, shard_of, shown};
use pipe_networks::{Keeping, Weights};
use pipe_ops::rng::{self, Purpose};
use pipe_ops::{Cx, DType};
use serde_json::Value as Json;

use super::errors;

/// Shapes of a network's tensors.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// Values of a tensor, or why they cannot be read.
pub type Values = Result<Vec<f32>, RunError>;

/// A file or a seed.
#[derive(Clone, Debug)]
pub enum Source {
    /// A checkpoint in any layout.
    File {
        /// Where it is.
        path: PathBuf,
        /// The node that names it.
        node: String,
    },
    /// Random numbers: a network to be trained from nothing.
    Random {
        /// Seed of the numbers.
        seed: u64,
    },
}

impl Source {
    /// The file or folder, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File { path, .. } => Some(path),
            Source::Random { .. } => None,
        }
    }

    /// The node that names the file, if it is one.
    pub fn node(&self) -> Option<&str> {
        match self {
            Source::File { node, .. } => Some(node),
            Source::Random { .. } => None,
        }
    }

    /// Reads the tensors: onto the device in `dtype`, or as they are to be kept.
    pub fn load(
        &self,
        component: Component,
        shapes: &Shapes,
        cx: &Cx,
        dtype: DType,
        keeping: &Keeping,
    ) -> Result<Weights, RunError> {
        match self {
            // Weights load when they are first used, mostly by another node than the one that names the file.
            Source::File { path, node } => {
                let load = || {
                    let file =
                        ComponentWeights::open(path, component).map_err(|e| errors::file_error(&e, "weights"))?;
                    Weights::verify(&file, shapes, unused(component, shapes)).map_err(errors::weights_error)?;
                    Weights::load(&file, shapes, cx, dtype, keeping).map_err(errors::weights_error)
                };
                load().map_err(|error| error.of(node))
            }
            Source::Random { seed } => {
                let mut weights = Weights::default();
                for (name, shape) in shapes {
                    let values = random(*seed, component, name, shape);
                    weights.put(name, values, shape, cx, dtype, keeping).map_err(errors::weights_error)?;
                }
                Ok(weights)
            }
        }
    }

    /// Values of single tensors as the source has them, whatever they are kept in.
    pub fn exact(&self, component: Component) -> Result<impl Fn(&str, &[usize]) -> Values, RunError> {
        let file = self.path().map(|path| open_for_run(path, component)).transpose()?;
        let seed = match self {
            Source::File { .. } => 0,
            Source::Random { seed } => *seed,
        };
        Ok(move |name: &str, shape: &[usize]| match &file {
            Some(file) => file.f32(name).map_err(|e| errors::file_error(&e, "weights")),
            None => Ok(random(seed, component, name, shape)),
        })
    }

    /// Names the content: equal fingerprints mean equal weights.
    pub fn fingerprint(&self, component: Component) -> Result<String, RunError> {
        match self {
            Source::File { path, .. } => {
                let file = ComponentWeights::open(path, component).map_err(|e| errors::file_error(&e, "weights"))?;
                let mut hasher = blake3::Hasher::new();
                for name in file.names() {
                    hasher.update(name.as_bytes());
                    let bytes = file.bytes(name).map_err(|e| errors::file_error(&e, "weights"))?;
                    hasher.update_rayon(&bytes);
                    let scale = file.scale(name).map_err(|e| errors::file_error(&e, "weights"))?;
                    for factor in scale.into_iter().flatten() {
                        hasher.update(&factor.to_le_bytes());
                    }
                }
                Ok(hasher.finalize().to_hex().to_string())
            }
            Source::Random { seed } => Ok(format!("random {seed}")),
        }
    }
}

/// Initial values as the original code draws them: Kaiming uniform weights, zero biases, unit norms;
/// embeddings N(0, 0.02²); the last convolution of a denoiser is zero.
fn random(seed: u64, component: Component, name: &str, shape: &[usize]) -> Vec<f32> {
    let len: usize = shape.iter().product();
    let mut stream = rng::named_stream(seed, Purpose::Init, 1, name);
    let is_bias = name.ends_with(".bias");
    if name.contains("embedding.weight") && component == Component::TextEncoder {
        rng::normal(&mut stream, len).iter().map(|x| 0.02 * x).collect()
    } else if is_bias || (component == Component::Unet && name == "conv_out.weight") {
        vec![0.0; len]
    } else if shape.len() == 1 {
        vec![1.0; len]
    } else {
        let fan_in: usize = shape[1..].iter().product();
        let bound = 1.0 / (fan_in as f32).sqrt();
        rng::uniform(&mut stream, len, -bound, bound)
    }
}

/// What a check finds at `weights`.
pub enum Opened {
    /// The file.
    File(Box<ComponentWeights>),
    /// Nothing yet, in a check without files: the full size of the family stands in.
    StandIn,
    /// A problem, which was reported.
    Refused,
}

/// Opens a component for a check, or lets the family's full size stand in.
pub fn open_or_stand_in(cx: &mut CheckCx, text: &str, component: Component) -> Opened {
    if cx.stands_in(&cx.path(text)) {
        return Opened::StandIn;
    }
    match open_for_check(cx, text, component) {
        Some(file) => Opened::File(Box::new(file)),
        None => Opened::Refused,
    }
}

/// Sizes of a component for a check: read from the file, whose tensors are compared with what the network needs, or
/// `full` where it stands in. Problems become diagnostics at `weights`.
pub fn sizes_for_check<T>(
    cx: &mut CheckCx,
    text: &str,
    component: Component,
    full: impl FnOnce() -> T,
    infer: impl FnOnce(&ComponentWeights) -> Result<(T, Shapes), (&'static str, String)>,
) -> Option<(T, Option<Box<ComponentWeights>>)> {
    let file = match open_or_stand_in(cx, text, component) {
        Opened::File(file) => file,
        Opened::StandIn => return Some((full(), None)),
        Opened::Refused => return None,
    };
    match infer(&file) {
        Ok((found, shapes)) => verify_for_check(cx, &file, &shapes).then_some((found, Some(file))),
        Err((code, why)) => {
            cx.error(code, "weights", why, Some(format!("`pipe inspect {}` shows what it holds", quote(text))));
            None
        }
    }
}

/// Opens a component for a run.
pub fn open_for_run(path: &Path, component: Component) -> Result<ComponentWeights, RunError> {
    ComponentWeights::open(path, component).map_err(|e| errors::file_error(&e, "weights"))
}

/// Opens a component for a check: problems become diagnostics at `weights`.
pub fn open_for_check(cx: &mut CheckCx, text: &str, component: Component) -> Option<ComponentWeights> {
    let path = cx.path(text);
    match ComponentWeights::open(&path, component) {
        Ok(file) => Some(file),
        Err(error) => {
            let help = match errors::file_code(&error) {
                "P0301" => {
                    similar_file(&path).map(|p| format!("did you mean `{p}`? paths start at the document's folder"))
                }
                _ if errors::is_denied(&error) => Some("let this user read the file".into()),
                _ if matches!(error, FileError::WrongType { .. }) => Some(
                    "weights in integers, as quantized models have them, are not read: use its 16-bit or fp8 file"
                        .into(),
                ),
                _ => {
                    shard_help(&path).or_else(|| Some(format!("`pipe inspect {}` says what the file is", quote(text))))
                }
            };
            let help = help.or_else(|| Some(missing_weights_help(&path)));
            cx.error(errors::file_code(&error), "weights", error.to_string(), help);
            None
        }
    }
}

/// A file of the same folder whose name differs little.
fn similar_file(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_string_lossy().to_lowercase();
    let mut names: Vec<String> = std::fs::read_dir(path.parent()?)
        .ok()?
        .take(5000)
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| [".safetensors", ".ckpt", ".pt", ".pth", ".bin"].iter().any(|ending| n.ends_with(ending)))
        .filter(|n| n.to_lowercase().starts_with(wanted.get(..3).unwrap_or(&wanted)))
        .collect();
    names.sort();
    names.into_iter().next()
}

/// Which names a file may have that the network does not read: Gemma's last layer and final norm.
fn unused(component: Component, shapes: &Shapes) -> impl Fn(&str) -> bool + use<> {
    let index = |name: &str| name.strip_prefix("layers.")?.split('.').next()?.parse::<usize>().ok();
    let last = match component {
        Component::Gemma => shapes.iter().filter_map(|(name, _)| index(name)).max().map(|n| n + 1),
        _ => None,
    };
    move |name| last.is_some() && (name == "norm.weight" || index(name) == last)
}

/// Reports missing, unexpected and misshapen tensors of an opened file at `weights`.
pub fn verify_for_check(cx: &mut CheckCx, file: &ComponentWeights, shapes: &Shapes) -> bool {
    match Weights::verify(file, shapes, unused(file.component, shapes)) {
        Ok(()) => {
            tell_strays(cx, &file.strays);
            true
        }
        Err(error) => {
            let incomplete = "the file is not a complete model of this kind; `pipe inspect` lists what it holds";
            let help = shard_help(file.set().path()).unwrap_or_else(|| incomplete.into());
            cx.error(errors::weights_code(&error), "weights", error.to_string(), Some(help));
            false
        }
    }
}

/// What to name in place of one shard.
fn shard_help(path: &Path) -> Option<String> {
    let (number, all) = shard_of(path)?;
    Some(format!("the file is shard {number} of {all}: name the folder of the shards, or their index"))
}

/// Tells of tensors beside the model that no part of it reads.
fn tell_strays(cx: &mut CheckCx, names: &[String]) {
    let more = match names.len() {
        0 => return,
        1..=LISTED => String::new(),
        all => format!(" and {} more", all - LISTED),
    };
    let listed = Vec::from_iter(names.iter().take(LISTED).map(|name| format!("`{}`", shown(name))));
    let message =
        format!("nothing is known about some tensors of the file, and nothing reads them: {}{more}", listed.join(", "));
    cx.warn("P0320", "weights", message, Some("they are not trained and not saved".into()));
}

/// Names of a file that are listed at once.
const LISTED: usize = 8;

/// A value of `config.json`, or none where the key is missing or null.
type Configured<T> = Result<Option<T>, (&'static str, String)>;

/// Largest number that a size in a `config.json` may be.
const LARGEST: u64 = 1 << 24;

fn config_value<'c>(config: Option<&'c Json>, key: &str) -> Option<&'c Json> {
    config?.get(key).filter(|value| !value.is_null())
}

fn size(value: &Json) -> Option<usize> {
    value.as_u64().filter(|n| *n <= LARGEST).map(|n| n as usize)
}

/// A value that is not what is needed, which is `wanted`.
fn unreadable(key: &str, value: &Json, wanted: &str) -> (&'static str, String) {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
        text.push('…');
    }
    ("P0303", format!("`{key}` of `config.json` is `{text}`, {wanted} is needed"))
}

/// Whole numbers of `config.json`, from a list or one number.
///
/// # Errors
/// Code and message, when the value is something else.
pub fn config_list(config: Option<&Json>, key: &str) -> Configured<Vec<usize>> {
    let Some(value) = config_value(config, key) else { return Ok(None) };
    let list: Option<Vec<usize>> = match value {
        Json::Array(list) if !list.is_empty() => list.iter().map(size).collect(),
        other => size(other).map(|n| vec![n]),
    };
    list.map(Some).ok_or_else(|| unreadable(key, value, "a whole number or a list of them"))
}

/// Three whole numbers of `config.json`.
///
/// # Errors
/// Code and message, when the value is something else.
pub fn config_triple(config: Option<&Json>, key: &str) -> Configured<[usize; 3]> {
    let Some(value) = config_value(config, key) else { return Ok(None) };
    let list = value.as_array().and_then(|list| list.iter().map(size).collect::<Option<Vec<_>>>());
    let three = list.and_then(|list| <[usize; 3]>::try_from(list).ok());
    three.map(Some).ok_or_else(|| unreadable(key, value, "a list of three whole numbers"))
}

/// A whole number of `config.json`.
///
/// # Errors
/// Code and message, when the value is something else.
pub fn config_usize(config: Option<&Json>, key: &str) -> Configured<usize> {
    let Some(value) = config_value(config, key) else { return Ok(None) };
    size(value).map(Some).ok_or_else(|| unreadable(key, value, "a whole number"))
}

/// A number of `config.json`.
///
/// # Errors
/// Code and message, when the value is something else.
pub fn config_number(config: Option<&Json>, key: &str) -> Configured<f64> {
    let Some(value) = config_value(config, key) else { return Ok(None) };
    value.as_f64().map(Some).ok_or_else(|| unreadable(key, value, "a number"))
}

/// Bytes of tensors in a type.
pub fn bytes(shapes: &Shapes, dtype: DType) -> u64 {
    shapes.iter().map(|(_, s)| (s.iter().product::<usize>() * dtype.size()) as u64).sum()
}
