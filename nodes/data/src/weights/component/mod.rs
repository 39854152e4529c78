//! One part of a model (U-Net, VAE, text encoder) under its internal names, whatever file it comes from.

mod find;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::diffusers::ModelIndex;
use super::dtype::DType;
use super::error::FileError;
use super::keymap::clip::{self, Slice};
use super::keymap::{UnetMap, VaeMap, vae};
use super::scale;
use super::set::WeightSet;
use find::{Selected, folders_of, select};

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// The denoiser of SD1, SD2 and SDXL.
    Unet,
    /// The image autoencoder.
    Vae,
    /// The (first) CLIP text encoder.
    TextEncoder,
}

impl Component {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Component::Unet => "U-Net",
            Component::Vae => "VAE",
            Component::TextEncoder => "CLIP text encoder",
        }
    }

    /// Its folder in a Diffusers pipeline.
    pub fn folder(self) -> &'static str {
        match self {
            Component::Unet => "unet",
            Component::Vae => "vae",
            Component::TextEncoder => "text_encoder",
        }
    }

    /// Its prefixes in files that hold several parts, the longest first.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Component::Unet => &["model.diffusion_model.", "unet."],
            Component::Vae => &["first_stage_model.", "vae."],
            Component::TextEncoder => &[
                "conditioner.embedders.0.transformer.",
                "text_encoders.clip_l.transformer.",
                "cond_stage_model.transformer.",
                "cond_stage_model.model.",
                "text_encoder.",
                "transformer.",
            ],
        }
    }

    /// Tensors that only this part has; without one of them a file does not hold it.
    fn markers(self) -> &'static [&'static str] {
        match self {
            Component::Unet => &["input_blocks.0.0.weight", "down_blocks.0.resnets.0.conv1.weight"],
            Component::Vae => &["decoder.conv_in.weight", "encoder.conv_in.weight"],
            Component::TextEncoder => &[
                "text_model.embeddings.token_embedding.weight",
                "embeddings.token_embedding.weight",
                "token_embedding.weight",
            ],
        }
    }
}

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

/// What happens to a stored tensor to become an internal one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    None,
    /// Same values, another shape.
    Reshape(Vec<usize>),
    /// Some of its rows.
    Rows {
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
    },
    /// Rows and columns exchanged.
    Transpose,
}

/// A component's tensors by internal name.
#[derive(Clone, Debug)]
pub struct ComponentWeights {
    /// Which part.
    pub component: Component,
    /// How it was found.
    pub layout: Layout,
    /// Internal name → stored name and what to do with it.
    pub tensors: IndexMap<String, (String, Transform)>,
    /// `config.json` of the component's folder.
    pub config: Option<Json>,
    /// Stored tensors of this part that carry no weight: buffers, scalars, second copies.
    pub ignored: Vec<String>,
    /// Stored tensors of this part with a name nothing is known about.
    pub unexpected: Vec<String>,
    set: Arc<WeightSet>,
}

/// Finds a component in a checkpoint file, a pipeline folder, a component folder or a component file.
pub fn component(path: impl AsRef<Path>, component: Component) -> Result<ComponentWeights, FileError> {
    ComponentWeights::open(path, component)
}

impl ComponentWeights {
    /// Finds a component in a checkpoint file, a pipeline folder, a component folder or a component file.
    pub fn open(path: impl AsRef<Path>, component: Component) -> Result<ComponentWeights, FileError> {
        let path = path.as_ref();
        let inner = path.join(component.folder());
        if inner.is_dir() {
            ModelIndex::read(path)?;
            let found = Self::of_set(Arc::new(WeightSet::open(&inner)?), component)?;
            return Ok(ComponentWeights { layout: Layout::DiffusersDir, ..found });
        }
        if ModelIndex::read(path)?.is_some() {
            let found = folders_of(path);
            return Err(FileError::NoComponent { path: path.into(), component: component.name(), found });
        }
        let found = Self::of_set(Arc::new(WeightSet::open(path)?), component)?;
        let layout = if path.is_dir() { Layout::ComponentDir } else { found.layout };
        Ok(ComponentWeights { layout, ..found })
    }

    /// Finds a component in opened weights.
    pub fn of_set(set: Arc<WeightSet>, component: Component) -> Result<ComponentWeights, FileError> {
        let Selected { prefixed, stored } = select(&set, component)?;
        let has = |marker: &str| stored.iter().any(|(_, name)| *name == marker);
        let names = || stored.iter().map(|(_, name)| *name);
        // One source tensor gives one internal tensor, or three for OpenCLIP's joined projections.
        type Rename<'a> = Box<dyn Fn(&str) -> Vec<(String, Slice)> + 'a>;
        let whole = |name: Option<String>| name.map(|n| (n, Slice::Whole)).into_iter().collect::<Vec<_>>();
        let (original, rename): (bool, Rename) = match component {
            Component::Unet if has("input_blocks.0.0.weight") => {
                let map = UnetMap::from_ldm(names());
                (true, Box::new(move |name| whole(map.to_diffusers(name))))
            }
            Component::Unet => {
                let map = UnetMap::from_diffusers(names());
                (false, Box::new(move |name| whole(map.to_ldm(name).map(|_| name.to_owned()))))
            }
            Component::Vae if names().any(|n| n.starts_with("decoder.up.") || n.starts_with("encoder.down.")) => {
                let map = VaeMap::from_ldm(names());
                (true, Box::new(move |name| whole(map.to_diffusers(name))))
            }
            Component::Vae => {
                let map = VaeMap::from_diffusers(names());
                (false, Box::new(move |name| whole(map.to_ldm(name).map(|_| vae::current_name(name)))))
            }
            Component::TextEncoder if has("token_embedding.weight") => (true, Box::new(clip::from_open_clip)),
            Component::TextEncoder => (false, Box::new(move |name| whole(clip::to_internal(name)))),
        };
        let (mut tensors, mut ignored, mut unexpected) = (IndexMap::new(), Vec::new(), Vec::new());
        for (source, name) in &stored {
            let renamed = if is_ignored(&set, source, name) { Vec::new() } else { rename(name) };
            if renamed.is_empty() {
                let list = if is_ignored(&set, source, name) { &mut ignored } else { &mut unexpected };
                list.push((*source).to_owned());
            }
            for (internal, slice) in renamed {
                if tensors.contains_key(&internal) {
                    ignored.push((*source).to_owned());
                    continue;
                }
                let transform = transform(&set, component, source, &internal, slice)?;
                tensors.insert(internal, ((*source).to_owned(), transform));
            }
        }
        let layout = match (prefixed, original) {
            (true, _) => Layout::SingleFileLdm,
            (false, true) => Layout::LdmFile,
            (false, false) => Layout::DiffusersFile,
        };
        let config = set.config.clone();
        drop(rename);
        Ok(ComponentWeights { component, layout, tensors, config, ignored, unexpected, set })
    }

