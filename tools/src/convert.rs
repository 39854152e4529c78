//! Files in other layouts, names and element types.

use std::ops::Range;
use std::path::Path;

use indexmap::IndexMap;
use pipe_data::weights::{Component, DType};

use crate::adapter::file::{OF_NO_LAYER, Tensor};
use crate::adapter::tied::repeats;
use crate::adapter::{AdapterFile, Layer, Names, Naming, Pair, Place, Tensors};
use crate::edits::Edits;
use crate::error::{Result, ToolError};
use crate::full::names_for;
use crate::metadata;
use crate::model::Model;
use crate::output::{Content, Format, Output, check_types};
use crate::write::{How, write};

/// How a model is converted.
#[derive(Clone, Copy, Debug)]
pub struct ConvertModel<'a> {
    /// Layout; nothing: as it is, but never a torch file.
    pub format: Option<Format>,
    /// Element type; nothing: as it is.
    pub dtype: Option<DType>,
    /// A pipeline with the configurations, tokenizers and scheduler for a folder.
    pub like: Option<&'a Path>,
    /// Leave out tensors that nothing is known about.
    pub skip_unknown: bool,
}

/// Parts and tensors that were written, and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// What it is.
    pub what: String,
    /// Parts of a model, layers of an adapter.
    pub parts: Vec<String>,
    /// Names that were left out.
    pub left_out: Vec<String>,
}

/// Writes a model in another layout or type.
///
/// # Errors
/// P0320 for tensors that nothing is known about, P0403 for a type that a layout cannot hold, and what reading and
/// writing say.
pub fn convert_model(path: &Path, what: ConvertModel, output: &Output) -> Result<Converted> {
    let model = Model::open(path)?;
    let format = what.format.unwrap_or_else(|| model.format());
    check_types(format, what.dtype)?;
    let inputs: Vec<&Path> = [path].into_iter().chain(what.like).collect();
    let folder = format.is_folder() && (what.format.is_some() || path.is_dir());
    output.check(&inputs, Content::of(format, folder))?;
    if what.like.is_some() && format != Format::Diffusers {
        let message = "`--like` has no effect: it is for Diffusers folders";
        return Err(ToolError::new("P0402", message).help("leave it out, or use `--format diffusers`"));
    }
    let changes_layout = format != model.format() || model.pipeline;
    let unknown: Vec<String> = model.parts.iter().flat_map(|part| part.unexpected.iter().cloned()).collect();
    if changes_layout
        && !what.skip_unknown
        && let Some(error) = model.unexpected()
    {
        return Err(error.help("leave them out with `--skip-unknown`"));
    }
    if format == Format::ModelOnly && model.denoiser().is_none() && model.parts[0].component != Component::Vae {
        let message = format!("`{}` has no denoiser", path.display());
        return Err(ToolError::new("P0403", message).at(path).help("use `--format diffusers`"));
    }
    write(
        &model,
        &Edits::default(),
        How { format: what.format, dtype: what.dtype, like: what.like, merged: &[] },
        output,
    )?;
    let written = model.parts.iter().take(if format == Format::ModelOnly { 1 } else { usize::MAX });
    Ok(Converted {
        what: model.architecture.to_string(),
        parts: written.map(|part| part.component.name().to_owned()).collect(),
        left_out: if changes_layout { unknown } else { Vec::new() },
    })
}

/// How an adapter is converted.
#[derive(Clone, Copy, Debug)]
pub struct ConvertAdapter<'a> {
    /// Names; nothing: as they are.
    pub naming: Option<Naming>,
    /// Element type; nothing: as it is.
    pub dtype: Option<DType>,
    /// The model it is for, where that is of no public size.
    pub base: Option<&'a Path>,
}

