//! What is trained on: the dataset file, `--in_json`, or folders named `10_fox`.
//!
//! Every key of a subset is looked up in the subset, its dataset, `[general]` and the command line, in this order.

mod folders;

use indexmap::IndexMap;
use pipe_core::document::{Tree, Value};
use serde_json::{Map, Value as Json, json};

use crate::Error;
use crate::args::Given;
use crate::config;
use crate::files::{Files, plain};
use crate::options::{self, Opt, Place};
use crate::report::{Entry, Kind};
use crate::script::Script;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The value.
    pub value: Json,
    /// `datasets[0].resolution`, `general.resolution` or `--resolution`.
    pub origin: String,
}

/// A folder or metadata file with everything that holds for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subset {
    /// Number of its dataset.
    pub dataset: usize,
    /// Values by key.
    pub values: IndexMap<&'static str, Found>,
}

impl Subset {
    /// A value.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.values.get(key).map(|found| &found.value)
    }
    /// Text that is not empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Json::as_str).filter(|text| !text.is_empty())
    }
    /// A flag.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key) == Some(&json!(true))
    }
}

/// All subsets, and what is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// In order.
    pub subsets: Vec<Subset>,
    /// Entries about the definition itself.
    pub entries: Vec<Entry>,
}

/// What a set-up says about data, besides its options.
pub struct Sources<'a> {
    /// A dataset file that was handed over: path and text.
    pub file: Option<(&'a str, &'a str)>,
    /// Access to files that are named.
    pub files: &'a dyn Files,
}

/// Finds the subsets. Errors when the dataset file is not well-formed.
pub fn load(given: &Given, script: Script, sources: &Sources<'_>) -> Result<Data, Error> {
    let text = |name: &str| given.get(name).and_then(|s| s.value.as_str());
    let named = text("dataset_config");
    let mut data = Data::default();
    let tell = |data: &mut Data, name: &str, kind, target, note: &str| {
        data.entries.push(Entry::new(&format!("--{name}"), text(name).unwrap_or_default(), kind, target, note));
    };
    if let Some((path, content)) = sources.file {
        if named.is_some() {
            tell(&mut data, "dataset_config", Kind::Mapped, Some("nodes.images"), "");
        }
        from_file(&mut data, path, content, given)?;
    } else if let Some(path) = named {
        match sources.files.read(path) {
            Ok(content) => {
                tell(&mut data, "dataset_config", Kind::Mapped, Some("nodes.images"), "");
                from_file(&mut data, path, &content, given)?;
            }
            Err(error) => {
                let note =
                    format!("cannot be read: {}; write the folder of the images at `nodes.images.path`", plain(&error));
                tell(&mut data, "dataset_config", Kind::Refused, Some("nodes.images.path"), &note);
            }
        }
    } else {
        folders::find(&mut data, given, script, sources.files);
        return Ok(data);
    }
    for name in ["train_data_dir", "reg_data_dir", "in_json"] {
        if given.contains_key(name) {
            tell(&mut data, name, Kind::Ignored, None, "the dataset file counts");
        }
    }
    Ok(data)
}

fn from_file(data: &mut Data, path: &str, content: &str, given: &Given) -> Result<(), Error> {
    let root = match path.to_lowercase().ends_with(".json") {
        true => serde_json::from_str(content).map_err(|error| Error::Toml {
            path: path.into(),
            line: error.line(),
            message: error.to_string(),
        })?,
        false => config::read(path, content)?.as_ref().map_or_else(|| json!({}), dates_out),
    };
    let empty = Map::new();
    let root = root.as_object().unwrap_or(&empty);
    for key in root.keys().filter(|key| !["general", "datasets"].contains(&key.as_str())) {
        data.entries.push(Entry::wrong(key, "", "a dataset file has `[general]` and `[[datasets]]` only"));
    }
    let general = table(data, root.get("general"), "general", Level::General);
    for (i, dataset) in list(root.get("datasets")).enumerate() {
        let here = format!("datasets[{i}]");
        let outer = table(data, Some(dataset), &here, Level::Dataset);
        for (j, subset) in list(dataset.get("subsets")).enumerate() {
            let inner = table(data, Some(subset), &format!("{here}.subsets[{j}]"), Level::Subset);
            let mut values = command_values(given);
            for layer in [general.clone(), outer.clone(), inner] {
                values.extend(layer);
            }
            if is_duplicate(data, i, &values) {
                let note = "the same folder a second time in one dataset; sd-scripts skips it too";
                data.entries.push(Entry::new(&format!("{here}.subsets[{j}]"), "", Kind::Ignored, None, note));
                continue;
            }
            data.subsets.push(Subset { dataset: i, values });
        }
    }
    Ok(())
}

/// As JSON, floats kept.
fn dates_out(tree: &Tree) -> Json {
    match &tree.value {
        Value::Map(_) => config::json_of(tree),
        _ => json!({}),
    }
}

fn list(value: Option<&Json>) -> impl Iterator<Item = &Json> {
    value.and_then(Json::as_array).into_iter().flatten()
}

fn is_duplicate(data: &Data, dataset: usize, values: &IndexMap<&'static str, Found>) -> bool {
    let id = |values: &IndexMap<&'static str, Found>| {
        let of = |key: &str| values.get(key).map(|found| found.value.clone());
        (of("metadata_file").or_else(|| of("image_dir")), of("conditioning_data_dir"))
    };
    data.subsets.iter().any(|known| known.dataset == dataset && id(&known.values) == id(values))
}

