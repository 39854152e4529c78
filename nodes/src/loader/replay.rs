//! `loader.replay`: latents, noise and timesteps from a file, taken in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pipe_core::diagnostic::suggest::and_list;
use pipe_core::diagnostic::{did_you_mean, suggest};
use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx, missing_help};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::tokenizer::parse_weights;
use pipe_data::weights::{Header, WeightFile, shown};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::common::batch::{Batch, BatchSource, Batches, ClassText, DataAbout, HostTensor, Replay};
use crate::common::errors;
use pipe_train::ddpm::T;

/// Fields of `loader.replay`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// safetensors file with `latents [N,C,H,W]` (model space), `noise [N,C,H,W]`, `timesteps [N]` (0 to 1000; flow models' σ is a
    /// thousandth), `context [N,T,D]` and, as the model needs them, `pooled [N,P]`, `context_mask [N,T]`, `time_ids [N,6]`, `guidance [N]`;
    /// for the loss also `loss_mask [N,H,W]`, `loss_weights [N]`, `preserve [N]` (1: towards the base model's output) and, for a second
    /// loss that keeps a class, `class_context [N,T,D]`, `class_pooled [N,P]`, `class_weights [N]`.
    /// Where text encoders learn: in place of `context` and `pooled` the `captions [N,L]`, UTF-8 bytes filled up with zeros.
    #[schemars(extend("x-path" = "file"))]
    path: String,
}

/// The node type.
pub struct ReplayLoader;

impl Node for ReplayLoader {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "loader.replay",
        summary: "Latents, noise, timesteps and conditioning from a file: a run as a pure function of its files.",
        details: "Row `k mod N` serves sample `k` of the run, overriding every draw of the loss. Used for parity tests, bug reports \
                  and benchmarks.",
        example: "replay:\n  type: loader.replay\n  path: replay.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Batches, Rate::Setup, "The rows in order.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let path = cx.path(&config.path);
        // One small tensor is read: a timestep that is no row of the noise schedule would stop the run at its batch.
        let file = match WeightFile::open(&path) {
            Ok(file) => file,
            Err(e) => {
                let code = errors::file_code(&e);
                cx.error(code, "path", e.to_string(), (code == "P0301").then(|| missing_help(&path)));
                return Facts::new();
            }
        };
        if let Some((message, help)) = unknown(file.header()) {
            cx.error("P0302", "path", message, Some(help));
        }
        if let Err(why) = timesteps(&file) {
            cx.error("P0302", "path", why, Some("timesteps are rows of the noise schedule".into()));
        }
        match shapes(file.header()) {
            Ok(found) => {
                let (rows, latents) = (found.rows, &found.latents);
                let mut facts = Facts::new()
                    .with("entries", rows as u64)
                    .with("batches", rows.div_ceil(cx.settings.train.batch_size as usize) as u64)
                    .with("latent_channels", latents[1] as u64)
                    .with("latent_sizes", vec![vec![latents[3] as u64, latents[2] as u64]])
                    .with("replay", true);
                if let Some([tokens, width]) = found.context {
                    facts = facts.with("context_dim", width as u64).with("context_tokens", tokens as u64);
                }
                for (fact, tensor) in [
                    ("masked", "loss_mask"),
                    ("preserve", "preserve"),
                    ("class", "class_context"),
                    ("weighs", "loss_weights"),
                    ("guidance", "guidance"),
                ] {
                    facts = facts.with(fact, file.info(tensor).is_some());
                }
                if let Some(pooled) = found.pooled {
                    facts = facts.with("pooled_dim", pooled as u64);
                }
                if file.info("captions").is_some() {
                    facts = facts.with("captions", true).with("emphasis_fault", check_captions(cx, &file));
                }
                facts
            }
            Err(why) => {
                cx.error("P0305", "path", why, None);
                Facts::new()
            }
        }
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let bytes = std::fs::metadata(pipe_core::node::resolve(cx.base_dir, &config.path)).map_or(0, |m| m.len());
        NodePlan { resident: vec![Bytes { category: Category::Batch, bytes }], ..Default::default() }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let source = Rows::open(&cx.path(&config.path), cx.settings.train.batch_size as usize)?;
        let content = Some(source.content());
        Ok(Built { outputs: vec![Arc::new(Batches(Arc::new(source)))], content, ..Default::default() })
    }
}

