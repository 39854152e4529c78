//! Whole runs: what they leave behind, stopped cleanly or killed anywhere, and how near the plan came.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::support::{Ran, command, folder, fresh, pipe_in, root, tiny};

const STEPS: u32 = 24;

fn train(dir: &Path, args: &[&str]) -> Ran {
    pipe_in(dir, &[&["run", "tiny.yaml"], args].concat())
}

fn start(dir: &Path, args: &[&str]) -> Child {
    let mut command = command(dir);
    command.args(["run", "tiny.yaml"]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("pipe starts")
}

fn steps_done(dir: &Path, run: &str) -> usize {
    fs::read_to_string(dir.join("runs").join(run).join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits until `steps` steps are in the metrics; false when the run ended before.
fn wait_for(child: &mut Child, dir: &Path, run: &str, steps: usize) -> bool {
    let begun = Instant::now();
    while steps_done(dir, run) < steps {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step {steps} within two minutes");
        if child.try_wait().expect("the child can be asked").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The metrics of a run without what a clock says.
fn metrics(folder: &Path) -> Vec<Json> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("the metrics are there");
    let strip = |line: &str| {
        let mut value: Json = serde_json::from_str(line).expect("a line is an object");
        value.as_object_mut().expect("a line is an object").remove("seconds");
        value
    };
    text.lines().map(strip).collect()
}

/// The tensors of a safetensors file as bytes, metadata apart.
fn tensors(path: &Path) -> (Json, Vec<u8>) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Json = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    header.as_object_mut().expect("a header").remove("__metadata__");
    (header, bytes[8 + length..].to_vec())
}

/// What the report of a run says to a name.
fn reported<'r>(ran: &'r Ran, name: &str) -> Vec<&'r str> {
    ran.out
        .lines()
        .filter_map(|line| Some(line.strip_prefix("  ")?.strip_prefix(name)?.strip_prefix(' ')?.trim()))
        .collect()
}

/// The one LoRA that a finished run reports.
fn lora(dir: &Path, ran: &Ran) -> PathBuf {
    let found = reported(ran, "lora");
    assert_eq!(found.len(), 1, "{}", ran.out);
    dir.join(found[0])
}

/// A folder with the tiny pipeline and the unbroken run `whole` in it, which no test changes.
fn whole_run() -> &'static (PathBuf, Ran) {
    static WHOLE: OnceLock<(PathBuf, Ran)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let dir = fresh("e2e-whole");
        fs::write(dir.join("tiny.yaml"), tiny(STEPS)).expect("the document is written");
        let ran = train(&dir, &["--output", "runs/whole"]).expect(0);
        (dir, ran)
    })
}

#[track_caller]
fn assert_equal_runs(dir: &Path, whole: &Ran, other: &Ran, name: &str) {
    assert_eq!(metrics(&dir.join("runs/whole")), metrics(&dir.join("runs").join(name)), "{name}: metrics");
    let (a, b) = (tensors(&lora(dir, whole)), tensors(&lora(dir, other)));
    assert_eq!(a.0, b.0, "{name}: tensors");
    assert!(a.1 == b.1, "{name}: weights");
}

#[test]
fn a_run_leaves_what_it_reports() {
    let (dir, ran) = whole_run();
    assert!(ran.err.contains("24 steps") && ran.err.contains(&format!("step {STEPS}/{STEPS}")), "{}", ran.err);
    assert!(ran.out.contains("done: 24 steps") && reported(ran, "loss")[0].contains("→"), "{}", ran.out);
    for kind in ["lora", "metrics", "log", "preview"] {
        let found = reported(ran, kind);
        assert!(!found.is_empty() && found.iter().all(|path| dir.join(path).exists()), "{kind}: {}", ran.out);
    }
    assert_eq!(metrics(&dir.join("runs/whole")).len(), STEPS as usize);
    let (header, data) = tensors(&lora(dir, ran));
    assert!(header.as_object().is_some_and(|names| names.len() > 10) && data.iter().any(|byte| *byte != 0));

    let again = train(dir, &["--output", "runs/whole"]).expect(1);
    assert!(again.err.contains("error[P0907]") && again.err.contains("--resume"), "{}", again.err);
    let inspected = pipe_in(dir, &["inspect", &lora(dir, ran).display().to_string()]).expect(0);
    assert!(inspected.out.contains("LoRA (kohya naming)"), "{}", inspected.out);
}

