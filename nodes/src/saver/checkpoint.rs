//! `saver.checkpoint`: whole models, as one file or a Diffusers folder.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Moment, RunError};
use pipe_core::settings::Every;
use pipe_data::metadata::{ModelSpec, iso_date};
use pipe_data::weights::{Component, DType, keymap, write_safetensors};
use pipe_networks::{Trainables, Weights};
use pipe_ops::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Between, KeepLast, Plan, SaveType, make_folder};
use crate::common::autoencoder::Autoencoder;
use crate::common::errors;
use crate::common::text::TextEncoder;
use crate::common::trainable::{Held, Method, Subject, Trainable};
use crate::common::weights_source::Shapes;
use crate::common::write::{self, tensor_out};
use crate::model::sd1::{Prediction, Sd1};

/// Fields of `saver.checkpoint`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Base name of the files. Default: the run's name.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    name: Option<String>,
    /// Layout. Default `single_file`.
    #[serde(default)]
    format: Format,
    /// When to save besides the end. Default: only at the end.
    #[serde(default)]
    every: Option<Every>,
    /// How many files from the middle of the run are kept. Default: all.
    #[serde(default)]
    keep_last: Option<KeepLast>,
    /// Element type of the file. Default `f16`.
    #[serde(default)]
    dtype: SaveType,
}

/// Layout of a saved model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// One safetensors file with the original (LDM) names.
    #[default]
    SingleFile,
    /// A Diffusers folder: `model_index.json`, `unet/`, `vae/`, `text_encoder/`, `scheduler/`.
    Diffusers,
}

/// The node type.
pub struct CheckpointSaver;

impl Node for CheckpointSaver {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "saver.checkpoint",
        summary: "Saves the whole model: one safetensors file or a Diffusers folder.",
        details: "Holds the U-Net and, of `vae` and `text`, what is given; a text encoder that was trained is saved as trained. A \
                  trained autoencoder is saved alone. Head counts and group counts, which tensors do not tell, go into the Diffusers \
                  `config.json`; a reduced model in one file needs them again under `config:` when it is loaded.",
        example: "save:\n  type: saver.checkpoint\n  model: full\n  vae: vae\n  text: clip\n  format: diffusers",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable], Rate::Event, "Model to save."),
            Input::optional("vae", &[PortType::Vae], Rate::Event, "Autoencoder to save with it."),
            Input::many("text", &[PortType::TextEncoder], Rate::Event, "Text encoder to save with it."),
        ]
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if let Some(source) = cx.inputs.one("model").cloned() {
            if source.facts.str("method") == Some("lora") {
                let help = "use `saver.adapter`";
                cx.error(
                    "P0401",
                    "model",
                    format!("`{}` trains an adapter, not the model itself", source.node),
                    Some(help.into()),
                );
            }
            if source.facts.get("vae").is_some() {
                for port in ["vae", "text"] {
                    if cx.inputs.one(port).is_some() {
                        cx.error("P0402", port, format!("`{port}` has no effect when an autoencoder is trained"), None);
                    }
                }
            }
        }
        let every = config.every.clone().unwrap_or_default();
        if config.keep_last.is_some() && every.steps.is_none() && every.epochs.is_none() {
            cx.error(
                "P0402",
                "keep_last",
                "`keep_last` has no effect without `every`",
                Some("add `every: { epochs: 1 }`".into()),
            );
        }
        let name = config.name.clone().unwrap_or_else(|| cx.settings.name.clone());
        cx.will_write("name", Path::new("checkpoints").join(name + extension(config.format)));
        Facts::new()
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let mut parameters = cx.inputs.one("model").and_then(|a| a.facts.u64("parameters")).unwrap_or(0);
        let count = |shapes: Shapes| shapes.iter().map(|(_, s)| s.iter().product::<usize>() as u64).sum::<u64>();
        let vae =
            cx.inputs.one("vae").and_then(|v| crate::adapter::config::<pipe_networks::vae::VaeConfig>(&v.facts, "vae"));
        parameters += vae.map_or(0, |c| count(c.shapes()));
        let trained = cx.inputs.one("model").is_some_and(|m| m.facts.get("trains_text").is_some());
        if let Some(text) = cx.inputs.one("text").filter(|_| !trained) {
            let clip = crate::adapter::config::<pipe_networks::clip::ClipConfig>(&text.facts, "clip");
            parameters += clip.map_or(0, |c| count(c.shapes()));
        }
        let size = parameters * config.dtype.dtype().size() as u64;
        // No optimizer tells the steps of an epoch: what fires by the unit that the run is not measured in is left out.
        let mut every = config.every.clone().unwrap_or_default();
        let train = &cx.settings.train;
        let total = match (train.steps, train.epochs) {
            (None, Some(epochs)) => {
                every.steps = None;
                epochs
            }
            (steps, _) => {
                every.epochs = None;
                steps.unwrap_or(1600)
            }
        };
        let largest = cx.inputs.one("model").map_or(0, |model| write::largest(&model.facts));
        NodePlan {
            event: write::event(cx.settings, largest),
            ..Between::of(&every, config.keep_last, total, 1).disk(size)
        }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let saver = Saver {
            trainable: cx.one::<Trainable>("model")?.clone(),
            vae: Held::<Autoencoder>::all(cx, "vae").into_iter().next(),
            text: Held::<TextEncoder>::all(cx, "text").into_iter().next(),
            format: config.format,
            dtype: config.dtype.dtype(),
            plan: Plan {
                name: config.name.unwrap_or_else(|| cx.settings.name.clone()),
                every: config.every.unwrap_or_default(),
                keep_last: config.keep_last,
                extension: extension(config.format),
            },
        };
        Ok(Built { listener: Some(Box::new(saver)), ..Default::default() })
    }
}

