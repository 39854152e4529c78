//! The autoencoder as a value: encodes images, decodes latents, learns.

use std::collections::HashMap;
use std::sync::Arc;

use pipe_core::node::Value;
use pipe_core::run::RunError;
use pipe_data::weights::Component;
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Builder, Inputs, Model, Slot, Trainables, Weights};
use pipe_ops::{Cx, DType, Tensor, op};

use super::engine::Engine;
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
    /// Names the weights' content.
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
        let fingerprint = format!("{} {scale} {shift}", source.fingerprint(Component::Vae)?);
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

    /// Reconstruction with what learns, for [`crate::loss::autoencoder`]: forward, loss and, with
    /// `leaves`, backward. Gives the mean loss of each sample.
    pub fn reconstruct(
        &self,
        weights: &Weights,
        train: &Trainables,
        images: &Tensor,
        noise: &Tensor,
        kind: op::Elementwise,
        kl_weight: f32,
        scale: f32,
        leaves: Option<&mut HashMap<String, Tensor>>,
    ) -> Tensor {
        let cx = if images.meter().is_some() {
            Cx::new(pipe_ops::Device::Meta(images.meter().cloned().unwrap_or_default()), DType::F32)
        } else {
            self.cx()
        };
        reconstruct(&self.network, &cx, weights, train, images, noise, kind, kl_weight, scale, leaves)
    }
}

/// See [`Autoencoder::reconstruct`]; also runs with shapes only.
pub fn reconstruct(
    network: &Network,
    cx: &Cx,
    weights: &Weights,
    train: &Trainables,
    images: &Tensor,
    noise: &Tensor,
    kind: op::Elementwise,
    kl_weight: f32,
    scale: f32,
    leaves: Option<&mut HashMap<String, Tensor>>,
) -> Tensor {
    let inputs = Inputs { training: leaves.is_some(), ..Default::default() };
    let setting = Setting {
        model: &network.model,
        weights: vec![weights],
        train: Some(train),
        inputs: &inputs,
        policy: Policy::Keep,
    };
    let record = leaves.is_some();
    let encode = setting.forward(cx, vec![(network.image, images.clone(), false)], &[network.moments], record);
    // The draw between the halves has its own small tape.
    let tape = pipe_ops::Tape::new();
    let moments = tape.input(encode.output(network.moments).clone());
    let latent = op::sample_gaussian(&cx.with_tape(&tape), &moments, Some(noise), kl_weight * scale);
    let decode = setting.forward(cx, vec![(network.latent, latent.value.clone(), true)], &[network.decoded], record);
    let weights = vec![scale; images.dim(0)];
    let (loss, grad) = op::loss_and_grad(
        cx,
        kind,
        decode.output(network.decoded),
        images,
        op::Weigh { samples: &weights, ..Default::default() },
    );
    if let Some(leaves) = leaves {
        let mut grads = setting.backward(cx, decode, vec![(network.decoded, grad)], &[network.latent], leaves);
        if let Some(grad) = grads.remove(&network.latent) {
            let mut parts = tape.backward(cx, vec![(latent, grad)], &[moments], leaves);
            if let Some(grad) = parts.pop().flatten() {
                setting.backward(cx, encode, vec![(network.moments, grad)], &[], leaves);
            }
        }
    }
    loss
}