#[test]
fn killed_at_any_moment_a_run_continues_bit_for_bit() {
    let (dir, whole) = whole_run();
    // Where in a step the signal arrives is left to chance; where in the run is spread over it.
    for (number, after) in [1usize, 5, 9, 17].into_iter().enumerate() {
        let name = format!("killed-{number}");
        let output = format!("runs/{name}");
        let args = ["--output", output.as_str()];
        let mut child = start(dir, &args);
        assert!(wait_for(&mut child, dir, &name, after), "the run was over before it could be killed");
        std::thread::sleep(Duration::from_micros(u64::from(std::process::id()) * 7919 % 30_000));
        child.kill().expect("the child can be killed");
        let killed = Ran::of(child.wait_with_output().expect("the child ends"));
        assert_eq!(killed.code, -1, "{}", killed.err);
        let resumed = train(dir, &[&args[..], &["--resume"]].concat()).expect(0);
        assert_equal_runs(dir, whole, &resumed, &name);
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let status = std::process::Command::new("kill").args([name, &pid]).status().expect("kill starts");
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_exits_130_and_the_run_continues_exactly() {
    let (dir, whole) = whole_run();
    for (name, after, by) in [("stopped", 6usize, "-INT"), ("ended", 11, "-TERM")] {
        let output = format!("runs/{name}");
        let mut child = start(dir, &["--output", &output]);
        assert!(wait_for(&mut child, dir, name, after));
        signal(&child, by);
        let ran = Ran::of(child.wait_with_output().expect("the child ends")).expect(130);
        assert!(ran.err.contains("saving and stopping") && ran.err.contains("continue with: pipe run"), "{}", ran.err);
        assert!(ran.out.contains("stopped after step"), "{}", ran.out);
        let done = steps_done(dir, name);
        assert!(done >= after && done < STEPS as usize);
        assert!(dir.join(format!("runs/{name}/state/step-{done:08}")).is_dir(), "the state of the last step");
        let again = train(dir, &["--output", &output, "--resume"]).expect(0);
        assert!(again.out.contains(&format!("continued after step {done}")), "{}", again.out);
        assert_equal_runs(dir, whole, &again, name);
    }
}

#[cfg(unix)]
#[test]
fn the_second_ctrl_c_stops_at_once() {
    let dir = folder("tiny.yaml", &tiny(100_000));
    let mut child = start(dir.path(), &["--set", "train.batch_size=28", "--set", "train.accumulate=64"]);
    // In the first step, which takes long with so much accumulated.
    let begun = Instant::now();
    let log = dir.path().join("runs/tiny/run.log");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains(" train")) {
        assert!(begun.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(20));
    let asked = Instant::now();
    while child.try_wait().unwrap().is_none() {
        // Two signals that arrive together count once, so it is asked until it ends.
        signal(&child, "-INT");
        std::thread::sleep(Duration::from_millis(50));
        assert!(asked.elapsed() < Duration::from_secs(20), "it does not stop");
    }
    Ran::of(child.wait_with_output().unwrap()).expect(130);
}

#[test]
fn resume_refuses_another_pipeline_and_takes_more_steps() {
    let dir = folder("tiny.yaml", &tiny(4));
    train(dir.path(), &[]).expect(0);
    let changed = train(dir.path(), &["--resume", "--set", "nodes.lora.rank=8"]).expect(1);
    assert!(changed.err.contains("error[P0908]") && changed.err.contains("tiny.yaml:"), "{}", changed.err);
    let longer = train(dir.path(), &["--resume", "--steps", "6"]).expect(0);
    assert!(longer.out.contains("done: 2 steps") && longer.out.contains("continued after step 4"), "{}", longer.out);
    assert_eq!(metrics(&dir.path().join("runs/tiny")).len(), 6);
}

#[test]
fn a_run_that_diverges_stops_with_its_place_and_keeps_the_last_state() {
    let dir = folder("tiny.yaml", &tiny(STEPS));
    let args = ["--set", "nodes.adamw.learning_rate=10", "--set", "nodes.adamw.max_grad_norm=false"];
    let set = ["--set", "nodes.lora.alpha=1e30", "--set", "train.save_state.steps=1"];
    let ran = train(dir.path(), &[&args[..], &set[..]].concat()).expect(1);
    assert!(ran.err.contains("error[P0901]") && ran.err.contains("tiny.yaml:"), "{}", ran.err);
    assert!(ran.err.contains("step ") && ran.err.contains("log: "), "{}", ran.err);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (dir, whole) = whole_run();
    let again = train(dir, &["--output", "runs/again"]).expect(0);
    assert_equal_runs(dir, whole, &again, "again");
    let other = train(dir, &["--output", "runs/other", "--set", "seed=4"]).expect(0);
    assert!(tensors(&lora(dir, whole)).1 != tensors(&lora(dir, &other)).1);
}

/// `412 MiB` in bytes.
fn bytes(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').expect("a number and a unit");
    let unit = ["B", "KiB", "MiB", "GiB"].iter().position(|name| *name == unit).expect("a unit");
    number.parse::<f64>().expect("a number") * 1024f64.powi(unit as i32)
}

#[cfg(target_os = "linux")]
#[test]
fn the_plan_comes_within_a_quarter_of_the_measured_memory() {
    let document = root().join("pipelines/quickstart.yaml");
    let dir = tempfile::tempdir().unwrap();
    let file = document.display().to_string();
    let plan = pipe_in(dir.path(), &["plan", &file, "--device", "cpu", "--format", "json"]).expect(0).json();
    let planned = plan["peak_bytes"].as_f64().expect("a number");
    let ran = pipe_in(dir.path(), &["run", &file, "--device", "cpu", "--steps", "6", "--output", "run"]).expect(0);
    let measured = bytes(reported(&ran, "memory")[0].trim_end_matches(" at the peak"));
    let off = planned / measured - 1.0;
    assert!(off.abs() <= 0.25, "planned {planned:.3e}, measured {measured:.3e}: {:+.0} %", off * 100.0);
}
