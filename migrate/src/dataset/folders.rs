//! Data without a dataset file: `--in_json`, or folders `N_text` in `--train_data_dir` and `--reg_data_dir`.

use serde_json::json;

use super::{Data, Found, Subset, command_values};
use crate::args::Given;
use crate::files::{Files, plain};
use crate::report::{Entry, Kind};
use crate::script::Script;

pub(super) fn find(data: &mut Data, given: &Given, script: Script, files: &dyn Files) {
    let text = |name: &str| given.get(name).and_then(|s| s.value.as_str());
    if let Some(json) = text("in_json") {
        let folder = text("train_data_dir");
        let mut subset = Subset { dataset: 0, values: command_values(given) };
        let origin = "--in_json".to_owned();
        subset.values.insert("metadata_file", Found { value: json!(json), origin });
        if let Some(folder) = folder {
            let origin = "--train_data_dir".to_owned();
            subset.values.insert("image_dir", Found { value: json!(folder), origin });
        }
        data.subsets.push(subset);
        if given.contains_key("reg_data_dir") {
            let note = "`--in_json` counts";
            let entry =
                Entry::new("--reg_data_dir", text("reg_data_dir").unwrap_or_default(), Kind::Ignored, None, note);
            data.entries.push(entry);
        }
        return;
    }
    for (name, regularization) in [("train_data_dir", false), ("reg_data_dir", true)] {
        let Some(folder) = text(name) else { continue };
        match files.folders(folder) {
            Ok(names) => add(data, given, name, folder, &names, regularization),
            Err(error) => {
                let (place, target) = match regularization {
                    true => ("add a `loader.images` with `regularization`", None),
                    false => ("write the folder of the images at `nodes.images.path`", Some("nodes.images.path")),
                };
                let note = format!("cannot be read: {}; {place}", plain(&error));
                data.entries.push(Entry::new(&format!("--{name}"), folder, Kind::Refused, target, &note));
            }
        }
    }
    let named = ["train_data_dir", "reg_data_dir"].iter().any(|name| given.contains_key(name));
    if !named {
        let note = format!("`{}` needs data: write the folder of the images at `nodes.images.path`", script.file());
        data.entries.push(Entry::new("--dataset_config", "", Kind::Refused, Some("nodes.images.path"), &note));
    }
}

fn add(data: &mut Data, given: &Given, option: &str, folder: &str, names: &[String], regularization: bool) {
    let before = data.subsets.len();
    for name in names {
        let Some((repeats, class)) = repeats(name) else {
            let zero = name.split('_').next().and_then(crate::python::int) == Some(0);
            let note = match zero {
                true => "its count is 0, so it is left out, as in sd-scripts",
                false => "the name does not begin with a count as in `10_fox`; sd-scripts passes over it",
            };
            let text = format!("{folder}/{name}");
            data.entries.push(Entry::new(&format!("--{option} {name}"), &text, Kind::Ignored, None, note));
            continue;
        };
        let mut subset = Subset { dataset: 0, values: command_values(given) };
        let origin = format!("--{option} {name}");
        let mut set = |key, value| subset.values.insert(key, Found { value, origin: origin.clone() });
        set("image_dir", json!(format!("{}/{name}", folder.trim_end_matches(['/', '\\']))));
        set("num_repeats", json!(repeats));
        set("class_tokens", json!(class));
        if regularization {
            set("is_reg", json!(true));
        }
        data.subsets.push(subset);
    }
    if data.subsets.len() == before {
        let note =
            "no folder in it begins with a count as in `10_fox`; write the folder of the images at `nodes.images.path`";
        data.entries.push(Entry::wrong(&format!("--{option}"), folder, note));
    } else {
        let note = "each folder in it has an entry of its own";
        data.entries.push(Entry::new(&format!("--{option}"), folder, Kind::Mapped, Some("nodes"), note));
    }
}

/// `10_my fox` is 10 times `my fox`.
fn repeats(name: &str) -> Option<(i64, &str)> {
    let (count, class) = name.split_once('_').unwrap_or((name, ""));
    crate::python::int(count).filter(|n| *n >= 1).map(|n| (n, class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Disk;

    #[test]
    fn counted_folders() {
        for (name, expected) in [
            ("10_fox", Some((10, "fox"))),
            ("1_a_b c", Some((1, "a_b c"))),
            ("3", Some((3, ""))),
            ("0_fox", None),
            ("fox", None),
            ("_fox", None),
        ] {
            assert_eq!(repeats(name), expected, "{name}");
        }
    }

    #[test]
    fn folders_become_subsets() {
        let root = tempfile::tempdir().unwrap();
        for name in ["img/10_fox", "img/2_den", "img/notes", "reg/1_animal"] {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
        }
        let script = Script::find("train_db").unwrap();
        let line = "--train_data_dir img --reg_data_dir reg --train_batch_size 4";
        let given = crate::args::parse(&crate::shell::split(line).unwrap(), script).given;
        let mut data = Data::default();
        find(&mut data, &given, script, &Disk::at(root.path()));
        let list: Vec<(&str, i64, bool)> = data
            .subsets
            .iter()
            .map(|s| (s.text("image_dir").unwrap(), s.get("num_repeats").unwrap().as_i64().unwrap(), s.flag("is_reg")))
            .collect();
        assert_eq!(list, [("img/10_fox", 10, false), ("img/2_den", 2, false), ("reg/1_animal", 1, true)]);
        assert_eq!(data.subsets[0].get("batch_size"), Some(&json!(4)));
        let told: Vec<&str> = data.entries.iter().map(|e| e.option.as_str()).collect();
        assert_eq!(told, ["--train_data_dir notes", "--train_data_dir", "--reg_data_dir"]);
    }
}
