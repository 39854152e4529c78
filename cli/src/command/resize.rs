//! `pipe resize`: a LoRA at another rank.

use std::path::PathBuf;

use pipe_tools::Content;
use pipe_tools::adapter::AdapterFile;
use pipe_tools::resize::{Dynamic, Ranks, Resize, resize};

use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::Terminal;
use crate::weights::{Target, Type, kept_text, warn_of_small_layers};

/// Change the rank of a LoRA by SVD, to a fixed one or to what each layer needs.
///
/// Each layer's change of its weight is replaced by the best approximation; scales stay. Says how much of the norm is
/// kept, by block.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("dynamic").args(["sv_ratio", "sv_fro", "sv_cumulative"]))]
#[command(group = clap::ArgGroup::new("how").args(["rank", "sv_ratio", "sv_fro", "sv_cumulative"]).required(true).multiple(true))]
pub struct Args {
    /// A LoRA file.
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// Rank; with a dynamic method the largest allowed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub rank: Option<u32>,
    /// Rank of convolutions larger than 1×1. Default: `--rank`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub conv_rank: Option<u32>,
    /// Keep the singular values of a layer that are above its largest divided by this.
    #[arg(long, value_name = "X")]
    pub sv_ratio: Option<f64>,
    /// Keep as few singular values as hold this part of a layer's Frobenius norm, from 0 to 1.
    #[arg(long, value_name = "X")]
    pub sv_fro: Option<f64>,
    /// Keep as few singular values as hold this part of their sum, from 0 to 1.
    #[arg(long, value_name = "X")]
    pub sv_cumulative: Option<f64>,
    /// Element type. Default: that of the file.
    #[arg(long, value_enum)]
    pub dtype: Option<Type>,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let dynamic = match (args.sv_ratio, args.sv_fro, args.sv_cumulative) {
        (Some(x), _, _) if x >= 1.0 && x.is_finite() => Some(Dynamic::Ratio(x)),
        (Some(x), _, _) => return Err(Failure::usage(format!("`--sv-ratio {x}` is not 1 or more"))),
        (_, Some(x), _) if (0.0..=1.0).contains(&x) => Some(Dynamic::Frobenius(x)),
        (_, Some(x), _) => return Err(Failure::usage(format!("`--sv-fro {x}` is not from 0 to 1"))),
        (_, _, Some(x)) if (0.0..=1.0).contains(&x) => Some(Dynamic::Cumulative(x)),
        (_, _, Some(x)) => return Err(Failure::usage(format!("`--sv-cumulative {x}` is not from 0 to 1"))),
        _ => None,
    };
    let linear = args.rank.map_or(usize::MAX, |rank| rank as usize);
    let conv = args.conv_rank.map_or(linear, |rank| rank as usize);
    let output = args.target.output();
    output.check(&[&args.path], Content::Safetensors)?;
    let file = AdapterFile::open(&args.path)?;
    let what = Resize { ranks: Ranks { linear, conv }, dynamic, dtype: args.dtype.map(Type::dtype) };
    let kept = resize(&file, what, &output)?;
    terminal.out(&kept_text(&kept))?;
    warn_of_small_layers(&kept, terminal);
    terminal.note(&format!("written: {}", output.path.display()));
    Ok(Exit::Done)
}
