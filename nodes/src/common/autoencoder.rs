//! The autoencoder as a value: encodes images, decodes latents, learns.

use std::sync::{Arc, RwLock};

use pipe_core::node::Value;
use pipe_core::run::RunError;
use pipe_data::weights::Component;
use pipe_networks::pass::{Back, Pass, Policy, Setting};
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Builder, Inputs, Model, Slot, Trainables, Weights};
use pipe_ops::{Cx, DType, Tensor, op};

use super::engine::Engine;
use super::gradients::Gradients;
use super::lazy::Lazy;
use super::weights_source::Source;

/// An autoencoder on an edge.
pub struct Autoencoder {
    /// Sizes.
    pub config: VaeConfig,
    /// Model-space latents are `(raw − shift)·scale`.
    pub scale: f32,
    /// See `scale`.
    pub shift: f32,
    /// Where the weights come from.
    pub source: Source,
    /// Names the weights' content and the sizes, of which shapes do not tell all (the groups of norms).
    pub fingerprint: String,
    /// Weights, loaded on demand, f32 (f16 overflows in this network).
    pub weights: Lazy<Weights>,
    /// Device.
    pub engine: Engine,
    /// Encoder and decoder as segments, with their slots.
    pub network: Network,
}

/// The two halves as one list of segments.
pub struct Network {
    /// Segments of both halves.
    pub model: Model,
    /// Image in.
    pub image: Slot,
    /// Moments out.
    pub moments: Slot,
    /// Latent in.
    pub latent: Slot,
    /// Image out.
    pub decoded: Slot,
}

impl Network {
    /// Builds the segments of a configuration.
    pub fn new(config: &VaeConfig) -> Self {
        let mut b = Builder::new();
        let image = b.input();
        let moments = config.build_encoder(&mut b, image);
        let latent = b.input();
        let decoded = config.build_decoder(&mut b, latent);
        Network { model: b.finish(), image, moments, latent, decoded }
    }
}

impl Value for Autoencoder {
    fn unload(&self) {
        self.weights.unload();
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Autoencoder {
    /// An autoencoder whose weights load at first use.
    pub fn new(
        config: VaeConfig,
        scale: f32,
        shift: f32,
        source: Source,
        engine: Engine,
    ) -> Result<Arc<Self>, RunError> {
        let sizes = serde_json::to_string(&config).unwrap_or_default();
        let fingerprint = format!("{} {scale} {shift} {sizes}", source.fingerprint(Component::Vae)?);
        let (load_source, load_engine, shapes) = (source.clone(), engine.clone(), config.shapes());
        let weights = Lazy::new(move || {
            load_source.load(Component::Vae, &shapes, &load_engine.cx(), DType::F32, &Default::default())
        });
        let network = Network::new(&config);
        Ok(Arc::new(Autoencoder { config, scale, shift, source, fingerprint, weights, engine, network }))
    }

    /// Context: the network runs in f32 on every device.
    pub fn cx(&self) -> Cx {
        Cx::new(self.engine.device.clone(), DType::F32)
    }

    fn run(&self, from: Slot, x: Tensor, to: Slot) -> Result<Tensor, RunError> {
        let weights = self.weights.get()?;
        let inputs = Inputs::default();
        let setting = Setting {
            model: &self.network.model,
            weights: vec![&weights],
            train: None,
            inputs: &inputs,
            policy: Policy::Keep,
        };
        let pass = setting.forward(&self.cx(), vec![(from, x, false)], &[to], false);
        Ok(pass.output(to).clone())
    }

    /// Images `[B, 3, H, W]` in [−1, 1] to moments `[B, 2Z, H/f, W/f]`.
    pub fn encode(&self, images: Vec<f32>, shape: &[usize]) -> Result<Tensor, RunError> {
        let x = self.engine.device.tensor(images, shape, DType::F32);
        self.run(self.network.image, x, self.network.moments)
    }

    /// Model-space latents `[B, Z, h, w]` to images in [−1, 1], on the host.
    pub fn decode(&self, latents: &Tensor) -> Result<Vec<f32>, RunError> {
        let raw: Vec<f32> = latents.to_vec().iter().map(|z| z / self.scale + self.shift).collect();
        let x = self.engine.device.tensor(raw, latents.shape(), DType::F32);
        Ok(self.run(self.network.latent, x, self.network.decoded)?.to_vec())
    }
}

/// What a reconstruction is measured by.
pub struct Terms {
    /// Loss of a pixel.
    pub kind: op::Elementwise,
    /// Weight of the Kullback-Leibler term.
    pub kl_weight: f32,
    /// Multiplies the loss before the way back.
    pub scale: f32,
}

/// Reconstruction with what learns, for [`crate::loss::autoencoder`]: forward, loss and, with `gradients`, backward.
/// `shown` are images `[B, 3, H, W]` in [−1, 1] and the noise of the latents' draw. Gives the mean loss of each sample.
/// Also runs with shapes only.
pub fn reconstruct(
    network: &Network,
    cx: &Cx,
    weights: &Weights,
    train: &RwLock<Trainables>,
    shown: (&Tensor, &Tensor),
    terms: &Terms,
    gradients: Option<&mut dyn Gradients>,
) -> Result<Tensor, RunError> {
    let ((images, noise), Terms { kind, kl_weight, scale }) = (shown, terms);
    let record = gradients.is_some();
    let inputs = Inputs { training: record, ..Default::default() };
    let read = || train.read().unwrap_or_else(|e| e.into_inner());
    let (model, policy) = (&network.model, Policy::Keep);
    fn setting<'a>(
        (model, weights, inputs): (&'a Model, &'a Weights, &'a Inputs),
        policy: Policy,
        train: &'a Trainables,
    ) -> Setting<'a> {
        Setting { model, weights: vec![weights], train: Some(train), inputs, policy }
    }
    let with = (model, weights, &inputs);
    let forward =
        |from: (Slot, Tensor, bool), to: Slot| setting(with, policy, &read()).forward(cx, vec![from], &[to], record);
    let encode = forward((network.image, images.clone(), false), network.moments);
    // The draw between the halves has its own small tape.
    let tape = pipe_ops::Tape::new();
    let moments = tape.input(encode.output(network.moments).clone());
    let latent = op::sample_gaussian(&cx.with_tape(&tape), &moments, Some(noise), kl_weight * scale);
    let decode = forward((network.latent, latent.value.clone(), true), network.decoded);
    let samples = vec![*scale; images.dim(0)];
    let weigh = op::Weigh { samples: &samples, ..Default::default() };
    let (loss, grad) = op::loss_and_grad(cx, *kind, decode.output(network.decoded), images, weigh);
    let Some(gradients) = gradients else { return Ok(loss) };
    gradients.begin(&loss, &grad)?;
    let walk = |pass: Pass, seed: (Slot, Tensor), wanted: &[Slot], gradients: &mut dyn Gradients| {
        let mut back = Back::new(pass, vec![seed]);
        let segment = |back: &mut Back, gradients: &mut dyn Gradients| {
            back.step(&setting(with, policy, &read()), cx, gradients.leaves())
        };
        while segment(&mut back, gradients) {
            gradients.segment(&|key| back.awaits(model, key))?;
        }
        Ok(back.slots(wanted))
    };
    let mut grads = walk(decode, (network.decoded, grad), &[network.latent], gradients)?;
    if let Some(grad) = grads.remove(&network.latent) {
        let mut parts = tape.backward(cx, vec![(latent, grad)], &[moments], gradients.leaves());
        if let Some(grad) = parts.pop().flatten() {
            walk(encode, (network.moments, grad), &[], gradients)?;
        }
    }
    Ok(loss)
}