/// What the command line says of a key of the dataset file.
pub(crate) fn command_values(given: &Given) -> IndexMap<&'static str, Found> {
    let keys = options::all().filter(|opt| opt.place == Place::Dataset);
    keys.filter_map(|opt| {
        let name = match opt.name {
            "batch_size" => "train_batch_size",
            "num_repeats" => "dataset_repeats",
            // What names a subset is no default for others.
            "image_dir" | "metadata_file" | "conditioning_data_dir" | "class_tokens" => return None,
            name => name,
        };
        let old = (name == "caption_extension").then_some("caption_extention");
        let name = old.filter(|old| given.contains_key(old)).unwrap_or(name);
        let setting = given.get(name)?;
        let value = match (&setting.value, opt.kind) {
            (Json::String(text), kind) => crate::args::typed(kind, text).ok()?,
            (value, _) => value.clone(),
        };
        Some((opt.name, Found { value, origin: format!("--{name}") }))
    })
    .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    General,
    Dataset,
    Subset,
}

/// Keys that stand only in a subset.
const SUBSET: [&str; 5] = ["image_dir", "metadata_file", "conditioning_data_dir", "is_reg", "alpha_mask"];
/// Keys that stand only outside subsets.
const DATASET: [&str; 10] = [
    "resolution",
    "batch_size",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
    "network_multiplier",
    "validation_split",
    "validation_seed",
];

fn table(data: &mut Data, value: Option<&Json>, here: &str, level: Level) -> IndexMap<&'static str, Found> {
    let mut found = IndexMap::new();
    for (key, value) in value.and_then(Json::as_object).into_iter().flatten() {
        if key == "subsets" && level == Level::Dataset {
            continue;
        }
        let origin = format!("{here}.{key}");
        let opt = options::all().find(|opt| opt.place == Place::Dataset && opt.name == key);
        match opt.map(|opt| (opt, read(opt, value, level))) {
            Some((opt, Ok(value))) => {
                found.insert(opt.name, Found { value, origin });
            }
            Some((_, Err(note))) => data.entries.push(Entry::wrong(&origin, &Entry::show(value), &note)),
            None => {
                let keys = options::all().filter(|opt| opt.place == Place::Dataset).map(|opt| opt.name);
                let near = pipe_core::diagnostic::suggest(key, keys);
                let hint = near.first().map(|name| format!("; did you mean `{name}`")).unwrap_or_default();
                let note = format!("a dataset file has no such key{hint}; sd-scripts stops here");
                data.entries.push(Entry::wrong(&origin, &Entry::show(value), &note));
            }
        }
    }
    found
}

fn read(opt: &Opt, value: &Json, level: Level) -> Result<Json, String> {
    if level != Level::Subset && SUBSET.contains(&opt.name) {
        return Err("it belongs into a subset; sd-scripts stops here".into());
    }
    if level == Level::Subset && DATASET.contains(&opt.name) {
        return Err("it belongs into the dataset, not a subset; sd-scripts stops here".into());
    }
    if opt.name == "diff_output_preservation" {
        return Err("it belongs into `custom_attributes`; sd-scripts stops here".into());
    }
    config::strict(opt.kind, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
    use crate::files::Nothing;

    const FILE: &str = r#"
[general]
caption_extension = ".txt"
shuffle_caption = false
[[datasets]]
resolution = 768
batch_size = 2
  [[datasets.subsets]]
  image_dir = "a"
  num_repeats = 10
  [[datasets.subsets]]
  image_dir = "a"
  [[datasets.subsets]]
  image_dir = "b"
  caption_extension = ".cap"
"#;

    fn load_file(text: &str, line: &str) -> Data {
        let script = Script::find("sdxl_train_network").unwrap();
        let given = args::parse(&crate::shell::split(line).unwrap(), script).given;
        load(&given, script, &Sources { file: Some(("d.toml", text)), files: &Nothing }).unwrap()
    }

    #[test]
    fn values_come_from_the_nearest_place() {
        let data = load_file(FILE, "--flip_aug --resolution 512 --dataset_repeats 3 --caption_extension .x");
        assert_eq!(data.subsets.len(), 2);
        let (a, b) = (&data.subsets[0], &data.subsets[1]);
        assert_eq!(a.get("resolution"), Some(&json!(768)));
        assert_eq!((a.text("caption_extension"), b.text("caption_extension")), (Some(".txt"), Some(".cap")));
        assert_eq!((a.get("num_repeats"), b.get("num_repeats")), (Some(&json!(10)), Some(&json!(3))));
        assert!(a.flag("flip_aug") && !a.flag("shuffle_caption"));
        assert_eq!(b.values["flip_aug"].origin, "--flip_aug");
        assert_eq!(data.entries.len(), 1, "{:?}", data.entries);
    }

    #[test]
    fn wrong_keys_are_named() {
        for (text, part) in [
            ("[general]\nresolutio = 1", "did you mean `resolution`"),
            ("[general]\nimage_dir = 'a'", "into a subset"),
            ("[[datasets]]\n[[datasets.subsets]]\nimage_dir='a'\nresolution=1", "into the dataset"),
            ("[general]\nbatch_size = \"1\"", "does not fit"),
            ("other = 1", "only"),
        ] {
            let data = load_file(text, "");
            assert_eq!(data.entries.len(), 1, "{text} {:?}", data.entries);
            assert!(data.entries[0].note.contains(part), "{text}: {}", data.entries[0].note);
        }
    }
}
