//! Converts any weight file that can be read into a torch checkpoint.
//!
//! `cargo run --release -p pipe-data --example ckpt -- IN OUT.ckpt [EPOCH GLOBAL_STEP]`

use std::process::ExitCode;

use pipe_data::weights::{FileError, Progress, TensorOut, WeightSet, write_ckpt};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse::<u64>().ok();
    let (from, to, progress) = match args.as_slice() {
        [from, to] => (from, to, Some(Progress::default())),
        [from, to, epoch, step] => {
            let progress = number(epoch).zip(number(step));
            (from, to, progress.map(|(epoch, global_step)| Progress { epoch, global_step }))
        }
        _ => {
            eprintln!("usage: ckpt IN OUT.ckpt [EPOCH GLOBAL_STEP]");
            return ExitCode::from(2);
        }
    };
    let Some(progress) = progress else {
        eprintln!("error: EPOCH and GLOBAL_STEP are whole numbers");
        return ExitCode::from(2);
    };
    match convert(from, to, progress) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Adds `progress` to what the source has, as a run that began with it would.
fn convert(from: &str, to: &str, progress: Progress) -> Result<(), FileError> {
    let set = WeightSet::open(from)?;
    let tensors = set.names().filter_map(|name| {
        let info = set.info(name)?;
        let set = &set;
        let bytes = move || set.bytes(name).map(|bytes| bytes.into_owned()).map_err(std::io::Error::other);
        Some(TensorOut::lazy(name, info.dtype, info.shape.clone(), bytes))
    });
    write_ckpt(to, tensors, set.progress().unwrap_or_default() + progress)
}