/// Tensors that are used.
const KNOWN: [&str; 16] = [
    "latents",
    "noise",
    "timesteps",
    "sigmas",
    "context",
    "context_mask",
    "pooled",
    "time_ids",
    "guidance",
    "captions",
    "loss_mask",
    "loss_weights",
    "preserve",
    "class_context",
    "class_pooled",
    "class_weights",
];

/// Captions that cannot be read, or that embeddings in the same file make idle.
fn check_captions(cx: &mut CheckCx, file: &WeightFile) -> Option<String> {
    let captions = captions(file);
    if let Err(why) = &captions {
        cx.error("P0302", "path", why, Some("a row is a caption's UTF-8 bytes, filled up with zeros".into()));
    }
    let idle = ["context", "context_mask", "pooled"].into_iter().find(|name| file.info(name).is_some());
    if let Some(name) = idle {
        let message = format!("the file has captions and a tensor `{name}`, which take each other's place");
        let help = "keep `captions` where text encoders learn, the embeddings where none does";
        cx.error("P0302", "path", message, Some(help.into()));
    }
    let rows = captions.unwrap_or_default();
    let fault = |(row, text): (usize, &String)| {
        Some(format!("the caption of row {row} cannot be read: {}", parse_weights(text).err()?))
    };
    rows.iter().enumerate().find_map(fault)
}

/// The captions of all rows; none where the file has no such tensor.
fn captions(file: &WeightFile) -> Result<Vec<String>, String> {
    let Some(info) = file.info("captions") else { return Ok(Vec::new()) };
    let length = info.shape.get(1).copied().unwrap_or(0);
    let byte = |v: i64| u8::try_from(v).map_err(|_| format!("`captions` has {v}, which is no byte"));
    let values = file.i64("captions").map_err(|e| e.to_string())?;
    let bytes: Vec<u8> = values.into_iter().map(byte).collect::<Result<_, _>>()?;
    let text = |(row, bytes): (usize, &[u8])| {
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let text = std::str::from_utf8(&bytes[..used]);
        text.map(str::to_owned).map_err(|_| format!("row {row} of `captions` is no UTF-8"))
    };
    bytes.chunks(length.max(1)).enumerate().map(text).collect()
}

/// Tensors that nothing would read.
fn unknown(header: &Header) -> Option<(String, String)> {
    let names: Vec<&str> = header.tensors.keys().map(String::as_str).filter(|name| !KNOWN.contains(name)).collect();
    let first = names.first()?;
    let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
    let help = did_you_mean(&suggest(first, KNOWN)).unwrap_or_else(|| format!("the tensors are {}", and_list(&KNOWN)));
    Some((format!("the file has a tensor `{}`{more} that no run uses", shown(first)), help))
}

/// The timesteps of all rows: 0 to 1000.
fn timesteps(file: &WeightFile) -> Result<Vec<f32>, String> {
    if file.info("timesteps").is_none() {
        return Ok(Vec::new());
    }
    let values: Vec<f32> = match file.i64("timesteps") {
        Ok(values) => values.into_iter().map(|t| t as f32).collect(),
        Err(_) => file.f32("timesteps").map_err(|error| error.to_string())?,
    };
    // Whole numbers below 1000 are rows of a noise schedule; flow models take anything up to pure noise.
    let whole = file.info("sigmas").is_none();
    let wrong = |t: &f32| !(0.0..=T as f32).contains(t) || (whole && (t.fract() != 0.0 || *t >= T as f32));
    let wanted = if whole { format!("a whole number from 0 to {}", T - 1) } else { format!("from 0 to {T}") };
    match values.iter().position(wrong) {
        Some(row) => Err(format!("`timesteps` has {} in row {row}, not {wanted}", values[row])),
        None => Ok(values),
    }
}