    /// The files behind it.
    pub fn set(&self) -> &Arc<WeightSet> {
        &self.set
    }

    /// Internal names.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Internal names and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.names().filter_map(|name| Some((name, self.shape(name)?)))
    }

    /// Shape of an internal tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (source, transform) = self.tensors.get(name)?;
        let mut shape = self.set.info(source)?.shape.clone();
        match transform {
            Transform::None => {}
            Transform::Reshape(to) => shape = to.clone(),
            Transform::Rows { start, end } => shape[0] = end - start,
            Transform::Transpose => shape.reverse(),
        }
        Some(shape)
    }

    /// Stored element type of an internal tensor.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        Some(self.set.info(&self.tensors.get(name)?.0)?.dtype)
    }

    /// Number of parameters.
    pub fn elements(&self) -> usize {
        self.shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Bytes of an internal tensor in its stored type; those of a scaled 8-bit weight without its
    /// [scale](Self::scale).
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, FileError> {
        let missing = || FileError::NoTensor { path: self.set.path().into(), tensor: name.into() };
        let (source, transform) = self.tensors.get(name).ok_or_else(missing)?;
        let info = self.set.info(source).ok_or_else(missing)?;
        let bytes = self.set.bytes(source)?;
        Ok(match transform {
            Transform::None | Transform::Reshape(_) => bytes,
            Transform::Rows { start, end } => {
                let row = bytes.len() / info.shape[0];
                let rows = start * row..end * row;
                match bytes {
                    Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[rows]),
                    Cow::Owned(bytes) => Cow::Owned(bytes[rows].to_vec()),
                }
            }
            Transform::Transpose => Cow::Owned(transposed(&bytes, info.shape[0], info.shape[1], info.dtype.size())),
        })
    }

    /// What the stored values of a scaled 8-bit weight are multiplied by: one number, or one a stored row.
    pub fn scale(&self, name: &str) -> Result<Option<Vec<f32>>, FileError> {
        self.tensors.get(name).map_or(Ok(None), |(source, _)| self.set.scale(source))
    }

    /// Values of an internal tensor, row-major in [`shape`](Self::shape).
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let missing = || FileError::NoTensor { path: self.set.path().into(), tensor: name.into() };
        let (source, transform) = self.tensors.get(name).ok_or_else(missing)?;
        let shape = &self.set.info(source).ok_or_else(missing)?.shape;
        let values = self.set.f32(source)?;
        Ok(match transform {
            Transform::None | Transform::Reshape(_) => values,
            Transform::Rows { start, end } => {
                let row = values.len() / shape[0];
                values[start * row..end * row].to_vec()
            }
            Transform::Transpose => {
                let (rows, columns) = (shape[0], shape[1]);
                (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect()
            }
        })
    }
}

/// Tensors that carry no weight of the network.
fn is_ignored(set: &WeightSet, source: &str, name: &str) -> bool {
    clip::is_ignored(name)
        || scale::is_beside_weight(source, |name| set.info(name))
        || set.info(source).is_some_and(|info| info.start == info.end)
        || ["loss.", "model_ema."].iter().any(|head| name.starts_with(head))
}

fn transform(
    set: &WeightSet,
    component: Component,
    source: &str,
    internal: &str,
    slice: Slice,
) -> Result<Transform, FileError> {
    let shape = set.info(source).map(|info| info.shape.as_slice()).unwrap_or_default();
    let wrong = |wanted: &str| FileError::WrongShape {
        path: set.path().into(),
        tensor: source.into(),
        shape: shape.into(),
        wanted: wanted.into(),
    };
    match slice {
        Slice::Whole if component == Component::Vae && vae::is_attention_matrix(internal) => match *shape {
            [_, _] => Ok(Transform::None),
            [out, inputs, 1] | [out, inputs, 1, 1] => Ok(Transform::Reshape(vec![out, inputs])),
            _ => Err(wrong("a matrix or a 1×1 convolution is")),
        },
        Slice::Whole => Ok(Transform::None),
        Slice::Third(third) => match shape.first() {
            Some(&rows) if rows > 0 && rows % 3 == 0 => {
                Ok(Transform::Rows { start: rows / 3 * third, end: rows / 3 * (third + 1) })
            }
            _ => Err(wrong("three equal parts of its rows are")),
        },
        Slice::Transposed if shape.len() == 2 => Ok(Transform::Transpose),
        Slice::Transposed => Err(wrong("a matrix is")),
    }
}

fn transposed(bytes: &[u8], rows: usize, columns: usize, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * size;
            out.extend_from_slice(&bytes[at..at + size]);
        }
    }
    out
}
