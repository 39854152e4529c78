//! Schedule, plan and drawings of the toy registry's good document.

use std::path::Path;

use pipe_core::check::{Checked, check_text};
use pipe_core::document::Syntax;
use pipe_core::plan::{Category, PhaseKind, Plan, changes, plan_document};
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
    assert!(diagnostic.message.ends_with("the largest part of it (1.76 GiB) is activations"), "{}", diagnostic.message);
    assert_eq!(checked.files().text(diagnostic.span), "train");
}

#[test]
fn the_program_is_told_and_never_blamed() {
    let (registry, checked) = good();
    let plan = plan_document(&registry, &checked).with_program(6 << 30);
    let misfit = plan.fits(8 << 30).unwrap_err();
    assert_eq!(misfit.category, Category::Activations);
    let beside = "beside 6.00 GiB of the program itself the largest part (1.76 GiB) is activations";
    assert!(misfit.to_string().ends_with(beside), "{misfit}");
    // Below the program's own need nothing is tried, and nothing is advised.
    let mut misfit = plan.fits(5 << 30).unwrap_err();
    changes(&registry, &checked, &mut misfit, |_| panic!("nothing helps"));
    assert!(misfit.to_string().ends_with("the program alone takes 6.00 GiB of the 5.00 GiB there are"), "{misfit}");
    assert!(misfit.diagnostic(&checked).help.unwrap().contains("no change of the document helps"));
}

/// The good document planned with overrides.
fn replan(registry: &Registry, text: &str, sets: &[String]) -> Option<Plan> {
    let changed = check_text(registry, text, Path::new("good.yaml"), Syntax::Yaml, sets);
    changed.ok().then(|| plan_document(registry, &changed))
}

#[test]
fn the_cheapest_change_that_fits_is_found() {
    let (registry, checked) = good();
    let plan = plan_document(&registry, &checked);
    // The toy's activations are 900 MiB an image, in a batch of two.
    let mut misfit = plan.fits(2700 * MIB).unwrap_err();
    changes(&registry, &checked, &mut misfit, |sets| replan(&registry, testing::GOOD, sets));
    let fitting = misfit.cheapest.clone().unwrap();
    assert_eq!(fitting.change.sets, ["train.batch_size=1", "train.accumulate=2"]);
    assert_eq!((fitting.peak_bytes, fitting.fits), (2640 * MIB, true));
    let text = "`--set train.batch_size=1 --set train.accumulate=2` fits: 2.58 GiB at the peak";
    assert_eq!(fitting.to_string(), text);
    let help = misfit.diagnostic(&checked).help.unwrap();
    assert!(help.starts_with(text), "{help}");
    // Every number that is told is that of a plan made with the change, and less than before.
    assert!(misfit.changes.len() > 1);
    for change in &misfit.changes {
        let planned = replan(&registry, testing::GOOD, &change.change.sets).unwrap();
        assert_eq!(planned.peak_bytes, change.peak_bytes);
        assert!(change.peak_bytes < plan.peak_bytes, "{change}");
    }
    // Nothing makes the weights smaller: everything is tried, the dearest last.
    let (mut tried, mut misfit) = (Vec::new(), plan.fits(MIB).unwrap_err());
    changes(&registry, &checked, &mut misfit, |sets| {
        tried.push(sets.join(" "));
        replan(&registry, testing::GOOD, sets)
    });
    assert_eq!(misfit.cheapest, None);
    let last = tried.last().unwrap();
    assert!(last.contains("nodes.lora.rank=2") && last.contains("nodes.photos.resolution=256"), "{tried:#?}");
    assert!(!last.contains("nodes.lora.rank=4"), "one value for each field: {last}");
    let help = misfit.diagnostic(&checked).help.unwrap();
    assert!(help.starts_with("no change that was tried is enough; `--set ") && help.contains("would need"), "{help}");
}

#[test]
fn a_preview_that_does_not_fit_is_blamed_and_can_be_left_out() {
    let registry = testing::registry();
    let checked = check_text(&registry, testing::GOOD, Path::new("good.yaml"), Syntax::Yaml, &[]);
    let mut plan = plan_document(&registry, &checked);
    let preview = plan.phases.iter_mut().find(|phase| phase.name == "event preview").unwrap();
    preview.total = 9 << 30;
    let mut misfit = plan.fits(8 << 30).unwrap_err();
    changes(&registry, &checked, &mut misfit, |sets| replan(&registry, testing::GOOD, sets));
    assert_eq!(misfit.node.as_deref(), Some("preview"));
    let diagnostic = misfit.diagnostic(&checked);
    assert_eq!(checked.files().text(diagnostic.span), "preview");
    assert!(misfit.changes.iter().any(|one| one.change.sets == ["nodes.preview=null"]), "{:?}", misfit.changes);
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
