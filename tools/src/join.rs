//! Several LoRAs in one: exactly, with their ranks behind each other, or at a rank of one's choice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use indexmap::IndexMap;
use pipe_data::weights::{DType, Family};

use crate::adapter::file::OF_NO_LAYER;
use crate::adapter::tied::repeats;
use crate::adapter::{AdapterFile, Names, Naming, Pair, Place, Tensors};
use crate::error::{Result, ToolError};
use crate::full::{different, names_alike, names_for};
use crate::linear::of_product;
use crate::merge::Weighted;
use crate::metadata;
use crate::model::Model;
use crate::output::{Content, Output};
use crate::resize::{Kept, Ranks};

/// What is joined, and how.
#[derive(Clone, Copy, Debug)]
pub struct Join<'a> {
    /// The files.
    pub adapters: &'a [Weighted],
    /// Rank of the result; nothing: the sum of the ranks, which is exact.
    pub ranks: Option<Ranks>,
    /// Element type; nothing: that of the first file.
    pub dtype: Option<DType>,
    /// The model that the files are for, where their spellings differ and it is of no public size.
    pub base: Option<&'a Path>,
}

/// Joins the files: `ΔW = Σ mᵢ·sᵢ·Uᵢ·Dᵢ`. Gives how much of the norm is kept, by block.
///
/// # Errors
/// P0302 for layers that are no pairs of factors, P0305 for those that do not fit each other, P0320 for unknown names.
pub fn join(what: Join, output: &Output) -> Result<Kept> {
    let mut inputs: Vec<&Path> = what.adapters.iter().map(|adapter| adapter.path.as_path()).collect();
    inputs.extend(what.base);
    output.check(&inputs, Content::Safetensors)?;
    let files: Vec<AdapterFile> =
        what.adapters.iter().map(|adapter| AdapterFile::open(&adapter.path)).collect::<Result<_>>()?;
    for file in &files {
        if !file.others.is_empty() {
            return Err(file.unknown(&file.others, OF_NO_LAYER).help("merge into a base with `--skip-unknown`"));
        }
    }
    one_family(&files)?;
    let (naming, layers) = layers(&files, what.base)?;
    let mut tensors = Tensors::new(what.dtype.unwrap_or_else(|| files[0].dtype()));
    let mut kept = Kept::default();
    let (mut sizes, mut convolutions) = (BTreeSet::new(), false);
    for (name, sources) in &layers {
        let mut pairs = Vec::new();
        for (file, own, swap) in sources {
            let pair = Pair::read(&files[*file], own, &files[*file].layers[own.as_str()])?;
            if pair.magnitude.is_some() {
                let message = format!("`{own}` has magnitudes (DoRA), which cannot be added to others");
                let help = "merge the files into their base with `--base`";
                return Err(ToolError::new("P0302", message).at(files[*file].path()).help(help));
            }
            let pair = if *swap { pair.swapped() } else { pair };
            pairs.push((pair, what.adapters[*file].ratio, *file));
        }
        let sum = sum(name, &pairs, &files)?;
        let sum = match what.ranks {
            None => sum,
            Some(ranks) => {
                let wanted = ranks.of(sum.is_conv());
                let rank = sum.possible(wanted);
                kept.lowered += usize::from(rank < wanted);
                let (up, down) = sum.matrices();
                let svd = of_product(&up, &down);
                kept.add(name, svd.kept(rank), sum.rank, rank);
                let (up, down) = svd.factors(rank);
                Pair { rank, up, down, alpha: rank as f32, ..sum }
            }
        };
        convolutions |= sum.is_conv();
        sizes.insert(sum.rank);
        tensors.push_pair(name, &sum, naming);
    }
    what.ranks.map_or(Ok(()), |ranks| ranks.heard(convolutions))?;
    let mut map = common(&files);
    let rank = |n: &usize| n.to_string();
    let text = if sizes.len() == 1 { sizes.first().map(rank) } else { None };
    let text = text.unwrap_or_else(|| "Dynamic".into());
    map.insert("ss_network_alpha".into(), if text == "Dynamic" { text.clone() } else { format!("{text}.0") });
    map.insert("ss_network_dim".into(), text);
    map.insert("modelspec.title".into(), output.title());
    let merged: Vec<String> = what.adapters.iter().map(Weighted::text).collect();
    metadata::stamp(&mut map, &merged);
    tensors.write(output, map)?;
    kept.layers = layers.len();
    Ok(kept)
}

/// What the files' metadata agree in, without what is true of one training only.
fn common(files: &[AdapterFile]) -> BTreeMap<String, String> {
    let same = |key: &str, text: &str| files.iter().all(|file| file.metadata().get(key).is_some_and(|t| t == text));
    let about = [
        "ss_v2",
        "ss_base_model_version",
        "ss_network_module",
        "ss_sd_model_name",
        "ss_sd_model_hash",
        "ss_new_sd_model_hash",
    ];
    let kept = |key: &str| about.contains(&key) || key.starts_with("modelspec.");
    let own = files[0].metadata().iter().filter(|(key, text)| kept(key) && same(key, text));
    own.map(|(key, text)| (key.clone(), text.clone())).collect()
}

/// A layer of the result: the files it comes from with its name there, and whether its rows have to be exchanged.
type Layers = IndexMap<String, Vec<(usize, String, bool)>>;

