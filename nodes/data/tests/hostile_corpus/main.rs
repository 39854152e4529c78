//! Files made to break a reader: each is refused, with a message that names what is wrong, in under a second, and all
//! of them together within 256 MB of memory.

#[path = "../common/mod.rs"]
mod common;
mod diffusers;
mod pickles;
mod safetensors;
mod zips;

use std::fs;
use std::time::{Duration, Instant};

use pipe_data::weights::{Header, WeightFile, WeightSet};

/// Longest time for one file.
const MOST_TIME: Duration = Duration::from_secs(1);
/// Most memory of the whole process, the files themselves included.
#[cfg(target_os = "linux")]
const MOST_MEMORY: u64 = 256 << 20;

/// A file and a piece of the message it is refused with.
pub struct Case {
    name: String,
    make: Box<dyn Fn() -> Vec<u8>>,
    wanted: String,
}

impl Case {
    pub fn new(name: impl Into<String>, bytes: Vec<u8>, wanted: impl Into<String>) -> Case {
        Case { name: name.into(), make: Box::new(move || bytes.clone()), wanted: wanted.into() }
    }

    /// A file too large to be kept with the others.
    pub fn large(name: &str, make: fn() -> Vec<u8>, wanted: &str) -> Case {
        Case { name: name.into(), make: Box::new(make), wanted: wanted.into() }
    }
}

#[test]
fn every_file_is_refused_quickly_in_little_memory_and_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    let cases: Vec<Case> = [safetensors::cases(), pickles::cases(), zips::cases()].into_iter().flatten().collect();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut problems = Vec::new();
    for Case { name, make, wanted } in cases {
        fs::write(&path, make()).unwrap();
        let started = Instant::now();
        let message = WeightFile::open(&path).map_or_else(|error| error.to_string(), |_| "accepted".into());
        let took = started.elapsed();
        let plain = !message.ends_with('.') && message.len() < 1000 && !message.chars().any(char::is_control);
        if !message.contains(&wanted) || !message.contains("model.ckpt") || !plain || took >= MOST_TIME {
            problems.push(format!("{name}, in {took:?}: {message}"));
        }
        assert_eq!(Header::read(&path).unwrap_err().to_string(), message, "{name}");
        assert_eq!(WeightSet::open(&path).unwrap_err().to_string(), message, "{name}");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    diffusers::are_refused(MOST_TIME);
    assert_memory();
}

/// The most memory this process ever had, files it mapped included, stays below the limit.
#[cfg(target_os = "linux")]
fn assert_memory() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    assert!(most < MOST_MEMORY, "{} MB", most >> 20);
}

#[cfg(not(target_os = "linux"))]
fn assert_memory() {}
