//! One part of a model (denoiser, VAE, text encoder) under its internal names, whatever file it comes from.

mod find;
mod kind;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::diffusers::ModelIndex;
use super::dtype::DType;
use super::error::FileError;
use super::keymap::{Fault, Given, Mapped, NORM_FINAL, Naming, clip, naming, stored_names, to_internal};
use super::recipe::Recipe;
use super::scale;
use super::set::WeightSet;
use find::{Selected, folders_of, select, strays};
pub use kind::{Component, Family};

/// In what form a component was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A whole model in one file, parts told apart by prefixes, names of the original code.
    SingleFileLdm,
    /// A file of this part alone with the original code's names.
    LdmFile,
    /// A file of this part with Diffusers or Transformers names.
    DiffusersFile,
    /// A Diffusers pipeline folder.
    DiffusersDir,
    /// The folder of this part alone.
    ComponentDir,
}

impl Layout {
    const ALL: [Layout; 5] =
        [Layout::SingleFileLdm, Layout::LdmFile, Layout::DiffusersFile, Layout::DiffusersDir, Layout::ComponentDir];

    /// A short name: `single_file_ldm`, `ldm_file`, `diffusers_file`, `diffusers_dir`, `component_dir`.
    pub fn id(self) -> &'static str {
        match self {
            Layout::SingleFileLdm => "single_file_ldm",
            Layout::LdmFile => "ldm_file",
            Layout::DiffusersFile => "diffusers_file",
            Layout::DiffusersDir => "diffusers_dir",
            Layout::ComponentDir => "component_dir",
        }
    }

    /// The layout of a name that [`Layout::id`] gives.
    pub fn of_id(id: &str) -> Option<Layout> {
        Layout::ALL.into_iter().find(|layout| layout.id() == id)
    }
}

/// A component's tensors by internal name.
///
/// Values are read when they are asked for, one tensor at a time, whatever has to be joined or turned for it.
#[derive(Clone, Debug)]
pub struct ComponentWeights {
    /// Which part.
    pub component: Component,
    /// How it was found.
    pub layout: Layout,
    /// Internal name → the stored tensors it is made of.
    pub tensors: IndexMap<String, Recipe>,
    /// Tensors of this part that are known and that no network needs, by internal name: a projection beside CLIP-L or
    /// OpenCLIP-H, `logit_scale`, the 24th layer of OpenCLIP-H, Lumina-Image-2.0's last norm. For writing them back.
    pub optional: IndexMap<String, Recipe>,
    /// Second copies that a program computes with: the internal tensor, and how a copy of it is made of stored ones.
    pub tied: Vec<(String, Recipe)>,
    /// `config.json` of the component's folder.
    pub config: Option<Json>,
    /// Stored tensors of this part that carry no weight: buffers, scalars, second copies.
    pub ignored: Vec<String>,
    /// Those of them whose shape has a zero, so that they hold no values.
    pub empty: Vec<String>,
    /// Stored tensors of this part with a name nothing is known about.
    pub unexpected: Vec<String>,
    /// Stored tensors of no known part of a model, in a file whose parts are told apart by prefixes. Listed with the
    /// denoiser, or with any part where the file has none.
    pub strays: Vec<String>,
    prefix: &'static str,
    naming: Naming,
    set: Arc<WeightSet>,
}

/// Finds a component in a checkpoint file, a pipeline folder, a component folder or a component file.
pub fn component(path: impl AsRef<Path>, component: Component) -> Result<ComponentWeights, FileError> {
    ComponentWeights::open(path, component)
}

impl ComponentWeights {
    /// Finds a component in a checkpoint file, a pipeline folder, a component folder or a component file.
    ///
    /// Fails when the file is of another model, saying which, lacks a part of a tensor that is stored in several, or
    /// holds a weight in a type that is no float.
    pub fn open(path: impl AsRef<Path>, component: Component) -> Result<ComponentWeights, FileError> {
        let path = path.as_ref();
        let pipeline = ModelIndex::read(path)?.is_some();
        // Two folders may come into question; the one that holds the part counts.
        let mut elsewhere = None;
        for folder in component.folders() {
            let inner = path.join(folder);
            if !inner.is_dir() {
                continue;
            }
            match WeightSet::open(&inner).and_then(|set| Self::of_set(Arc::new(set), component)) {
                Ok(found) => return Ok(ComponentWeights { layout: Layout::DiffusersDir, ..found }),
                Err(error) => elsewhere = Some(elsewhere.unwrap_or(error)),
            }
        }
        if let Some(error) = elsewhere {
            return Err(error);
        }
        if pipeline {
            let found = folders_of(path);
            return Err(FileError::NoComponent { path: path.into(), component: component.name(), found });
        }
        let found = Self::of_set(Arc::new(WeightSet::open(path)?), component)?;
        let layout = if path.is_dir() { Layout::ComponentDir } else { found.layout };
        Ok(ComponentWeights { layout, ..found })
    }

