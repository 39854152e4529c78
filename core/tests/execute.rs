//! The life cycle over the toy registry: order of building, freeing, resume, interrupt, failures.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pipe_core::check::{Checked, check_text};
use pipe_core::diagnostic::{Format, render};
use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, Status, run};
use pipe_core::run::{Progress, RunError, StopFlag};
use pipe_core::testing;

#[derive(Default)]
struct Quiet(Mutex<Vec<String>>);

impl Progress for Quiet {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.into());
    }
    fn warn(&self, line: &str) {
        self.say(line);
    }
}

fn checked(text: &str) -> Checked {
    let checked = check_text(&testing::registry(), text, Path::new("toy.yaml"), Syntax::Yaml, &[]);
    assert!(checked.ok(), "{}", render(&checked.diagnostics, checked.files(), Format::Human, false));
    checked
}

fn go(text: &str, folder: &Path, resume: bool) -> Result<Outcome, RunError> {
    go_with(text, folder, resume, &StopFlag::default())
}

fn go_with(text: &str, folder: &Path, resume: bool, stop: &StopFlag) -> Result<Outcome, RunError> {
    let options =
        RunOptions { folder: folder.into(), resume, progress: Arc::new(Quiet::default()), stop: stop.clone() };
    run(&testing::registry(), &checked(text), options)
}

fn faulty(field: &str) -> String {
    let start = testing::GOOD.find("  adamw:").unwrap();
    let end = testing::GOOD.find("  save:").unwrap();
    let node = format!("  adamw: {{ type: optimizer.faulty, loss: loss{field} }}\n");
    format!("{}{node}{}", &testing::GOOD[..start], &testing::GOOD[end..])
}

fn files(folder: &Path, name: &str) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder.join(name)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn encoders_are_freed_before_the_model_is_built() {
    let dir = tempfile::tempdir().unwrap();
    testing::trace();
    let outcome = go(testing::GOOD, dir.path(), false).unwrap();
    assert_eq!(outcome.status, Status::Finished);
    assert_eq!(outcome.position.step, 10);
    let trace = testing::trace();
    // The document names the model first; the graph builds it after the cache.
    assert_eq!(
        trace[..12],
        [
            "build photos",
            "build vae",
            "build clip",
            "build cached",
            "drop photos",
            "unload vae",
            "drop clip",
            "build unet",
            "build lora",
            "build loss",
            "build adamw",
            "save Start 0",
        ]
        .map(String::from)
    );
    let steps: Vec<&str> =
        trace.iter().map(String::as_str).filter(|l| l.contains("Step 5") || l.contains("at 5")).collect();
    assert_eq!(steps, ["save Step 5", "preview draws at 5"]);
    assert_eq!(trace.iter().filter(|line| *line == "unload vae").count(), 1 + 12);
    assert_eq!(files(dir.path(), "checkpoints"), ["step-0005.txt", "step-0010.txt"]);
    assert_eq!(files(dir.path(), "state"), ["step-00000008", "step-00000010"]);
    assert_eq!(outcome.artifacts.iter().filter(|a| a.final_result).count(), 1);
    let lock: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("pipeline.lock.json")).unwrap()).unwrap();
    assert_eq!(lock["nodes"]["photos"]["repeats"], 1, "defaults are filled in");
    assert_eq!(lock["settings"]["train"]["accumulate"], 1);
    assert!(fs::read_to_string(dir.path().join("run.log")).unwrap().contains("finished at step 10"));
}

#[test]
fn an_interrupted_run_continues_exactly() {
    let whole = tempfile::tempdir().unwrap();
    go(&faulty(""), whole.path(), false).unwrap();
    for at in [1, 2, 6, 10] {
        let dir = tempfile::tempdir().unwrap();
        let outcome = go(&faulty(&format!(", interrupt_at: {at}")), dir.path(), false).unwrap();
        assert_eq!((outcome.status, outcome.position.step), (Status::Interrupted, at - 1));
        // The node that interrupts is part of training, so the state is handed to its healthy twin.
        let healthy = faulty("");
        let state = dir.path().join("state");
        if state.exists() {
            rename_identity(dir.path(), &healthy);
        }
        let outcome = go(&healthy, dir.path(), true).unwrap();
        assert_eq!(outcome.status, Status::Finished);
        assert_eq!(outcome.resumed_from, (at > 1).then(|| at - 1));
        for name in ["metrics.jsonl", "checkpoints/step-0010.txt"] {
            let (a, b) = (whole.path().join(name), dir.path().join(name));
            assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap(), "{name}, interrupted in step {at}");
        }
    }
}

