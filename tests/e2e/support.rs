//! Calling `pipe` and reading what it said; a tiny pipeline that trains in seconds.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value as Json;
use tempfile::TempDir;

/// What a call of `pipe` came to.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            err: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        }
    }
    /// Standard output as JSON.
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
    /// Fails the test with everything said unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked") && !self.err.contains("Sorry:"), "{}", self.err);
        self
    }
}

/// `pipe` in a folder, with a cache of its own and nothing inherited that changes its output.
pub fn command(dir: &Path) -> Command {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    let cache = CACHE.get_or_init(|| fresh("e2e-cache"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipe"));
    command.current_dir(dir).stdin(Stdio::null());
    for name in ["NO_COLOR", "PIPE_CACHE"] {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", cache).env("HOME", cache);
    command
}

/// Calls `pipe` in a folder.
pub fn pipe_in<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Ran {
    Ran::of(command(dir).args(args).output().expect("pipe starts"))
}

/// Calls `pipe` at the root of the repository.
pub fn pipe<S: AsRef<OsStr>>(args: &[S]) -> Ran {
    pipe_in(&root(), args)
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..").canonicalize().expect("the repository is there")
}

/// The images that the tests train on.
pub fn images() -> PathBuf {
    root().join("pipelines/quickstart/images/concept")
}

/// A pipeline with all that training needs, of the smallest sizes: fixture U-Net and VAE, a random text encoder.
pub fn tiny(steps: u32) -> String {
    let every = steps.min(10);
    let model = root().join("tests/fixtures/diffusers_dir");
    let (model, images) = (model.display(), images());
    let images = images.display();
    format!(
        "version: 1
name: tiny
seed: 3
train: {{ device: cpu, steps: {steps}, batch_size: 3, accumulate: 2, save_state: {{ steps: 4 }} }}
nodes:
  photos: {{ type: loader.images, path: {images}, resolution: 64 }}
  vae: {{ type: encoder.vae, weights: {model} }}
  clip: {{ type: encoder.clip_l, init: {{ width: 24, layers: 1, heads: 2 }} }}
  cached: {{ type: cacher.memory, samples: photos, vae: vae, text: clip }}
  unet: {{ type: model.sd1, weights: {model} }}
  lora: {{ type: adapter.lora, model: unet, rank: 4, dropout: 0.1 }}
  loss: {{ type: loss.diffusion, model: lora, batch: cached }}
  adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-3 }}
  save: {{ type: saver.adapter, adapter: lora, update: adamw, dtype: f32, every: {{ steps: {every} }} }}
  preview:
    type: sampler.preview
    model: lora
    vae: vae
    text: clip
    prompts: [{{ prompt: a face }}]
    steps: 2
    width: 64
    height: 64
  metrics: {{ type: logger.metrics, update: adamw }}
"
    )
}

/// An empty folder of this test program that all of its tests share. It stays until the next time.
pub fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    folder
}

/// A folder with one document.
pub fn folder(name: &str, text: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join(name), text).expect("the document is written");
    dir
}

/// The line of a text, from 1, that holds `part`.
#[track_caller]
pub fn line_of(text: &str, part: &str) -> u64 {
    text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("no line has {part}")) as u64 + 1
}