/// The family that a file's metadata name, if it is one of those known here.
fn family(file: &AdapterFile) -> Option<Family> {
    const WORDS: [(&str, &str, Family); 7] = [
        ("stable-diffusion-v1", "sd_v1", Family::Sd1),
        ("stable-diffusion-v2", "sd_v2", Family::Sd2),
        ("stable-diffusion-xl", "sdxl", Family::Sdxl),
        ("stable-diffusion-3", "sd3", Family::Sd3),
        ("flux", "flux", Family::Flux),
        ("lumina-2", "lumina2", Family::Lumina2),
        ("lumina-next", "lumina_next", Family::LuminaNext),
    ];
    let says = |key: &str| file.metadata().get(key).map(|text| text.to_lowercase()).unwrap_or_default();
    let (architecture, version) = (says("modelspec.architecture"), says("ss_base_model_version"));
    let found = |(a, v, _): &&(&str, &str, Family)| architecture.starts_with(a) || version.starts_with(v);
    WORDS.iter().find(found).map(|(_, _, name)| *name)
}

/// Refuses files whose metadata name different families.
fn one_family(files: &[AdapterFile]) -> Result<()> {
    let mut known = files.iter().filter_map(|file| Some((file, family(file)?)));
    let Some((first, of_first)) = known.next() else { return Ok(()) };
    match known.find(|(_, family)| *family != of_first) {
        Some((other, family)) => Err(different((first, of_first), (other, family))),
        None => Ok(()),
    }
}

/// Whether a weight is named in several ways, so that names alone do not tell what belongs together.
fn mixed(files: &[AdapterFile], names: &Names) -> bool {
    let mut seen: HashMap<Place, &str> = HashMap::new();
    let (mut whole, mut part) = (BTreeSet::new(), BTreeSet::new());
    for name in files.iter().flat_map(|file| file.layers.keys()) {
        let Some(place) = names.find(name) else { continue };
        let weight = (place.component, place.path.clone());
        if place.rows.is_none() && place.copy.is_none() {
            whole.insert(weight)
        } else {
            part.insert(weight)
        };
        let plain = name.strip_prefix("base_model.model.").unwrap_or(name);
        if *seen.entry(place).or_insert(plain) != plain {
            return true;
        }
    }
    !whole.is_disjoint(&part)
}

/// The layers by name. Files of one spelling keep it; others are brought together under kohya's names.
fn layers(files: &[AdapterFile], base: Option<&Path>) -> Result<(Naming, Layers)> {
    let dotted = |file: &AdapterFile| file.layers.keys().any(|name| name.contains('.'));
    let mut layers = Layers::new();
    let one_kind = files.iter().all(|file| dotted(file) == dotted(&files[0]));
    let names: Names = match base {
        Some(base) => Model::open(base)?.names(),
        None => {
            let names = match names_for(&files.iter().collect::<Vec<_>>()) {
                Ok(names) => Some(names),
                Err(_) => names_alike(files, files.iter().find_map(family))?,
            };
            if one_kind && names.as_ref().is_none_or(|names| !mixed(files, names)) {
                for (number, file) in files.iter().enumerate() {
                    for name in file.layers.keys() {
                        let plain = name.strip_prefix("base_model.model.").unwrap_or(name);
                        layers.entry(plain.to_owned()).or_default().push((number, name.clone(), false));
                    }
                }
                return Ok((if dotted(&files[0]) { Naming::Peft } else { Naming::Kohya }, layers));
            }
            match names {
                Some(names) if one_kind => names,
                _ => names_for(&files.iter().collect::<Vec<_>>())?,
            }
        }
    };
    for (number, file) in files.iter().enumerate() {
        let repeats = repeats(file, &names)?;
        for name in file.layers.keys().filter(|name| !repeats.contains(*name)) {
            let found = names.find(name).and_then(|place| {
                let kohya = names.kohya(place.component, &place.path)?;
                Some((place.clone(), kohya))
            });
            let Some((place, kohya)) = found else {
                return Err(file.unknown(std::slice::from_ref(name), ["matches nothing", "match nothing"]));
            };
            if place.rows.is_some() {
                let message = format!("`{name}` is for some rows of a weight that another file has as one");
                let help = "bring the files into one spelling with `pipe convert --format kohya` first";
                return Err(ToolError::new("P0403", message).at(file.path()).help(help));
            }
            layers.entry(kohya.to_owned()).or_default().push((number, name.clone(), place.swapped));
        }
    }
    Ok((Naming::Kohya, layers))
}

/// The sum of a layer's pairs at their strengths.
fn sum(name: &str, pairs: &[(Pair, f64, usize)], files: &[AdapterFile]) -> Result<Pair> {
    let list: Vec<(Pair, f64)> = pairs.iter().map(|(pair, ratio, _)| (pair.clone(), *ratio)).collect();
    // One alone is summed too, so that the results of all layers have the same form.
    let (first, _, own) = &pairs[0];
    Pair::stacked(&list).map(Pair::folded).map_err(|number| {
        let (pair, _, file) = &pairs[number];
        let (a, b) = (files[*own].path().display(), files[*file].path().display());
        let message =
            format!("`{name}` is for a weight of {:?} in `{a}` and of {:?} in `{b}`", first.weight, pair.weight);
        ToolError::new("P0305", message).at(files[*file].path()).help("the files are for different models")
    })
}