/// The toy document with a driver that keeps its numbers, and only a logger to hear of them.
fn deferring(read_every: u64, field: &str) -> String {
    let text = faulty(&format!(", defer: true{field}"));
    let text = text.replace("steps: 10,", &format!("steps: 10, read_every: {read_every},"));
    let kept = text.lines().filter(|line| !line.starts_with("  save:") && !line.starts_with("  preview:"));
    kept.map(|line| format!("{line}\n")).collect()
}

#[test]
fn numbers_that_are_read_later_are_all_told() {
    let lines = |folder: &Path| fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let whole = tempfile::tempdir().unwrap();
    go(&deferring(1, ""), whole.path(), false).unwrap();
    assert_eq!(lines(whole.path()).lines().count(), 10);
    for at in [2, 4, 7] {
        // Stopped with numbers unread, they are told before the state is saved.
        let dir = tempfile::tempdir().unwrap();
        let outcome = go(&deferring(4, &format!(", interrupt_at: {at}")), dir.path(), false).unwrap();
        assert_eq!((outcome.status, outcome.report.step), (Status::Interrupted, at - 1));
        assert_eq!(lines(dir.path()).lines().count() as u64, at - 1);
        rename_identity(dir.path(), &deferring(4, ""));
        go(&deferring(4, ""), dir.path(), true).unwrap();
        assert_eq!(lines(dir.path()), lines(whole.path()), "stopped in step {at}");
    }
    // A loss that is not finite is found when it is read, and nothing is saved of what came after it.
    let dir = tempfile::tempdir().unwrap();
    let error = go(&deferring(4, ", nan_at: 6"), dir.path(), false).unwrap_err();
    assert!(error.code == "P0901" && error.message.contains("step 6"), "{error}");
    assert_eq!(lines(dir.path()), lines(whole.path()).lines().take(5).map(|l| format!("{l}\n")).collect::<String>());
    assert_eq!(files(dir.path(), "state"), ["step-00000004"]);
}

/// Gives the states of a folder the identity of another document.
fn rename_identity(folder: &Path, text: &str) {
    let identity = pipe_core::identity::Identity::of(&testing::registry(), &checked(text));
    for entry in fs::read_dir(folder.join("state")).unwrap() {
        let file = entry.unwrap().path().join("state.json");
        let mut state: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        state["identity"] = serde_json::to_value(&identity).unwrap();
        fs::write(file, state.to_string()).unwrap();
    }
}

#[test]
fn killed_between_states_a_run_repeats_what_was_lost() {
    let whole = tempfile::tempdir().unwrap();
    go(testing::GOOD, whole.path(), false).unwrap();
    let dir = tempfile::tempdir().unwrap();
    go(testing::GOOD, dir.path(), false).unwrap();
    // As if killed after step 9: the state of step 10 and the last files are not there.
    fs::remove_dir_all(dir.path().join("state/step-00000010")).unwrap();
    fs::create_dir(dir.path().join("state/step-00000009.tmp-1-1")).unwrap();
    let outcome = go(testing::GOOD, dir.path(), true).unwrap();
    assert_eq!(outcome.resumed_from, Some(8));
    let name = "metrics.jsonl";
    assert_eq!(fs::read(whole.path().join(name)).unwrap(), fs::read(dir.path().join(name)).unwrap());
    assert_eq!(files(dir.path(), "state"), ["step-00000008", "step-00000010"]);
}