    /// Finds a component in opened weights.
    pub fn of_set(set: Arc<WeightSet>, component: Component) -> Result<ComponentWeights, FileError> {
        let Selected { prefix, stored } = select(&set, component)?;
        let strays: Vec<String> = strays(&set, component, prefix).into_iter().map(str::to_owned).collect();
        let (mut given, mut ignored, mut empty) = (Vec::with_capacity(stored.len()), Vec::new(), Vec::new());
        for (source, name) in stored {
            match set.info(source) {
                Some(info)
                    if info.start < info.end
                        && !is_ignored(component, name)
                        && !scale::is_beside_weight(source, |name| set.info(name)) =>
                {
                    given.push(Given { name, source, shape: &info.shape });
                }
                info => {
                    if info.is_some_and(|info| info.start == info.end) && !is_mark(name) {
                        empty.push(source.to_owned());
                    }
                    ignored.push(source.to_owned());
                }
            }
        }
        let naming = naming(component, given.iter().map(|tensor| tensor.name));
        let Mapped { mut tensors, unknown: mut unexpected, copies, tied, faults } =
            to_internal(component, naming, &given);
        if let Some(fault) = faults.into_iter().next() {
            return Err(broken(&set, fault));
        }
        same_types(&set, &tensors)?;
        ignored.extend(copies);
        let mut optional = IndexMap::new();
        let unused = unused_names(component, &tensors);
        for name in unused {
            if let Some(recipe) = tensors.shift_remove(&name) {
                optional.insert(name, recipe);
            }
        }
        floats(&set, &tensors)?;
        if component == Component::Lumina2 {
            keep_norm(&given, &mut unexpected, &mut optional);
        }
        let layout = match (prefix, naming) {
            ("", Naming::Original) => Layout::LdmFile,
            ("", Naming::Diffusers) => Layout::DiffusersFile,
            _ => Layout::SingleFileLdm,
        };
        let config = set.config.clone();
        Ok(ComponentWeights {
            component,
            layout,
            tensors,
            optional,
            tied,
            config,
            ignored,
            empty,
            unexpected,
            strays,
            prefix,
            naming,
            set,
        })
    }

    /// The files behind it.
    pub fn set(&self) -> &Arc<WeightSet> {
        &self.set
    }

    /// Internal names, without the optional ones.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Internal names and shapes, without the optional ones.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.tensors.iter().map(|(name, recipe)| (name.as_str(), recipe.shape.clone()))
    }

    /// How an internal tensor, optional or not, is made of stored ones.
    pub fn recipe(&self, name: &str) -> Option<&Recipe> {
        self.tensors.get(name).or_else(|| self.optional.get(name))
    }

    /// What the file calls an internal tensor, or would call one that it lacks: several names where it keeps parts of
    /// it apart, at least one in any case.
    pub fn stored_names(&self, name: &str) -> Vec<String> {
        if let Some(recipe) = self.recipe(name) {
            return recipe.names().to_vec();
        }
        let plain = stored_names(self.component, self.naming, &Vec::from_iter(self.names()), name);
        // Old files of CLIP leave out the inner part of its names.
        let head = "text_model.";
        let short = self.naming == Naming::Diffusers
            && matches!(self.component, Component::TextEncoder | Component::ClipG)
            && !self.set.names().any(|n| n.strip_prefix(self.prefix).is_some_and(|n| n.starts_with(head)));
        let cut = |name: String| if short { name.trim_start_matches(head).to_owned() } else { name };
        plain.into_iter().map(|name| format!("{}{}", self.prefix, cut(name))).collect()
    }

    /// Shape of an internal tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.recipe(name)?.shape.clone())
    }

    /// Stored element type of an internal tensor.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        Some(self.set.info(self.recipe(name)?.names().first()?)?.dtype)
    }

    /// Number of parameters, without the optional ones.
    pub fn elements(&self) -> usize {
        self.tensors.values().map(Recipe::elements).sum()
    }

    /// Bytes of an internal tensor in its stored type; those of a scaled 8-bit weight without its
    /// [scale](Self::scale).
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, FileError> {
        let missing = || FileError::NoTensor { path: self.set.path().into(), tensor: name.into() };
        let recipe = self.recipe(name).ok_or_else(missing)?;
        let dtype = self.dtype(name).ok_or_else(missing)?;
        let parts: Result<Vec<_>, _> = recipe.names().iter().map(|source| self.set.bytes(source)).collect();
        recipe.bytes(dtype, parts?).ok_or_else(missing)
    }

    /// What the stored values of a scaled 8-bit weight are multiplied by, one after the other where several stored
    /// tensors are joined: one number each, or one a stored row.
    pub fn scale(&self, name: &str) -> Result<Option<Vec<f32>>, FileError> {
        let Some(recipe) = self.recipe(name) else { return Ok(None) };
        let mut all = Vec::new();
        for source in recipe.names() {
            all.extend(self.set.scale(source)?.into_iter().flatten());
        }
        Ok((!all.is_empty()).then_some(all))
    }

    /// Values of an internal tensor, row-major in [`shape`](Self::shape).
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let missing = || FileError::NoTensor { path: self.set.path().into(), tensor: name.into() };
        let recipe = self.recipe(name).ok_or_else(missing)?;
        let parts: Result<Vec<Cow<[f32]>>, _> =
            recipe.names().iter().map(|source| self.set.f32(source).map(Cow::Owned)).collect();
        recipe.values(parts?).map(Cow::into_owned).ok_or_else(missing)
    }
}

