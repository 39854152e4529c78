//! `pipe convert`: weight files in other layouts, names and element types.

use std::path::PathBuf;

use pipe_tools::Format;
use pipe_tools::adapter::{AdapterFile, Naming};
use pipe_tools::convert::{ConvertAdapter, ConvertModel, convert_adapter, convert_model};

use crate::exit::{Exit, Failure, Outcome};
use crate::terminal::Terminal;
use crate::text;
use crate::weights::{Target, Type};

/// Convert a model or an adapter to another layout, other names or another element type.
///
/// A model goes between one file and a Diffusers folder, a `.ckpt` becomes safetensors unless asked otherwise. A LoRA
/// goes between kohya's names and those of PEFT and Diffusers; every spelling is read.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model as a file or folder, or an adapter file.
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// Layout of a model, or names of a LoRA. Default: as they are; a `.ckpt` becomes safetensors.
    #[arg(long, value_enum)]
    pub format: Option<Form>,
    /// Element type. Default: as it is.
    #[arg(long, value_enum)]
    pub dtype: Option<Type>,
    /// A Diffusers pipeline whose configurations, tokenizers and scheduler a written folder gets.
    #[arg(long, value_name = "DIR")]
    pub like: Option<PathBuf>,
    /// The model that an adapter is for, where it is of no public size.
    #[arg(long = "for", value_name = "MODEL")]
    pub for_model: Option<PathBuf>,
    /// Leave out tensors of a model that nothing is known about. Default: they are an error.
    #[arg(long)]
    pub skip_unknown: bool,
}

/// What a file is converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Model: one safetensors file of all parts with the original code's names.
    SingleFile,
    /// Model: the denoiser alone with its authors' names, as FLUX and Lumina are passed on.
    ModelOnly,
    /// Model: a PyTorch checkpoint of all parts.
    Ckpt,
    /// Model: a Diffusers folder.
    Diffusers,
    /// LoRA: `lora_unet_….lora_down.weight` with α.
    Kohya,
    /// LoRA: `unet.….lora_A.weight`, as PEFT and Diffusers write it; α goes into the factors.
    Peft,
}

pub fn run(args: &Args, terminal: &Terminal) -> Outcome {
    let output = args.target.output();
    let dtype = args.dtype.map(Type::dtype);
    let adapter = match args.path.is_file().then(|| AdapterFile::open(&args.path)) {
        Some(Ok(file)) => Some(file),
        // It cannot be read at all; else it is a model, or nothing known.
        Some(Err(error)) if error.code != "P0302" && matches!(args.format, Some(Form::Kohya | Form::Peft)) => {
            return Err(error.into());
        }
        _ => None,
    };
    let no_effect =
        |name: &str, kind: &str| Failure::usage(format!("`{name}` has no effect on {kind}")).help("leave it out");
    let done = if let Some(file) = adapter {
        let naming = match args.format {
            None => None,
            Some(Form::Kohya) => Some(Naming::Kohya),
            Some(Form::Peft) => Some(Naming::Peft),
            Some(_) => {
                let message = format!("`{}` is an adapter, this is a layout of models", args.path.display());
                return Err(Failure::usage(message).help("an adapter has `--format kohya` and `--format peft`"));
            }
        };
        for (name, given) in [("--like", args.like.is_some()), ("--skip-unknown", args.skip_unknown)] {
            if given {
                return Err(no_effect(name, "adapters"));
            }
        }
        if args.for_model.is_some() && naming.is_none() {
            return Err(no_effect("--for", "names that stay as they are"));
        }
        convert_adapter(&file, ConvertAdapter { naming, dtype, base: args.for_model.as_deref() }, &output)?
    } else {
        let format = match args.format {
            None if output.path.extension().is_some_and(|e| e == "ckpt") => Some(Format::Ckpt),
            None => None,
            Some(Form::SingleFile) => Some(Format::SingleFile),
            Some(Form::ModelOnly) => Some(Format::ModelOnly),
            Some(Form::Ckpt) => Some(Format::Ckpt),
            Some(Form::Diffusers) => Some(Format::Diffusers),
            Some(Form::Kohya | Form::Peft) if args.path.exists() => {
                let message = format!("`{}` is no adapter, these are names of adapters", args.path.display());
                return Err(Failure::usage(message).help("a model has `--format single-file` and `--format diffusers`"));
            }
            Some(Form::Kohya | Form::Peft) => None,
        };
        if args.for_model.is_some() {
            return Err(no_effect("--for", "models"));
        }
        let what = ConvertModel { format, dtype, like: args.like.as_deref(), skip_unknown: args.skip_unknown };
        convert_model(&args.path, what, &output)?
    };
    let what = match done.what.as_str() {
        "adapter" => format!("adapter with {}", text::count(done.parts.len(), "layer")),
        model => format!("{model} ({})", done.parts.join(", ")),
    };
    if !done.left_out.is_empty() {
        terminal.warn(&format!("{} left out that nothing is known about", text::count(done.left_out.len(), "tensor")));
    }
    terminal.note(&format!("{what}: {}", output.path.display()));
    Ok(Exit::Done)
}