#[test]
fn resume_refuses_another_pipeline_but_not_more_steps() {
    let dir = tempfile::tempdir().unwrap();
    go(testing::GOOD, dir.path(), false).unwrap();
    let error = go(&testing::GOOD.replace("rank: 8", "rank: 4"), dir.path(), true).unwrap_err();
    assert_eq!((error.code, error.node.as_deref()), ("P0908", Some("lora")));
    assert!(error.message.contains("`nodes.lora.rank` was 8, is 4"), "{}", error.message);
    assert_eq!(error.field, "rank");
    let error = go(&testing::GOOD.replace("seed: 7", "seed: 8"), dir.path(), true).unwrap_err();
    assert!(error.message.contains("`seed` was 7, is 8"), "{}", error.message);
    assert_eq!((error.node.as_deref(), error.field.as_str()), (None, "/seed"));

    let longer = testing::GOOD
        .replace("steps: 10,", "steps: 12, device: cpu,")
        .replace("every: { steps: 5 }", "every: { steps: 6 }");
    let outcome = go(&longer, dir.path(), true).unwrap();
    assert_eq!((outcome.resumed_from, outcome.position.step), (Some(10), 12));
}

#[test]
fn a_folder_with_a_run_is_not_reused() {
    let dir = tempfile::tempdir().unwrap();
    go(testing::GOOD, dir.path(), false).unwrap();
    assert_eq!(go(testing::GOOD, dir.path(), false).unwrap_err().code, "P0907");
    // A finished run continued has nothing to do, and ends again.
    assert_eq!(go(testing::GOOD, dir.path(), true).unwrap().status, Status::Finished);
}

#[test]
fn resume_without_a_state_starts_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let progress = Arc::new(Quiet::default());
    let options =
        RunOptions { folder: dir.path().into(), resume: true, progress: progress.clone(), stop: StopFlag::default() };
    let outcome = run(&testing::registry(), &checked(testing::GOOD), options).unwrap();
    assert_eq!((outcome.resumed_from, outcome.position.step), (None, 10));
    assert!(progress.0.lock().unwrap().iter().any(|line| line.contains("no saved state")));
}

#[test]
fn a_failing_driver_stops_the_run_and_tells_the_end() {
    let dir = tempfile::tempdir().unwrap();
    testing::trace();
    let error = go(&faulty(", fail_at: 7"), dir.path(), false).unwrap_err();
    assert_eq!((error.code, error.node.as_deref()), ("P0905", Some("adamw")));
    assert!(testing::trace().contains(&"save End 6".to_owned()));
    assert_eq!(files(dir.path(), "state"), ["step-00000004"]);
    assert_eq!(files(dir.path(), "checkpoints"), ["step-0005.txt"]);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let error = go(&faulty(", nan_at: 3"), dir.path(), false).unwrap_err();
    assert_eq!(error.code, "P0901");
    assert!(error.message.contains("step 3"), "{}", error.message);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_failing_listener_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = testing::GOOD.replace("prompts: [a fox]", "prompts: [a fox], fail_at: 5");
    let error = go(&text, dir.path(), false).unwrap_err();
    assert_eq!((error.code, error.node.as_deref()), ("P0911", Some("preview")));
    let checked = checked(&text);
    let shown = render(&[error.diagnostic(&checked)], checked.files(), Format::Concise, false);
    assert_eq!(shown, "toy.yaml:19:3: error[P0911]: node `preview`: the preview could not be drawn\n");
    // Saved before the preview, and what can be saved is saved after it failed; the numbers of the step are told.
    assert_eq!(files(dir.path(), "checkpoints"), ["step-0005.txt"]);
    assert_eq!(files(dir.path(), "state"), ["step-00000004", "step-00000005"]);
    assert_eq!(fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap().lines().count(), 5);
    // What failed is done first when the run goes on, and told once.
    assert_eq!(go(&text, dir.path(), true).unwrap_err().code, "P0911");
    assert_eq!(go(testing::GOOD, dir.path(), true).unwrap().resumed_from, Some(5));
    let whole = tempfile::tempdir().unwrap();
    go(testing::GOOD, whole.path(), false).unwrap();
    let lines = |folder: &Path| fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    assert_eq!(lines(dir.path()), lines(whole.path()));
}

