//! How fast this machine trains, for the time a plan tells: as its own runs were, else from a short product of matrices.
//!
//! Every run of a few steps leaves its speed in `speeds.json` of the cache folder. It is a cache: one that cannot be
//! read counts as empty, one that cannot be written is left as it is.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pipe_core::folder::atomic_write;
use pipe_core::plan::{PhaseKind, Plan};
use pipe_ops::backend::{self, Kind};
use pipe_ops::{DType, matmul_speed};
use serde::{Deserialize, Serialize};

use crate::machine;

/// What training makes of the speed of large products of matrices. Measured on a CPU with 2 cores: from 0.2 (the
/// quickstart's small network) to 0.5 (the U-Net of SD 1.5), so that times are right within a factor of about two.
const SHARE: f64 = 0.35;
/// How long products of matrices are timed.
const PROBE: Duration = Duration::from_millis(150);
/// Steps from which a run tells the speed.
pub const LEAST_STEPS: usize = 3;
/// Steps of another size than this factor say nothing.
const NEAR: f64 = 64.0;

/// Speeds of earlier runs.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Speeds {
    runs: Vec<Speed>,
}

/// The speed of the last run of its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Speed {
    /// What computed.
    #[serde(flatten)]
    place: Place,
    /// Planned FLOPs of a step.
    step_flops: u64,
    /// FLOPs over seconds of its steps.
    flops_per_second: f64,
}

/// What computes, and in which type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    /// `cpu`, `cuda`, `wgpu`.
    device: String,
    /// The CPU and its cores; nothing of a GPU is known.
    processor: Option<String>,
    /// `f32`, `bf16`, `f16`.
    precision: String,
}

impl Place {
    fn of(plan: &Plan) -> Option<Place> {
        let (device, precision) = (plan.assumed.device.clone()?, plan.assumed.precision.clone()?);
        let cpu = || format!("{}, {} cores", machine::cpu_name().unwrap_or_default(), machine::cores());
        let processor = (device == Kind::Cpu.name()).then(cpu);
        Some(Place { device, processor, precision })
    }
}

impl Speeds {
    fn read(path: &Path) -> Speeds {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The speed of the run whose steps were nearest in size.
    fn nearest(&self, place: &Place, step_flops: u64) -> Option<f64> {
        let off = |one: &Speed| (step_flops as f64 / one.step_flops as f64).ln().abs();
        let there = self.runs.iter().filter(|one| one.place == *place && one.step_flops > 0);
        let near = there.filter(|one| off(one) <= NEAR.ln() && one.flops_per_second > 0.0);
        near.min_by(|a, b| off(a).total_cmp(&off(b))).map(|one| one.flops_per_second)
    }

    /// Takes in a run in place of one whose steps were of about the same size.
    fn learn(&mut self, new: Speed) {
        self.runs.retain(|one| one.place != new.place || one.step_flops.max(1).ilog2() != new.step_flops.ilog2());
        self.runs.push(new);
    }
}

/// Where the speeds are.
fn file() -> PathBuf {
    pipe_nodes::cache_dir().join("speeds.json")
}

/// FLOPs of one step.
fn step_flops(plan: &Plan) -> Option<u64> {
    let train = plan.phases.iter().find(|phase| phase.kind == PhaseKind::Train)?;
    Some(train.flops / train.count.max(1)).filter(|flops| *flops > 0)
}

/// Adds times as earlier runs took; where there was none and `probe` says so, as products of matrices take now.
pub fn timed(plan: Plan, probe: bool) -> Plan {
    let Some((place, flops)) = Place::of(&plan).zip(step_flops(&plan)) else { return plan };
    let (speed, source) = match Speeds::read(&file()).nearest(&place, flops) {
        Some(speed) => (speed, "as runs on this machine took"),
        None if probe => {
            (SHARE * measured(&place), "twice or half that: from a short measurement, a run tells it better")
        }
        None => return plan,
    };
    let mut plan = plan.with_speed(|_| speed);
    plan.assumed.speed = (speed > 0.0).then(|| source.into());
    plan
}

/// FLOPs a second of products on the planned device; 0 where it is not there.
fn measured(place: &Place) -> f64 {
    let Some((Some(kind), index)) = backend::parse(&place.device) else { return 0.0 };
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let dtype = dtypes.into_iter().find(|dtype| format!("{dtype:?}").to_lowercase() == place.precision);
    match (backend::open_kind(kind, index), dtype) {
        (Ok(device), Some(dtype)) if backend::supports(&device, dtype) => matmul_speed(&device, dtype, PROBE),
        _ => 0.0,
    }
}

/// Keeps what the steps of a run took, in seconds.
pub fn learn(plan: &Plan, steps: &[f64]) {
    // The first step warms up.
    let seconds: f64 = steps.iter().skip(1).sum();
    let Some((place, flops)) = Place::of(plan).zip(step_flops(plan)) else { return };
    if steps.len() <= LEAST_STEPS || seconds <= 0.0 {
        return;
    }
    let flops_per_second = flops as f64 * (steps.len() - 1) as f64 / seconds;
    let path = file();
    let mut speeds = Speeds::read(&path);
    speeds.learn(Speed { place, step_flops: flops, flops_per_second });
    let text = serde_json::to_string_pretty(&speeds).unwrap_or_default();
    // A run is no worse for it if this fails.
    drop(atomic_write(&path, |file| file.write_all(text.as_bytes())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(precision: &str) -> Place {
        Place { device: "cpu".into(), processor: Some("one, 2 cores".into()), precision: precision.into() }
    }

    #[test]
    fn the_run_of_nearest_size_tells() {
        let mut speeds = Speeds::default();
        for (step_flops, flops_per_second) in [(1 << 30, 1e9), (1 << 34, 2e9), ((1 << 34) + 5, 3e9)] {
            speeds.learn(Speed { place: place("f32"), step_flops, flops_per_second });
        }
        assert_eq!(speeds.runs.len(), 2, "the newer of two of one size stays");
        assert_eq!(speeds.nearest(&place("f32"), 1 << 31), Some(1e9));
        assert_eq!(speeds.nearest(&place("f32"), 1 << 40), Some(3e9));
        assert_eq!(speeds.nearest(&place("f32"), 1 << 50), None, "too far off");
        assert_eq!(speeds.nearest(&place("bf16"), 1 << 31), None);
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("speeds.json");
        std::fs::write(&path, "{\"runs\": [{}]}").unwrap();
        assert!(Speeds::read(&path).runs.is_empty() && Speeds::read(&folder.path().join("none")).runs.is_empty());
    }
}
