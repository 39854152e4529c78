//! Reading: files that cannot be read, limits, and the corners of both syntaxes.

use std::path::Path;

use pipe_core::diagnostic::{Format, render};
use pipe_core::document::{Document, MAX_BYTES, Syntax};
use serde_json::json;

fn read(text: &str, syntax: Syntax) -> Document {
    Document::parse(text, "a", syntax, &[])
}

fn codes(document: &Document) -> Vec<&'static str> {
    document.diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

fn json(text: &str, syntax: Syntax) -> serde_json::Value {
    let document = read(text, syntax);
    let shown = render(&document.diagnostics, &document.files, Format::Human, false);
    assert!(document.diagnostics.is_empty(), "{shown}\n{text}");
    document.tree.unwrap().to_json()
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: &Path| Document::load(path, &[]);
    let missing = load(&dir.path().join("none.yaml"));
    assert_eq!(codes(&missing), ["P0001"]);
    let shown = render(&missing.diagnostics, &missing.files, Format::Human, false);
    assert!(shown.contains("there is no such file") && !shown.contains("1:1"), "{shown}");
    assert_eq!(codes(&load(dir.path())), ["P0001"]);
    let binary = dir.path().join("model.yaml");
    std::fs::write(&binary, b"name: a\nseed: \xff\xfe").unwrap();
    let binary = load(&binary);
    assert_eq!(codes(&binary), ["P0002"]);
    assert!(binary.diagnostics[0].message.contains("0xff"), "{}", binary.diagnostics[0].message);
    let (_, at, _) = binary.files.places(binary.diagnostics[0].span).unwrap();
    assert_eq!((at.line, at.column), (2, 7));
    let large = dir.path().join("large.yaml");
    std::fs::write(&large, "#".repeat(MAX_BYTES + 1)).unwrap();
    assert_eq!(codes(&load(&large)), ["P0011"]);
}

#[test]
fn yaml_corners() {
    let yaml = |text| json(text, Syntax::Yaml);
    assert_eq!(yaml("\u{feff}a: 1\r\nb: [x, 'y''z']\r\n"), json!({ "a": 1, "b": ["x", "y'z"] }));
    assert_eq!(yaml("a: |\n  one\n  two\nb: >-\n  one\n  two\n"), json!({ "a": "one\ntwo\n", "b": "one two" }));
    assert_eq!(yaml("1: x\ntrue: y\n"), json!({ "1": "x", "true": "y" }));
    assert_eq!(yaml("a: !!str 5\nb: !!float 5\nc: 5.0\nd: 1e3"), json!({ "a": "5", "b": 5, "c": 5, "d": 1000 }));
    assert_eq!(yaml("---\na: ${env:X}\n...\n"), json!({ "a": "${env:X}" }));
    assert_eq!(
        yaml("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {<<: [*x, {r: 4}]}").get("b"),
        Some(&json!({ "q": 3, "p": 1 }))
    );
    assert_eq!(yaml("a: <<\nb: \"<<\""), json!({ "a": "<<", "b": "<<" }));
    assert_eq!(yaml("path: C:\\x\nurl: http://a/b#c # note"), json!({ "path": "C:\\x", "url": "http://a/b#c" }));
}

#[test]
fn toml_corners() {
    let toml = |text| json(text, Syntax::Toml);
    assert_eq!(
        toml("a.b.c = 1\na.b.d = 2\n[x.y]\nz = 0x1F\n[x]\nw = 1_000"),
        json!({
            "a": { "b": { "c": 1, "d": 2 } }, "x": { "y": { "z": 31 }, "w": 1000 }
        })
    );
    assert_eq!(
        toml("[[p]]\nq = 1\n[[p]]\nq = 2\n[p.r]\ns = 3"),
        json!({ "p": [{ "q": 1 }, { "q": 2, "r": { "s": 3 } }] })
    );
    assert_eq!(toml("a = [\n  1, # one\n  2,\n]\n\"b c\" = '''x'''"), json!({ "a": [1, 2], "b c": "x" }));
    assert_eq!(toml("a = { b.c = 1, b.d = 2 }"), json!({ "a": { "b": { "c": 1, "d": 2 } } }));
    for twice in [
        "a = 1\na = 2",
        "[a]\nb = 1\n[a]\nc = 2",
        "a = { b = 1 }\n[a]\nc = 1",
        "a = { b = 1 }\na.c = 2",
        "[a]\nb.c = 1\n[a.b]\nd = 1",
        "[[a]]\nb = 1\n[a]\nc = 1",
        "a = [1]\n[[a]]\nb = 1",
        "a = { b = { c = 1 }, b.d = 2 }",
        "[a.b.c]\nz = 1\n[a]\nb.t = 1",
    ] {
        let document = read(twice, Syntax::Toml);
        assert_eq!(codes(&document), ["P0007"], "{twice}");
        assert_eq!(document.diagnostics[0].labels.len(), 2, "{twice}");
    }
}

#[test]
fn aliases_cannot_blow_up() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..10 {
        let before = format!("*a{}, ", i - 1).repeat(10);
        text.push_str(&format!("a{i}: &a{i} [{before}]\n"));
    }
    assert_eq!(codes(&read(&text, Syntax::Yaml)), ["P0010"]);
    assert_eq!(codes(&read("a: &x [*x]", Syntax::Yaml)), ["P0010"]);
    let mut text = String::from("a0: &a0 {x: 1}\n");
    for i in 1..80 {
        text.push_str(&format!("a{i}: &a{i} {{x: *a{}}}\n", i - 1));
    }
    assert_eq!(codes(&read(&text, Syntax::Yaml)), ["P0012"]);
}

#[test]
fn nesting_is_limited() {
    for depth in [200, 100_000] {
        let yaml = format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(codes(&read(&yaml, Syntax::Yaml)), ["P0012"]);
        let block: String = (0..depth.min(2000)).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert_eq!(codes(&read(&block, Syntax::Yaml)), ["P0012"]);
        let toml = format!("a = {}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(codes(&read(&toml, Syntax::Toml))[0], "P0012");
        let dotted = format!("{}b = 1", "a.".repeat(depth));
        assert_eq!(codes(&read(&dotted, Syntax::Toml)), ["P0012"]);
    }
    let header = format!("[{}b]\nc = {}1{}", "a.".repeat(40), "[".repeat(40), "]".repeat(40));
    assert_eq!(codes(&read(&header, Syntax::Toml)), ["P0012"]);
}

#[test]
fn places_and_paths() {
    let document = read("nodes:\n  é: { type: x, list: [a, b] }\n", Syntax::Yaml);
    let tree = document.tree.as_ref().unwrap();
    let item = tree.at("nodes.é.list.1").unwrap();
    assert_eq!(document.files.text(item.span), "b");
    assert_eq!(document.files.text(tree.at("nodes.é").unwrap().span), "{ type: x, list: [a, b] }");
    assert_eq!(document.files.places(item.span).unwrap().1.column, 27);
    assert!(tree.at("nodes.é.list.2").is_none() && tree.at("nodes.x").is_none());
    assert_eq!(document.files.text(tree.deepest("nodes.é.list.9.z").span()), "[a, b]");
    assert_eq!(document.files.text(tree.deepest("nodes.é.none").span()), "é");
}
