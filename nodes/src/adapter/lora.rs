//! `adapter.lora`: low-rank adapters on a model's linear layers and convolutions.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::lora_names::{self, TargetKind, Wanted};
use pipe_data::weights::{Component, Header, WeightFile};
use pipe_networks::Dropouts;
use pipe_networks::Shapes;
use pipe_networks::lora::{self, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Parts, check_texts, pass_on, texts_of, vae_of};
use crate::common::denoiser::Denoiser;
use crate::common::errors;
use crate::common::family;
use crate::common::trainable::{Held, Method, Subject, Trainable, TrainedText};

/// Fields of `adapter.lora`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Rank r of linear layers and 1×1 convolutions. Default 16.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 4096))]
    rank: u64,
    /// Scale numerator α: the adapter's output is multiplied by α/r. Default: the rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1e30))]
    alpha: Option<f64>,
    /// U-Nets: also adapt residual blocks and samplers, their 3×3 convolutions with this rank.
    #[serde(default)]
    conv: Option<Conv>,
    /// Transformers: also adapt the embedders before the blocks, and SD3's last layer. Default false.
    #[serde(default)]
    embedders: bool,
    /// Probability of zeroing a rank-space activation (neuron dropout). Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    dropout: f64,
    /// Probability of leaving a rank out for a sample. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    rank_dropout: f64,
    /// Probability of leaving a module out of a forward pass. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    module_dropout: f64,
    /// LoRA file to start from. It must have the same modules and ranks; its α replaces `alpha`.
    #[serde(default)]
    #[schemars(extend("x-path" = "file"))]
    weights: Option<String>,
}

/// Rank and α of 3×3 convolutions.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
struct Conv {
    /// Rank.
    #[schemars(range(min = 1, max = 4096))]
    rank: u64,
    /// Scale numerator α. Default: this rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001))]
    alpha: Option<f64>,
}

fn default_rank() -> u64 {
    16
}

/// The node type.
pub struct Lora;

impl Config {
    /// Modules that get an adapter.
    fn targets(&self, parts: &Parts) -> Vec<Target> {
        let mut list = Vec::new();
        for (component, shapes) in parts.components() {
            self.add(&mut list, parts, component, &shapes);
        }
        list
    }

    fn add(&self, list: &mut Vec<Target>, parts: &Parts, component: Component, shapes: &Shapes) {
        let map: HashMap<&str, &Vec<usize>> = shapes.iter().map(|(n, s)| (n.as_str(), s)).collect();
        let wanted = Wanted { conv: self.conv.is_some(), embedders: self.embedders };
        let named = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
        for target in lora_names::targets(parts.family, component, named, wanted) {
            let (rank, alpha) = match (target.kind, self.conv) {
                (TargetKind::Conv { .. }, Some(conv)) => (conv.rank, conv.alpha.unwrap_or(conv.rank as f64)),
                _ => (self.rank, self.alpha.unwrap_or(self.rank as f64)),
            };
            let Some(weight) = map.get(format!("{}.weight", target.path).as_str()) else { continue };
            list.push(Target {
                part: family::part(component).into(),
                name: target.name,
                path: target.path,
                weight: weight.to_vec(),
                rank: rank as usize,
                alpha: alpha as f32,
            });
        }
    }

    fn check_effect(&self, cx: &mut CheckCx, parts: &Parts) {
        let unet = parts.family.denoiser() == Component::Unet;
        if self.conv.is_some() && !unet {
            let message = format!("`conv` has no effect: {} has no residual blocks", parts.family);
            cx.error("P0402", "conv", message, None);
        }
        if self.embedders && unet {
            let message = format!("`embedders` has no effect on the U-Net of {}", parts.family);
            cx.error("P0402", "embedders", message, Some("`conv` adapts more of a U-Net".into()));
        }
        if self.weights.is_some() {
            for (field, set) in
                [("alpha", self.alpha.is_some()), ("conv.alpha", self.conv.is_some_and(|c| c.alpha.is_some()))]
            {
                if set {
                    let message = format!("`{field}` has no effect beside `weights`: the file's α is kept");
                    cx.error("P0402", field, message, Some("leave it out".into()));
                }
            }
        }
    }
}

