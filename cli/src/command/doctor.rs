//! `pipe doctor`: what this build has and what this machine gives it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pipe_core::plan::bytes_text;
use pipe_ops::DType;
use pipe_ops::backend::{self, Kind};
use serde::Serialize;

use super::{Form, json_text};
use crate::exit::{Exit, Outcome};
use crate::machine;
use crate::terminal::{Paint, Terminal};

/// Show what this build and this machine have: devices, memory, disk, cache.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print it.
    #[arg(long, value_enum, default_value = "human")]
    pub format: Form,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    devices: Vec<Device>,
    cpu: Cpu,
    memory: Memory,
    disk: Disk,
    cache: Cache,
}

#[derive(Debug, Serialize)]
struct Device {
    name: String,
    answers: bool,
    /// Types it computes in.
    dtypes: Vec<&'static str>,
    /// Why it does not answer.
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    name: Option<String>,
    cores: usize,
    simd: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Memory {
    total: u64,
    free: u64,
}

#[derive(Debug, Serialize)]
struct Disk {
    /// Free bytes where runs are written: the working folder.
    free: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Cache {
    folder: PathBuf,
    bytes: u64,
    files: u64,
    /// Free bytes on its disk.
    free: Option<u64>,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let report = report();
    terminal.out(&match args.format {
        Form::Json => json_text(&report),
        Form::Human => human(&report, terminal.paint()),
    })?;
    Ok(Exit::Done)
}

fn report() -> Report {
    let folder: PathBuf = pipe_nodes::cache_dir();
    let (bytes, files) = machine::folder_size(&folder);
    let free = machine::free_disk(&folder);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        features: [Kind::Wgpu, Kind::Cuda].into_iter().filter(|kind| kind.in_build()).map(Kind::name).collect(),
        devices: [Kind::Cpu, Kind::Cuda, Kind::Wgpu].into_iter().flat_map(devices).collect(),
        cpu: Cpu { name: machine::cpu_name(), cores: machine::cores(), simd: machine::simd() },
        memory: Memory { total: machine::memory(), free: machine::free_memory() },
        disk: Disk { free: machine::free_disk(Path::new(".")) },
        cache: Cache { folder, bytes, files, free },
    }
}

/// Most devices of one kind that are asked.
const MOST: usize = 16;

/// The devices of a kind, or why there is none.
fn devices(kind: Kind) -> Vec<Device> {
    let mut found = Vec::new();
    for index in 0..if kind == Kind::Cpu { 1 } else { MOST } {
        let name = if index == 0 { kind.name().into() } else { format!("{}:{index}", kind.name()) };
        match backend::open_kind(kind, index) {
            Ok(device) => {
                let types = [(DType::F32, "f32"), (DType::F16, "f16"), (DType::BF16, "bf16")];
                let dtypes = types.into_iter().filter(|(dtype, _)| backend::supports(&device, *dtype));
                let dtypes = dtypes.map(|(_, name)| name).collect();
                found.push(Device { name, answers: true, dtypes, reason: None });
            }
            Err(reason) if index == 0 => {
                found.push(Device { name, answers: false, dtypes: Vec::new(), reason: Some(reason) });
            }
            Err(_) => break,
        }
        if !kind.in_build() {
            break;
        }
    }
    found
}

fn human(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{}  {text}", paint.cyan(&format!("{name:<8}")));
    };
    let features = if report.features.is_empty() { "none beside cpu".into() } else { report.features.join(", ") };
    line("pipe", format!("{}, features: {features}", report.version));
    for device in &report.devices {
        let mark = if device.answers { paint.green("yes") } else { paint.dim("no ") };
        let what = device.reason.clone().unwrap_or_else(|| format!("computes in {}", device.dtypes.join(", ")));
        line("device", format!("{mark}  {:<7}  {what}", device.name));
    }
    let simd =
        if report.cpu.simd.is_empty() { "no vector instructions known".into() } else { report.cpu.simd.join(" ") };
    let name = report.cpu.name.as_ref().map_or(String::new(), |name| format!("{name}, "));
    line("CPU", format!("{name}{} cores, {simd}", report.cpu.cores));
    line("memory", format!("{}, {} free", bytes_text(report.memory.total), bytes_text(report.memory.free)));
    let free = |bytes: Option<u64>| bytes.map_or("unknown".into(), bytes_text);
    line("disk", format!("{} free in the working folder", free(report.disk.free)));
    let cache = &report.cache;
    let size =
        if cache.files == 0 { "empty".into() } else { format!("{} in {} files", bytes_text(cache.bytes), cache.files) };
    line("cache", format!("{}: {size}, {} free", cache.folder.display(), free(cache.free)));
    out
}
