//! The file of `--config_file`: tables are flattened, keys are option names.
//!
//! The reference checks neither names nor types of this file; here both are, and values are read as the option's type.

use pipe_core::document::{Syntax, Tree, Value, parse};
use serde_json::{Value as Json, json};

use crate::Error;
use crate::args::{Given, Setting, Source, shown, typed};
use crate::options::{self, Fate, Place, Type};
use crate::python;
use crate::report::{Entry, Kind};
use crate::script::Script;

/// Keys and values of a TOML file with its tables flattened; a later key replaces an earlier one.
pub fn flatten(path: &str, text: &str) -> Result<Vec<(String, Json)>, Error> {
    let Some(root) = read(path, text)? else { return Ok(Vec::new()) };
    let mut flat: Vec<(String, Json)> = Vec::new();
    let mut add = |key: &String, value: &Tree| {
        flat.retain(|(known, _)| known != key);
        flat.push((key.clone(), json_of(value)));
    };
    for (key, entry) in root.as_map().into_iter().flatten() {
        match &entry.value.value {
            Value::Map(table) => table.iter().for_each(|(key, entry)| add(key, &entry.value)),
            _ => add(key, &entry.value),
        }
    }
    Ok(flat)
}

/// A TOML file as a tree, `None` when it is empty.
pub fn read(path: &str, text: &str) -> Result<Option<Tree>, Error> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut files = pipe_core::diagnostic::SourceFiles::new();
    let file = files.add(path, text.to_owned());
    let parsed = parse(text, file, Syntax::Toml);
    if let Some(wrong) = parsed.diagnostics.iter().find(|d| d.code != "P0015") {
        let line = files.places(wrong.span).map_or(1, |(_, start, _)| start.line);
        return Err(Error::Toml { path: path.into(), line, message: wrong.message.clone() });
    }
    Ok(parsed.tree)
}

/// A float stays one, however whole: `100.0` is no `100` in a length.
pub fn json_of(tree: &Tree) -> Json {
    match &tree.value {
        Value::Float(f) => json!(f),
        Value::Seq(items) => Json::Array(items.iter().map(json_of).collect()),
        Value::Map(map) => Json::Object(map.iter().map(|(k, e)| (k.clone(), json_of(&e.value))).collect()),
        _ => tree.to_json(),
    }
}

/// Reads flattened keys as a script's options, except those the command line gives too.
pub fn settings(flat: Vec<(String, Json)>, script: Script, command: &Given) -> (Given, Vec<Entry>) {
    let (mut given, mut entries) = (Given::new(), Vec::new());
    for (key, value) in flat {
        let text = shown(&key, &Entry::show(&value));
        let label = format!("{key} (file)");
        let opt = match options::find(Place::Command, &key, script) {
            Some(opt) if opt.scripts.has(script) => opt,
            Some(opt) => {
                let note =
                    format!("`{}` has no such option and ignores it; {} have", script.file(), opt.scripts.describe());
                entries.push(Entry::new(&label, &text, Kind::Ignored, None, &note));
                continue;
            }
            None => {
                let near =
                    pipe_core::diagnostic::suggest(&key, options::declared(Place::Command, script).map(|o| o.name));
                let hint = near.first().map(|name| format!("; did you mean `{name}`")).unwrap_or_default();
                let note = format!("sd-scripts has no such option and passes over it{hint}");
                entries.push(Entry::wrong(&label, &text, &note));
                continue;
            }
        };
        if command.contains_key(opt.name) {
            entries.push(Entry::new(&label, &text, Kind::Ignored, None, "the command line gives it too, and counts"));
            continue;
        }
        match convert(opt.kind, &value) {
            Ok((Some(value), note)) => {
                if let Some(note) = note {
                    entries.push(Entry::new(&label, &text, Kind::Changed, None, &note));
                }
                if opt.kind == Type::Flag && value == json!(false) {
                    continue;
                }
                given.insert(opt.name, Setting { value, source: Source::File });
            }
            Ok((None, _)) => entries.push(Entry::new(&label, &text, Kind::Ignored, None, "off, as without it")),
            // No value of it makes a difference.
            Err(_) if matches!(opt.fate, Fate::Ignored(_)) => {
                let Fate::Ignored(why) = opt.fate else { continue };
                entries.push(Entry::new(&label, &text, Kind::Ignored, None, why));
            }
            Err(note) => {
                let note =
                    format!("{note}; sd-scripts reads this file without a check, and fails where it uses the value");
                entries.push(Entry::wrong(&label, &text, &note));
            }
        }
    }
    (given, entries)
}

