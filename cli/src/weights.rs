//! What the commands on weight files share: element types, layouts, the place of the result.

use std::path::PathBuf;

use pipe_data::weights::DType;
use pipe_tools::resize::Kept;
use pipe_tools::{Format, Output};

use crate::terminal::Terminal;
use crate::text;

/// Where the result goes.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// File or folder to write.
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Replace what is there; never a file that is read.
    #[arg(long)]
    pub force: bool,
}

impl Target {
    /// As the tools take it.
    pub fn output(&self) -> Output {
        Output { path: self.output.clone(), force: self.force }
    }
}

/// Element type of floats in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Type {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit floats with 4 exponent bits, without scales.
    #[value(name = "fp8-e4m3", alias = "fp8_e4m3fn")]
    Fp8E4m3,
    /// 8-bit floats with 5 exponent bits, without scales.
    #[value(name = "fp8-e5m2", alias = "fp8_e5m2")]
    Fp8E5m2,
}

impl Type {
    /// The file's element type.
    pub fn dtype(self) -> DType {
        match self {
            Type::F32 => DType::F32,
            Type::F16 => DType::F16,
            Type::Bf16 => DType::BF16,
            Type::Fp8E4m3 => DType::F8E4M3,
            Type::Fp8E5m2 => DType::F8E5M2,
        }
    }
}

/// Layout of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// One safetensors file of all parts with the original code's names.
    SingleFile,
    /// The denoiser alone with its authors' names, as FLUX and Lumina are passed on.
    ModelOnly,
    /// A PyTorch checkpoint of all parts.
    Ckpt,
    /// A Diffusers folder.
    Diffusers,
}

impl Layout {
    /// As the tools take it.
    pub fn format(self) -> Format {
        match self {
            Layout::SingleFile => Format::SingleFile,
            Layout::ModelOnly => Format::ModelOnly,
            Layout::Ckpt => Format::Ckpt,
            Layout::Diffusers => Format::Diffusers,
        }
    }
}

/// Says of layers that are too small for the rank that was asked for.
pub fn warn_of_small_layers(kept: &Kept, terminal: &Terminal) {
    if kept.lowered > 0 {
        let layers = text::count(kept.lowered, "layer");
        terminal
            .warn(&format!("{layers} got a lower rank than asked for: no rank is above the smaller side of a weight"));
    }
}

/// What was kept, a line a block.
pub fn kept_text(kept: &Kept) -> String {
    let width = kept.blocks.keys().map(String::len).max().unwrap_or(0).max("block".len());
    let mut out = format!("{:<width$}  layers  mean rank  norm kept\n", "block");
    for (name, block) in &kept.blocks {
        let mean = |sum: f64| sum / block.layers.max(1) as f64;
        out += &format!(
            "{name:<width$}  {:>6}  {:>9.1}  {:>8.2}%\n",
            block.layers,
            mean(block.after as f64),
            100.0 * mean(block.kept)
        );
    }
    let layers: usize = kept.blocks.values().map(|block| block.layers).sum();
    out + &format!("{}: {:.2}% of the norm is kept on average\n", text::count(layers, "layer"), 100.0 * kept.mean())
}
