//! The flat field list and the reference pages.

mod common;

use common::exotic;
use pipe_core::testing;
use pipe_schema::{FieldDoc, field, fields, json_schema, reference, settings_fields};

fn paths(fields: &[FieldDoc]) -> Vec<&str> {
    fields.iter().map(|field| field.path.as_str()).collect()
}

#[test]
fn nested_fields_follow_their_table() {
    let fields = fields(&testing::registry(), "optimizer.adamw");
    assert_eq!(
        paths(&fields),
        [
            "loss",
            "learning_rate",
            "betas",
            "weight_decay",
            "max_grad_norm",
            "schedule",
            "schedule.type",
            "schedule.warmup",
            "schedule.warmup.steps",
            "schedule.warmup.ratio",
            "schedule.floor",
            "schedule.steps",
            "schedule.ratio",
        ]
    );
    let get = |path: &str| fields.iter().find(|field| field.path == path).unwrap();
    assert_eq!(get("loss").type_text, "node: Loss");
    assert!(get("loss").required && get("loss").port.is_some());
    assert_eq!(get("betas").type_text, "list of 2 numbers");
    assert_eq!(get("max_grad_norm").type_text, "`false` or number");
    assert_eq!(get("max_grad_norm").range.as_deref(), Some("more than 0"));
    assert_eq!(get("schedule.type").type_text, "`constant`, `cosine` or `linear`");
    assert_eq!(get("schedule.type").choices[1], ("cosine".into(), "Falls along a cosine.".into()));
    assert_eq!(get("schedule.floor").when.as_deref(), Some("schedule.type: cosine"));
    assert_eq!(get("schedule.type").when, None);
    assert_eq!(get("schedule.floor").default.as_deref(), Some("0"));
    assert_eq!(get("schedule.floor").range.as_deref(), Some("from 0 to 1"));
}

#[test]
fn one_field_by_its_path() {
    let registry = testing::registry();
    let rank = field(&registry, "adapter.lora.rank").unwrap();
    assert_eq!((rank.path.as_str(), rank.default.as_deref()), ("rank", Some("16")));
    assert_eq!(field(&registry, "optimizer.adamw.schedule.warmup.ratio").unwrap().type_text, "number");
    assert_eq!(field(&registry, "train.precision").unwrap().choices.len(), 4);
    assert_eq!(field(&registry, "train.save_state.minutes").unwrap().range.as_deref(), Some("at least 0.01"));
    for unknown in ["adapter.lora.zebra", "adapter.lora", "zebra", "", "adapter.lora."] {
        assert_eq!(field(&registry, unknown), None, "{unknown}");
    }
    assert!(fields(&registry, "adapter.zebra").is_empty());
}

#[test]
fn every_form_has_words() {
    let registry = exotic::registry();
    let words = |path: &str| field(&registry, &format!("test.exotic.{path}")).map(|field| field.type_text);
    for (path, text) in [
        ("length", "table"),
        ("length.steps", "whole number"),
        ("mixed", "`false`, `second`, `third` or `first`, list of whole numbers or table"),
        ("shapes", "list of tables with `shape`"),
        ("shapes.radius", "number"),
        ("weights", "table of numbers by name"),
        ("pair", "list of whole number, text"),
        ("text", "node or list of nodes: TextEncoder or Samples"),
        ("any", "any value"),
    ] {
        assert_eq!(words(path).as_deref(), Some(text), "{path}");
    }
    assert_eq!(field(&registry, "test.exotic.part").unwrap().default.as_deref(), Some("0.1"));
    assert_eq!(field(&registry, "test.exotic.shapes.0.radius").unwrap().path, "shapes[].radius");
}

#[test]
fn settings_have_texts() {
    let fields = settings_fields(&testing::registry());
    assert!(paths(&fields).contains(&"train.batch_size"));
    for field in fields {
        assert!(!field.description.is_empty(), "{}", field.path);
    }
}

#[test]
fn pages_of_everything() {
    let registry = testing::registry();
    let pages = reference(&registry);
    let page = |path: &str| &pages.iter().find(|(name, _)| name == path).unwrap_or_else(|| panic!("no {path}")).1;
    let index = page("docs/reference/README.md");
    for name in registry.names() {
        assert!(index.contains(&format!("[`{name}`](nodes/{name}.md)")), "{name}");
        let text = page(&format!("docs/reference/nodes/{name}.md"));
        let kind = registry.kind(name).unwrap();
        assert!(text.contains(kind.about.summary) && text.contains("```yaml\nnodes:\n  "), "{text}");
        for field in fields(&registry, name) {
            assert!(text.contains(&format!("`{}`", field.path)), "{name}: {}", field.path);
        }
    }
    assert!(page("docs/reference/settings.md").contains("| `train.steps` | whole number |"));
    let codes = page("docs/reference/codes.md");
    for code in pipe_core::codes::all() {
        assert!(codes.contains(&format!("### {}: {}", code.code, code.title)), "{}", code.code);
    }
    for (path, text) in &pages {
        let clean = text.ends_with('\n') && !text.ends_with("\n\n") && !text.contains("\n\n\n");
        assert!(clean && text.lines().all(|line| line == line.trim_end()), "{path}:\n{text}");
    }
}

#[test]
fn tables_of_a_page() {
    let pages = reference(&testing::registry());
    let (_, page) = pages.iter().find(|(path, _)| path.ends_with("nodes/loader.images.md")).unwrap();
    assert!(page.contains("| `path` | text | required |  | Folder of the images. |"), "{page}");
    assert!(page.contains("| `resolution` | whole number | `512` | from 64 to 4096 |"), "{page}");
    assert!(page.contains("Where captions come from.<br>`files`: A text file beside each image.<br>"), "{page}");
}

#[test]
fn equal_registries_give_equal_bytes() {
    let text = |schema: serde_json::Value| serde_json::to_string_pretty(&schema).unwrap();
    assert_eq!(text(json_schema(&testing::registry())), text(json_schema(&testing::registry())));
    assert_eq!(reference(&testing::registry()), reference(&testing::registry()));
}

/// What an editor shows is never empty, and titles are everywhere.
#[test]
fn every_field_of_the_schema_has_title_and_text() {
    for registry in [testing::registry(), exotic::registry()] {
        let schema = json_schema(&registry);
        for name in registry.names() {
            let table = &schema["definitions"][name];
            assert_eq!(table["title"], name);
            assert_eq!(table["additionalProperties"], false);
            for (field, inner) in table["properties"].as_object().unwrap() {
                assert!(inner["title"].is_string() && inner["description"].is_string(), "{name}.{field}");
                assert!(inner["markdownDescription"].is_string(), "{name}.{field}");
            }
        }
        let text = schema.to_string();
        for keyword in ["oneOf", "$defs", "prefixItems", "unevaluatedProperties", "\"null\"", "maxProperties"] {
            assert!(!text.contains(keyword), "{keyword}");
        }
    }
}