#[test]
fn a_default_that_an_earlier_version_took_otherwise_is_told() {
    let dir = tempfile::tempdir().unwrap();
    go(testing::GOOD, dir.path(), false).unwrap();
    let file = dir.path().join("pipeline.lock.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut lock: serde_json::Value = serde_json::from_str(&text).unwrap();
    lock["nodes"]["photos"]["repeats"] = 2.into();
    lock["nodes"]["photos"]["of_old"] = 1.into();
    fs::write(&file, lock.to_string()).unwrap();
    let error = go(testing::GOOD, dir.path(), true).unwrap_err();
    assert_eq!(error.code, "P0908");
    assert!(error.message.contains("`nodes.photos.repeats` was 2, is 1"), "{}", error.message);
    // A field that is new, or gone, is no change.
    let fields = lock["nodes"]["photos"].as_object_mut().unwrap();
    fields.remove("repeats");
    fs::write(&file, lock.to_string()).unwrap();
    go(testing::GOOD, dir.path(), true).unwrap();
}

#[test]
fn a_damaged_state_is_told_and_the_one_before_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    go(testing::GOOD, dir.path(), false).unwrap();
    fs::write(dir.path().join("state/step-00000010/state.json"), "{").unwrap();
    assert_eq!(go(testing::GOOD, dir.path(), true).unwrap_err().code, "P0909");
    fs::remove_dir_all(dir.path().join("state/step-00000010")).unwrap();
    // One digit of the weight: still a state, but not the one that was saved.
    let file = dir.path().join("state/step-00000008/driver.txt");
    let text = fs::read_to_string(&file).unwrap();
    let last = if text.ends_with('1') { "2" } else { "1" };
    fs::write(&file, format!("{}{last}", &text[..text.len() - 1])).unwrap();
    let error = go(testing::GOOD, dir.path(), true).unwrap_err();
    assert!(error.code == "P0909" && error.message.contains("`driver.txt` is damaged"), "{error}");
    fs::write(&file, text).unwrap();
    assert_eq!(go(testing::GOOD, dir.path(), true).unwrap().resumed_from, Some(8));
}

#[test]
fn stopped_while_building_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let stop = StopFlag::default();
    stop.set();
    let outcome = go_with(testing::GOOD, dir.path(), false, &stop).unwrap();
    assert_eq!((outcome.status, outcome.position.step), (Status::Interrupted, 0));
    assert_eq!(go(testing::GOOD, dir.path(), false).unwrap().status, Status::Finished);
}

#[test]
fn early_inputs_are_used_and_freed_before_the_model_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let text = testing::GOOD.replace("prompts: [a fox]", "text: [clip, second], prompts: [a fox]");
    let text = text
        .replace("  lora:", "  second: { type: encoder.text, weights: clip_g.safetensors, max_tokens: 77 }\n  lora:");
    testing::trace();
    go(&text, dir.path(), false).unwrap();
    let trace = testing::trace();
    let place = |line: &str| trace.iter().position(|l| l == line).unwrap_or_else(|| panic!("{line}: {trace:#?}"));
    // Both encoders are there, the model is not.
    let prepared = place("prepare preview with 2 and 0");
    assert!(place("build clip") < prepared && place("build second") < prepared);
    for freed in ["drop clip", "drop second"] {
        assert!(prepared < place(freed) && place(freed) < place("build unet"), "{freed}: {trace:#?}");
    }
    // Its own turn comes last, without the encoders and with what it made of them.
    assert!(place("build preview with 0 and its prompts") > place("build lora"));
    assert_eq!(trace.iter().filter(|line| line.contains("clip")).count(), 2, "events do not load it again: {trace:#?}");
}

fn states_of(cadence: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    // 10 steps, 4 of them an epoch.
    go(&testing::GOOD.replace("save_state: { steps: 4 }", cadence), dir.path(), false).unwrap();
    match dir.path().join("state").exists() {
        true => files(dir.path(), "state").iter().map(|name| name.trim_start_matches("step-000000").into()).collect(),
        false => Vec::new(),
    }
}

#[test]
fn states_are_saved_by_steps_epochs_and_at_the_end_and_counted() {
    assert_eq!(states_of("save_state: { steps: 4 }"), ["08", "10"]);
    assert_eq!(states_of("save_state: { epochs: 1, keep_last: { count: 9 } }"), ["04", "08", "10"]);
    assert_eq!(
        states_of("save_state: { epochs: 2, steps: 3, keep_last: { count: 9 } }"),
        ["03", "06", "08", "09", "10"]
    );
    assert_eq!(states_of("save_state: { epochs: 1, at_end: false, keep_last: { count: 1 } }"), ["08"]);
    assert_eq!(states_of("save_state: { steps: 5, at_end: false }"), ["05", "10"]);
    assert_eq!(states_of("save_state: { minutes: 60 }"), ["10"]);
    assert!(states_of("save_state: { minutes: 60, at_end: false }").is_empty());
    assert!(states_of("save_state: { keep_last: { count: 0 } }").is_empty());
}

