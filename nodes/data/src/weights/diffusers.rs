//! The JSON files of Diffusers folders: `config.json` of a part and `model_index.json` of a pipeline.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::error::FileError;
use super::json::{MAX_CONFIG, parse, read_limited};

/// What a Diffusers pipeline says it consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelIndex {
    /// Class of the pipeline, such as `StableDiffusionPipeline`.
    pub class_name: Option<String>,
    /// Folder of each part → library and class; parts that are left out (`[null, null]`) are not here.
    pub parts: BTreeMap<String, (String, String)>,
}

impl ModelIndex {
    /// Reads `model_index.json` of a folder; nothing when there is none.
    ///
    /// # Errors
    /// When the file cannot be read, is no JSON object, or names a part by something other than two texts.
    pub fn read(folder: impl AsRef<Path>) -> Result<Option<ModelIndex>, FileError> {
        let path = folder.as_ref().join("model_index.json");
        read_if_there(&path)?.map(|bytes| ModelIndex::parse(&path, &bytes)).transpose()
    }

    /// Reads the text of such a file; `path` is for messages.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<ModelIndex, FileError> {
        let bad = |problem: String| FileError::BadIndex { path: path.into(), problem };
        let mut index = ModelIndex::default();
        for (name, value) in parse_object(path, bytes)? {
            match (name.as_str(), value) {
                ("_class_name", Json::String(class)) => index.class_name = Some(class),
                ("_class_name", _) => return Err(bad("its `_class_name` is not a text".into())),
                (private, _) if private.starts_with('_') => {}
                (_, Json::Array(entry)) => {
                    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', ':', '\0']) {
                        return Err(bad(format!("`{}` is not the name of a folder", name.escape_debug())));
                    }
                    match entry.as_slice() {
                        [Json::String(library), Json::String(class)] => {
                            index.parts.insert(name, (library.clone(), class.clone()));
                        }
                        [Json::Null, Json::Null] => {}
                        _ => return Err(bad(format!("part `{name}` is not a library and a class"))),
                    }
                }
                // Switches of the pipeline, such as `requires_safety_checker`.
                (_, Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_)) => {}
                (_, Json::Object(_)) => return Err(bad(format!("part `{name}` is not a library and a class"))),
            }
        }
        Ok(index)
    }
}

/// Reads `config.json` of a part's folder; nothing when there is none.
pub(crate) fn read_config(folder: &Path) -> Result<Option<Json>, FileError> {
    let path = folder.join("config.json");
    let entries = read_if_there(&path)?.map(|bytes| parse_object(&path, &bytes)).transpose()?;
    Ok(entries.map(Json::Object))
}

/// Reads a JSON object; `path` is for messages.
pub(crate) fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Json>, FileError> {
    match parse(path, bytes)? {
        Json::Object(entries) => Ok(entries),
        _ => Err(FileError::BadJson { path: path.into(), problem: "it is not a JSON object".into() }),
    }
}

/// The bytes of a file; nothing when there is no file.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match read_limited(path, MAX_CONFIG) {
        Err(FileError::Missing { .. }) => Ok(None),
        other => other.map(Some),
    }
}