fn extension(format: Format) -> &'static str {
    if format == Format::SingleFile { ".safetensors" } else { "" }
}

struct Saver {
    trainable: Trainable,
    vae: Option<Held<Autoencoder>>,
    text: Option<Held<TextEncoder>>,
    format: Format,
    dtype: DType,
    plan: Plan,
}

/// A component to write.
struct Part {
    component: Component,
    shapes: Shapes,
    /// Sharing their data with the model: nothing is copied before it is written.
    values: HashMap<String, Tensor>,
    config: Value,
}

fn part(
    component: Component,
    name: &str,
    shapes: Shapes,
    weights: &Weights,
    train: Option<&Trainables>,
    config: Value,
) -> Part {
    let values = shapes
        .iter()
        .filter_map(|(n, _)| {
            let own = train.and_then(|t| t.tensors.get(&Trainables::key(name, n)));
            own.or_else(|| weights.get(n)).map(|t| (n.clone(), t.clone()))
        })
        .collect();
    Part { component, shapes, values, config }
}

impl Saver {
    fn parts(&self) -> Result<Vec<Part>, RunError> {
        let train = self.trainable.read();
        let mut parts = Vec::new();
        match &*self.trainable.subject {
            Subject::Autoencoder { vae, weights } => {
                parts.push(part(Component::Vae, "vae", vae.config.shapes(), weights, Some(&train), vae_config(vae)));
            }
            Subject::Denoiser { model, weights, text } => {
                let own = Some(&*train);
                parts.push(part(Component::Unet, "unet", model.config.shapes(), weights, own, unet_config(model)));
                if let Some(vae) = &self.vae {
                    let weights = vae.weights.get()?;
                    parts.push(part(Component::Vae, "vae", vae.config.shapes(), &weights, None, vae_config(vae)));
                }
                let kind = Component::TextEncoder;
                if let Some((t, weights)) = text {
                    parts.push(part(kind, "text_encoder", t.config.shapes(), weights, own, text_config(t)));
                } else if let Some(t) = &self.text {
                    let weights = t.weights.get()?;
                    parts.push(part(kind, "text_encoder", t.config.shapes(), &weights, None, text_config(t)));
                }
            }
        }
        Ok(parts)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let prediction = match &*self.trainable.subject {
            Subject::Denoiser { model, .. } if model.prediction == Prediction::V => Some("v".into()),
            Subject::Denoiser { .. } => Some("epsilon".into()),
            Subject::Autoencoder { .. } => None,
        };
        let spec = ModelSpec {
            architecture: "stable-diffusion-v1".into(),
            implementation: "https://github.com/Stability-AI/generative-models".into(),
            title: self.plan.name.clone(),
            date: Some(iso_date(super::metadata::seconds_now())),
            prediction_type: prediction,
            implementation_version: Some(concat!("pipe/", env!("CARGO_PKG_VERSION")).into()),
            ..ModelSpec::default()
        };
        spec.to_map()
    }

    fn write(&self, path: &Path) -> Result<(), RunError> {
        debug_assert!(matches!(*self.trainable.method, Method::Full));
        make_folder(path)?;
        let parts = self.parts()?;
        let error = |e| errors::file_error(&e, "").help("free some space, then continue with `--resume`");
        match self.format {
            Format::SingleFile => {
                let mut list = Vec::new();
                for part in &parts {
                    let named = part.shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
                    let entries = keymap::to_single_file(part.component, named)
                        .map_err(|names| RunError::new("P0304", format!("no place in a single file for {names:?}")))?;
                    for entry in entries {
                        let Some(tensor) = part.values.get(&entry.internal) else { continue };
                        list.push(tensor_out(entry.name, self.dtype, entry.shape, tensor));
                    }
                }
                write_safetensors(path, list, &self.metadata()).map_err(error)
            }
            Format::Diffusers => pipe_core::folder::atomic_dir(path, |making| self.write_folder(making, &parts)),
        }
    }