/// Writes an adapter with other names or in another type.
///
/// # Errors
/// P0320 for layers that match nothing, P0302 for kinds that the names have no word for.
pub fn convert_adapter(file: &AdapterFile, what: ConvertAdapter, output: &Output) -> Result<Converted> {
    let inputs: Vec<&Path> = [file.path()].into_iter().chain(what.base).collect();
    output.check(&inputs, Content::Safetensors)?;
    if !file.others.is_empty() {
        return Err(file.unknown(&file.others, OF_NO_LAYER));
    }
    let mut tensors = Tensors::new(what.dtype.unwrap_or_else(|| file.dtype()));
    let mut map = file.metadata().clone();
    let mut report = Converted { what: "adapter".into(), ..Converted::default() };
    match what.naming {
        None => {
            for (name, layer) in &file.layers {
                copy(&mut tensors, file, name, layer, None)?;
                report.parts.push(name.clone());
            }
        }
        Some(naming) => {
            let names = match what.base {
                Some(base) => Model::open(base)?.names(),
                None => names_for(&[file])?,
            };
            for (at, layers) in by_weight(file, &names)? {
                let written = match naming {
                    Naming::Kohya => to_kohya(&mut tensors, file, &names, &at, &layers)?,
                    Naming::Peft => to_peft(&mut tensors, file, &names, &at, &layers)?,
                };
                report.parts.extend(written);
            }
            // PEFT's own settings are in the tensors now.
            map.remove("lora_adapter_metadata");
        }
    }
    metadata::stamp(&mut map, &[]);
    tensors.write(output, map)?;
    Ok(report)
}

/// Copies a layer, under another name where one is given; α as it is.
fn copy(tensors: &mut Tensors, file: &AdapterFile, name: &str, layer: &Layer, new: Option<&str>) -> Result<()> {
    for (tensor, key) in &layer.0 {
        let key = match new {
            Some(new) => format!("{new}.{}", ending(*tensor, layer.has(Tensor::Blocks(1)))),
            None => key.clone(),
        };
        if *tensor == Tensor::Alpha {
            tensors.push_alpha(key, file.alpha(name, layer, 1)?.unwrap_or(1.0));
        } else {
            let shape = file.shape(layer, *tensor).unwrap_or_default().to_vec();
            tensors.push(key, shape, &file.values(layer, *tensor)?);
        }
    }
    Ok(())
}

/// What kohya's and LyCORIS' files call a tensor.
fn ending(tensor: Tensor, several: bool) -> String {
    let name = match tensor {
        Tensor::Down => "lora_down.weight",
        Tensor::Up => "lora_up.weight",
        Tensor::Mid => "lora_mid.weight",
        Tensor::Alpha => "alpha",
        Tensor::Magnitude => "dora_scale",
        Tensor::W1a => "hada_w1_a",
        Tensor::W1b => "hada_w1_b",
        Tensor::W2a => "hada_w2_a",
        Tensor::W2b => "hada_w2_b",
        Tensor::T1 => "hada_t1",
        Tensor::T2 => "hada_t2",
        Tensor::K1 => "lokr_w1",
        Tensor::K1a => "lokr_w1_a",
        Tensor::K1b => "lokr_w1_b",
        Tensor::K2 => "lokr_w2",
        Tensor::K2a => "lokr_w2_a",
        Tensor::K2b => "lokr_w2_b",
        Tensor::Kt2 => "lokr_t2",
        Tensor::Diff => "diff",
        Tensor::DiffBias => "diff_b",
        Tensor::Blocks(part) if several => return format!("oft_blocks.{part}"),
        Tensor::Blocks(_) => "oft_blocks",
        Tensor::Rescale => "rescale",
        Tensor::Factors => "weight",
        Tensor::OnInput => "on_input",
        Tensor::A1 => "a1.weight",
        Tensor::A2 => "a2.weight",
        Tensor::B1 => "b1.weight",
        Tensor::B2 => "b2.weight",
    };
    name.to_owned()
}

/// The part and path of a weight.
type Weight = (Component, String);

/// The layers of a file by the weight they change, with their names and places.
type ByWeight<'a> = IndexMap<Weight, Vec<(&'a str, &'a Layer, Place)>>;

