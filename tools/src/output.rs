//! Where results go: layouts, element types, and no file harmed that is needed.

use std::fs;
use std::path::{Path, PathBuf};

use pipe_data::weights::DType;

use crate::error::{Result, ToolError};

/// Layout of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One safetensors file of all parts with the original code's names.
    SingleFile,
    /// The denoiser alone with its authors' names and no prefix.
    ModelOnly,
    /// A PyTorch checkpoint of all parts.
    Ckpt,
    /// A Diffusers folder.
    Diffusers,
}

impl Format {
    /// Whether it is a folder.
    pub fn is_folder(self) -> bool {
        self == Format::Diffusers
    }
}

/// What is written at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A safetensors file.
    Safetensors,
    /// A PyTorch checkpoint.
    Torch,
    /// A folder.
    Folder,
}

impl Content {
    /// Of a model in a layout; `folder` says whether its own files become one folder.
    pub fn of(format: Format, folder: bool) -> Content {
        match format {
            Format::Ckpt => Content::Torch,
            _ if folder => Content::Folder,
            _ => Content::Safetensors,
        }
    }
}

/// Endings by which programs take a file for one of PyTorch.
const TORCH: [&str; 4] = ["ckpt", "pt", "pth", "bin"];

/// A place for a result, checked before any work is done.
#[derive(Clone, Debug)]
pub struct Output {
    /// Where.
    pub path: PathBuf,
    /// Replace what is there.
    pub force: bool,
}

impl Output {
    /// Refuses to replace a file without `force`, and an input with it; and an ending that says something else than is
    /// written, because programs choose by it how to read a file.
    ///
    /// # Errors
    /// P0321, P0403.
    pub fn check(&self, inputs: &[&Path], content: Content) -> Result<()> {
        self.ending(content)?;
        let (path, folder) = (&self.path, content == Content::Folder);
        let refuse = |message: String| ToolError::new("P0321", message).at(path);
        let Ok(about) = fs::metadata(path) else { return self.outside(inputs) };
        if !self.force {
            return Err(refuse(format!("`{}` exists already", path.display()))
                .help("use another name, or `--force` to replace it"));
        }
        self.outside(inputs)?;
        if folder && !about.is_dir() {
            return Err(
                refuse(format!("`{}` is a file, the result is a folder", path.display())).help("use another name")
            );
        }
        if !folder && !about.is_file() {
            return Err(refuse(format!("`{}` is no file, the result is one", path.display())).help("use another name"));
        }
        let model = ["model_index.json", "config.json"].iter().any(|name| path.join(name).is_file());
        if folder && !model {
            let message = format!("`{}` is a folder without a model, and is not replaced", path.display());
            return Err(refuse(message).help("use another name"));
        }
        Ok(())
    }

    fn ending(&self, content: Content) -> Result<()> {
        let ending = self.path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let torch = TORCH.contains(&ending.as_str());
        let (what, help) = match content {
            Content::Safetensors if torch => {
                ("safetensors", "let its name end in `.safetensors`; of models `--format ckpt` writes a PyTorch file")
            }
            Content::Torch if ending == "safetensors" => {
                ("a PyTorch file", "let its name end in `.ckpt`, or use `--format single-file`")
            }
            _ => return Ok(()),
        };
        let message = format!("`{}` would hold {what}, which its ending `.{ending}` denies", self.path.display());
        Err(ToolError::new("P0403", message).at(&self.path).help(help))
    }

    /// Refuses places in, at or around an input.
    fn outside(&self, inputs: &[&Path]) -> Result<()> {
        // A place that is not there yet is told by its folder.
        let whole = |path: &Path| match (path.canonicalize(), path.parent(), path.file_name()) {
            (Ok(path), _, _) => Some(path),
            (_, Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                Some(parent.canonicalize().ok()?.join(name))
            }
            _ => None,
        };
        let Some(output) = whole(&self.path) else { return Ok(()) };
        for input in inputs {
            let Ok(input) = input.canonicalize() else { continue };
            if input == output || input.is_dir() && output.starts_with(&input) || input.starts_with(&output) {
                let message = format!("`{}` would replace `{}`, which is read", self.path.display(), input.display());
                return Err(ToolError::new("P0321", message).at(&self.path).help("use another name"));
            }
        }
        Ok(())
    }

    /// Makes the folders on the way.
    pub fn prepare(&self) -> Result<()> {
        match self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => fs::create_dir_all(parent).map_err(|error| {
                ToolError::new("P0903", format!("`{}` cannot be made: {error}", parent.display())).at(parent)
            }),
            None => Ok(()),
        }
    }

    /// Name without ending, for titles.
    pub fn title(&self) -> String {
        self.path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

/// Refuses element types that torch's checkpoints have no storage for.
pub fn check_types(format: Format, dtype: Option<DType>) -> Result<()> {
    match (format, dtype) {
        (Format::Ckpt, Some(dtype @ (DType::F8E4M3 | DType::F8E5M2))) => {
            let message = format!("a `.ckpt` cannot hold {dtype}");
            Err(ToolError::new("P0403", message).help("use `--format single-file`"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_needed_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.safetensors");
        fs::write(&file, "a").unwrap();
        let folder = dir.path().join("model");
        fs::create_dir_all(folder.join("unet")).unwrap();
        let at = |path: &Path, force: bool| Output { path: path.into(), force };
        let code = |output: Output, inputs: &[&Path], folder: bool| {
            let content = if folder { Content::Folder } else { Content::Safetensors };
            output.check(inputs, content).map_err(|e| e.code)
        };
        let new = dir.path().join("new/b.safetensors");
        assert_eq!(code(at(&new, false), &[&file], false), Ok(()));
        assert_eq!(code(at(&file, false), &[], false), Err("P0321"));
        assert_eq!(code(at(&file, true), &[], false), Ok(()));
        assert_eq!(code(at(&file, true), &[&file], false), Err("P0321"));
        // Through another way, into a folder that is read, and over one.
        assert_eq!(code(at(&dir.path().join("model/../a.safetensors"), true), &[&file], false), Err("P0321"));
        assert_eq!(code(at(&folder.join("x.safetensors"), false), &[&folder], false), Err("P0321"));
        assert_eq!(code(at(&folder, true), &[&folder.join("unet")], true), Err("P0321"));
        // Only a folder with a model in it is replaced.
        assert_eq!(code(at(&folder, true), &[], true), Err("P0321"));
        fs::write(folder.join("model_index.json"), "{}").unwrap();
        assert_eq!(code(at(&folder, true), &[&file], true), Ok(()));
        assert_eq!(code(at(&folder, true), &[], false), Err("P0321"));
        assert_eq!(code(at(&file, true), &[], true), Err("P0321"));
    }
    #[test]
    fn endings_say_what_is_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let code = |name: &str, content: Content| {
            Output { path: dir.path().join(name), force: false }.check(&[], content).map_err(|e| e.code)
        };
        for name in ["a.ckpt", "a.pt", "a.PTH", "a.bin"] {
            assert_eq!(code(name, Content::Safetensors), Err("P0403"), "{name}");
            assert_eq!((code(name, Content::Torch), code(name, Content::Folder)), (Ok(()), Ok(())), "{name}");
        }
        assert_eq!(code("a.safetensors", Content::Torch), Err("P0403"));
        for name in ["a.safetensors", "a", "a.v1", ".ckpt"] {
            assert_eq!(code(name, Content::Safetensors), Ok(()), "{name}");
        }
    }
}
