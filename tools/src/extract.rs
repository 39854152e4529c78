//! A LoRA of the difference of two models: layer by layer the best approximation of a rank.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use pipe_data::lora_names::{Wanted, targets};
use pipe_data::weights::{Component, ComponentWeights, DType};

use crate::adapter::{Names, Naming, Pair, Tensors};
use crate::error::{Result, ToolError, list};
use crate::linear::{Matrix, Svd, leading, multiply};
use crate::metadata;
use crate::model::Model;
use crate::output::{Content, Output};
use crate::resize::Kept;

/// What is extracted, and how.
#[derive(Clone, Copy, Debug)]
pub struct Extract<'a> {
    /// The model that was trained.
    pub tuned: &'a Path,
    /// The model it was trained from.
    pub base: &'a Path,
    /// Rank of linear layers and 1×1 convolutions.
    pub rank: usize,
    /// Rank of larger convolutions and what is around them; nothing: they are left out.
    pub conv_rank: Option<usize>,
    /// Also the embedders before a transformer's blocks, and SD3's last layer.
    pub embedders: bool,
    /// Factors are cut to ± this quantile of their values; nothing: they are not cut.
    pub clamp: Option<f64>,
    /// A part whose largest difference is not above this is taken as equal.
    pub min_diff: f32,
    /// Element type.
    pub dtype: DType,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extracted {
    /// How much of the difference is kept.
    pub kept: Kept,
    /// Parts of both models that are equal, as far as [`Extract::min_diff`] tells.
    pub equal: Vec<&'static str>,
    /// Parts that only one of the models has.
    pub missing: Vec<&'static str>,
    /// Tensors that differ and have no place in a LoRA: norms, biases, embeddings.
    pub left_out: usize,
    /// Convolutions that differ and were not asked for.
    pub convolutions: usize,
}

/// Extracts a LoRA. `progress` is told of each layer, and of how many there are.
///
/// # Errors
/// P0401 when the models are of two families, P0305 when their sizes differ, P0403 when they are equal.
pub fn extract(what: Extract, output: &Output, progress: &mut dyn FnMut(usize, usize)) -> Result<Extracted> {
    output.check(&[what.tuned, what.base], Content::Safetensors)?;
    let (tuned, base) = (Model::open(what.tuned)?, Model::open(what.base)?);
    if tuned.family != base.family {
        let message = format!("`{}` is {}, its base {}", what.tuned.display(), tuned.family, base.family);
        return Err(ToolError::new("P0401", message).at(what.tuned));
    }
    let unet = base.family.denoiser() == Component::Unet;
    for (option, given, idle) in
        [("--conv-rank", what.conv_rank.is_some(), !unet), ("--embedders", what.embedders, unet)]
    {
        if given && idle {
            let message = format!("`{option}` has no effect on {}", base.family);
            let why = if unet { "it is for transformers" } else { "it is for U-Nets" };
            return Err(ToolError::new("P0402", message).help(format!("leave it out: {why}")));
        }
    }
    let names = base.names();
    let mut report = Extracted::default();
    let mut work = Vec::new();
    for part in &base.parts {
        let Some(other) = tuned.part(part.component) else {
            // No adapter is for an autoencoder.
            if part.component != Component::Vae {
                report.missing.push(part.component.name());
            }
            continue;
        };
        let layers = layers(part, other, &names, what)?;
        if layers.wanted.is_empty() {
            report.left_out += layers.others;
            continue;
        }
        if largest(part, other, &layers.wanted)? <= what.min_diff {
            report.equal.push(part.component.name());
            continue;
        }
        report.left_out += layers.others;
        report.convolutions += layers.convolutions;
        work.extend(layers.wanted.into_iter().map(|path| (part, other, path)));
    }
    if work.is_empty() {
        let message = format!("`{}` and `{}` do not differ", what.tuned.display(), what.base.display());
        let help = format!("differences up to {} count as none; `--min-diff` sets another limit", what.min_diff);
        return Err(ToolError::new("P0403", message).at(what.tuned).help(help));
    }
    let mut tensors = Tensors::new(what.dtype);
    let total = work.len();
    for (number, (part, other, path)) in work.into_iter().enumerate() {
        progress(number, total);
        let (a, b) = (other.f32(&format!("{path}.weight"))?, part.f32(&format!("{path}.weight"))?);
        let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
        drop((a, b));
        if difference.iter().all(|x| *x == 0.0) {
            continue;
        }
        let Some(name) = names.kohya(part.component, &path) else { continue };
        let pair =
            factors(difference, names.shape(part.component, &path).unwrap_or_default(), what, name, &mut report.kept);
        tensors.push_pair(name, &pair, Naming::Kohya);
        report.kept.layers += 1;
    }
    progress(total, total);
    let mut map = metadata::spec(base.base_model(), true, &output.title());
    describe(&mut map, &base, what);
    metadata::stamp(&mut map, &[]);
    tensors.write(output, map)?;
    Ok(report)
}

