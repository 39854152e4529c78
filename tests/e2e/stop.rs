//! Runs that are stopped and continued: what a signal saves, what `--resume` takes and what it refuses.

use std::fs;
#[cfg(unix)]
use std::process::Child;
#[cfg(unix)]
use std::time::{Duration, Instant};

use crate::support::{folder, pipe_in, tiny};
use crate::train::{metrics, train};
#[cfg(unix)]
use crate::{
    support::Ran,
    train::{STEPS, assert_equal_runs, start, steps_done, wait_for, whole_run},
};

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
        // Signals within a second are one wish, so it is asked until it ends.
        signal(&child, "-INT");
        std::thread::sleep(Duration::from_millis(50));
        assert!(asked.elapsed() < Duration::from_secs(20), "it does not stop");
    }
    let took = asked.elapsed();
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(4);
    // On a fast machine the clean stop may be quicker.
    let at_once = ran.err.contains("stopped at once");
    assert!(!at_once || took > Duration::from_millis(900), "the first signals count once: {took:?}");
}

/// `timeout -s INT` signals the process and then its group: one wish, told twice.
#[cfg(unix)]
#[test]
fn two_signals_at_once_are_one_clean_stop() {
    let dir = folder("tiny.yaml", &tiny(100_000));
    let mut child = start(dir.path(), &[]);
    assert!(wait_for(&mut child, dir.path(), "tiny", 3));
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(5));
    signal(&child, "-INT");
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(130);
    assert!(ran.out.contains("stopped after step") && ran.out.contains("nothing is lost"), "{}", ran.out);
    assert!(!ran.err.contains("stopped at once"), "{}", ran.err);
    let done = steps_done(dir.path(), "tiny");
    assert!(dir.path().join(format!("runs/tiny/state/step-{done:08}")).is_dir());
}