impl Node for Lora {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "adapter.lora",
        summary: "Low-rank adapters (LoRA) on a model's attention, feed-forward and, if asked, convolution layers.",
        details: "Hu et al. 2022: `y = W·x + (α/r)·up(down(x))`. The base stays frozen and gets no weight gradient. In a U-Net all \
                  linear layers and 1×1 convolutions of the transformers are adapted, with `conv` the residual blocks and samplers \
                  too; in a transformer (SD3, FLUX, Lumina) the matrices of its blocks; with `text` the text encoders' attention and \
                  MLPs as well. `down` starts uniform in ±1/√fan_in, `up` at zero.",
        example: "lora:\n  type: adapter.lora\n  model: unet\n  rank: 16\n  alpha: 16",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Model], Rate::Step, "Model to adapt."),
            Input::many("text", &[PortType::TextEncoder], Rate::Step, "Text encoders to adapt as well."),
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Trainable, Rate::Setup, "The model with its adapters.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if vae_of(cx.inputs).is_some() {
            cx.error("P0401", "model", "an autoencoder takes no LoRA", Some("use `adapter.full`".into()));
        }
        check_texts(cx);
        let parts = Parts::of(cx.inputs);
        let targets = parts.as_ref().map(|parts| config.targets(parts)).unwrap_or_default();
        let parameters: usize = targets.iter().map(Target::parameters).sum();
        if let Some(parts) = &parts {
            config.check_effect(cx, parts);
        }
        if let Some(path) = &config.weights
            && !cx.stands_in(&cx.path(path))
        {
            match Header::read(cx.path(path)) {
                Ok(header) if parts.is_some() => {
                    if let Some(problem) = misfit(&header, &targets) {
                        let help =
                            "set `rank` and `conv` as they were when the file was trained; `pipe inspect` shows them";
                        cx.error("P0305", "weights", problem, Some(help.into()));
                    }
                }
                Ok(_) => {}
                Err(e) => cx.error(errors::file_code(&e), "weights", e.to_string(), None),
            }
        }
        pass_on(cx.inputs)
            .with("method", "lora")
            .with("rank", config.rank)
            .with("conv_rank", config.conv.map_or(0, |c| c.rank))
            .with("embedders", config.embedders)
            .with("parameters", parameters as u64)
            .with("trainable_tensors", 2 * targets.len() as u64)
            .with("modules", targets.len() as u64)
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let targets = Parts::of(cx.inputs).map(|parts| config.targets(&parts)).unwrap_or_default();
        let parameters: u64 = targets.iter().map(|t| t.parameters() as u64).sum();
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for target in &targets {
            match counts.iter_mut().find(|(part, _)| *part == target.part) {
                Some((_, n)) => *n += 1,
                None => counts.push((&target.part, 1)),
            }
        }
        let modules: Vec<String> = counts.iter().map(|(part, n)| format!("{n} modules of `{part}`")).collect();
        NodePlan {
            resident: vec![Bytes { category: Category::Trainable, bytes: 4 * parameters }],
            notes: vec![format!("{}; {parameters} trainable values in all", modules.join(", "))],
            ..Default::default()
        }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let model = Held::<Denoiser>::one(cx, "model")?;
        let encoders = texts_of(cx)?;
        let parts = Parts {
            family: model.family,
            network: model.network.clone(),
            texts: encoders.iter().map(|t| (t.component, t.network.shapes())).collect(),
        };
        let mut targets = config.targets(&parts);
        let initial = match &config.weights {
            Some(path) => start_from(&cx.path(path), &mut targets)?,
            None => HashMap::new(),
        };
        let dropouts = Dropouts {
            module: config.module_dropout as f32,
            neuron: config.dropout as f32,
            rank: config.rank_dropout as f32,
        };
        let train = lora::create(&targets, dropouts, cx.settings.seed, &model.engine.device, &initial);
        let weights = model.weights.get()?;
        let mut texts = Vec::new();
        for encoder in encoders {
            let weights = encoder.weights.get()?;
            texts.push(TrainedText { encoder, weights });
        }
        // A file that was continued keeps its own α.
        let alpha_of = |conv: bool| {
            let is_conv = |t: &&Target| t.weight.get(2).is_some_and(|k| *k > 1);
            targets.iter().find(|t| is_conv(t) == conv).map(|t| t.alpha as f64)
        };
        let method = Method::Lora {
            rank: config.rank,
            alpha: alpha_of(false).unwrap_or(config.rank as f64),
            conv: config.conv.map(|c| (c.rank, alpha_of(true).unwrap_or(c.rank as f64))),
            dropouts: [config.dropout, config.rank_dropout, config.module_dropout],
            targets,
        };
        let trainable = Trainable {
            subject: Arc::new(Subject::Denoiser { model, weights, texts }),
            method: Arc::new(method),
            train: Arc::new(RwLock::new(train)),
        };
        Ok(Built { outputs: vec![Arc::new(trainable)], ..Default::default() })
    }
}

/// How a LoRA file differs from the modules and ranks asked for.
fn misfit(header: &Header, targets: &[Target]) -> Option<String> {
    let mut expected: HashMap<String, Vec<usize>> = HashMap::new();
    for t in targets {
        expected.insert(t.down_key(), t.down_shape());
        expected.insert(t.up_key(), t.up_shape());
    }
    let missing = expected.keys().filter(|k| !header.tensors.contains_key(*k)).count();
    let unknown: Vec<&String> =
        header.tensors.keys().filter(|k| !k.ends_with(".alpha") && !expected.contains_key(*k)).collect();
    if missing > 0 || !unknown.is_empty() {
        let example = unknown.first().map(|k| format!(", such as `{k}`")).unwrap_or_default();
        return Some(format!(
            "the LoRA file lacks {missing} of the {} factors and has {} others{example}",
            expected.len(),
            unknown.len()
        ));
    }
    expected.iter().find_map(|(name, shape)| {
        let found = &header.tensors[name].shape;
        (found.iter().product::<usize>() != shape.iter().product::<usize>() || found[0] != shape[0])
            .then(|| format!("`{name}` has shape {found:?}, the adapter {shape:?}"))
    })
}

/// Reads factors and α of a LoRA file.
fn start_from(path: &Path, targets: &mut [Target]) -> Result<HashMap<String, Vec<f32>>, RunError> {
    let error = |e| errors::file_error(&e, "weights");
    let file = WeightFile::open(path).map_err(error)?;
    if let Some(problem) = misfit(file.header(), targets) {
        return Err(RunError::new("P0305", problem).at("weights"));
    }
    let mut initial = HashMap::new();
    for target in targets {
        for key in [target.down_key(), target.up_key()] {
            initial.insert(key.clone(), file.f32(&key).map_err(error)?);
        }
        let alpha = format!("{}.alpha", target.name);
        // Without α the scale is 1.
        target.alpha = match file.info(&alpha) {
            Some(_) => file
                .f32(&alpha)
                .or_else(|_| file.i64(&alpha).map(|v| v.into_iter().map(|x| x as f32).collect()))
                .map_err(error)?
                .first()
                .copied()
                .unwrap_or(target.rank as f32),
            None => target.rank as f32,
        };
    }
    Ok(initial)
}
