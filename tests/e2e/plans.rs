//! Plans against what runs then took: memory at the peak, files on the disk.

use std::fs;

use serde_json::Value as Json;

use crate::support::{Ran, command, fresh, pipe, pipe_in, tiny};
use crate::train::whole_run;
#[cfg(target_os = "linux")]
use crate::{support::root, train::reported};

/// `412 MiB` in bytes.
fn bytes(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').expect("a number and a unit");
    let unit = ["B", "KiB", "MiB", "GiB"].iter().position(|name| *name == unit).expect("a unit");
    number.parse::<f64>().expect("a number") * 1024f64.powi(unit as i32)
}

/// Plans and runs the quickstart with overrides, and compares the memory planned with that measured.
#[cfg(target_os = "linux")]
fn planned_and_measured(steps: &str, sets: &[&str]) {
    let document = root().join("pipelines/quickstart.yaml");
    let dir = tempfile::tempdir().unwrap();
    let file = document.display().to_string();
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).chain(["--device", "cpu"]).collect();
    let plan = pipe_in(dir.path(), &[&["plan", &file, "--format", "json"][..], &sets].concat()).expect(0).json();
    let planned = plan["peak_bytes"].as_f64().expect("a number");
    let run = ["run", &file, "--steps", steps, "--output", "run"];
    let ran = pipe_in(dir.path(), &[&run[..], &sets].concat()).expect(0);
    let measured = bytes(reported(&ran, "memory")[0].trim_end_matches(" at the peak"));
    let off = planned / measured - 1.0;
    assert!(off.abs() <= 0.25, "planned {planned:.3e}, measured {measured:.3e}: {:+.0} %", off * 100.0);
}

#[cfg(target_os = "linux")]
#[test]
fn the_plan_comes_within_a_quarter_of_the_measured_memory() {
    planned_and_measured("6", &[]);
}

/// What learns is most of the memory here, so that a second copy of it anywhere would show: in the step, in a save of
/// the adapter or of the training state.
#[cfg(target_os = "linux")]
#[test]
fn the_plan_holds_where_what_learns_is_most_of_it() {
    let ranks = ["nodes.lora.rank=2048", "nodes.lora.conv.rank=64", "train.batch_size=1"];
    let short = ["nodes.preview.steps=1", "nodes.validation.passes=1"];
    planned_and_measured("2", &[&ranks[..], &short].concat());
}