/// What a part has in it.
struct Layers {
    /// Paths of the layers to extract.
    wanted: Vec<String>,
    /// Convolutions that differ and are not.
    convolutions: usize,
    /// Other tensors that differ.
    others: usize,
}

fn layers(part: &ComponentWeights, other: &ComponentWeights, names: &Names, what: Extract) -> Result<Layers> {
    let mut found = Layers { wanted: Vec::new(), convolutions: 0, others: 0 };
    let mut odd = Vec::new();
    let usual = Wanted { conv: what.conv_rank.is_some(), embedders: what.embedders };
    let shapes: Vec<(String, Vec<usize>)> = part.shapes().map(|(name, shape)| (name.to_owned(), shape)).collect();
    let named = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
    let targets = targets(names.family, part.component, named, usual);
    let targets: HashSet<&str> = targets.iter().map(|target| target.path.as_str()).collect();
    for (name, shape) in &shapes {
        match other.shape(name) {
            Some(own) if own == *shape => {}
            _ => {
                odd.push(name.clone());
                continue;
            }
        }
        let path = name.strip_suffix(".weight").unwrap_or_default();
        if targets.contains(path) {
            found.wanted.push(path.to_owned());
        } else if differ(part, other, name)? {
            match names.is_target(part.component, path) {
                true => found.convolutions += 1,
                false => found.others += 1,
            }
        }
    }
    if !odd.is_empty() {
        let message = format!("the models differ in size: {}", list(&odd));
        return Err(ToolError::new("P0305", message).at(what.tuned));
    }
    found.wanted.sort();
    Ok(found)
}

fn differ(part: &ComponentWeights, other: &ComponentWeights, name: &str) -> Result<bool> {
    if part.dtype(name) == other.dtype(name) && part.scale(name)?.is_none() {
        return Ok(part.bytes(name)? != other.bytes(name)?);
    }
    Ok(part.f32(name)? != other.f32(name)?)
}

/// Largest difference of the layers of a part.
fn largest(part: &ComponentWeights, other: &ComponentWeights, layers: &[String]) -> Result<f32> {
    let mut largest = 0.0f32;
    for path in layers {
        let name = format!("{path}.weight");
        if !differ(part, other, &name)? {
            continue;
        }
        for (a, b) in other.f32(&name)?.iter().zip(part.f32(&name)?) {
            let difference = (a - b).abs();
            if !difference.is_finite() {
                let message = format!("`{name}` has values that are not finite");
                return Err(ToolError::new("P0303", message).at(other.set().path()));
            }
            largest = largest.max(difference);
        }
    }
    Ok(largest)
}

/// Factors `U·diag(σ)` and `Vᵀ` of a layer.
fn factors(difference: Vec<f64>, shape: &[usize], what: Extract, name: &str, kept: &mut Kept) -> Pair {
    let (out, row) = (shape[0], shape[1..].iter().product());
    let conv = shape.iter().skip(2).any(|side| *side > 1);
    let rank = if conv { what.conv_rank.unwrap_or(what.rank) } else { what.rank };
    let rank = rank.min(out).min(row).max(1);
    let difference = Matrix::new(out, row, difference);
    let svd: Svd = leading(&difference, rank);
    let (mut up, mut down) = svd.factors(rank);
    let mut part_kept = svd.kept(rank);
    if let Some(part) = what.clamp {
        let limit = quantile(&up, &down, part);
        for x in up.iter_mut().chain(&mut down) {
            *x = x.clamp(-limit, limit);
        }
        part_kept = kept_of(&difference, &up, &down, rank);
    }
    kept.add(name, part_kept, out.min(row), rank);
    Pair { rank, weight: shape.to_vec(), up, down, alpha: rank as f32, magnitude: None, on_inputs: false }
}