/// The layers of a file by the weight that they change.
fn by_weight<'a>(file: &'a AdapterFile, names: &Names) -> Result<ByWeight<'a>> {
    let mut all: IndexMap<Weight, Vec<_>> = IndexMap::new();
    let mut unknown = Vec::new();
    let repeats = repeats(file, names)?;
    for (name, layer) in file.layers.iter().filter(|(name, _)| !repeats.contains(*name)) {
        match names.find(name) {
            Some(place) => {
                let weight = (place.component, place.path.clone());
                all.entry(weight).or_default().push((name.as_str(), layer, place.clone()));
            }
            None => unknown.push(name.clone()),
        }
    }
    if unknown.is_empty() {
        return Ok(all);
    }
    let help = "`--for MODEL` names the model that the file is for";
    Err(file.unknown(&unknown, ["matches nothing in the model", "match nothing in the model"]).help(help))
}

/// A pair of factors, the rows of its weight that it is for (nothing: all), and whether their halves are exchanged.
type Placed = (Pair, Option<Range<usize>>, bool);

/// The layers of one weight as pairs. A file may have several of one place, in two spellings: their sum is taken, as a
/// program does that loads both.
fn placed(file: &AdapterFile, layers: &[(&str, &Layer, Place)]) -> Result<Vec<Placed>> {
    type Key = (Option<Range<usize>>, bool);
    let mut groups: IndexMap<Key, Vec<(Pair, f64)>> = IndexMap::new();
    for (name, layer, place) in layers {
        let pair = Pair::read(file, name, layer)?;
        if place.rows.as_ref().is_some_and(|rows| rows.len() != pair.weight[0]) {
            let message = format!("`{name}` does not fit the rows it is for");
            return Err(ToolError::new("P0305", message).at(file.path()));
        }
        groups.entry((place.rows.clone(), place.swapped)).or_default().push((pair, 1.0));
    }
    let sum = |((rows, swapped), pairs)| Ok((sum(file, layers, pairs)?, rows, swapped));
    groups.into_iter().map(sum).collect()
}