type Converted = Result<(Option<Json>, Option<String>), String>;

/// A TOML value as an option's type; none for a flag that is false. The text is what was changed on the way.
fn convert(kind: Type, value: &Json) -> Converted {
    let same = |value: &Json| Ok((Some(value.clone()), None));
    match (kind, value) {
        (Type::Flag, Json::Bool(true)) => same(value),
        (Type::Flag, Json::Bool(false)) => Ok((None, None)),
        // Python takes numbers and text for a truth value.
        (Type::Flag, Json::Number(n)) if n.as_f64() == Some(0.0) => Ok((None, None)),
        (Type::Flag, Json::Number(_)) => Ok((Some(json!(true)), None)),
        (Type::Flag, Json::String(text)) if ["true", "1", "yes"].contains(&text.to_lowercase().as_str()) => {
            Ok((Some(json!(true)), Some("text; on, as it says".to_owned())))
        }
        (Type::Flag, Json::String(text)) if ["false", "0", "no"].contains(&text.to_lowercase().as_str()) => {
            Ok((Some(json!(false)), Some("off, as it says; sd-scripts takes any text for on".to_owned())))
        }
        (Type::Int, Json::Number(n)) if n.is_i64() || n.is_u64() => same(value),
        (Type::Float, Json::Number(n)) => Ok((n.as_f64().map(python::number), None)),
        (Type::Length, Json::Number(n)) if n.is_f64() && n.as_f64().is_some_and(|f| f >= 1.0) => {
            let steps = n.as_f64().unwrap_or_default().round();
            let note = format!("read as {steps} steps; sd-scripts would multiply the length of the run by it");
            typed(kind, &format!("{steps}")).map(|value| (Some(value), Some(note)))
        }
        (Type::Length | Type::Size | Type::Choice(_), Json::Number(n)) => {
            typed(kind, &n.to_string()).map(|value| (Some(value), None))
        }
        (Type::Text | Type::Choice(_) | Type::Size, Json::String(text)) => {
            typed(kind, text).map(|value| (Some(value), None))
        }
        // A number where the command line takes text: `resolution = 1024`.
        (Type::Text, Json::Number(n)) => Ok((Some(json!(n.to_string())), None)),
        (Type::Text, Json::Array(items)) => Ok((Some(json!(joined(items))), None)),
        (Type::Size, Json::Array(items)) => typed(kind, &joined(items)).map(|value| (Some(value), None)),
        (Type::Texts, Json::Array(items)) => {
            Ok((Some(Json::Array(items.iter().map(|item| json!(Entry::show(item))).collect())), None))
        }
        (Type::Texts, Json::String(text)) => Ok((Some(json!([text])), None)),
        (Type::Floats, Json::Array(_)) => floats(value).map(|value| (Some(value), None)),
        (Type::Floats, Json::Number(n)) => Ok((n.as_f64().map(|f| json!([python::number(f)])), None)),
        (Type::Table, Json::Object(_)) => same(value),
        (_, Json::String(text)) => typed(kind, text).map(|value| {
            let note = "text where a number belongs; read as the number".to_owned();
            (Some(value), Some(note))
        }),
        _ => Err(format!("{} does not fit here", words(value))),
    }
}

fn joined(items: &[Json]) -> String {
    items.iter().map(Entry::show).collect::<Vec<_>>().join(",")
}

