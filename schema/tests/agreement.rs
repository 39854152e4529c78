//! The schema accepts exactly what the structural check accepts: on generated documents, on
//! documents with mistakes put into them, and on the committed diagnostic cases.

mod common;

use std::path::Path;

use common::{cases, exotic, generate, mutate};
use pipe_core::check::check_text;
use pipe_core::codes::is_structural;
use pipe_core::document::Syntax;
use pipe_core::registry::Registry;
use pipe_core::testing;
use pipe_schema::json_schema;
use proptest::prelude::*;
use serde_json::Value as Json;

/// Structural faults that the checker finds.
fn faults(registry: &Registry, text: &str, syntax: Syntax, sets: &[String]) -> Vec<String> {
    let checked = check_text(registry, text, Path::new("case.yaml"), syntax, sets);
    let structural = checked.diagnostics.iter().filter(|diagnostic| is_structural(diagnostic.code));
    structural.map(|diagnostic| format!("{}: {}", diagnostic.code, diagnostic.message)).collect()
}

fn validator(registry: &Registry) -> jsonschema::Validator {
    let schema = json_schema(registry);
    jsonschema::draft7::meta::validate(&schema).expect("a draft-07 schema");
    jsonschema::draft7::new(&schema).expect("a schema that compiles")
}

fn agree(registry: &Registry, validator: &jsonschema::Validator, document: &Json) -> Result<bool, TestCaseError> {
    // JSON is YAML.
    let faults = faults(registry, &document.to_string(), Syntax::Yaml, &[]);
    let errors: Vec<String> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path)).collect();
    prop_assert_eq!(
        faults.is_empty(),
        errors.is_empty(),
        "checker: {:#?}\nschema: {:#?}\ndocument: {:#}",
        faults,
        errors,
        document
    );
    Ok(faults.is_empty())
}

fn compare(registry: &Registry, cases: u32) {
    let validator = validator(registry);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let plans = (any::<u64>(), 0..4u32, any::<u64>());
    let (good, bad) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let outcome = runner.run(&plans, |(seed, mutations, more)| {
        let mut document = generate::document(registry, seed);
        if mutations == 0 {
            let faults = faults(registry, &document.to_string(), Syntax::Yaml, &[]);
            prop_assert!(faults.is_empty(), "generated to be right: {faults:#?}\n{document:#}");
        }
        mutate::document(registry, &mut document, mutations, more);
        let accepted = agree(registry, &validator, &document)?;
        let count = if accepted { &good } else { &bad };
        count.set(count.get() + 1);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    println!("{} documents accepted by both, {} rejected by both", good.get(), bad.get());
    assert!(good.get() * 5 > cases && bad.get() * 5 > cases, "{} good, {} bad", good.get(), bad.get());
}

#[test]
fn toy_registry() {
    compare(&testing::registry(), 800);
}

#[test]
fn every_form_that_config_structs_take() {
    compare(&exotic::registry(), 1600);
}

#[test]
fn good_document() {
    let registry = testing::registry();
    let document = pipe_core::document::Document::parse(testing::GOOD, "good.yaml", Syntax::Yaml, &[]);
    let errors: Vec<String> =
        validator(&registry).iter_errors(&document.tree.unwrap().to_json()).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// Structural cases are rejected, others accepted.
#[test]
fn diagnostic_cases() {
    let registry = testing::registry();
    let validator = validator(&registry);
    let (mut rejected, mut accepted) = (0, 0);
    for case in cases::all() {
        let Some(document) = case.document() else { continue };
        let structural = case.codes().iter().any(|code| is_structural(code));
        assert_eq!(!faults(&registry, &case.source, case.syntax, &case.sets).is_empty(), structural, "{}", case.name);
        let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        // An override can take the place of another field of the file, which the schema knows nothing of.
        if !case.sets.is_empty() && !structural {
            continue;
        }
        assert_eq!(!errors.is_empty(), structural, "{}: {errors:#?}\n{}", case.name, case.source);
        *(if structural { &mut rejected } else { &mut accepted }) += 1;
    }
    println!("{rejected} cases rejected, {accepted} accepted");
    assert!(rejected >= 25 && accepted >= 10, "{rejected} rejected, {accepted} accepted");
}
