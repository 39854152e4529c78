//! A model file or folder with its parts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_data::metadata::BaseModel;
use pipe_data::weights::{
    Architecture, Component, ComponentWeights, Family, FileError, Layout, ModelIndex, WeightSet, component, detect_set,
};

use crate::adapter::Names;
use crate::error::{Result, ToolError, list};
use crate::output::Format;

/// A model: one part or several.
#[derive(Debug)]
pub struct Model {
    /// Where it is.
    pub path: PathBuf,
    /// Its family; of a part alone one that has the part.
    pub family: Family,
    /// What it is.
    pub architecture: Architecture,
    /// Its parts, the denoiser first.
    pub parts: Vec<ComponentWeights>,
    /// Whether it is a folder of a Diffusers pipeline.
    pub pipeline: bool,
}

impl Model {
    /// Opens a checkpoint file, a Diffusers pipeline, or one part as a file or folder.
    ///
    /// # Errors
    /// P0301 to P0305 as the files are; P0302 for an adapter.
    pub fn open(path: &Path) -> Result<Model> {
        let folders = ["unet", "transformer"].iter().any(|part| path.join(part).is_dir());
        if folders || ModelIndex::read(path)?.is_some() {
            return Self::open_pipeline(path);
        }
        let set = Arc::new(WeightSet::open(path)?);
        let architecture = detect_set(&set).architecture;
        if let Architecture::Lora(_) = architecture {
            let message = format!("`{}` is an adapter, a model is needed", path.display());
            return Err(ToolError::new("P0302", message).at(path).help("`pipe inspect` shows what the file is"));
        }
        let mut missing = None;
        let mut found = |component: Component| match ComponentWeights::of_set(set.clone(), component) {
            Ok(mut part) => {
                if path.is_dir() {
                    part.layout = Layout::ComponentDir;
                }
                Ok(Some(part))
            }
            Err(error @ FileError::NoComponent { .. }) => {
                missing.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(ToolError::from(error)),
        };
        let mut parts = Vec::new();
        let family = match architecture.family() {
            Some(family) => family,
            // A part alone, or a model of no family that is trained here.
            None => {
                for component in Component::ALL {
                    parts.extend(found(component)?);
                    if !parts.is_empty() {
                        break;
                    }
                }
                parts.first().map_or(Family::Sd1, family_of)
            }
        };
        let has = |parts: &[ComponentWeights], wanted| parts.iter().any(|part| part.component == wanted);
        if parts.first().is_none_or(|part| part.layout == Layout::SingleFileLdm) {
            for component in parts_of(family) {
                if !has(&parts, component) {
                    parts.extend(found(component)?);
                }
            }
        }
        if parts.is_empty() {
            return Err(missing.map_or_else(|| ToolError::new("P0302", "there are no weights").at(path), Into::into));
        }
        Ok(Model { path: path.into(), family, architecture, parts, pipeline: false })
    }

    fn open_pipeline(path: &Path) -> Result<Model> {
        let denoisers = Component::ALL.into_iter().filter(|part| *part == Component::Unet || part.is_transformer());
        let mut found = None;
        let mut missing = None;
        for part in denoisers {
            match component(path, part) {
                Ok(weights) => {
                    found = Some(weights);
                    break;
                }
                Err(error @ FileError::NoComponent { .. }) => missing = missing.or(Some(error)),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(denoiser) = found else {
            return Err(missing.map_or_else(|| ToolError::new("P0302", "there is no denoiser").at(path), Into::into));
        };
        let architecture = detect_set(denoiser.set()).architecture;
        let family = architecture.family().unwrap_or_else(|| family_of(&denoiser));
        let mut parts = vec![denoiser];
        for part in parts_of(family).into_iter().skip(1) {
            if family.folder(part).is_some_and(|folder| path.join(folder).is_dir()) {
                parts.push(component(path, part)?);
            }
        }
        Ok(Model { path: path.into(), family, architecture, parts, pipeline: true })
    }

    /// A part.
    pub fn part(&self, component: Component) -> Option<&ComponentWeights> {
        self.parts.iter().find(|part| part.component == component)
    }

    /// Its denoiser, where it has one.
    pub fn denoiser(&self) -> Option<&ComponentWeights> {
        self.part(self.family.denoiser())
    }

    /// The names that adapters have for its layers.
    pub fn names(&self) -> Names {
        let shapes = |part: &ComponentWeights| part.shapes().map(|(n, s)| (n.to_owned(), s)).collect();
        let parts: Vec<_> = self.parts.iter().map(|part| (part.component, shapes(part))).collect();
        Names::new(self.family, &parts)
    }

    /// The model as metadata name it.
    pub fn base_model(&self) -> BaseModel {
        let v_prediction = self.denoiser().is_some_and(|part| pipe_nodes::saver::describe::objective(part).0);
        BaseModel { architecture: self.architecture, v_prediction }
    }

    /// The layout it is in.
    pub fn format(&self) -> Format {
        match self.parts.first().map(|part| part.layout) {
            Some(Layout::SingleFileLdm) => Format::SingleFile,
            Some(Layout::LdmFile) => Format::ModelOnly,
            _ => Format::Diffusers,
        }
    }

    /// Whether weights are in 8 bits with scales of their own.
    pub fn is_scaled(&self) -> bool {
        self.parts.iter().any(|part| part.set().names().any(|name| part.set().is_scale(name)))
    }

    /// An error that lists the tensors nothing is known about, if there are any.
    pub fn unexpected(&self) -> Option<ToolError> {
        let names: Vec<String> = self.parts.iter().flat_map(|part| part.unexpected.iter().cloned()).collect();
        if names.is_empty() {
            return None;
        }
        let count = if names.len() == 1 { "1 tensor".into() } else { format!("{} tensors", names.len()) };
        let message = format!("nothing is known about {count} of `{}`: {}", self.path.display(), list(&names));
        Some(ToolError::new("P0320", message).at(&self.path))
    }
}

/// The parts a model of this family may have, the denoiser first.
fn parts_of(family: Family) -> Vec<Component> {
    let texts = family.text_encoders().iter().copied();
    [family.denoiser(), Component::Vae].into_iter().chain(texts).collect()
}

/// The weight of a U-Net that tells the width of its text.
const CONTEXT: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";

/// A family that has a part found alone.
fn family_of(part: &ComponentWeights) -> Family {
    let width = |name: &str| part.shape(name).and_then(|shape| shape.get(1).copied());
    match part.component {
        Component::Vae if width("decoder.conv_in.weight") == Some(16) => Family::Flux,
        Component::TextEncoder if width("text_model.embeddings.token_embedding.weight") == Some(1024) => Family::Sd2,
        Component::Unet if part.shape("add_embedding.linear_1.weight").is_some() => Family::Sdxl,
        Component::Unet if width(CONTEXT) == Some(1024) => Family::Sd2,
        Component::Unet | Component::Vae | Component::TextEncoder => Family::Sd1,
        Component::ClipG => Family::Sdxl,
        Component::T5 | Component::Flux => Family::Flux,
        Component::Gemma | Component::Lumina2 => Family::Lumina2,
        Component::Mmdit => Family::Sd3,
        Component::LuminaNext => Family::LuminaNext,
    }
}