    fn write_folder(&self, folder: &Path, parts: &[Part]) -> Result<(), RunError> {
        let failed = |e: std::io::Error| RunError::new("P0903", format!("cannot write `{}`: {e}", folder.display()));
        let json = |path: &Path, value: &Value| {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            pipe_core::folder::atomic_write(path, |f| std::io::Write::write_all(f, text.as_bytes()))
        };
        let mut index = json!({"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0",
            "feature_extractor": [null, null], "safety_checker": [null, null], "tokenizer": [null, null]});
        for part in parts {
            let name = part.component.folder();
            let (file, library, class) = match part.component {
                Component::Unet => ("diffusion_pytorch_model.safetensors", "diffusers", "UNet2DConditionModel"),
                Component::Vae => ("diffusion_pytorch_model.safetensors", "diffusers", "AutoencoderKL"),
                Component::TextEncoder => ("model.safetensors", "transformers", "CLIPTextModel"),
            };
            let inner = folder.join(name);
            std::fs::create_dir_all(&inner).map_err(failed)?;
            let list = part
                .shapes
                .iter()
                .filter_map(|(n, shape)| Some(tensor_out(n.clone(), self.dtype, shape.clone(), part.values.get(n)?)));
            let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
            write_safetensors(inner.join(file), list, &metadata).map_err(|e| errors::file_error(&e, ""))?;
            json(&inner.join("config.json"), &part.config)?;
            index[name] = json!([library, class]);
        }
        if let Subject::Denoiser { model, .. } = &*self.trainable.subject {
            let prediction = if model.prediction == Prediction::V { "v_prediction" } else { "epsilon" };
            std::fs::create_dir_all(folder.join("scheduler")).map_err(failed)?;
            json(
                &folder.join("scheduler/scheduler_config.json"),
                &json!({"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
                    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "clip_sample": false,
                    "set_alpha_to_one": false, "steps_offset": 1, "prediction_type": prediction}),
            )?;
            index["scheduler"] = json!(["diffusers", "DDIMScheduler"]);
            json(&folder.join("model_index.json"), &index)?;
        }
        Ok(())
    }
}

fn unet_config(model: &Sd1) -> Value {
    let c = &model.config;
    let block = |with: bool, cross: &str, plain: &str| if with { cross.to_string() } else { plain.to_string() };
    let down: Vec<String> = c.depth.iter().map(|&d| block(d > 0, "CrossAttnDownBlock2D", "DownBlock2D")).collect();
    let up: Vec<String> = c.depth.iter().rev().map(|&d| block(d > 0, "CrossAttnUpBlock2D", "UpBlock2D")).collect();
    json!({"_class_name": "UNet2DConditionModel", "in_channels": c.channels, "out_channels": c.channels,
        "block_out_channels": c.widths, "layers_per_block": c.layers, "cross_attention_dim": c.context,
        "attention_head_dim": c.heads, "norm_num_groups": c.groups, "down_block_types": down, "up_block_types": up,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "act_fn": "silu", "norm_eps": 1e-5, "center_input_sample": false,
        "flip_sin_to_cos": true, "freq_shift": 0, "downsample_padding": 1, "mid_block_scale_factor": 1,
        "sample_size": 64, "use_linear_projection": c.linear_projection})
}

fn vae_config(vae: &Autoencoder) -> Value {
    let c = &vae.config;
    let levels = c.widths.len();
    json!({"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": c.latent,
        "block_out_channels": c.widths, "layers_per_block": c.layers, "norm_num_groups": c.groups, "act_fn": "silu",
        "down_block_types": vec!["DownEncoderBlock2D"; levels], "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "sample_size": 512, "scaling_factor": vae.scale, "shift_factor": vae.shift,
        "use_quant_conv": c.quant, "use_post_quant_conv": c.quant, "mid_block_add_attention": c.attention})
}

fn text_config(text: &TextEncoder) -> Value {
    let c = &text.config;
    json!({"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_size": c.width,
        "intermediate_size": c.mlp, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "vocab_size": c.vocab, "max_position_embeddings": c.positions, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "projection_dim": c.width, "bos_token_id": 49406, "eos_token_id": 49407,
        "pad_token_id": 49407, "attention_dropout": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02})
}

impl Listener for Saver {
    fn priority(&self) -> u32 {
        0
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        if cx.moment == Moment::Start {
            let path =
                cx.folder.join("checkpoints").join(format!(".rehearsal-{}{}", self.plan.name, self.plan.extension));
            let result = self.write(&path);
            drop(if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) });
            return result;
        }
        for due in self.plan.due(cx.moment, cx.position, cx.folder) {
            if !due.is_there(cx.moment) {
                self.write(&due.path)?;
            }
            if !due.is_final {
                self.plan.prune(&due.path);
            }
            cx.artifacts.push(Artifact { kind: "checkpoint", path: due.path, final_result: due.is_final });
        }
        Ok(())
    }
}
