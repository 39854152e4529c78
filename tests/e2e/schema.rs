//! The schema that editors and CI validate with, as `pipe schema` prints it, against what `pipe check` finds: on every
//! ready pipeline, on documents of the real node types at random, and on both with mistakes put into them.

use std::path::{Path, PathBuf};

use pipe_core::check::check_text;
use pipe_core::codes::is_structural;
use pipe_core::document::{Document, Syntax};
use pipe_core::registry::Registry;
use serde_json::Value as Json;

use crate::generate;
use crate::mutate;
use crate::support::{pipe, root};

fn validator() -> jsonschema::Validator {
    let schema = pipe(&["schema"]).expect(0).json();
    jsonschema::draft7::meta::validate(&schema).expect("a draft-07 schema");
    jsonschema::draft7::new(&schema).expect("a schema that compiles")
}

/// Every document under `pipelines`, with its value.
fn pipelines() -> Vec<(PathBuf, Json)> {
    let (mut open, mut found) = (vec![root().join("pipelines")], Vec::new());
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let extension = path.extension().and_then(|extension| extension.to_str());
            match extension {
                _ if path.is_dir() => open.push(path),
                Some("yaml" | "yml" | "toml") => {
                    let document = Document::load(&path, &[]);
                    found.push((path, document.tree.expect("it can be read").to_json()));
                }
                _ => {}
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() >= 7, "{}", found.len());
    found
}

/// Faults of what a schema can see: fields, types of nodes, names, unfilled ports.
fn faults(registry: &Registry, document: &Json) -> Vec<String> {
    // JSON is YAML. The folder is not there, so that no file is read.
    let checked = check_text(registry, &document.to_string(), Path::new("nowhere/a.yaml"), Syntax::Yaml, &[]);
    let all = checked.diagnostics.iter();
    // P0199 would be a config that passes the check and cannot be read: it never may.
    let seen = all.filter(|one| is_structural(one.code) || one.code == "P0199");
    seen.map(|one| format!("{}: {}", one.code, one.message)).collect()
}

/// Whether both accept the document; fails the test when they differ.
fn agree(registry: &Registry, validator: &jsonschema::Validator, document: &Json, what: &str) -> bool {
    let faults = faults(registry, document);
    let errors: Vec<String> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path)).collect();
    assert!(!faults.iter().any(|fault| fault.starts_with("P0199")), "{what}: {faults:#?}\n{document:#}");
    assert_eq!(faults.is_empty(), errors.is_empty(), "{what}\nchecker {faults:#?}\nschema {errors:#?}\n{document:#}");
    faults.is_empty()
}

#[test]
fn every_pipeline_is_valid() {
    let (registry, validator) = (pipe_nodes::registry(), validator());
    for (path, document) in pipelines() {
        assert!(agree(&registry, &validator, &document, &path.display().to_string()), "{}", path.display());
    }
}

#[test]
fn a_mistake_in_a_pipeline_is_one_for_both() {
    let (registry, validator) = (pipe_nodes::registry(), validator());
    let (mut good, mut bad) = (0, 0);
    for (path, document) in pipelines() {
        for seed in 0..60u64 {
            let mut changed = document.clone();
            mutate::document(&registry, &mut changed, 1 + (seed % 3) as u32, 1 + seed * 7919);
            let accepted = agree(&registry, &validator, &changed, &format!("{} with seed {seed}", path.display()));
            *(if accepted { &mut good } else { &mut bad }) += 1;
        }
    }
    println!("{good} accepted by both, {bad} rejected by both");
    assert!(good >= 20 && bad >= 200, "{good} good, {bad} bad");
}

#[test]
fn documents_of_the_real_nodes_at_random() {
    let (registry, validator) = (pipe_nodes::registry(), validator());
    let (mut good, mut bad) = (0, 0);
    for seed in 0..800u64 {
        let mut document = generate::document(&registry, seed);
        if seed % 3 == 0 {
            assert!(agree(&registry, &validator, &document, &format!("seed {seed}")), "made to be right: {document:#}");
        }
        mutate::document(&registry, &mut document, (seed % 4) as u32, seed * 104_729 + 1);
        let accepted = agree(&registry, &validator, &document, &format!("seed {seed}, changed"));
        *(if accepted { &mut good } else { &mut bad }) += 1;
    }
    println!("{good} accepted by both, {bad} rejected by both");
    assert!(good >= 150 && bad >= 150, "{good} good, {bad} bad");
}
