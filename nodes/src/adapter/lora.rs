//! `adapter.lora`: low-rank adapters on a model's linear layers and convolutions.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::{Bytes, Category, NodePlan};
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::lora_names::{self, TargetKind};
use pipe_data::weights::{Header, WeightFile};
use pipe_networks::Dropouts;
use pipe_networks::lora::{self, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Subjects, pass_on};
use crate::common::errors;
use crate::common::text::TextEncoder;
use crate::common::trainable::{Held, Method, Subject, Trainable};
use crate::model::sd1::Sd1;

/// Fields of `adapter.lora`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Rank r of linear layers and 1×1 convolutions. Default 16.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 4096))]
    rank: u64,
    /// Scale numerator α: the adapter's output is multiplied by α/r. Default: the rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001))]
    alpha: Option<f64>,
    /// Also adapt residual blocks and samplers, their 3×3 convolutions with this rank.
    #[serde(default)]
    conv: Option<Conv>,
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
    fn targets(&self, subjects: &Subjects) -> Vec<Target> {
        let mut list = Vec::new();
        if let Some(clip) = &subjects.clip {
            self.add(&mut list, "text_encoder", "lora_te", clip.shapes());
        }
        if let Some(unet) = &subjects.unet {
            self.add(&mut list, "unet", "lora_unet", unet.shapes());
        }
        list
    }

    fn add(&self, list: &mut Vec<Target>, part: &str, prefix: &str, shapes: Vec<(String, Vec<usize>)>) {
        let map: HashMap<&str, &Vec<usize>> = shapes.iter().map(|(n, s)| (n.as_str(), s)).collect();
        let found = lora_names::discover(shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice())), self.conv.is_some());
        for target in found {
            let (rank, alpha) = match (target.kind, self.conv) {
                (TargetKind::Conv { .. }, Some(conv)) => (conv.rank, conv.alpha.unwrap_or(conv.rank as f64)),
                _ => (self.rank, self.alpha.unwrap_or(self.rank as f64)),
            };
            let Some(weight) = map.get(format!("{}.weight", target.path).as_str()) else { continue };
            list.push(Target {
                part: part.into(),
                name: lora_names::kohya_name(prefix, &target.path),
                path: target.path,
                weight: weight.to_vec(),
                rank: rank as usize,
                alpha: alpha as f32,
            });
        }
    }
}

impl Node for Lora {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "adapter.lora",
        summary: "Low-rank adapters (LoRA) on a model's attention, feed-forward and, if asked, convolution layers.",
        details: "Hu et al. 2022: `y = W·x + (α/r)·up(down(x))`. The base stays frozen and gets no weight gradient. All linear layers \
                  and 1×1 convolutions of the U-Net's transformers are adapted, with `conv` the residual blocks and samplers too; \
                  with `text` the text encoder's attention and MLP as well. `down` starts uniform in ±1/√fan_in, `up` at zero.",
        example: "lora:\n  type: adapter.lora\n  model: unet\n  rank: 16\n  alpha: 16",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Model], Rate::Step, "Model to adapt."),
            Input::many("text", &[PortType::TextEncoder], Rate::Step, "Text encoder to adapt as well."),
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Trainable, Rate::Setup, "The model with its adapters.")]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let subjects = Subjects::of(cx.inputs);
        let targets = config.targets(&subjects);
        let parameters: usize = targets.iter().map(Target::parameters).sum();
        if let Some(path) = &config.weights {
            match Header::read(cx.path(path)) {
                Ok(header) if subjects.unet.is_some() => {
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
            .with("parameters", parameters as u64)
            .with("modules", targets.len() as u64)
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let targets = config.targets(&Subjects::of(cx.inputs));
        let parameters: u64 = targets.iter().map(|t| t.parameters() as u64).sum();
        let of = |part: &str| targets.iter().filter(|t| t.part == part).count();
        let mut notes = vec![format!("{} modules of the U-Net, {parameters} trainable values in all", of("unet"))];
        if of("text_encoder") > 0 {
            notes.push(format!("{} modules of the text encoder", of("text_encoder")));
        }
        NodePlan {
            resident: vec![Bytes { category: Category::Trainable, bytes: 4 * parameters }],
            notes,
            ..Default::default()
        }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let model = Held::<Sd1>::one(cx, "model")?;
        let text = Held::<TextEncoder>::all(cx, "text").into_iter().next();
        let subjects =
            Subjects { unet: Some(model.config.clone()), vae: None, clip: text.as_ref().map(|t| t.config.clone()) };
        let mut targets = config.targets(&subjects);
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
        let text = match text {
            Some(text) => {
                let weights = text.weights.get()?;
                Some((text, weights))
            }
            None => None,
        };
        let method = Method::Lora {
            targets,
            rank: config.rank,
            alpha: config.alpha.unwrap_or(config.rank as f64),
            conv: config.conv.map(|c| (c.rank, c.alpha.unwrap_or(c.rank as f64))),
            dropouts: [config.dropout, config.rank_dropout, config.module_dropout],
        };
        let trainable = Trainable {
            subject: Arc::new(Subject::Denoiser { model, weights, text }),
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