/// `√(1 − ‖A − U·D‖²/‖A‖²)`: for the factors of a decomposition the part of the norm that they hold; 0 for factors that
/// are worse than none.
fn kept_of(whole: &Matrix, up: &[f32], down: &[f32], rank: usize) -> f64 {
    let product =
        multiply(&Matrix::of_f32(whole.rows, rank, up), false, &Matrix::of_f32(rank, whole.cols, down), false);
    let error: f64 = whole.data.iter().zip(&product.data).map(|(a, b)| (a - b).powi(2)).sum();
    let square = whole.square();
    if square == 0.0 { 1.0 } else { (1.0 - error / square).clamp(0.0, 1.0).sqrt() }
}

/// The quantile of the values of both factors, interpolated between neighbours; at least 0.
fn quantile(up: &[f32], down: &[f32], part: f64) -> f32 {
    let mut all: Vec<f32> = up.iter().chain(down).copied().collect();
    let Some(last) = all.len().checked_sub(1) else { return 0.0 };
    let place = part.clamp(0.0, 1.0) * last as f64;
    let at = place.floor() as usize;
    let (_, low, rest) = all.select_nth_unstable_by(at, f32::total_cmp);
    let high = rest.iter().copied().min_by(f32::total_cmp).unwrap_or(*low);
    (f64::from(*low) + (place - at as f64) * (f64::from(high) - f64::from(*low))).max(0.0) as f32
}

fn describe(map: &mut BTreeMap<String, String>, base: &Model, what: Extract) {
    let about = base.base_model();
    let mut set = |key: &str, text: String| map.insert(key.to_owned(), text);
    set("ss_v2", if about.is_v2() { "True" } else { "False" }.into());
    set("ss_base_model_version", about.version().unwrap_or("None").into());
    set("ss_network_module", about.network_module().unwrap_or("networks.lora").into());
    set("ss_network_dim", what.rank.to_string());
    set("ss_network_alpha", format!("{}.0", what.rank));
    let args = what.conv_rank.map(|rank| format!("{{\"conv_dim\": \"{rank}\", \"conv_alpha\": \"{rank}\"}}"));
    set("ss_network_args", args.unwrap_or_else(|| "{}".into()));
    if let Some(name) = what.base.file_name() {
        set("ss_sd_model_name", name.to_string_lossy().into_owned());
    }
    if what.base.is_file()
        && let Ok(hash) = pipe_data::hash::file_short_hash(what.base)
    {
        set("ss_sd_model_hash", hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cut_factors_keep_is_less() {
        let whole = Matrix::new(3, 4, (0..12).map(|i| f64::from(i * i % 7) - 2.0).collect());
        let svd = leading(&whole, 2);
        let (mut up, mut down) = svd.factors(2);
        assert!((kept_of(&whole, &up, &down, 2) - svd.kept(2)).abs() < 1e-6);
        let limit = quantile(&up, &down, 0.8);
        up.iter_mut().chain(&mut down).for_each(|x| *x = x.clamp(-limit, limit));
        assert!(kept_of(&whole, &up, &down, 2) < svd.kept(2) - 1e-3);
        assert_eq!(kept_of(&whole, &[9.0; 6], &[9.0; 8], 2), 0.0);
        assert_eq!(kept_of(&Matrix::zeros(1, 1), &[0.0], &[0.0], 1), 1.0);
    }

    #[test]
    fn quantiles_as_numpy_has_them() {
        let (up, down) = ([3.0, -1.0], [0.0, 7.0, 5.0]);
        for (part, wanted) in [(0.0, 0.0), (0.5, 3.0), (0.6, 3.8), (1.0, 7.0)] {
            assert!((quantile(&up, &down, part) - wanted).abs() < 1e-6, "{part}");
        }
        assert_eq!(quantile(&[], &[], 0.5), 0.0);
    }
}
