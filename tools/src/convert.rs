//! Files in other layouts, names and element types.

use std::path::Path;

use indexmap::IndexMap;
use pipe_data::weights::{Component, DType};

use crate::adapter::file::Tensor;
use crate::adapter::{AdapterFile, Layer, Names, Naming, Pair, Place, Tensors};
use crate::edits::Edits;
use crate::error::{Result, ToolError};
use crate::full::names_for;
use crate::metadata;
use crate::model::Model;
use crate::output::{Format, Output, check_types};
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
    output.check(&inputs, format.is_folder() && (what.format.is_some() || path.is_dir()))?;
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
    output.check(&inputs, false)?;
    if !file.others.is_empty() {
        return Err(file.unknown(&file.others, "are of no layer"));
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
    for (name, layer) in &file.layers {
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
    Err(file.unknown(&unknown, "match nothing in the model").help(help))
}

/// One layer under kohya's name.
fn to_kohya(
    tensors: &mut Tensors,
    file: &AdapterFile,
    names: &Names,
    (component, path): &Weight,
    layers: &[(&str, &Layer, Place)],
) -> Result<Vec<String>> {
    let Some(new) = names.kohya(*component, path) else { return Ok(Vec::new()) };
    let whole = |place: &Place| place.rows.is_none() && !place.swapped;
    if let [(name, layer, place)] = layers
        && whole(place)
        && (layer.has(Tensor::Alpha) || !layer.has(Tensor::Down))
    {
        // LyCORIS' rotations are called as its other kinds.
        let turns = layer.has(Tensor::Blocks(0)) && !name.starts_with("lora_");
        let new = if turns { new.replacen("lora_", "oft_", 1) } else { new.to_owned() };
        copy(tensors, file, name, layer, Some(&new))?;
        return Ok(vec![new]);
    }
    let mut parts = Vec::new();
    for (name, layer, place) in layers {
        let mut pair = Pair::read(file, name, layer)?;
        if place.swapped {
            pair = pair.swapped();
        }
        if whole(place) || place.swapped {
            tensors.push_pair(new, &pair, Naming::Kohya);
            return Ok(vec![new.to_owned()]);
        }
        if pair.magnitude.is_some() {
            let message = format!("`{name}` has magnitudes (DoRA) for some rows of a weight");
            return Err(ToolError::new("P0302", message).at(file.path()));
        }
        if place.rows.as_ref().is_some_and(|rows| rows.len() != pair.weight[0]) {
            let message = format!("`{name}` does not fit the rows it is for");
            return Err(ToolError::new("P0305", message).at(file.path()));
        }
        parts.push((place.rows.as_ref().map_or(0, |rows| rows.start), pair));
    }
    parts.sort_by_key(|(start, _)| *start);
    let shape = names.shape(*component, path).unwrap_or_default().to_vec();
    let row: usize = shape.iter().skip(1).product();
    let fits = parts.iter().all(|(start, pair)| start + pair.weight[0] <= shape[0] && pair.row() == row);
    match Pair::joined(shape, &parts).filter(|_| fits) {
        Some(pair) => tensors.push_pair(new, &pair, Naming::Kohya),
        None => {
            let message = format!("the parts of `{new}` do not fit it");
            return Err(ToolError::new("P0305", message).at(file.path()));
        }
    }
    Ok(vec![new.to_owned()])
}

/// The layers under Diffusers' names, with PEFT's endings.
fn to_peft(
    tensors: &mut Tensors,
    file: &AdapterFile,
    names: &Names,
    (component, path): &Weight,
    layers: &[(&str, &Layer, Place)],
) -> Result<Vec<String>> {
    let targets = names.diffusers(*component, path);
    let mut written = Vec::new();
    for (name, layer, place) in layers {
        let pair = Pair::read(file, name, layer)?;
        if pair.magnitude.as_ref().is_some_and(|magnitude| magnitude.len() != pair.weight[0]) {
            let message = format!("the magnitudes of `{name}` are of its inputs, which PEFT does not have");
            return Err(ToolError::new("P0302", message).at(file.path()));
        }
        let same = |target: &&(String, Place)| target.1.rows == place.rows && target.1.swapped == place.swapped;
        if let Some((new, _)) = targets.iter().find(same) {
            tensors.push_pair(new, &pair, Naming::Peft);
            written.push(new.clone());
            continue;
        }
        if place.rows.is_some() || targets.is_empty() {
            let message = format!("Diffusers has no layer for `{name}`");
            return Err(ToolError::new("P0320", message).at(file.path()));
        }
        let pair = if place.swapped { pair.swapped() } else { pair };
        for (new, target) in targets {
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
