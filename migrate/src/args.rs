//! Words of a command line into typed values, by the rules of Python's argparse.
//!
//! `--name value`, `--name=value`, unambiguous beginnings of names, lists that run to the next option, the last of
//! several wins. What argparse would stop at becomes an entry of the report.

use indexmap::IndexMap;
use pipe_core::diagnostic::suggest;
use serde_json::{Value as Json, json};

use crate::options::{self, Opt, Place, Type};
use crate::python;
use crate::report::{Entry, Kind};
use crate::script::Script;

/// Where a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Command,
    /// The file of `--config_file`.
    File,
}

/// A value that was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The typed value.
    pub value: Json,
    /// Where it was written.
    pub source: Source,
}

/// Values by option name, in the order they were given.
pub type Given = IndexMap<&'static str, Setting>;

/// A value of a type from text. The error says what would be one.
pub fn typed(kind: Type, text: &str) -> Result<Json, String> {
    let trimmed = text.trim();
    match kind {
        Type::Flag => match trimmed {
            "true" | "True" => Ok(json!(true)),
            "false" | "False" => Ok(json!(false)),
            _ => Err("it is on or off and takes no value".into()),
        },
        Type::Int => python::int(text).map(Json::from).ok_or_else(|| format!("`{text}` is no whole number")),
        Type::Float => python::float(text).map(python::number).ok_or_else(|| format!("`{text}` is no number")),
        Type::Length => length(trimmed),
        Type::Choice(of) if of.contains(&trimmed) => Ok(json!(trimmed)),
        Type::Choice(of) => {
            let list: Vec<String> = of.iter().map(|one| format!("`{one}`")).collect();
            Err(format!("`{text}` is none of {}", list.join(", ")))
        }
        Type::Texts => Ok(json!([text])),
        Type::Floats => {
            let parts: Option<Vec<Json>> = trimmed
                .trim_matches(['(', ')', '[', ']'])
                .split([',', ' '])
                .filter(|part| !part.is_empty())
                .map(|part| python::float(part).map(python::number))
                .collect();
            parts.map(Json::Array).ok_or_else(|| format!("`{text}` is no list of numbers"))
        }
        Type::Size => {
            let sides: Option<Vec<i64>> = trimmed.split([',', 'x']).map(python::int).collect();
            match sides.as_deref() {
                Some([one]) => Ok(json!(one)),
                Some([w, h]) => Ok(json!([w, h])),
                _ => Err(format!("`{text}` is no size as `1024` or `1024,768`")),
            }
        }
        Type::Text => Ok(json!(text)),
        Type::Table => Err("it is a table, which only a file can hold".into()),
    }
}

/// Steps of 1 and more, parts of the run below, or a percentage: `{steps}` or `{ratio}`; 0 is null.
fn length(text: &str) -> Result<Json, String> {
    let bad =
        || format!("`{text}` is neither a whole number of steps, nor a part of the run below 1, nor a percentage");
    let ratio = |r: f64| if r == 0.0 { Json::Null } else { json!({ "ratio": python::number(r) }) };
    if let Some(percent) = text.strip_suffix('%') {
        let part = python::float(percent).map(|p| p / 100.0).filter(|p| (0.0..=1.0).contains(p));
        return part.map(ratio).ok_or_else(bad);
    }
    match (python::int(text), python::float(text)) {
        (Some(0), _) => Ok(Json::Null),
        (Some(steps), _) if steps > 0 => Ok(json!({ "steps": steps })),
        (None, Some(part)) if (0.0..1.0).contains(&part) => Ok(ratio(part)),
        _ => Err(bad()),
    }
}

/// What a command line says, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// Values.
    pub given: Given,
    /// Entries for words that argparse would not accept.
    pub wrong: Vec<Entry>,
}

/// Reads the words that follow a script's name.
pub fn parse(words: &[String], script: Script) -> Parsed {
    let mut parsed = Parsed::default();
    let mut rest = words.iter().peekable();
    while let Some(word) = rest.next() {
        let Some(body) = word.strip_prefix("--").filter(|body| !body.is_empty()) else {
            let note = "no option takes it; sd-scripts stops here";
            parsed.wrong.push(Entry::wrong(word, "", note));
            continue;
        };
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let opt = match resolve(name, script) {
            Ok(opt) => opt,
            Err(note) => {
                let mut values = attached.into_iter().collect::<Vec<_>>();
                while let Some(value) = rest.next_if(|next| is_value(next)) {
                    values.push(value.clone());
                }
                parsed.wrong.push(Entry::wrong(&format!("--{name}"), &shown(name, &values.join(" ")), &note));
                continue;
            }
        };
        let mut values: Vec<String> = attached.into_iter().collect();
        let many = matches!(opt.kind, Type::Texts | Type::Floats);
        let wanted = match opt.kind {
            Type::Flag => 0,
            _ if !values.is_empty() => 0,
            _ if many => usize::MAX,
            _ => 1,
        };
        while values.len() < wanted
            && let Some(value) = rest.next_if(|next| is_value(next))
        {
            values.push(value.clone());
        }
        match value(opt, &values) {
            Ok(value) => {
                if let Some(old) = parsed.given.shift_remove(opt.name) {
                    let note = "given again later, where it counts; sd-scripts takes the last one too";
                    let text = shown(opt.name, &Entry::show(&old.value));
                    parsed.wrong.push(Entry::new(&opt.label(), &text, Kind::Ignored, None, note));
                }
                parsed.given.insert(opt.name, Setting { value, source: Source::Command });
            }
            Err(note) => {
                let note = format!("{note}; sd-scripts stops here");
                parsed.wrong.push(Entry::wrong(&opt.label(), &shown(opt.name, &values.join(" ")), &note));
            }
        }
    }
    parsed
}

