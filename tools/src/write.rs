//! Writes a model: one file, or a Diffusers folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pipe_core::folder::{atomic_dir, atomic_write};
use pipe_core::run::RunError;
use pipe_data::weights::keymap::Form;
use pipe_data::weights::{ComponentWeights, DType, Family, TensorOut, write_ckpt, write_safetensors};
use pipe_nodes::saver::describe;
use serde_json::{Value, json};

use crate::edits::Edits;
use crate::error::{Result, ToolError};
use crate::layout::{as_stored, planned};
use crate::metadata;
use crate::model::Model;
use crate::output::{Format, Output};

/// How a model is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct How<'a> {
    /// Layout; nothing: as it is.
    pub format: Option<Format>,
    /// Element type of its floats; nothing: as they are.
    pub dtype: Option<DType>,
    /// A Diffusers pipeline whose configurations, tokenizers and scheduler a written folder gets.
    pub like: Option<&'a Path>,
    /// Files that were merged into it, for the metadata.
    pub merged: &'a [String],
}

/// Writes the model with its changes.
///
/// # Errors
/// P0403 where an 8-bit model with scales has to be given another type, or values are beyond the range of theirs; P0903 when the result cannot be written.
pub fn write(model: &Model, edits: &Edits, how: How, output: &Output) -> Result<()> {
    if how.dtype.is_none() && model.is_scaled() {
        let message = format!("the 8-bit weights of `{}` have scales of their own", model.path.display());
        let help = "say in which type they are to be written: `--dtype bf16`";
        return Err(ToolError::new("P0403", message).at(&model.path).help(help));
    }
    output.prepare()?;
    let result = write_it(model, edits, how, output);
    match edits.fault() {
        Some(fault) => Err(fault),
        None => result,
    }
}

fn write_it(model: &Model, edits: &Edits, how: How, output: &Output) -> Result<()> {
    let path = &output.path;
    let format = how.format.unwrap_or_else(|| model.format());
    let metadata = metadata::of_model(model, &output.title(), how.merged);
    if format == Format::Diffusers {
        let whole = how.like.is_some_and(|like| like.join("model_index.json").is_file());
        if model.pipeline || model.parts.len() > 1 || whole {
            return Ok(atomic_dir(path, |making| folder(model, edits, how, making).map_err(to_run))?);
        }
        // A part by itself: a folder of its own, or a file where it is one with those names.
        if how.format.is_none() && model.path.is_file() {
            let part = &model.parts[0];
            return Ok(write_safetensors(path, as_stored(part.set(), &[part], how.dtype, edits), &metadata)?);
        }
        return Ok(atomic_dir(path, |making| part_folder(model, &model.parts[0], edits, how, making).map_err(to_run))?);
    }
    let same = how.format.is_none_or(|wanted| wanted == model.format()) && !model.pipeline;
    let tensors = if same {
        let parts: Vec<&ComponentWeights> = model.parts.iter().collect();
        as_stored(model.parts[0].set(), &parts, how.dtype, edits)
    } else {
        let form = if format == Format::ModelOnly { Form::OwnFile } else { Form::SingleFile };
        let mut tensors = Vec::new();
        let wanted =
            |part: &&ComponentWeights| format != Format::ModelOnly || model.parts[0].component == part.component;
        for part in model.parts.iter().filter(wanted) {
            tensors.extend(planned(part, model.family, form, how.dtype, edits)?);
        }
        tensors.extend(marks(model));
        tensors
    };
    if format == Format::Ckpt {
        let progress = model.parts[0].set().progress().unwrap_or_default();
        return Ok(write_ckpt(path, tensors, progress)?);
    }
    Ok(write_safetensors(path, tensors, &metadata)?)
}

/// A failure as a folder's writer hands it on.
fn to_run(error: ToolError) -> RunError {
    let run = RunError::new(error.code, error.message);
    match error.help {
        Some(help) => run.help(help),
        None => run,
    }
}

/// Empty tensors by which programs know SDXL models that predict v or end in pure noise.
fn marks(model: &Model) -> Vec<TensorOut<'static>> {
    let Some(denoiser) = model.denoiser().filter(|_| model.family == Family::Sdxl) else { return Vec::new() };
    let (v, zero) = describe::objective(denoiser);
    let all = [("v_pred", v), ("ztsnr", zero)].into_iter().filter(|(_, set)| *set);
    all.map(|(name, _)| TensorOut::f32(name, DType::F32, [0], Vec::new())).collect()
}

fn io(path: &Path, error: std::io::Error) -> ToolError {
    ToolError::new("P0903", format!("`{}` cannot be written: {error}", path.display()))
}

fn json_file(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    Ok(atomic_write(path, |file| std::io::Write::write_all(file, text.as_bytes()))?)
}