/// Sizes of what a file holds.
struct Found {
    rows: usize,
    latents: Vec<usize>,
    /// Tokens and width.
    context: Option<[usize; 2]>,
    pooled: Option<usize>,
}

/// Sizes, or what does not fit.
fn shapes(header: &Header) -> Result<Found, String> {
    let shape = |name: &str| header.tensors.get(name).map(|t| t.shape.clone());
    let need = |name: &str| shape(name).ok_or_else(|| format!("the file has no tensor `{name}`"));
    let latents = need("latents")?;
    if latents.len() != 4 || latents.contains(&0) {
        return Err(format!("`latents` has shape {latents:?}, not [N, C, H, W]"));
    }
    let rows = latents[0];
    let noise = need("noise")?;
    if noise != latents {
        return Err(format!("`noise` has shape {noise:?}, `latents` {latents:?}"));
    }
    need("timesteps")?;
    for name in ["timesteps", "sigmas", "guidance", "loss_weights", "preserve", "class_weights"] {
        if let Some(found) = shape(name).filter(|s| *s != [rows]) {
            return Err(format!("`{name}` has shape {found:?}, not [{rows}]"));
        }
    }
    if let Some(c) = shape("captions").filter(|c| c.len() != 2 || c[0] != rows || c[1] == 0) {
        return Err(format!("`captions` has shape {c:?}, not [{rows}, L]"));
    }
    let context = shape("context");
    if let Some(c) = context.as_ref().filter(|c| c.len() != 3 || c[0] != rows) {
        return Err(format!("`context` has shape {c:?}, not [{rows}, T, D]"));
    }
    let pooled = shape("pooled");
    if let Some(p) = pooled.as_ref().filter(|p| p.len() != 2 || p[0] != rows) {
        return Err(format!("`pooled` has shape {p:?}, not [{rows}, P]"));
    }
    if let Some(t) = shape("time_ids").filter(|t| *t != [rows, 6]) {
        return Err(format!("`time_ids` has shape {t:?}, not [{rows}, 6]"));
    }
    let [_, _, h, w] = latents[..] else { unreachable!("four sizes") };
    if let Some(m) = shape("loss_mask").filter(|m| *m != [rows, h, w]) {
        return Err(format!("`loss_mask` has shape {m:?}, not [{rows}, {h}, {w}]"));
    }
    for (name, of) in [("class_context", &context), ("class_pooled", &pooled)] {
        if let Some(found) = shape(name).filter(|found| Some(found) != of.as_ref()) {
            return Err(format!("`{name}` has shape {found:?}, not that of `{}`", name.trim_start_matches("class_")));
        }
    }
    if shape("class_context").is_some() && pooled.is_some() && shape("class_pooled").is_none() {
        return Err("`class_context` needs `class_pooled`, as `context` has `pooled`".into());
    }
    if shape("class_context").is_none() && (shape("class_pooled").is_some() || shape("class_weights").is_some()) {
        return Err("`class_pooled` and `class_weights` belong to `class_context`, which the file lacks".into());
    }
    let tokens = context.as_ref().map(|c| c[1]);
    if let Some(m) = shape("context_mask").filter(|m| m.len() != 2 || m[0] != rows || Some(m[1]) != tokens) {
        return Err(format!("`context_mask` has shape {m:?}, not [{rows}, {}]", tokens.unwrap_or(0)));
    }
    Ok(Found { rows, latents, context: context.map(|c| [c[1], c[2]]), pooled: pooled.map(|p| p[1]) })
}

struct Rows {
    rows: usize,
    batch: usize,
    tensors: BTreeMap<&'static str, HostTensor>,
    timesteps: Vec<f32>,
    /// Empty where embeddings are given.
    captions: Vec<String>,
}

