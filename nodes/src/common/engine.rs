//! The device and compute type of a run.

use std::sync::Mutex;

use pipe_core::run::RunError;
use pipe_core::settings::{Precision, Settings};
use pipe_ops::backend::{self, Kind};
use pipe_ops::{Cx, DType, Device};

/// Device and types every node of a run computes with.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Family of the device.
    pub kind: Kind,
    /// The device.
    pub device: Device,
    /// Type of matrix products and convolutions.
    pub compute: DType,
}

/// Devices opened so far, by their text: probing a GPU takes seconds.
static OPEN: Mutex<Vec<(String, Kind, Device)>> = Mutex::new(Vec::new());

impl Engine {
    /// Opens the device that the document asks for.
    pub fn open(settings: &Settings) -> Result<Self, RunError> {
        let text = settings.train.device.as_str();
        let mut open = OPEN.lock().unwrap_or_else(|e| e.into_inner());
        let (kind, device) = match open.iter().find(|(t, ..)| t == text) {
            Some((_, kind, device)) => (*kind, device.clone()),
            None => {
                let (kind, device) = backend::open(text).map_err(|why| {
                    RunError::new("P0904", why)
                        .at("/train.device")
                        .help("`pipe doctor` lists the devices of this build and machine")
                })?;
                open.push((text.to_string(), kind, device.clone()));
                (kind, device)
            }
        };
        let compute = compute_type(settings.train.precision, kind);
        if !backend::supports(&device, compute) {
            return Err(RunError::new(
                "P0904",
                format!("the `{}` device does not compute in {compute:?}", kind.name()),
            )
            .at("/train.precision")
            .help("set `train.precision` to `f32`, or to `auto`"));
        }
        Ok(Engine { kind, device, compute })
    }

    /// A context of operations, recording nothing.
    pub fn cx(&self) -> Cx {
        Cx::new(self.device.clone(), self.compute)
    }
}

/// The compute type of a device: `auto` is bf16 on CUDA and f32 elsewhere.
pub fn compute_type(precision: Precision, kind: Kind) -> DType {
    match (precision, kind) {
        (Precision::F32, _) | (Precision::Auto, Kind::Cpu | Kind::Wgpu) => DType::F32,
        (Precision::F16, _) => DType::F16,
        (Precision::Bf16, _) | (Precision::Auto, Kind::Cuda) => DType::BF16,
    }
}

/// What is wrong with the device or the type of a document, known without opening anything.
pub struct Unfit {
    /// Field of `train` to blame.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    /// No build and no machine could run it; otherwise this build cannot.
    pub anywhere: bool,
}

/// What `check` and `plan` can say of device and precision without opening anything.
pub fn check_device(settings: &Settings) -> Option<Unfit> {
    let (kind, _) = backend::parse(&settings.train.device)?;
    let name = |precision: Precision| if precision == Precision::F16 { "f16" } else { "bf16" };
    let half = !matches!(settings.train.precision, Precision::Auto | Precision::F32);
    if let Some(kind) = kind
        && !kind.in_build()
    {
        return Some(Unfit {
            field: "/train.device",
            message: format!("`train.device` is `{}`, which this build does not have", settings.train.device),
            help: format!("build with `cargo build --release --features {}`, or use `auto`", kind.name()),
            anywhere: false,
        });
    }
    if kind == Some(Kind::Cpu) && half {
        return Some(Unfit {
            field: "/train.precision",
            message: "the CPU computes in f32 only".into(),
            help: "leave `train.precision` out, or set it to `f32`".into(),
            anywhere: true,
        });
    }
    if kind.is_none() && half && !Kind::Cuda.in_build() && !Kind::Wgpu.in_build() {
        let precision = name(settings.train.precision);
        return Some(Unfit {
            field: "/train.precision",
            message: format!(
                "`train.precision` is `{precision}`, and this build has the CPU alone, which computes in f32"
            ),
            help: "leave `train.precision` out for `auto`, or build with `--features cuda` or `wgpu`".into(),
            anywhere: false,
        });
    }
    None
}