/// Interrupted before there is anything to save: another exit code, and no promise that nothing is lost.
#[cfg(unix)]
#[test]
fn a_stop_before_the_first_step_is_no_clean_save() {
    let dir = folder("tiny.yaml", &tiny(100_000));
    let child = start(dir.path(), &["--set", "train.batch_size=28", "--set", "train.accumulate=64"]);
    let begun = Instant::now();
    let log = dir.path().join("runs/tiny/run.log");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains(" train")) {
        assert!(begun.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-INT");
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(4);
    assert!(ran.out.contains("before the first step; nothing was saved yet"), "{}", ran.out);
    assert!(ran.err.contains("start again with: pipe run"), "{}", ran.err);
    assert!(!dir.path().join("runs/tiny/state").exists());
}

/// A stop while pictures are drawn or losses measured does not wait for them, and the continued run makes them.
#[cfg(unix)]
#[test]
fn a_stop_cuts_pictures_short_and_the_continued_run_draws_them() {
    let text = tiny(8)
        .replace("    steps: 2\n", "    steps: 1000\n    at_start: false\n    every: { steps: 4 }\n")
        .replace("  metrics:", "  held: { type: logger.validation, loss: loss, batch: cached, passes: 1, every: { steps: 4 } }\n  metrics:");
    let dir = folder("tiny.yaml", &text);
    let mut child = start(dir.path(), &[]);
    let begun = Instant::now();
    let saved = dir.path().join("runs/tiny/validation.jsonl");
    // Measured at the start and after step 4, just before the picture.
    while fs::read_to_string(&saved).map_or(0, |text| text.lines().count()) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-INT");
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(130);
    let run = dir.path().join("runs/tiny");
    assert!(run.join("state/step-00000004").is_dir(), "{}", ran.out);
    assert!(!run.join("samples").exists() && steps_done(dir.path(), "tiny") == 3, "{}", ran.err);
    let again = train(dir.path(), &["--resume", "--set", "nodes.preview.steps=1"]).expect(0);
    assert!(again.err.contains("first what was cut short after step 4"), "{}", again.err);
    assert!(run.join("samples/preview/step00000004-00.png").exists(), "{}", again.err);
    let read = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap();
    assert_eq!(read("validation.jsonl").lines().map(step).collect::<Vec<_>>(), [0, 4, 8]);
    assert_eq!(read("metrics.jsonl").lines().map(step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!read("state/step-00000008/state.json").contains("cut_short"));
}

/// What nothing trains on may come, go and change, and a default may be written out.
#[test]
fn resume_takes_what_does_not_train_and_defaults_written_out() {
    let dir = folder("tiny.yaml", &tiny(4));
    train(dir.path(), &[]).expect(0);
    let held = format!(
        "  heldout: {{ type: loader.images, path: {}, resolution: 64 }}\n  \
         hc: {{ type: cacher.memory, samples: heldout, vae: vae, text: clip }}\n  \
         held: {{ type: logger.validation, loss: loss, batch: hc, passes: 1, every: {{ steps: 2 }} }}\n",
        crate::support::images().display()
    );
    let text = tiny(8).replace("learning_rate: 1e-3", "learning_rate: 1e-3, weight_decay: 0.01") + &held;
    fs::write(dir.path().join("tiny.yaml"), &text).unwrap();
    train(dir.path(), &["--resume", "--steps", "6"]).expect(0);
    // The first number to compare with is of where the run went on. Measured otherwise, the numbers begin anew.
    let others = crate::support::root().join("pipelines/quickstart/images/heldout");
    let from = |path: &std::path::Path| format!("heldout: {{ type: loader.images, path: {}", path.display());
    let seed = text.replace("passes: 1", "passes: 2").replace(&from(&crate::support::images()), &from(&others));
    assert!(seed.contains("images/heldout"));
    fs::write(dir.path().join("tiny.yaml"), seed).unwrap();
    let ran = train(dir.path(), &["--resume"]).expect(0);
    assert!(ran.err.contains("`held` measures otherwise than before (`passes` and `images` changed)"), "{}", ran.err);
    let lines = fs::read_to_string(dir.path().join("runs/tiny/validation.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|line| (line["step"].as_u64().unwrap(), line["relative_to_first"] == 1.0)).collect();
    assert_eq!(told, [(4, true), (6, false), (6, true), (8, false)]);
    assert!(lines.iter().map(|line| line["measured_with"]["passes"].as_u64()).eq([Some(1), None, Some(2), None]));
    // Weights in another place are the same weights.
    let model = crate::support::root().join("tests/fixtures/diffusers_dir");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&model, dir.path().join("moved")).unwrap();
    let place = if cfg!(unix) { "moved".to_owned() } else { model.display().to_string() };
    fs::write(dir.path().join("tiny.yaml"), tiny(8).replace(&model.display().to_string(), &place)).unwrap();
    train(dir.path(), &["--resume"]).expect(0);
}

#[test]
fn resume_refuses_another_pipeline_and_takes_more_steps() {
    let dir = folder("tiny.yaml", &tiny(4));
    train(dir.path(), &[]).expect(0);
    let changed = train(dir.path(), &["--resume", "--set", "nodes.lora.rank=8"]).expect(1);
    // The field, both values, and the place where the new one stands; a run that is refused is not announced.
    assert!(
        changed.err.contains("error[P0908]") && changed.err.contains("`nodes.lora.rank` was 4, is 8"),
        "{}",
        changed.err
    );
    assert!(changed.err.contains("--> --set:1:17") && !changed.err.contains("results go to"), "{}", changed.err);
    let changed = train(dir.path(), &["--resume", "--set", "train.batch_size=2"]).expect(1);
    assert!(changed.err.contains("`train.batch_size` was 3, is 2"), "{}", changed.err);
    let longer = train(dir.path(), &["--resume", "--steps", "6"]).expect(0);
    assert!(longer.out.contains("done: 2 steps") && longer.out.contains("continued after step 4"), "{}", longer.out);
    assert_eq!(metrics(&dir.path().join("runs/tiny")).len(), 6);
    // A rate that does not fall is the same in a longer run; fewer steps than are done leave nothing to do.
    assert!(!longer.err.contains("the run was to have"), "{}", longer.err);
    let fewer = train(dir.path(), &["--resume", "--steps", "2"]).expect(0);
    assert!(fewer.err.contains("step 6 is done already, and the run now has 2"), "{}", fewer.err);
}

#[test]
fn a_longer_run_with_a_falling_rate_is_told() {
    let dir =
        folder("tiny.yaml", &tiny(4).replace("learning_rate: 1e-3", "learning_rate: 1e-3, schedule: { type: cosine }"));
    train(dir.path(), &["--output", "out"]).expect(0);
    let longer = train(dir.path(), &["--output", "out", "--resume", "--steps", "8"]).expect(0);
    assert!(longer.err.contains("the run was to have 4 steps and now has 8"), "{}", longer.err);
    assert!(longer.err.contains("cosine"), "{}", longer.err);
}

#[test]
fn resume_needs_a_run_and_names_where_it_looked() {
    let dir = folder("tiny.yaml", &tiny(4));
    let elsewhere = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.yaml");
    let resume = |args: &[&str]| {
        let file = file.display().to_string();
        pipe_in(elsewhere.path(), &[&["run", &file, "--resume", "-q"], args].concat())
    };
    let looked = elsewhere.path().canonicalize().unwrap().join("runs/tiny");
    let ran = resume(&[]).expect(1);
    assert!(ran.err.contains(&format!("no saved state to go on from in `{}`", looked.display())), "{}", ran.err);
    assert!(!elsewhere.path().join("runs").exists(), "nothing is made");
    // The run is beside the document: the folder to give is named.
    train(dir.path(), &[]).expect(0);
    let beside = dir.path().join("runs/tiny").display().to_string();
    let ran = resume(&[]).expect(1);
    assert!(ran.err.contains(&format!("--output {beside}")), "{}", ran.err);
    resume(&["--output", &beside]).expect(0);
    // A run that was killed before its first state is one: it begins again.
    fs::remove_dir_all(dir.path().join("runs/tiny/state")).unwrap();
    let again = train(dir.path(), &["--resume"]).expect(0);
    assert!(again.err.contains("no saved state, so the run starts from its first step"), "{}", again.err);
}
