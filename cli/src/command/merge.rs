//! `pipe merge`: adapters into a model, or several LoRAs into one.

use std::path::PathBuf;

use pipe_tools::join::{Join, join};
use pipe_tools::merge::{Merge, Weighted, merge};
use pipe_tools::resize::Ranks;

use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::Terminal;
use crate::text;
use crate::weights::{Layout, Target, Type, kept_text, warn_of_small_layers};

/// Merge adapters into a model, or several LoRAs into one.
///
/// With `--base` the adapters are added to its weights: LoRA, LoCon, LoHa, LoKr, DoRA, OFT, DyLoRA and full differences,
/// in kohya's, LyCORIS', PEFT's and Diffusers' names. Without it the LoRAs become one LoRA, exactly (their ranks behind
/// each other) or at the rank of `--rank`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An adapter and its strength, 1 when left out: `style.safetensors=0.8`. May be given several times.
    #[arg(short, long, value_name = "FILE[=RATIO]", required = true)]
    pub lora: Vec<String>,
    /// The model to merge into: a checkpoint, a Diffusers folder, or a part alone.
    #[arg(short, long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    /// Layout of the merged model. Default: that of the base.
    #[arg(long, value_enum)]
    pub format: Option<Layout>,
    /// Element type. Default: that of the base, or of the first LoRA.
    #[arg(long, value_enum)]
    pub dtype: Option<Type>,
    /// A Diffusers pipeline whose configurations, tokenizers and scheduler a written folder gets.
    #[arg(long, value_name = "DIR")]
    pub like: Option<PathBuf>,
    /// Several LoRAs into one: its rank, found by SVD. Default: the sum of their ranks, which is exact.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub rank: Option<u32>,
    /// Rank of convolutions larger than 1×1. Default: `--rank`.
    #[arg(long, value_name = "N", requires = "rank", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub conv_rank: Option<u32>,
    /// Several LoRAs into one: the model that they are for, where it is of no public size and their names differ.
    #[arg(long = "for", value_name = "MODEL", conflicts_with = "base")]
    pub for_model: Option<PathBuf>,
    /// Leave out layers and tensors that match nothing. Default: they are an error.
    #[arg(long)]
    pub skip_unknown: bool,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let adapters: Vec<Weighted> = args.lora.iter().map(|text| weighted(text)).collect::<Result<_, _>>()?;
    let dtype = args.dtype.map(Type::dtype);
    let output = args.target.output();
    let Some(base) = &args.base else {
        for (name, given) in [
            ("--format", args.format.is_some()),
            ("--like", args.like.is_some()),
            ("--skip-unknown", args.skip_unknown),
        ] {
            if given {
                return Err(Failure::usage(format!("`{name}` has no effect without `--base`")).help("leave it out"));
            }
        }
        let linear = args.rank.map(|rank| rank as usize);
        let conv = |linear: usize| args.conv_rank.map_or(linear, |rank| rank as usize);
        let ranks = linear.map(|linear| Ranks { linear, conv: conv(linear) });
        let what = Join { adapters: &adapters, ranks, dtype, base: args.for_model.as_deref() };
        let kept = join(what, &output)?;
        if ranks.is_some() {
            terminal.out(&kept_text(&kept))?;
            warn_of_small_layers(&kept, terminal);
        }
        let (files, layers) = (text::count(adapters.len(), "file"), text::count(kept.layers, "layer"));
        terminal.note(&format!("{files} with {layers} in one: {}", output.path.display()));
        return Ok(Exit::Done);
    };
    if args.rank.is_some() {
        let message = "`--rank` has no effect with `--base`: adapters are merged as they are";
        return Err(Failure::usage(message).help("leave it out"));
    }
    let what = Merge {
        base,
        adapters: &adapters,
        format: args.format.map(Layout::format),
        dtype,
        like: args.like.as_deref(),
        skip_unknown: args.skip_unknown,
    };
    let merged = merge(what, &output)?;
    for (adapter, layers) in adapters.iter().zip(&merged.layers) {
        terminal.note(&format!("{} of {} merged", text::count(*layers, "layer"), adapter.text()));
    }
    if !merged.skipped.is_empty() {
        terminal.warn(&format!("{} matched nothing and were left out", text::count(merged.skipped.len(), "name")));
    }
    terminal.note(&format!("{}: {}", merged.family, output.path.display()));
    Ok(Exit::Done)
}

/// `FILE`, or `FILE=RATIO`.
fn weighted(text: &str) -> Result<Weighted, Failure> {
    let number = text.rsplit_once('=').and_then(|(path, ratio)| Some((path, ratio.trim().parse::<f64>().ok()?)));
    let Some((path, ratio)) = number else { return Ok(Weighted { path: text.into(), ratio: 1.0 }) };
    if !ratio.is_finite() || ratio.abs() > 1e6 {
        return Err(
            Failure::usage(format!("`{ratio}` is no strength")).help("a strength is a number such as 0.8 or -1")
        );
    }
    Ok(Weighted { path: path.into(), ratio })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_strengths() {
        let of = |text: &str| weighted(text).map(|w| (w.path.display().to_string(), w.ratio));
        assert_eq!(of("a.safetensors").unwrap(), ("a.safetensors".into(), 1.0));
        assert_eq!(of("a.safetensors=0.8").unwrap(), ("a.safetensors".into(), 0.8));
        assert_eq!(of("a=b.safetensors=-1e-1").unwrap(), ("a=b.safetensors".into(), -0.1));
        assert_eq!(of("a=b.safetensors").unwrap(), ("a=b.safetensors".into(), 1.0));
        assert!(of("a=nan").is_err() && of("a=1e300").is_err());
    }
}
