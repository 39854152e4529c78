//! A disk that has no room: told before the first step where it can be, and nothing lost where it cannot.
//!
//! A full disk is played by a limit on the size of files, which needs no rights: writes fail with "file too large", and
//! so does taking room for a file.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Ran, folder, pipe_in, tiny};
use crate::train::{assert_equal_runs, steps_done, train, wait_for, whole_run};

/// `pipe run` under a shell that has the failed write told instead of ending the process.
fn shell(dir: &Path, before: &str, output: &str) -> Command {
    let pipe = crate::support::command(dir);
    let mut sh = Command::new("sh");
    sh.current_dir(dir).args(["-c", &format!("trap '' XFSZ; {before} exec \"$0\" \"$@\"")]).arg(pipe.get_program());
    for (name, value) in pipe.get_envs() {
        match value {
            Some(value) => sh.env(name, value),
            None => sh.env_remove(name),
        };
    }
    sh.args(["run", "tiny.yaml", "--output", output]);
    sh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    sh
}

fn state_size(run: &Path) -> u64 {
    let newest = fs::read_dir(run.join("state")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    fs::metadata(newest.join("state.safetensors")).unwrap().len()
}

#[test]
fn a_disk_without_room_for_the_state_is_told_before_the_first_step() {
    let (whole, _) = whole_run();
    let dir = folder("tiny.yaml", &tiny(24));
    // Shells count in blocks of 512 or of 1024 bytes: too few either way.
    let blocks = state_size(&whole.join("runs/whole")) / 1024 / 2;
    let output = shell(dir.path(), &format!("ulimit -f {blocks};"), "runs/small").output().expect("sh starts");
    let ran = Ran::of(output).expect(1);
    assert!(ran.err.contains("error[P0903]") && ran.err.contains("no room for the training state"), "{}", ran.err);
    // At the flag that names the folder, and with what to do.
    assert!(ran.err.contains("--> --output\n") && ran.err.contains("help: make room"), "{}", ran.err);
    let run = dir.path().join("runs/small");
    assert!(!run.join("metrics.jsonl").exists() && !run.join("state").exists(), "no step was done");
    let left = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.contains(".tmp-")), "the room is given back");
    // With room the same command runs.
    train(dir.path(), &["--output", "runs/small", "--steps", "2"]).expect(0);
}

#[test]
fn a_disk_that_fills_up_in_the_middle_costs_no_good_file() {
    let (dir, whole) = whole_run();
    let size = state_size(&dir.join("runs/whole"));
    let mut child = shell(dir, "", "runs/filled").spawn().expect("sh starts");
    assert!(wait_for(&mut child, dir, "filled", 6), "the run was over before its disk was full");
    let limit = Rlimit { current: Some(size / 2), maximum: Some(size / 2) };
    let pid = Pid::from_child(&child);
    prlimit(Some(pid), Resource::Fsize, limit).expect("a limit can be lowered");
    let ran = Ran::of(child.wait_with_output().expect("the child ends")).expect(1);
    assert!(ran.err.contains("error[P0903]") && ran.err.contains("cannot be written"), "{}", ran.err);
    assert!(ran.err.contains("--> --output\n") && ran.err.contains("help: make room"), "{}", ran.err);
    assert!(ran.err.contains("last saved state: ") && ran.err.contains("continue with: pipe run"), "{}", ran.err);
    let run = dir.join("runs/filled");
    let done = steps_done(dir, "filled");
    assert!((6..24).contains(&done), "{done} steps");
    let states: Vec<_> = fs::read_dir(run.join("state")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!states.is_empty() && states.len() <= 2);
    for state in &states {
        pipe_in(dir, &["inspect", &state.join("state.safetensors").display().to_string()]).expect(0);
        assert!(state.join("state.json").exists(), "{}", state.display());
    }
    for file in fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()) {
        pipe_in(dir, &["inspect", &file.display().to_string()]).expect(0);
    }
    // Room is made: the run goes on as if nothing had been.
    let resumed = train(dir, &["--output", "runs/filled", "--resume"]).expect(0);
    assert_equal_runs(dir, whole, &resumed, "filled");
}
