//! Properties of reading and checking: both syntaxes are one model, hashes ignore key order, and
//! no input makes anything panic.

use std::path::Path;

use pipe_core::check::check_text;
use pipe_core::diagnostic::{Format, render};
use pipe_core::document::{Document, Syntax};
use pipe_core::identity::hash;
use pipe_core::testing;
use proptest::prelude::*;
use serde_json::{Map, Value as Json};

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_][a-z0-9_-]{0,8}", "[a-zA-Z0-9 .:#é\"'\\\\-]{1,8}", Just("no".into()), Just("1".into())]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,8}",
        Just("1e-4".into()),
        Just("no".into()),
        Just("null".into()),
        Just("a\nb\n".into()),
        Just("- x: [".into()),
    ]
}

fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        (-1e12..1e12f64).prop_map(Json::from),
        text().prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            table(inner).prop_map(Json::Object),
        ]
    })
}

fn table(inner: impl Strategy<Value = Json>) -> impl Strategy<Value = Map<String, Json>> {
    prop::collection::vec((key(), inner), 0..5).prop_map(|entries| entries.into_iter().collect())
}

/// JSON is YAML; strings are written as JSON does.
fn yaml(value: &Json) -> String {
    value.to_string()
}

/// Block style, so that indentation is exercised too.
fn block(value: &Json, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match value {
        Json::Object(map) if !map.is_empty() => map
            .iter()
            .map(|(key, value)| format!("\n{pad}{}:{}", Json::from(key.as_str()), block(value, indent + 2)))
            .collect(),
        Json::Array(items) if !items.is_empty() => {
            items.iter().map(|item| format!("\n{pad}-{}", block(item, indent + 2))).collect()
        }
        other => format!(" {other}"),
    }
}

fn toml(map: &Map<String, Json>) -> String {
    map.iter().map(|(key, value)| format!("{} = {}\n", toml_text(key), toml_value(value))).collect()
}

fn toml_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\U{:08X}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}

fn toml_value(value: &Json) -> String {
    match value {
        Json::String(text) => toml_text(text),
        Json::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        Json::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(k, v)| format!("{} = {}", toml_text(k), toml_value(v))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Json::Number(number) if number.is_f64() => {
            format!("{:e}", number.as_f64().unwrap()).replace('e', "e+").replace("e+-", "e-")
        }
        other => other.to_string(),
    }
}

fn tree(text: &str, syntax: Syntax) -> Json {
    let document = Document::parse(text, "a", syntax, &[]);
    let shown = render(&document.diagnostics, &document.files, Format::Human, false);
    document.tree.unwrap_or_else(|| panic!("{shown}\n{text}")).to_json()
}

fn normal(value: &Json) -> Json {
    match value {
        Json::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() && f.fract() == 0.0 && f.abs() < 9e15 => Json::from(f as i64),
            _ => value.clone(),
        },
        Json::Array(items) => items.iter().map(normal).collect(),
        Json::Object(map) => map.iter().map(|(k, v)| (k.clone(), normal(v))).collect::<Map<_, _>>().into(),
        other => other.clone(),
    }
}

fn reversed(value: &Json) -> Json {
    match value {
        Json::Object(map) => map.iter().rev().map(|(k, v)| (k.clone(), reversed(v))).collect::<Map<_, _>>().into(),
        Json::Array(items) => items.iter().map(reversed).collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn yaml_and_toml_are_one_model(map in table(value())) {
        prop_assume!(!map.is_empty());
        let wanted = normal(&Json::Object(map.clone()));
        prop_assert_eq!(&tree(&yaml(&Json::Object(map.clone())), Syntax::Yaml), &wanted);
        prop_assert_eq!(&tree(&block(&Json::Object(map.clone()), 0), Syntax::Yaml), &wanted);
        prop_assert_eq!(&tree(&toml(&map), Syntax::Toml), &wanted);
    }

    #[test]
    fn hashes_ignore_key_order(map in table(value())) {
        let value = Json::Object(map);
        prop_assert_eq!(hash(&value), hash(&reversed(&value)));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}|[-a-z:\\[\\]{}#&*!|>'\"%@` \n\t,?]{0,60}") {
        everything(&text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        everything(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_change_of_a_good_document_panics(at in 0..testing::GOOD.len(), len in 0usize..30, with in "\\PC{0,6}|[\n\t {}\\[\\]:,&*]{0,4}") {
        let mut text = testing::GOOD.to_owned();
        let end = (at + len).min(text.len());
        if text.is_char_boundary(at) && text.is_char_boundary(end) {
            text.replace_range(at..end, &with);
        }
        everything(&text);
    }

    #[test]
    fn no_override_panics(set in "\\PC{0,30}|(nodes|train|name)(\\.[a-z0-9]{1,6}){0,3}=\\PC{0,10}") {
        let checked = check_text(&testing::registry(), testing::GOOD, Path::new("a.yaml"), Syntax::Yaml, &[set]);
        render(&checked.diagnostics, checked.files(), Format::Human, true);
    }
}

/// Every stage and every format.
fn everything(text: &str) {
    let registry = testing::registry();
    for syntax in [Syntax::Yaml, Syntax::Toml] {
        let checked = check_text(&registry, text, Path::new("a.yaml"), syntax, &[]);
        for format in [Format::Human, Format::Concise, Format::Json, Format::Github, Format::Sarif] {
            render(&checked.diagnostics, checked.files(), format, true);
        }
        assert!(checked.ok() || !checked.diagnostics.is_empty());
        pipe_core::plan::plan_document(&registry, &checked).render(false);
        pipe_core::graph_export::to_svg(&checked);
        for diagnostic in &checked.diagnostics {
            assert!(pipe_core::codes::find(diagnostic.code).is_some(), "{}", diagnostic.code);
        }
    }
}
