//! Schedule, plan and drawings of the toy registry's good document.

use std::path::Path;

use pipe_core::check::{Checked, check_text};
use pipe_core::document::Syntax;
use pipe_core::plan::{Category, PhaseKind, cheapest, plan_document};
use pipe_core::registry::Registry;
use pipe_core::schedule::Schedule;
use pipe_core::{graph_export, testing};

const MIB: u64 = 1 << 20;

fn good() -> (Registry, Checked) {
    let registry = testing::registry();
    let checked = check_text(&registry, testing::GOOD, Path::new("good.yaml"), Syntax::Yaml, &[]);
    (registry, checked)
}

#[test]
fn caches_are_filled_before_the_model_is_loaded() {
    let (_, checked) = good();
    let graph = checked.graph.as_ref().unwrap();
    let schedule = Schedule::new(graph);
    let order: Vec<&str> = schedule.order.iter().map(|index| graph.dag[*index].name.as_str()).collect();
    let expected = ["photos", "vae", "clip", "cached", "unet", "lora", "loss", "adamw", "save", "preview", "metrics"];
    assert_eq!(order, expected);
    assert_eq!(
        schedule.describe(graph),
        ["after cached: drop photos", "after cached: unload vae", "after cached: drop clip"]
    );
}

#[test]
fn phases_hold_what_is_alive() {
    let (registry, checked) = good();
    let plan = plan_document(&registry, &checked);
    let names: Vec<&str> = plan.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["cache latents", "train", "event save", "event preview"]);
    let of = |name: &str, category| plan.phases.iter().find(|p| p.name == name).unwrap().bytes.get(&category).copied();
    // Encoders while caching, the network while training, the VAE again for the preview.
    assert_eq!(of("cache latents", Category::Weights), Some(400 * MIB));
    assert_eq!(of("train", Category::Weights), Some(1700 * MIB));
    assert_eq!(of("event preview", Category::Weights), Some(1860 * MIB));
    assert_eq!(of("train", Category::Activations), Some(1800 * MIB));
    assert_eq!(of("event preview", Category::Activations), None);
    assert_eq!(of("event preview", Category::OptimizerState), Some(16 * MIB));
    assert_eq!((plan.steps, plan.epochs, plan.disk), (Some(10), Some(2.5), 8 * MIB));
    assert_eq!(plan.phases[1].flops, 20_000_000_000_000);
    assert_eq!(plan.phases[1].kind, PhaseKind::Train);
    assert_eq!(plan.peak_phase, "train");
}

#[test]
fn a_run_that_does_not_fit_names_the_phase_and_a_change() {
    let (registry, checked) = good();
    let plan = plan_document(&registry, &checked).with_program(100 * MIB);
    assert!(plan.fits(4 << 30).is_ok());
    let misfit = plan.fits(2 << 30).unwrap_err();
    assert_eq!((misfit.phase.as_str(), misfit.category), ("train", Category::Activations));
    let diagnostic = misfit.diagnostic(&checked);
    assert_eq!(diagnostic.code, "P0501");
    assert!(diagnostic.help.unwrap().contains("a smaller `batch_size`"));
    assert_eq!(checked.files().text(diagnostic.span), "train");
}

#[test]
fn what_is_blamed_is_never_the_program() {
    let (registry, checked) = good();
    let plan = plan_document(&registry, &checked).with_program(64 << 30);
    let misfit = plan.fits(2 << 30).unwrap_err();
    assert_eq!(misfit.category, Category::Activations);
    assert!(!misfit.diagnostic(&checked).help.unwrap().contains("close other programs"));
}

#[test]
fn the_cheapest_change_that_fits_is_found() {
    let (registry, checked) = good();
    let mut tried = Vec::new();
    let mut replan = |sets: &[String]| {
        tried.push(sets.to_vec());
        let changed = check_text(&registry, testing::GOOD, Path::new("good.yaml"), Syntax::Yaml, sets);
        changed.ok().then(|| plan_document(&registry, &changed))
    };
    // The toy's activations are 900 MiB an image, in a batch of two.
    let fitting = cheapest(&registry, &checked, 2700 * MIB, &mut replan).unwrap();
    assert_eq!(fitting.change.sets, ["train.batch_size=1", "train.accumulate=2"]);
    assert_eq!(fitting.peak_bytes, 2640 * MIB);
    let text = fitting.to_string();
    assert_eq!(text, "`--set train.batch_size=1 --set train.accumulate=2` fits: 2.58 GiB at the peak");
    assert_eq!(tried.len(), 1);
    let mut misfit = plan_document(&registry, &checked).fits(2700 * MIB).unwrap_err();
    misfit.cheapest = Some(fitting);
    let help = misfit.diagnostic(&checked).help.unwrap();
    assert!(help.starts_with(&text) && help.contains("; or try a smaller"), "{help}");
    // Nothing makes the weights smaller: everything is tried, the dearest last.
    let mut tried = Vec::new();
    let none = cheapest(&registry, &checked, MIB, |sets| {
        tried.push(sets.join(" "));
        let changed = check_text(&registry, testing::GOOD, Path::new("good.yaml"), Syntax::Yaml, sets);
        changed.ok().then(|| plan_document(&registry, &changed))
    });
    assert_eq!(none, None);
    let last = tried.last().unwrap();
    assert!(last.contains("nodes.lora.rank=2") && last.contains("nodes.photos.resolution=256"), "{tried:#?}");
    assert!(!last.contains("nodes.lora.rank=4"), "one value for each field: {last}");
}