fn value(opt: &Opt, words: &[String]) -> Result<Json, String> {
    match (opt.kind, words) {
        (Type::Flag, []) => Ok(json!(true)),
        (Type::Flag, _) => Err("it takes no value".into()),
        (Type::Texts, words) => Ok(json!(words)),
        (Type::Floats, words) => {
            let numbers: Result<Vec<Json>, String> = words.iter().map(|word| typed(Type::Float, word)).collect();
            numbers.map(Json::Array)
        }
        (_, []) => Err("its value is missing".into()),
        (kind, [word, ..]) => typed(kind, word),
    }
}

/// Whether argparse takes a word for a value: no dash in front, a negative number, or blanks in it.
fn is_value(word: &str) -> bool {
    !word.starts_with('-') || word == "-" || python::float(word).is_some() || word.contains(' ')
}

/// The option of a name or of the only beginning. The error says why there is none.
pub fn resolve(name: &str, script: Script) -> Result<&'static Opt, String> {
    if let Some(opt) = options::find(Place::Command, name, script) {
        return match opt.scripts.has(script) {
            true => Ok(opt),
            false => Err(format!("`{}` has no such option; {} have", script.file(), opt.scripts.describe())),
        };
    }
    let begin: Vec<&Opt> = options::declared(Place::Command, script).filter(|opt| opt.name.starts_with(name)).collect();
    match begin[..] {
        [only] => Ok(only),
        [] => {
            let near = suggest(name, options::declared(Place::Command, script).map(|opt| opt.name));
            let near: Vec<String> = near.iter().map(|name| format!("`--{name}`")).collect();
            let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}", near.join(" or ")) };
            Err(format!("sd-scripts has no such option{hint}"))
        }
        _ => {
            let names: Vec<String> = begin.iter().map(|opt| format!("`--{}`", opt.name)).collect();
            Err(format!("it is short for several: {}", names.join(", ")))
        }
    }
}

/// A value as a report shows it: secrets are not.
pub fn shown(name: &str, text: &str) -> String {
    let secret = ["api_key", "token", "password", "secret"].iter().any(|part| name.contains(part));
    let secret =
        secret && !["token_warmup", "tokens", "token_length", "token_padding"].iter().any(|p| name.contains(p));
    if secret && !text.is_empty() { "***".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script() -> Script {
        Script::find("sdxl_train_network").unwrap()
    }

    fn read(line: &str) -> Parsed {
        parse(&crate::shell::split(line).unwrap(), script())
    }

    #[test]
    fn argparse_rules() {
        let parsed =
            read("--network_dim=32 --network_alpha 16 --gradient_ch --network_args a=1 b=2 --lr_warmup 0.05 --seed -1");
        assert!(parsed.wrong.is_empty(), "{:?}", parsed.wrong);
        let values: Vec<(&str, Json)> = parsed.given.iter().map(|(k, s)| (*k, s.value.clone())).collect();
        let expected = vec![
            ("network_dim", json!(32)),
            ("network_alpha", json!(16)),
            ("gradient_checkpointing", json!(true)),
            ("network_args", json!(["a=1", "b=2"])),
            ("lr_warmup_steps", json!({ "ratio": 0.05 })),
            ("seed", json!(-1)),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn what_argparse_refuses() {
        for (line, part) in [
            ("--network_dim 3.5", "no whole number"),
            ("--network_dim", "missing"),
            ("--network_dim --seed 1", "missing"),
            ("--gradient_checkpointing=1", "takes no value"),
            ("--save_every 1", "short for several"),
            ("--network_dimm 3", "did you mean `--network_dim`"),
            ("--block_lr 1", "has no such option"),
            ("--loss_type l3", "none of `l1`"),
            ("word", "no option takes it"),
            ("--lr_warmup_steps 1.5", "neither"),
            ("--seed 1 --seed 2", "given again"),
        ] {
            let parsed = read(line);
            assert_eq!(parsed.wrong.len(), 1, "{line}");
            assert!(parsed.wrong[0].note.contains(part), "{line}: {}", parsed.wrong[0].note);
        }
    }

    #[test]
    fn lengths() {
        for (text, value) in [
            ("0", Json::Null),
            ("0.0", Json::Null),
            ("500", json!({ "steps": 500 })),
            ("0.05", json!({ "ratio": 0.05 })),
            ("5%", json!({ "ratio": 0.05 })),
            ("100%", json!({ "ratio": 1 })),
        ] {
            assert_eq!(typed(Type::Length, text), Ok(value), "{text}");
        }
        for text in ["1.0", "1.5", "-1", "101%", "x", ""] {
            assert!(typed(Type::Length, text).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_hidden() {
        assert_eq!(shown("wandb_api_key", "abc"), "***");
        assert_eq!(shown("huggingface_token", "abc"), "***");
        assert_eq!(shown("keep_tokens", "3"), "3");
        assert_eq!(shown("max_token_length", "225"), "225");
        assert_eq!(read("--wandb_api_key a --wandb_api_key b").wrong[0].value, "***");
    }
}
