//! `nodes`, `explain` and `schema`: for every node type, every field and every code of this build.

use pipe_core::codes;
use serde_json::Value as Json;

use crate::support::{folder, pipe, pipe_in, tiny};

#[test]
fn every_type_is_listed_shown_and_explained() {
    let registry = pipe_nodes::registry();
    let list = pipe(&["nodes"]).expect(0).out;
    for kind in registry.kinds() {
        let name = kind.about.type_name;
        assert!(list.contains(name) && list.contains(kind.about.summary), "{name}");
        let page = pipe(&["nodes", name]).expect(0).out;
        assert_eq!(page, pipe(&["explain", name]).expect(0).out);
        for port in kind.inputs.iter().map(|input| input.name).chain(kind.outputs.iter().map(|output| output.name)) {
            assert!(page.contains(port), "{name}.{port}");
        }
        assert!(page.contains("example") && page.contains(&format!("type: {name}")), "{page}");
    }
    let first = registry.names().next().expect("at least one type");
    let group = first.split('.').next().expect("a kind");
    assert!(pipe(&["nodes", group]).expect(0).out.contains(first));
}

#[test]
fn every_field_of_every_type_is_explained() {
    let registry = pipe_nodes::registry();
    for kind in registry.kinds() {
        let name = kind.about.type_name;
        for field in kind.schema["properties"].as_object().expect("properties").keys() {
            let topic = format!("{name}.{field}");
            assert!(pipe(&["explain", &topic]).expect(0).out.contains(field.as_str()), "{topic}");
        }
    }
    assert!(pipe(&["explain", "train.steps"]).expect(0).out.contains("Optimizer steps"));
    assert!(pipe(&["explain", "optimizer.adamw.schedule.warmup"]).expect(0).out.contains("ratio"));
}

#[test]
fn every_code_is_explained() {
    for code in codes::all() {
        let text = pipe(&["explain", code.code]).expect(0).out;
        assert!(text.contains(code.title) && text.contains(code.text.trim()), "{}", code.code);
    }
    assert_eq!(pipe(&["explain", "p0104"]).expect(0).out, pipe(&["explain", "P0104"]).expect(0).out);
}

#[test]
fn what_is_misspelt_gets_a_suggestion() {
    let help = |args: &[&str]| pipe(args).expect(1).err;
    assert!(help(&["nodes", "adapter.lroa"]).contains("did you mean `adapter.lora`"));
    assert!(help(&["explain", "adaptor.lora"]).contains("did you mean `adapter.lora`"));
    assert!(help(&["explain", "adapter.lora.rnak"]).contains("did you mean `rank`?"));
    assert!(help(&["explain", "train.stpes"]).contains("did you mean `train.steps`"));
    assert!(help(&["explain", "P9999"]).contains("help: "));
}

#[test]
fn the_schema_is_the_registrys() {
    let schema = pipe(&["schema"]).expect(0).json();
    assert!(schema["$schema"].as_str().is_some_and(|text| text.contains("draft-07")), "{}", schema["$schema"]);
    let text = schema.to_string();
    for name in pipe_nodes::registry().names() {
        assert!(text.contains(&format!("\"{name}\"")), "{name}");
    }
    let dir = folder("tiny.yaml", &tiny(1));
    pipe_in(dir.path(), &["schema", "-o", "deep/schema.json"]).expect(0);
    let written = std::fs::read_to_string(dir.path().join("deep/schema.json")).unwrap();
    assert_eq!(serde_json::from_str::<Json>(&written).unwrap(), schema);
}