/// The sum of pairs of one size.
fn sum(file: &AdapterFile, layers: &[(&str, &Layer, Place)], pairs: Vec<(Pair, f64)>) -> Result<Pair> {
    let names = || layers.iter().map(|(name, ..)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if pairs.len() > 1 && pairs.iter().any(|(pair, _)| pair.magnitude.is_some()) {
        let message = format!("{} are for one weight, and magnitudes (DoRA) cannot be added", names());
        return Err(ToolError::new("P0302", message)
            .at(file.path())
            .help("merge the file into its base with `--base`"));
    }
    Pair::stacked(&pairs).map_err(|_| {
        ToolError::new("P0305", format!("{} are for one weight, and of different sizes", names())).at(file.path())
    })
}

/// Whether no row is changed by two of them.
fn apart(list: &[Placed]) -> bool {
    let mut rows: Vec<&Range<usize>> = list.iter().filter_map(|(_, rows, _)| rows.as_ref()).collect();
    rows.sort_by_key(|rows| rows.start);
    list.len() == 1 || rows.len() == list.len() && rows.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

/// All changes of a weight as one pair of factors.
fn whole(
    file: &AdapterFile,
    names: &Names,
    (component, path): &Weight,
    layers: &[(&str, &Layer, Place)],
    list: Vec<Placed>,
) -> Result<Pair> {
    let shape = names.shape(*component, path).unwrap_or_default().to_vec();
    let row: usize = shape.iter().skip(1).product();
    let together = apart(&list);
    let (mut wholes, mut parts) = (Vec::new(), Vec::new());
    for (pair, rows, swapped) in list {
        match rows {
            None if swapped => wholes.push((pair.swapped(), 1.0)),
            None => wholes.push((pair, 1.0)),
            Some(rows) => parts.push((rows.start, pair)),
        }
    }
    parts.sort_by_key(|(start, _)| *start);
    let fits = |(start, pair): &(usize, Pair)| start + pair.weight[0] <= shape[0] && pair.row() == row;
    if !parts.iter().all(fits) {
        let message = format!("the parts of `{path}` do not fit it");
        return Err(ToolError::new("P0305", message).at(file.path()));
    }
    // Parts that overlap are added, each beside zeros.
    let size = if together { parts.len().max(1) } else { 1 };
    for group in parts.chunks(size) {
        let Some(pair) = Pair::joined(shape.clone(), group) else {
            let message =
                format!("`{}` and the others of `{path}` have magnitudes (DoRA) for some of its rows", layers[0].0);
            let help = "merge the file into its base with `--base`";
            return Err(ToolError::new("P0302", message).at(file.path()).help(help));
        };
        wholes.push((pair, 1.0));
    }
    sum(file, layers, wholes)
}

/// The changes of one weight as a layer under kohya's name.
fn to_kohya(
    tensors: &mut Tensors,
    file: &AdapterFile,
    names: &Names,
    weight: &Weight,
    layers: &[(&str, &Layer, Place)],
) -> Result<Vec<String>> {
    let Some(new) = names.kohya(weight.0, &weight.1) else {
        let message = format!("kohya's files have no name for `{}`", layers[0].0);
        return Err(ToolError::new("P0320", message).at(file.path()));
    };
    if let [(name, layer, place)] = layers
        && place.rows.is_none()
        && !place.swapped
        && (layer.has(Tensor::Alpha) || !layer.has(Tensor::Down))
    {
        // LyCORIS' rotations are called as its other kinds.
        let turns = layer.has(Tensor::Blocks(0)) && !name.starts_with("lora_");
        let new = if turns { new.replacen("lora_", "oft_", 1) } else { new.to_owned() };
        copy(tensors, file, name, layer, Some(&new))?;
        return Ok(vec![new]);
    }
    let pair = whole(file, names, weight, layers, placed(file, layers)?)?;
    tensors.push_pair(new, &pair, Naming::Kohya);
    Ok(vec![new.to_owned()])
}

/// The changes of one weight under Diffusers' names, with PEFT's endings.
fn to_peft(
    tensors: &mut Tensors,
    file: &AdapterFile,
    names: &Names,
    weight: &Weight,
    layers: &[(&str, &Layer, Place)],
) -> Result<Vec<String>> {
    let targets = names.diffusers(weight.0, &weight.1);
    let name = layers[0].0;
    let mut list = placed(file, layers)?;
    if !apart(&list) {
        list = vec![(whole(file, names, weight, layers, list)?, None, false)];
    }
    let mut written = Vec::new();
    for (pair, rows, swapped) in list {
        if pair.magnitude.is_some() && pair.on_inputs {
            let message = format!("the magnitudes of `{name}` are of its inputs, which PEFT does not have");
            return Err(ToolError::new("P0302", message).at(file.path()));
        }
        // A weight that Diffusers holds several times is there under each of its names.
        let same = |target: &&(String, Place)| target.1.rows == rows && target.1.swapped == swapped;
        let before = written.len();
        for (new, _) in targets.iter().filter(same) {
            tensors.push_pair(new, &pair, Naming::Peft);
            written.push(new.clone());
        }
        if written.len() > before {
            continue;
        }
        if rows.is_some() || targets.is_empty() {
            let message = format!("Diffusers has no layer for `{name}`");
            return Err(ToolError::new("P0320", message).at(file.path()));
        }
        let pair = if swapped { pair.swapped() } else { pair };
        for (new, target) in &targets {
            let part = match &target.rows {
                Some(rows) if rows.end <= pair.weight[0] => pair.rows(rows.start, rows.end),
                Some(_) => {
                    let message = format!("`{name}` does not fit the rows of its weight");
                    return Err(ToolError::new("P0305", message).at(file.path()));
                }
                None => pair.clone(),
            };
            let part = if target.swapped { part.swapped() } else { part };
            tensors.push_pair(new, &part, Naming::Peft);
            written.push(new.clone());
        }
    }
    Ok(written)
}