/// Tensors that say something by being there, and are empty.
fn is_mark(name: &str) -> bool {
    scale::is_marker(name) || matches!(name, "v_pred" | "ztsnr")
}

/// Tensors that carry no weight of the network.
fn is_ignored(component: Component, name: &str) -> bool {
    let own = match component {
        Component::T5 => name.starts_with("decoder.") || name == "lm_head.weight",
        Component::Gemma => name == "lm_head.weight" || name.ends_with(".inv_freq"),
        _ => false,
    };
    own || clip::is_ignored(name) || ["loss.", "model_ema."].iter().any(|head| name.starts_with(head))
}

/// The names among these that no network needs.
fn unused_names(component: Component, tensors: &IndexMap<String, Recipe>) -> Vec<String> {
    // SD2 uses 23 of OpenCLIP-H's 24 layers; CLIP-L has 12.
    let last = tensors.keys().filter_map(|name| clip::layer(name)).max().filter(|&layer| layer == 23);
    let unused = |name: &str| match component {
        Component::TextEncoder => {
            matches!(name, "text_projection.weight" | "logit_scale") || last.is_some() && clip::layer(name) == last
        }
        Component::ClipG => name == "logit_scale",
        _ => false,
    };
    tensors.keys().filter(|name| unused(name)).cloned().collect()
}

/// Lumina-Image-2.0's last norm, which its authors' code has and does not use.
fn keep_norm(given: &[Given], unexpected: &mut Vec<String>, optional: &mut IndexMap<String, Recipe>) {
    if let Some(norm) = given.iter().find(|tensor| tensor.name == NORM_FINAL) {
        unexpected.retain(|name| name != norm.source);
        optional.insert(NORM_FINAL.into(), Recipe::whole(norm.source, norm.shape));
    }
}

/// What is wrong with a file whose tensors do not fit together.
fn broken(set: &WeightSet, fault: Fault) -> FileError {
    let path = set.path().to_path_buf();
    match fault {
        Fault::Missing { name } => FileError::NoTensor { path, tensor: name },
        Fault::Shape { source, shape, wanted } => {
            FileError::WrongShape { path, tensor: source, shape, wanted: wanted.into() }
        }
    }
}

/// Weights are floats.
fn floats(set: &WeightSet, tensors: &IndexMap<String, Recipe>) -> Result<(), FileError> {
    for tensor in tensors.values().flat_map(Recipe::names) {
        if let Some(dtype) = set.info(tensor).map(|info| info.dtype).filter(|dtype| !dtype.is_float()) {
            let (path, tensor) = (set.path().into(), tensor.clone());
            return Err(FileError::WrongType { path, tensor, dtype, wanted: "a float type is" });
        }
    }
    Ok(())
}

/// Tensors that are joined have one type.
fn same_types(set: &WeightSet, tensors: &IndexMap<String, Recipe>) -> Result<(), FileError> {
    for recipe in tensors.values() {
        let mut parts = recipe.names().iter().filter_map(|name| Some((name, set.info(name)?.dtype)));
        let Some((_, first)) = parts.next() else { continue };
        if let Some((tensor, dtype)) = parts.find(|(_, dtype)| *dtype != first) {
            return Err(FileError::WrongType {
                path: set.path().into(),
                tensor: tensor.clone(),
                dtype,
                wanted: "the type of those it is joined with is",
            });
        }
    }
    Ok(())
}
