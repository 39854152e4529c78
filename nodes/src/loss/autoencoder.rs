//! `loss.autoencoder`: reconstruction loss for training an autoencoder.

use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_networks::Weights;
use pipe_ops::rng::{self, Purpose};
use pipe_ops::{DType, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{At, Loss, LossProgram, Losses};
use crate::common::autoencoder::{Autoencoder, Terms, reconstruct};
use crate::common::batch::{Batch, BatchSource, Batches};
use crate::common::engine::Engine;
use crate::common::gradients::Gradients;
use crate::common::trainable::{Held, Subject, Trainable};

/// Fields of `loss.autoencoder`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// Loss of a pixel. Default `l2`.
    #[serde(default)]
    loss_type: LossType,
    /// Weight of the Kullback-Leibler term that keeps latents near N(0, 1). Default 1e-6.
    #[serde(default = "default_kl")]
    #[schemars(range(min = 0.0))]
    kl_weight: f64,
}

fn default_kl() -> f64 {
    1e-6
}

/// Loss of a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LossType {
    /// Squared error.
    #[default]
    L2,
    /// Absolute error.
    L1,
}

/// The node type.
pub struct AutoencoderLoss;

impl Node for AutoencoderLoss {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "loss.autoencoder",
        summary: "Reconstruction loss with a Kullback-Leibler term, for training an autoencoder.",
        details: "Kingma and Welling 2014: images are encoded, a latent is drawn and decoded; the loss compares pixels in [−1, 1]. \
                  `kl_weight` is relative to the mean over latent elements. The reported loss is the reconstruction alone.",
        example: "loss:\n  type: loss.autoencoder\n  model: full\n  batch: pixels",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("model", &[PortType::Trainable], Rate::Step, "The autoencoder, through `adapter.full`."),
            Input::one("batch", &[PortType::Batches], Rate::Step, "Images: a cacher without `vae`."),
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(PortType::Loss, Rate::Setup, "The loss.")]
    }

    fn check(_config: &Config, cx: &mut CheckCx) -> Facts {
        let (Some(model), Some(batch)) = (cx.inputs.one("model").cloned(), cx.inputs.one("batch").cloned()) else {
            return Facts::new();
        };
        super::common::not_held_out(cx, &batch);
        if model.facts.get("architecture").is_some() {
            let help = "use `loss.diffusion`";
            cx.error(
                "P0401",
                "model",
                format!("`{}` trains a denoiser, not an autoencoder", model.node),
                Some(help.into()),
            );
        }
        if batch.facts.get("latent_channels").is_some() {
            let help = format!("leave `vae` out of `{}`", batch.node);
            cx.error("P0401", "batch", format!("`{}` carries latents, the loss needs images", batch.node), Some(help));
        } else if let (Some(factor), Some(sizes)) = (model.facts.u64("factor"), batch.facts.get("image_sizes")) {
            let sizes: Vec<Vec<u64>> = serde_json::from_value(sizes.clone()).unwrap_or_default();
            if sizes.iter().flatten().any(|s| s % factor != 0) {
                cx.error("P0401", "batch", format!("image sides must be multiples of {factor}"), None);
            }
        }
        for (fact, what) in [
            ("masked", "masks"),
            ("weighs", "loss weights"),
            ("preserve", "`preserve_output`"),
            ("class", "`preserve_class`"),
        ] {
            if batch.facts.get(fact) == Some(&serde_json::json!(true)) {
                let message = format!("the {what} of `{}` have no effect on the loss of an autoencoder", batch.node);
                cx.error("P0402", "batch", message.replace("the `", "`"), Some("leave them out of the loader".into()));
            }
        }
        model
            .facts
            .clone()
            .with("loss", "autoencoder")
            .with("batches", batch.facts.u64("batches").unwrap_or(1))
            .with("batch_facts", serde_json::to_value(&batch.facts.0).unwrap_or_default())
    }

    fn plan(_config: &Config, _cx: &PlanCx) -> NodePlan {
        NodePlan::default()
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let trainable = cx.one::<Trainable>("model")?.clone();
        let source = cx.one::<Batches>("batch")?.0.clone();
        if !matches!(&*trainable.subject, Subject::Autoencoder { .. }) {
            return Err(RunError::new("P0401", "the trainable is no autoencoder").at("model"));
        }
        Ok(Built {
            outputs: vec![Arc::new(Loss(Arc::new(Program { config, trainable, source })))],
            ..Default::default()
        })
    }
}

struct Program {
    config: Config,
    trainable: Trainable,
    source: Arc<dyn BatchSource>,
}

impl Program {
    fn vae(&self) -> (&Held<Autoencoder>, &Weights) {
        match &*self.trainable.subject {
            Subject::Autoencoder { vae, weights } => (vae, weights),
            Subject::Denoiser { .. } => unreachable!("refused when built"),
        }
    }
}

impl LossProgram for Program {
    fn trainable(&self) -> &Trainable {
        &self.trainable
    }
    fn source(&self) -> &Arc<dyn BatchSource> {
        &self.source
    }
    fn engine(&self) -> &Engine {
        &self.vae().0.engine
    }

    fn pass(&self, batch: &Batch, at: &At, gradients: Option<&mut dyn Gradients>) -> Result<Losses, RunError> {
        let (vae, weights) = self.vae();
        let images =
            batch.images.as_ref().ok_or_else(|| RunError::new("P0401", "the batches carry no images").at("batch"))?;
        let (b, h, w) = (images.shape[0], images.shape[2], images.shape[3]);
        let f = vae.config.factor();
        let shape = [b, vae.config.latent, h / f, w / f];
        let span: usize = shape[1..].iter().product();
        let mut noise = Vec::with_capacity(b * span);
        for i in 0..b as u64 {
            let mut stream = rng::stream(at.seed, Purpose::VaeSample, at.step, at.first_sample + i);
            noise.extend(rng::normal(&mut stream, span));
        }
        let device = &vae.engine.device;
        let images = device.tensor(images.values.clone(), &images.shape, DType::F32);
        let noise = device.tensor(noise, &shape, DType::F32);
        let kind = match self.config.loss_type {
            LossType::L2 => op::Elementwise::L2,
            LossType::L1 => op::Elementwise::L1,
        };
        let train = &self.trainable.train;
        let terms = Terms { kind, kl_weight: self.config.kl_weight as f32, scale: at.scale };
        let each = reconstruct(&vae.network, &vae.cx(), weights, train, (&images, &noise), &terms, gradients)?;
        Ok(Losses { each, weights: vec![1.0; b], timesteps: Vec::new(), preservation: None })
    }

    fn metadata(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}