/// A model that is most of the memory, kept in fewer and fewer bits: what the plan says is saved is saved.
#[cfg(target_os = "linux")]
#[test]
fn frozen_weights_take_the_bytes_of_their_storage() {
    let rows = root().join("tests/fixtures/lora_trajectory/replay.safetensors");
    let document = |storage: &str| {
        format!(
            "version: 1\nname: t\ntrain: {{ device: cpu, steps: 2, batch_size: 1 }}\nnodes:\n  \
             rows: {{ type: loader.replay, path: {} }}\n  \
             unet: {{ type: model.sd1, init: {{ widths: [192, 384, 768, 768], context_dim: 24 }}, checkpointing: blocks{storage} }}\n  \
             learn: {{ type: adapter.lora, model: unet, rank: 4 }}\n  \
             loss: {{ type: loss.diffusion, model: learn, batch: rows }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss }}\n  \
             save: {{ type: saver.adapter, adapter: learn, update: adamw }}\n",
            rows.display()
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let mut found: Vec<[f64; 3]> = Vec::new();
    for storage in ["", ", storage: bf16", ", storage: f8_e4m3"] {
        fs::write(dir.path().join("run.yaml"), document(storage)).unwrap();
        let plan = pipe_in(dir.path(), &["plan", "run.yaml", "--format", "json"]).expect(0).json();
        let planned = plan["peak_bytes"].as_f64().expect("a number");
        let weights = plan["nodes"]["unet"]["resident"][0]["bytes"].as_f64().expect("a number");
        let out = format!("out{}", found.len());
        let ran = pipe_in(dir.path(), &["run", "run.yaml", "--output", &out]).expect(0);
        let measured = bytes(reported(&ran, "memory")[0].trim_end_matches(" at the peak"));
        println!("storage{storage}: planned {planned:.4e}, measured {measured:.4e}, weights {weights:.4e}");
        let off = planned / measured - 1.0;
        assert!(off.abs() <= 0.25, "{storage}: planned {planned:.3e}, measured {measured:.3e}: {:+.0} %", off * 100.0);
        found.push([planned, measured, weights]);
    }
    let [whole, half, quarter] = [found[0], found[1], found[2]];
    assert!((half[2] / whole[2] - 0.5).abs() < 0.01 && (quarter[2] / whole[2] - 0.25).abs() < 0.01);
    for small in [half, quarter] {
        let (saved, expected) = (whole[1] - small[1], whole[2] - small[2]);
        assert!((saved / expected - 1.0).abs() < 0.15, "{saved:.3e} bytes are saved, {expected:.3e} expected");
    }
}

/// What the options for small cards leave on the device, and what they put into the host's memory.
#[test]
fn the_plan_tells_the_device_from_the_host() {
    let plan = |sets: &[&str]| {
        let fixed = ["plan", "pipelines/flux-lora.yaml", "--without-files", "--device", "cuda"];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        pipe(&[&fixed[..], &["--format", "json"], &sets].concat()).expect(0).json()
    };
    let weights = |plan: &Json| plan["nodes"]["flux"]["resident"][0]["bytes"].as_u64().expect("a number");
    let train = |plan: &Json| {
        let phases = plan["phases"].as_array().expect("phases");
        phases.iter().find(|phase| phase["name"] == "train").expect("training")["total"].as_u64().expect("a number")
    };
    let usual = plan(&[]);
    assert!(usual["host"].is_null() && usual["nodes"]["flux"]["host"].is_null());

    // 9 double and 18 single blocks in bf16; biases and norms stay.
    let swapped = plan(&["nodes.flux.swap_blocks=18"]);
    let host = swapped["host"].as_u64().expect("bytes in host memory");
    let blocks = 2 * (9 * 339_831_296 + 18 * 141_591_808);
    assert!(host < blocks && host as f64 > 0.999 * blocks as f64, "{host} of {blocks}");
    assert_eq!(weights(&usual), weights(&swapped) + host);
    // One block at a time is back on the device.
    let saved = train(&usual) - train(&swapped);
    assert!(saved > host - 3 * 339_831_296 && saved <= host, "{saved} of {host}");
    let text = [
        "plan",
        "pipelines/flux-lora.yaml",
        "--without-files",
        "--device",
        "cuda",
        "--set",
        "nodes.flux.swap_blocks=18",
    ];
    let shown = pipe(&text).expect(0).out;
    assert!(shown.contains("in the host's memory") && shown.contains("of swapped blocks in host memory"), "{shown}");

    let small = plan(&["nodes.flux.storage=f8_e4m3"]);
    assert!((weights(&small) as f64 / weights(&usual) as f64 - 0.5).abs() < 0.01);
    assert!(train(&small) < train(&usual) - weights(&usual) / 2 + (300 << 20));

    let offloaded = plan(&["nodes.flux.checkpointing=offload"]);
    let host = offloaded["host"].as_u64().expect("bytes in host memory");
    // 57 blocks of 4096 + 512 tokens of 3072 values in bf16.
    assert!((host as f64 / (57.0 * 4608.0 * 3072.0 * 2.0) - 1.0).abs() < 0.1, "{host}");
    // On the way back the device holds those of a block or two again.
    assert!(train(&offloaded) < train(&usual) - host * 8 / 10);

    let all = plan(&["nodes.flux.storage=f8_e4m3", "nodes.flux.swap_blocks=35", "nodes.flux.checkpointing=offload"]);
    assert!(train(&all) < train(&small) && train(&all) < train(&swapped), "they go together");

    let full = ["check", "pipelines/flux-finetune.yaml", "--without-files", "--set", "train.device=cuda"];
    let refused = pipe(&[&full[..], &["--set", "nodes.flux.swap_blocks=8"]].concat()).expect(1);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("P0402") && said.contains("`swap_blocks` of the model has no effect"), "{said}");
}

#[test]
fn the_plan_counts_the_states_on_the_disk() {
    let (dir, _) = whole_run();
    let planned = pipe_in(dir, &["plan", "tiny.yaml", "--format", "json"]).expect(0).json();
    let bytes = |folder: &str| -> u64 {
        let entries = fs::read_dir(dir.join("runs/whole").join(folder)).expect("it is there");
        entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| if path.is_dir() { path.join("state.safetensors") } else { path })
            .map(|path| fs::metadata(path).expect("it is there").len())
            .sum()
    };
    let adamw = &planned["nodes"]["adamw"];
    let near = |planned: &Json, measured: u64| {
        let off = planned.as_f64().expect("a number") / measured as f64 - 1.0;
        assert!(off.abs() < 0.1, "planned {planned}, measured {measured}");
    };
    // Two are kept, a third is there while it is written.
    near(&adamw["disk"], bytes("state"));
    near(&adamw["disk_passing"], bytes("state") / 2);
    near(&planned["nodes"]["save"]["disk"], bytes("checkpoints"));
    assert_eq!(planned["disk_passing"], adamw["disk_passing"]);
}