fn floats(value: &Json) -> Result<Json, String> {
    let items = value.as_array().into_iter().flatten();
    let list: Option<Vec<Json>> = items.map(|item| item.as_f64().map(python::number)).collect();
    list.map(Json::Array).ok_or_else(|| "it is a list of numbers".into())
}

fn words(value: &Json) -> &'static str {
    match value {
        Json::Null => "nothing",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "a table",
    }
}

/// A value of a dataset file as a key's type. The error says what would fit.
pub(crate) fn strict(kind: Type, value: &Json) -> Result<Json, String> {
    match convert(kind, value) {
        Ok(_) if kind == Type::Flag && !value.is_boolean() => {
            Err(format!("{} does not fit here; sd-scripts stops too", words(value)))
        }
        Ok((_, Some(_))) | Err(_) => Err(format!("{} does not fit here; sd-scripts stops too", words(value))),
        Ok((value, None)) => Ok(value.unwrap_or(Json::Bool(false))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Given, Vec<Entry>) {
        let script = Script::find("sdxl_train_network").unwrap();
        settings(flatten("a.toml", text).unwrap(), script, &Given::new())
    }

    #[test]
    fn tables_are_flattened_and_values_typed() {
        let (given, entries) = read(
            "network_dim = 32\nseed = 1\n[any]\nlearning_rate = \"1e-4\"\nseed = 2\ngradient_checkpointing = true\n\
             lowram = false\nlr_warmup_steps = 100.0\nresolution = 1024\ntext_encoder_lr = 1e-5\n",
        );
        let value = |name: &str| given[name].value.clone();
        assert_eq!(value("network_dim"), json!(32));
        assert_eq!(value("seed"), json!(2));
        assert_eq!(value("learning_rate"), json!(1e-4));
        assert_eq!(value("lr_warmup_steps"), json!({ "steps": 100 }));
        assert_eq!(value("resolution"), json!("1024"));
        assert_eq!(value("text_encoder_lr"), json!([1e-5]));
        assert!(!given.contains_key("lowram"));
        let changed = |name: &str| entries.iter().any(|e| e.option.starts_with(name) && e.kind == Kind::Changed);
        assert!(changed("learning_rate") && changed("lr_warmup_steps"), "{entries:?}");
    }

    /// What Python takes for true or false, and values of options that nothing depends on.
    #[test]
    fn values_that_sd_scripts_gets_along_with() {
        let (given, entries) = read(
            "xformers = 1\nweighted_captions = 0\ngradient_checkpointing = \"true\"\nno_half_vae = \"false\"\n\
             dynamo_backend = \"no\"\n",
        );
        assert_eq!(
            (given["xformers"].value.clone(), given["gradient_checkpointing"].value.clone()),
            (json!(true), json!(true))
        );
        assert_eq!(given.len(), 2);
        let kinds: Vec<(&str, Kind)> = entries.iter().map(|e| (e.option.as_str(), e.kind)).collect();
        assert_eq!(
            kinds,
            [
                ("weighted_captions (file)", Kind::Ignored),
                ("gradient_checkpointing (file)", Kind::Changed),
                ("no_half_vae (file)", Kind::Changed),
                ("dynamo_backend (file)", Kind::Ignored),
            ]
        );
        assert!(strict(Type::Flag, &json!(1)).is_err() && strict(Type::Flag, &json!("true")).is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, kind) in [
            ("learning_rat = 1", Kind::Refused),
            ("block_lr = \"1\"", Kind::Ignored),
            ("network_dim = 1.5", Kind::Refused),
            ("network_dim = [1]", Kind::Refused),
        ] {
            let (given, entries) = read(text);
            assert!(given.is_empty() && entries.len() == 1 && entries[0].kind == kind, "{text} {entries:?}");
        }
        assert!(matches!(flatten("a.toml", "a = = 1"), Err(Error::Toml { line: 1, .. })));
        assert!(flatten("a.toml", "").unwrap().is_empty());
    }
}