/// A pipeline's folder.
fn folder(model: &Model, edits: &Edits, how: How, making: &Path) -> Result<()> {
    let pattern = if model.pipeline { Some(model.path.as_path()) } else { how.like };
    let names: Vec<&str> = model.parts.iter().filter_map(|part| model.family.folder(part.component)).collect();
    if let Some(pattern) = pattern {
        copy_rest(pattern, making, &names, 0)?;
    }
    let index_file = making.join("model_index.json");
    let mut index = match index_file.is_file() {
        true => serde_json::from_slice(&fs::read(&index_file).map_err(|e| io(&index_file, e))?).unwrap_or_default(),
        false => Value::Null,
    };
    if !index.is_object() {
        index = describe::empty_index(model.family);
    }
    for part in &model.parts {
        let family = model.family;
        let (Some(name), Some((library, class))) = (family.folder(part.component), family.class(part.component)) else {
            continue;
        };
        let inner = making.join(name);
        fs::create_dir_all(&inner).map_err(|error| io(&inner, error))?;
        part_folder(model, part, edits, how, &inner)?;
        if index[name].as_array().is_none_or(|entry| entry.iter().all(Value::is_null)) {
            index[name] = json!([library, class]);
        }
    }
    if let Some(denoiser) = model.denoiser()
        && !making.join("scheduler/scheduler_config.json").is_file()
    {
        let (class, scheduler) = describe::scheduler(model.family, denoiser);
        fs::create_dir_all(making.join("scheduler")).map_err(|error| io(making, error))?;
        json_file(&making.join("scheduler/scheduler_config.json"), &scheduler)?;
        index["scheduler"] = json!(["diffusers", class]);
    }
    json_file(&index_file, &index)
}

/// A part's folder: its weights in one file, and its configuration.
fn part_folder(model: &Model, part: &ComponentWeights, edits: &Edits, how: How, folder: &Path) -> Result<()> {
    let diffusers = model.family.class(part.component).is_none_or(|(library, _)| library == "diffusers");
    let file = if diffusers { "diffusion_pytorch_model" } else { "model" };
    let tensors = match model.format() == Format::Diffusers {
        true => as_stored(part.set(), &[part], how.dtype, edits),
        false => planned(part, model.family, Form::Diffusers, how.dtype, edits)?,
    };
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(folder.join(format!("{file}.safetensors")), tensors, &metadata)?;
    let config = folder.join("config.json");
    if config.is_file() {
        return Ok(());
    }
    // A part's folder may be the pattern of a part.
    if let Some(pattern) = how.like.map(|like| like.join("config.json")).filter(|pattern| pattern.is_file()) {
        return fs::copy(&pattern, &config).map(drop).map_err(|error| io(&config, error));
    }
    let value = describe::config(model.family, part).map_err(|why| {
        let help = "a folder given with `--like` has the sizes that weights do not tell in its `config.json`";
        ToolError::new("P0305", why).at(&model.path).help(help)
    })?;
    json_file(&config, &value)
}

/// Endings of files that hold weights.
const WEIGHTS: [&str; 8] = ["safetensors", "bin", "ckpt", "pt", "pth", "msgpack", "onnx", "h5"];

/// Copies what is no weight of the parts that are written: tokenizers, configurations, the scheduler, other parts.
fn copy_rest(from: &Path, to: &Path, written: &[&str], depth: usize) -> Result<()> {
    let entries = fs::read_dir(from)
        .map_err(|error| ToolError::new("P0301", format!("`{}` cannot be read: {error}", from.display())).at(from))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let text = name.to_string_lossy().into_owned();
        // What a version control or a download left behind is not of the model.
        if text.starts_with('.') || depth > 3 {
            continue;
        }
        let Ok(about) = fs::metadata(&path) else { continue };
        let ours = depth == 0 && written.contains(&text.as_str());
        let weights = path.extension().is_some_and(|e| WEIGHTS.iter().any(|w| e == *w)) || text.contains(".index.");
        if about.is_dir() {
            let inner = to.join(&name);
            fs::create_dir_all(&inner).map_err(|error| io(&inner, error))?;
            match ours {
                true => copy_files(&path, &inner)?,
                false => copy_rest(&path, &inner, &[], depth + 1)?,
            }
        } else if about.is_file() && !(weights && depth == 0) {
            fs::copy(&path, to.join(&name)).map_err(|error| io(&to.join(&name), error))?;
        }
    }
    Ok(())
}

/// Copies the small files of a part's folder.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(|error| io(from, error))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let text = name.to_string_lossy();
        let weights = path.extension().is_some_and(|e| WEIGHTS.iter().any(|w| e == *w)) || text.contains(".index.");
        if path.is_file() && !weights && !text.starts_with('.') {
            fs::copy(&path, to.join(&name)).map_err(|error| io(&to.join(&name), error))?;
        }
    }
    Ok(())
}