#[test]
fn times_go_by_a_measurement_and_then_by_runs_on_this_machine() {
    let dir = fresh("e2e-times");
    fs::write(dir.join("tiny.yaml"), tiny(12)).expect("the document is written");
    let cache = dir.join("cache");
    let pipe = |args: &[&str]| {
        let mut command = command(&dir);
        Ran::of(command.env("XDG_CACHE_HOME", &cache).args(args).output().expect("pipe starts")).expect(0)
    };
    let plan = |args: &[&str]| pipe(&[&["plan", "tiny.yaml", "--format", "json"], args].concat()).json();
    let train = |plan: &Json| plan["phases"].as_array().unwrap().iter().find(|p| p["name"] == "train").unwrap().clone();

    let first = plan(&[]);
    assert_eq!(first["speed"], "twice or half that: from a short measurement, a run tells it better");
    assert!(train(&first)["seconds"].as_f64() > Some(0.0));
    assert_eq!(plan(&["--device", "cuda"])["speed"], Json::Null, "a device that is not there has no speed");

    pipe(&["run", "tiny.yaml"]);
    let second = plan(&[]);
    assert_eq!(second["speed"], "as runs on this machine took");
    let text = fs::read_to_string(dir.join("runs/tiny/metrics.jsonl")).expect("the metrics are there");
    let seconds = |line: &str| serde_json::from_str::<Json>(line).unwrap()["seconds"].as_f64().unwrap();
    let taken: f64 = text.lines().skip(1).map(seconds).sum::<f64>() / 11.0 * 12.0;
    let planned = train(&second)["seconds"].as_f64().unwrap();
    assert!((planned / taken - 1.0).abs() < 0.01, "planned {planned}, taken {taken}");
    assert!(pipe(&["plan", "tiny.yaml"]).out.contains(", as runs on this machine took\n"));
}

/// Ready pipelines open with what they take: it is what their plans say.
#[test]
fn pipelines_say_what_their_plans_say() {
    let number = regex::Regex::new(
        r"([\d.]+ [KMG]iB)(?: of cache)? (while encoding|while training|while a preview|for each hundred)|Disk: ([\d.]+ [KMG]iB)",
    )
    .expect("a pattern");
    let folder = crate::support::root().join("pipelines");
    let files = fs::read_dir(&folder).expect("pipelines").map(|entry| entry.expect("an entry").path());
    let mut seen = 0;
    for file in files.filter(|path| path.is_file()) {
        let text = fs::read_to_string(&file).expect("a pipeline");
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let head: String = head.map(|line| line.trim_start_matches(['#', ' ']).to_owned() + " ").collect();
        let Some((_, told)) = head.split_once("Memory by `pipe plan` (CPU, f32): ") else { continue };
        let path = file.display().to_string();
        let args = ["plan", &path, "--without-files", "--device", "cpu", "--format", "json"];
        let plan = crate::support::pipe(&args).expect(0).json();
        let phase = |kind: &str| {
            let of_kind = plan["phases"].as_array().unwrap().iter().filter(|phase| {
                let name = phase["name"].as_str().unwrap();
                phase["kind"] == kind && (kind != "event" || name == "event preview") && !name.starts_with("load")
            });
            of_kind.filter_map(|phase| phase["total"].as_f64()).fold(0.0, f64::max)
        };
        let (mut found, peak) = (Vec::new(), plan["peak_bytes"].as_f64().unwrap());
        for part in number.captures_iter(told) {
            let (text, of) = part.get(1).map_or_else(|| (&part[3], "disk"), |_| (&part[1], &part[2]));
            let planned = match of {
                "while encoding" => phase("build"),
                "while training" => phase("train"),
                "while a preview" => phase("event"),
                "disk" => plan["disk"].as_f64().unwrap() + plan["disk_passing"].as_f64().unwrap(),
                _ => plan["cache_disk"].as_f64().unwrap(),
            };
            let off = bytes(text) / planned - 1.0;
            assert!(off.abs() < 0.02, "{path}: {text} {of}, planned {:.3} GiB", planned / 1024f64.powi(3));
            found.push(planned);
        }
        assert_eq!(found.len(), 5, "{path}: {told}");
        assert!(found[..3].iter().any(|told| *told >= peak * 0.98), "{path}: the peak is {peak} and not told");
        seen += 1;
    }
    assert!(seen >= 12, "{seen} pipelines");
}
