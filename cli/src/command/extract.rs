//! `pipe extract`: a LoRA of the difference of two models, or the first ranks of a DyLoRA.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use pipe_tools::Content;
use pipe_tools::adapter::AdapterFile;
use pipe_tools::dylora::truncate;
use pipe_tools::extract::{Extract, extract};

use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::Terminal;
use crate::text;
use crate::weights::{Target, Type, kept_text};

/// Differences that count as none.
const MIN_DIFF: f32 = 1e-4;

/// Extract a LoRA from the difference of two models, or a lower rank from a DyLoRA.
///
/// With `--base` each layer's difference is replaced by the best approximation of the rank (SVD). Without it the file is
/// a DyLoRA, and its first ranks are taken.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trained model, or a DyLoRA file.
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    /// The model it was trained from.
    #[arg(short, long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    /// Rank.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub rank: u32,
    /// U-Nets: also the residual blocks and samplers, their 3×3 convolutions with this rank.
    #[arg(long, value_name = "N", requires = "base", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub conv_rank: Option<u32>,
    /// Transformers: also the embedders before the blocks, and SD3's last layer.
    #[arg(long, requires = "base")]
    pub embedders: bool,
    /// Cut the factors to ± this quantile of their values; other programs take 0.99. Default: they are not cut.
    #[arg(long, value_name = "Q", requires = "base")]
    pub clamp_quantile: Option<f64>,
    /// A text encoder or denoiser whose largest difference is not above this counts as untrained. Default: 1e-4.
    #[arg(long, value_name = "X", requires = "base")]
    pub min_diff: Option<f32>,
    /// Element type. Default: f16, or that of the DyLoRA.
    #[arg(long, value_enum)]
    pub dtype: Option<Type>,
    /// The file is a DyLoRA, although its metadata do not say so.
    #[arg(long, conflicts_with = "base")]
    pub dylora: bool,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let (output, rank) = (args.target.output(), args.rank as usize);
    let Some(base) = &args.base else {
        output.check(&[&args.path], Content::Safetensors)?;
        let file = AdapterFile::open(&args.path).map_err(|error| {
            let failure = Failure::from(error);
            if failure.code == Some("P0302") {
                failure.help("`--base MODEL` gives the model it was trained from")
            } else {
                failure
            }
        })?;
        let layers = truncate(&file, rank, args.dylora, args.dtype.map(Type::dtype), &output)?;
        terminal.note(&format!("{} at rank {rank}: {}", text::count(layers, "layer"), output.path.display()));
        return Ok(Exit::Done);
    };
    if let Some(quantile) = args.clamp_quantile.filter(|q| !(0.5..=1.0).contains(q)) {
        return Err(Failure::usage(format!("`--clamp-quantile {quantile}` is not from 0.5 to 1")).help("0.99 is usual"));
    }
    let min_diff = args.min_diff.unwrap_or(MIN_DIFF);
    if min_diff.is_nan() || min_diff < 0.0 {
        return Err(Failure::usage("`--min-diff` is not a number from 0 on"));
    }
    let what = Extract {
        tuned: &args.path,
        base,
        rank,
        conv_rank: args.conv_rank.map(|rank| rank as usize),
        embedders: args.embedders,
        clamp: args.clamp_quantile,
        min_diff,
        dtype: args.dtype.unwrap_or(Type::F16).dtype(),
    };
    let bar = if terminal.live() && !terminal.quiet() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} layer {pos} of {len}, {eta} left") {
        bar.set_style(style);
    }
    let done = extract(what, &output, &mut |at, of| {
        bar.set_length(of as u64);
        bar.set_position(at as u64);
    });
    bar.finish_and_clear();
    let done = done?;
    terminal.out(&kept_text(&done.kept))?;
    if !done.equal.is_empty() {
        terminal.note(&format!("equal in both: {}", done.equal.join(", ")));
    }
    if !done.missing.is_empty() {
        terminal.warn(&format!("only in the base: {}", done.missing.join(", ")));
    }
    if done.convolutions > 0 {
        let count = text::count(done.convolutions, "layer");
        terminal.warn(&format!("{count} changed that only `--conv-rank` or `--embedders` takes"));
    }
    if done.left_out > 0 {
        let count = text::count(done.left_out, "tensor");
        terminal.warn(&format!("{count} changed that have no place in a LoRA: norms, biases, embeddings"));
    }
    terminal.note(&format!("{}: {}", text::count(done.kept.layers, "layer"), output.path.display()));
    Ok(Exit::Done)
}