#[test]
fn the_plan_reads_well() {
    let (registry, checked) = good();
    let text = plan_document(&registry, &checked).with_speed(|_| 1e13).render(false);
    let expected = "\
10 steps, 2.5 epochs

phase               memory   weights  trainable  optimizer state  gradients  activations     batch   working   FLOPs   time
cache latents      920 MiB   400 MiB          ·                ·          ·            ·  8.00 MiB   512 MiB  5.00 T  0.5 s
train             3.46 GiB  1.66 GiB   8.00 MiB         16.0 MiB   8.00 MiB     1.76 GiB  8.00 MiB         ·  20.0 T  2.0 s
event save ×2     1.70 GiB  1.66 GiB   8.00 MiB         16.0 MiB          ·            ·  8.00 MiB  4.00 MiB       ·      ·
event preview ×3  2.14 GiB  1.82 GiB   8.00 MiB         16.0 MiB          ·            ·  8.00 MiB   300 MiB  3.00 M  0.0 s

peak     3.46 GiB in `train`
results  8.00 MiB on disk
time     about 2.5 s

cached: 20 images in 1 bucket
";
    assert_eq!(text, expected);
}

#[test]
fn drawings_hold_every_node_and_edge() {
    let (_, checked) = good();
    let svg = graph_export::to_svg(&checked);
    assert_eq!(svg.matches("class=\"name\"").count(), 11);
    assert_eq!(svg.matches("class=\"edge\"").count(), 10);
    assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    assert_eq!(graph_export::to_dot(&checked).matches(" -> ").count(), 10);
    assert_eq!(graph_export::to_mermaid(&checked).matches(" -->|").count(), 10);
    let json: serde_json::Value = serde_json::from_str(&graph_export::to_json(&checked)).unwrap();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 11);
    assert_eq!(json["edges"][0]["rate"], "sample");
    assert_eq!(json["nodes"][0]["line"], 6);
}

#[test]
fn references_that_do_not_fit_are_drawn_too() {
    let text = testing::GOOD.replace(
        "  metrics:",
        "  one: { type: adapter.lora, model: two }\n  two: { type: adapter.lora, model: one }\n  metrics:",
    );
    let checked = check_text(&testing::registry(), &text, Path::new("bad.yaml"), Syntax::Yaml, &[]);
    assert!(checked.diagnostics.iter().any(|fault| fault.code == "P0206"));
    let dot = graph_export::to_dot(&checked);
    for edge in ["\"one\" -> \"two\"", "\"two\" -> \"one\""] {
        assert!(dot.lines().any(|line| line.contains(edge) && line.contains("dashed")), "{dot}");
    }
    assert!(dot.contains("\"unet\" -> \"lora\" [label=\"model\"]"), "{dot}");
    assert_eq!(graph_export::to_mermaid(&checked).matches("-.->|").count(), 2);
    assert_eq!(graph_export::to_svg(&checked).matches("stroke-dasharray").count(), 2);
    let json: serde_json::Value = serde_json::from_str(&graph_export::to_json(&checked)).unwrap();
    let unfit = json["edges"].as_array().unwrap().iter().filter(|edge| edge["fits"] == false).count();
    assert_eq!(unfit, 2);
}

#[test]
fn schemas_are_closed_and_take_no_null() {
    let registry = testing::registry();
    for kind in registry.kinds() {
        let text = kind.schema.to_string();
        assert!(!text.contains("null"), "{}: {text}", kind.about.type_name);
        assert_eq!(kind.schema["additionalProperties"], false);
        assert_eq!(kind.schema["properties"]["type"]["const"], kind.about.type_name);
    }
    let cache = registry.node_schema("cacher.memory");
    assert_eq!(cache["required"], serde_json::json!(["type", "samples", "vae"]));
    assert_eq!(cache["properties"]["text"]["x-port"]["arity"], "many");
    assert!(registry.node_schema("no.such").is_null());
}

#[test]
fn identity_ignores_spelling() {
    let (registry, checked) = good();
    let identity = pipe_core::identity::Identity::of(&registry, &checked);
    let noisy = testing::GOOD.replace("rank: 8", "rank: 8.0").replace("name: toy", "name: toy\n$schema: x.json");
    let other = check_text(&registry, &noisy, Path::new("b.yaml"), Syntax::Yaml, &[]);
    assert!(other.ok());
    assert_eq!(identity, pipe_core::identity::Identity::of(&registry, &other));
}
