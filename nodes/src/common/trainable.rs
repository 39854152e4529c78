//! A model with what of it learns: the value of a `Trainable` port.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pipe_core::node::SharedValue;
use pipe_core::run::{BuildCx, RunError};
use pipe_networks::lora::Target;
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::{Builder, Inputs, Model, Slot, Trainables, Weights};
use pipe_ops::Tensor;

use super::autoencoder::Autoencoder;
use super::plain_value;
use super::text::TextEncoder;
use crate::model::sd1::Sd1;

/// A value of an edge, held by a node that was built from it.
pub struct Held<T> {
    value: SharedValue,
    ty: PhantomData<fn() -> T>,
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Held { value: self.value.clone(), ty: PhantomData }
    }
}

impl<T: 'static> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self.value.as_any().downcast_ref() {
            Some(value) => value,
            None => unreachable!("checked when it was made"),
        }
    }
}

impl<T: 'static> Held<T> {
    /// The value, if it is a `T`.
    pub fn of(value: &SharedValue) -> Option<Self> {
        value.as_any().is::<T>().then(|| Held { value: value.clone(), ty: PhantomData })
    }
    /// Values of a port that are a `T`.
    pub fn all(cx: &BuildCx, port: &str) -> Vec<Self> {
        cx.values(port).iter().filter_map(Self::of).collect()
    }
    /// The value of a port.
    pub fn one(cx: &BuildCx, port: &str) -> Result<Self, RunError> {
        Self::all(cx, port).into_iter().next().ok_or_else(|| {
            RunError::new("P0902", format!("input `{port}` carries another kind of value than expected")).at(port)
        })
    }
}

/// How the tensors learn.
#[derive(Clone, Debug)]
pub enum Method {
    /// A LoRA on these modules.
    Lora {
        /// The modules.
        targets: Vec<Target>,
        /// Rank of linear layers.
        rank: u64,
        /// α of linear layers.
        alpha: f64,
        /// Rank and α of 3×3 convolutions.
        conv: Option<(u64, f64)>,
        /// Neuron, rank and module dropout.
        dropouts: [f64; 3],
    },
    /// The weights themselves.
    Full,
}

/// What learns.
pub enum Subject {
    /// A denoiser, and the text encoder where it learns too.
    Denoiser {
        /// The U-Net.
        model: Held<Sd1>,
        /// Its weights that do not learn.
        weights: Arc<Weights>,
        /// The text encoder that learns, with its weights that do not.
        text: Option<(Held<TextEncoder>, Arc<Weights>)>,
    },
    /// An autoencoder.
    Autoencoder {
        /// The autoencoder.
        vae: Held<Autoencoder>,
        /// Its weights that do not learn.
        weights: Arc<Weights>,
    },
}

/// The value of a `Trainable` port.
#[derive(Clone)]
pub struct Trainable {
    /// What learns.
    pub subject: Arc<Subject>,
    /// How.
    pub method: Arc<Method>,
    /// The tensors; the optimizer writes, everyone else reads.
    pub train: Arc<RwLock<Trainables>>,
}

plain_value!(Trainable);

impl Trainable {
    /// Reads the tensors.
    pub fn read(&self) -> RwLockReadGuard<'_, Trainables> {
        self.train.read().unwrap_or_else(|e| e.into_inner())
    }
    /// Changes the tensors.
    pub fn write(&self) -> RwLockWriteGuard<'_, Trainables> {
        self.train.write().unwrap_or_else(|e| e.into_inner())
    }
    /// Parameter group of a tensor: `text_encoder`, `unet` or `vae`.
    pub fn group(&self, key: &str) -> &'static str {
        match &*self.subject {
            Subject::Autoencoder { .. } => "vae",
            Subject::Denoiser { .. } => group_of(key),
        }
    }
}

/// Parameter group of a trainable's key.
pub fn group_of(key: &str) -> &'static str {
    if key.starts_with("lora_te") || key.starts_with("text_encoder.") { "text_encoder" } else { "unet" }
}

/// The segments of a denoiser with or without a live text encoder.
pub struct DenoiserNet {
    /// Segments.
    pub model: Model,
    /// Noisy latent in.
    pub x: Slot,
    /// Text embeddings: an input slot, or the output of the live text encoder.
    pub context: Slot,
    /// Prediction out.
    pub out: Slot,
    /// The text encoder runs inside.
    pub live_text: bool,
}

impl DenoiserNet {
    /// Builds the segments.
    pub fn new(
        unet: &pipe_networks::unet::UnetConfig,
        text: Option<(&pipe_networks::clip::ClipConfig, usize)>,
    ) -> Self {
        let mut b = Builder::new();
        let live_text = text.is_some();
        let context = match text {
            Some((clip, skip)) => clip.build(&mut b, "text_encoder", skip),
            None => b.input(),
        };
        let x = b.input();
        let out = unet.build(&mut b, x, context);
        DenoiserNet { model: b.finish(), x, context, out, live_text }
    }

    /// Weights in the order of the model's parts.
    pub fn weights<'a>(&self, unet: &'a Weights, text: Option<&'a Weights>) -> Vec<&'a Weights> {
        match text {
            Some(text) if self.live_text => vec![text, unet],
            _ => vec![unet],
        }
    }
}

/// A prediction without gradient: what previews use. `context [B, S, D]` on the device.
pub fn predict(
    model: &Sd1,
    net: &DenoiserNet,
    weights: &Weights,
    train: Option<&Trainables>,
    x: Tensor,
    timesteps: Vec<f32>,
    context: Tensor,
) -> Tensor {
    let inputs = Inputs { timesteps, ..Default::default() };
    let setting = Setting {
        model: &net.model,
        weights: net.weights(weights, None),
        train,
        inputs: &inputs,
        policy: Policy::Keep,
    };
    let given = vec![(net.x, x, false), (net.context, context, false)];
    setting.forward(&model.engine.cx(), given, &[net.out], false).output(net.out).clone()
}