impl Rows {
    fn open(path: &Path, batch: usize) -> Result<Self, RunError> {
        let error = |e| errors::file_error(&e, "path");
        let file = WeightFile::open(path).map_err(error)?;
        let Found { rows, .. } = shapes(file.header()).map_err(|why| RunError::new("P0305", why).at("path"))?;
        let mut tensors = BTreeMap::new();
        for name in KNOWN.into_iter().filter(|name| !["timesteps", "sigmas", "captions"].contains(name)) {
            if let Some(info) = file.info(name) {
                let shape = info.shape.clone();
                let values = match file.i64(name) {
                    Ok(values) => values.into_iter().map(|v| v as f32).collect(),
                    Err(_) => file.f32(name).map_err(error)?,
                };
                tensors.insert(name, HostTensor { values, shape });
            }
        }
        let timesteps = timesteps(&file).map_err(|why| RunError::new("P0302", why).at("path"))?;
        let captions = captions(&file).map_err(|why| RunError::new("P0302", why).at("path"))?;
        Ok(Rows { rows, batch, tensors, timesteps, captions })
    }

    fn take(&self, name: &str, rows: &[usize]) -> Option<HostTensor> {
        let all = self.tensors.get(name)?;
        let span: usize = all.shape[1..].iter().product();
        let mut shape = all.shape.clone();
        shape[0] = rows.len();
        let values = rows.iter().flat_map(|&r| &all.values[r * span..(r + 1) * span]).copied().collect();
        Some(HostTensor { values, shape })
    }
}

impl BatchSource for Rows {
    fn per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch) as u64
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Batch, RunError> {
        // Sample k of the run takes row k mod N: epochs do not cut a batch short.
        let first = (epoch * self.per_epoch() + index) as usize * self.batch;
        let rows: Vec<usize> = (first..first + self.batch).map(|k| k % self.rows).collect();
        let replay = Replay {
            latents: self.take("latents", &rows).unwrap_or_default(),
            noise: self.take("noise", &rows).unwrap_or_default(),
            timesteps: rows.iter().map(|&r| self.timesteps[r]).collect(),
            context: self.take("context", &rows),
            pooled: self.take("pooled", &rows),
            mask: self.take("context_mask", &rows),
            guidance: self.take("guidance", &rows).map(|g| g.values).unwrap_or_default(),
        };
        let values = |name: &str| self.take(name, &rows).map(|t| t.values);
        let class = self.take("class_context", &rows).map(|context| ClassText {
            captions: vec![String::new(); rows.len()],
            context: Some(context),
            pooled: self.take("class_pooled", &rows),
            weights: values("class_weights").unwrap_or_else(|| vec![1.0; rows.len()]),
            ..Default::default()
        });
        let sizes = self.take("time_ids", &rows).map(|t| t.values).unwrap_or_default();
        Ok(Batch {
            names: rows.iter().map(|r| format!("row {r}")).collect(),
            captions: rows.iter().map(|&r| self.captions.get(r).cloned().unwrap_or_default()).collect(),
            sizes: sizes.as_chunks::<6>().0.to_vec(),
            replay: Some(replay),
            weights: values("loss_weights").unwrap_or_else(|| vec![1.0; rows.len()]),
            mask: self.take("loss_mask", &rows),
            preserve: values("preserve").unwrap_or_default().into_iter().map(|x| x != 0.0).collect(),
            class,
            ..Default::default()
        })
    }

    fn content(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for tensor in self.tensors.values() {
            hasher.update(bytemuck::cast_slice(&tensor.values));
        }
        hasher.update(bytemuck::cast_slice(&self.timesteps));
        for caption in &self.captions {
            hasher.update(caption.as_bytes());
            hasher.update(&[0]);
        }
        hasher.finalize().to_hex().to_string()
    }

    fn about(&self) -> DataAbout {
        DataAbout { images: self.rows as u64, batch_size: self.batch as u64, ..Default::default() }
    }
}
