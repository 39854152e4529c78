//! A model with what of it learns: the value of a `Trainable` port.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pipe_core::node::SharedValue;
use pipe_core::run::{BuildCx, RunError};
use pipe_data::weights::Component;
use pipe_networks::adapters::norms::{NormReport, limit_norms};
use pipe_networks::adapters::{Target, noise};
use pipe_networks::{Trainables, Weights};
use pipe_ops::{Cx, Tensor};
use pipe_train::rounding::Rounding;

use super::autoencoder::Autoencoder;
use super::denoiser::Denoiser;
use super::plain_value;
use super::text::TextEncoder;

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

/// What adapters are on a model.
#[derive(Clone, Debug)]
pub struct Adapted {
    /// The modules.
    pub targets: Vec<Target>,
    /// Longest ΔW; longer ones are scaled down after each step.
    pub norm_limit: Option<f64>,
    /// What metadata say of them.
    pub about: AdapterAbout,
}

/// Adapters as metadata describe them.
#[derive(Clone, Debug, Default)]
pub struct AdapterAbout {
    /// `ss_network_module`, where it is not the family's usual one.
    pub module: Option<&'static str>,
    /// Rank of linear layers.
    pub rank: u64,
    /// α of linear layers.
    pub alpha: f64,
    /// Neuron dropout.
    pub dropout: Option<f64>,
    /// Longest ΔW.
    pub norm_limit: Option<f64>,
    /// `ss_network_args`.
    pub args: BTreeMap<String, String>,
}

/// How the tensors learn.
#[derive(Clone, Debug)]
pub enum Method {
    /// Adapters.
    Adapter(Box<Adapted>),
    /// The weights themselves; how bf16 ones are written.
    Full(Rounding),
}

/// A text encoder that learns.
pub struct TrainedText {
    /// The encoder.
    pub encoder: Held<TextEncoder>,
    /// Its weights that do not learn.
    pub weights: Arc<Weights>,
}

/// What learns.
pub enum Subject {
    /// A denoiser, and text encoders where they learn too.
    Denoiser {
        /// The denoiser.
        model: Held<Denoiser>,
        /// Its weights that do not learn.
        weights: Arc<Weights>,
        /// The text encoders that learn.
        texts: Vec<TrainedText>,
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
    /// Parameter group of what is no text encoder: `unet`, `transformer` or `vae`.
    pub fn main_group(&self) -> &'static str {
        match &*self.subject {
            Subject::Autoencoder { .. } => "vae",
            Subject::Denoiser { model, .. } => model.part(),
        }
    }
    /// Scales down what is longer than the adapter allows, after a step.
    pub fn limit_norms(&self, cx: &Cx) -> Option<NormReport> {
        let Method::Adapter(adapted) = &*self.method else { return None };
        Some(limit_norms(cx, &mut self.write(), &adapted.targets, adapted.norm_limit?))
    }
    /// Sets GGPO's noise of the following passes from a step's gradients, before they are multiplied by `clip`.
    pub fn perturb(&self, gradients: &HashMap<String, Tensor>, clip: impl FnOnce() -> f32) {
        if let Method::Adapter(adapted) = &*self.method
            && self.read().noise.is_some()
        {
            noise::update(&mut self.write(), &adapted.targets, gradients, clip());
        }
    }
    /// How updates are rounded into weights that are kept in bf16.
    pub fn rounding(&self) -> Rounding {
        match &*self.method {
            Method::Full(rounding) => *rounding,
            Method::Adapter(_) => Rounding::Nearest,
        }
    }
    /// The text encoder of this kind, if it learns.
    pub fn trained_text(&self, component: Component) -> Option<&TrainedText> {
        match &*self.subject {
            Subject::Denoiser { texts, .. } => texts.iter().find(|t| t.encoder.component == component),
            Subject::Autoencoder { .. } => None,
        }
    }
}

/// Parameter group of a text encoder's key.
pub fn group_of(key: &str) -> Option<&'static str> {
    let is = |prefixes: [&str; 2]| prefixes.iter().any(|p| key.starts_with(p));
    if is(["lora_te2_", "text_encoder_2."]) {
        Some("text_encoder_2")
    } else if is(["lora_te3_", "text_encoder_3."]) {
        Some("text_encoder_3")
    } else if is(["lora_te_", "text_encoder."]) || key.starts_with("lora_te1_") {
        Some("text_encoder")
    } else {
        None
    }
}