#[test]
fn an_interrupted_run_saves_its_state_whatever_the_cadence() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        faulty(", interrupt_at: 7").replace("save_state: { steps: 4 }", "save_state: { steps: 100, at_end: false }");
    assert_eq!(go(&text, dir.path(), false).unwrap().status, Status::Interrupted);
    assert_eq!(files(dir.path(), "state"), ["step-00000006"]);
    // Unless none is to be kept.
    let dir = tempfile::tempdir().unwrap();
    let text =
        faulty(", interrupt_at: 7").replace("save_state: { steps: 4 }", "save_state: { keep_last: { count: 0 } }");
    assert_eq!(go(&text, dir.path(), false).unwrap().status, Status::Interrupted);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn the_same_document_starts_and_continues_with_resume_latest() {
    let whole = tempfile::tempdir().unwrap();
    go(testing::GOOD, whole.path(), false).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = testing::GOOD.replace("train: {", "train: { resume: latest,");
    assert_eq!(go(&text, dir.path(), false).unwrap().resumed_from, None);
    fs::remove_dir_all(dir.path().join("state/step-00000010")).unwrap();
    let outcome = go(&text, dir.path(), false).unwrap();
    assert_eq!((outcome.resumed_from, outcome.position.step), (Some(8), 10));
    assert_eq!(go(&text, dir.path(), false).unwrap().resumed_from, Some(10), "a finished run has nothing to do");
    let name = "metrics.jsonl";
    assert_eq!(fs::read(whole.path().join(name)).unwrap(), fs::read(dir.path().join(name)).unwrap());
}

#[test]
fn a_run_goes_on_from_the_state_that_is_named() {
    let whole = tempfile::tempdir().unwrap();
    let keep = testing::GOOD.replace("steps: 4 }", "steps: 4, keep_last: { count: 9 } }");
    go(&keep, whole.path(), false).unwrap();
    let from = |folder: &Path, step: u32| {
        let state = folder.join(format!("state/step-{step:08}"));
        keep.replace("train: {", &format!("train: {{ resume: \"{}\",", state.display()))
    };
    // Of another run, in a folder of its own.
    let other = tempfile::tempdir().unwrap();
    let outcome = go(&from(whole.path(), 4), other.path(), false).unwrap();
    assert_eq!((outcome.resumed_from, outcome.position.step), (Some(4), 10));
    let last = "checkpoints/step-0010.txt";
    assert_eq!(fs::read(whole.path().join(last)).unwrap(), fs::read(other.path().join(last)).unwrap());
    assert_eq!(files(other.path(), "state"), ["step-00000008", "step-00000010"]);
    assert_eq!(
        go(&from(whole.path(), 4), other.path(), false).unwrap_err().code,
        "P0907",
        "not over a run that is there"
    );
    assert_eq!(
        go(&from(whole.path(), 4), other.path(), true).unwrap().resumed_from,
        Some(10),
        "`--resume` is its own newest"
    );
    // Of this run: back to it, and what came after is made again.
    let metrics = fs::read(whole.path().join("metrics.jsonl")).unwrap();
    let stopped = StopFlag::default();
    let outcome = go_with(&from(whole.path(), 4), whole.path(), false, &stopped).unwrap();
    assert_eq!(outcome.resumed_from, Some(4));
    assert_eq!(fs::read(whole.path().join("metrics.jsonl")).unwrap(), metrics);
    assert_eq!(files(whole.path(), "state"), ["step-00000004", "step-00000008", "step-00000010"]);
    assert!(fs::read_to_string(whole.path().join("run.log")).unwrap().contains("2 later states are removed"));
    // Of another pipeline.
    let error = go(&from(whole.path(), 4).replace("seed: 7", "seed: 8"), other.path(), false).unwrap_err();
    assert_eq!(error.code, "P0907");
    let third = tempfile::tempdir().unwrap();
    let error = go(&from(whole.path(), 4).replace("seed: 7", "seed: 8"), third.path(), false).unwrap_err();
    assert_eq!(error.code, "P0908");
}
