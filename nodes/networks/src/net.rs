//! What a network function is written with.

use std::collections::{BTreeMap, HashMap};

use pipe_ops::{Cx, DType, Stored, Tensor, Var, op};

use crate::text::{TextInput, TextInputs, TextKind};
use crate::trainables::{Module, Trainables};
use crate::weights::Weights;
use crate::wrap::Layer;

/// What a model reads that is no tensor on a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// What the network's time embedding reads, for each sample: timestep 0..1000 (U-Nets, SD3), σ (FLUX), 1 − σ (Lumina).
    pub timesteps: Vec<f32>,
    /// Distilled guidance of each sample (FLUX.1 dev).
    pub guidance: Vec<f32>,
    /// Original height and width, crop top and left, target height and width of each sample, in pixels (SDXL).
    pub sizes: Vec<[f32; 6]>,
    /// Height and width of the latent, for networks that see it as tokens.
    pub latent: [usize; 2],
    /// `[B][S]`: 1 for real text tokens, 0 for padding; empty: all are real.
    pub text_mask: Vec<Vec<f32>>,
    /// Tokens of each text encoder that runs inside the model, by component.
    pub text: TextInputs,
    /// Where SD3's positions lie in their table, as parts of the room above and left; nothing: in the middle.
    pub crop: Option<[f32; 2]>,
    /// What each sample's embeddings of a text encoder are multiplied by (SD3), where not all by 1.
    pub text_keep: BTreeMap<TextKind, Vec<f32>>,
    /// Counts forward passes of the run; keys dropout. Recomputing a segment draws the same.
    pub pass: u64,
    /// Dropouts act only in training.
    pub training: bool,
}

/// One component during a forward pass: its weights, what of them learns, and the context.
pub struct Net<'a> {
    /// Device, types, tape.
    pub cx: &'a Cx,
    /// Name of the component: `unet`, `text_encoder`, `vae`.
    pub part: &'a str,
    /// Its frozen weights.
    pub weights: &'a Weights,
    /// Those of this segment that rest in the host's memory, copied to the device; without, each is copied when used.
    pub fetched: Option<&'a HashMap<String, Stored>>,
    /// What learns; `None` runs the base alone.
    pub train: Option<&'a Trainables>,
    /// Non-tensor inputs.
    pub inputs: &'a Inputs,
}

static NO_TEXT: TextInput = TextInput { ids: Vec::new(), windows: 1, mask: Vec::new(), weights: Vec::new() };

impl Net<'_> {
    /// Tokens of this component.
    pub fn text(&self) -> &TextInput {
        self.inputs.text.get(self.part).unwrap_or(&NO_TEXT)
    }

    /// Whether the component stays as it is for now.
    fn is_still(&self) -> bool {
        self.train.is_some_and(|train| train.still.contains(self.part))
    }

    /// Whether dropouts act.
    pub(crate) fn training(&self) -> bool {
        self.inputs.training && !self.is_still()
    }

    /// A tensor that learns, by its key: a leaf, unless the component stays as it is for now.
    pub(crate) fn learning(&self, key: &str, master: Tensor) -> Var {
        match &self.cx.tape {
            Some(tape) if !self.is_still() => tape.leaf(key, master),
            _ => Var::constant(master),
        }
    }

    /// RMS norm `path`.
    pub fn rms_norm(&self, path: &str, x: &Var, eps: f32) -> Var {
        op::rms_norm(self.cx, x, &self.weight(&format!("{path}.weight")), eps)
    }

    /// RMS norm `path` that multiplies by `1 + w` (Gemma).
    pub fn rms_norm_plus_one(&self, path: &str, x: &Var, eps: f32) -> Var {
        let w = op::offset(self.cx, &self.weight(&format!("{path}.weight")), 1.0);
        op::rms_norm(self.cx, x, &w, eps)
    }

    /// RMS norm of each head of `x [B, S, H·D]` with the weight `name [D]`.
    pub fn head_norm(&self, name: &str, x: &Var, eps: f32) -> Var {
        let w = self.weight(name);
        let (d, shape) = (w.value.len(), x.shape().to_vec());
        let rows = op::reshape(self.cx, x, &[x.value.len() / d, d]);
        op::reshape(self.cx, &op::rms_norm(self.cx, &rows, &w, eps), &shape)
    }

    /// Two linear layers with SiLU between (timestep, pooled and guidance embedders).
    pub fn mlp_silu(&self, first: &str, second: &str, x: &Var) -> Var {
        self.linear(second, &op::silu(self.cx, &self.linear(first, x)))
    }

    /// The mask of text tokens `[B, S]`, if any token is padding; `extra` visible tokens follow it.
    pub fn text_mask(&self, extra: usize) -> Option<Tensor> {
        let rows = &self.inputs.text_mask;
        if rows.iter().flatten().all(|&m| m != 0.0) {
            return None;
        }
        let width = rows[0].len() + extra;
        let values = rows.iter().flat_map(|r| r.iter().copied().chain(std::iter::repeat_n(1.0, extra))).collect();
        Some(self.cx.device.tensor(values, &[rows.len(), width], pipe_ops::DType::F32))
    }

    /// Weight `name`: a leaf where it learns, else a constant.
    pub fn weight(&self, name: &str) -> Var {
        if let Some(train) = self.train {
            let key = Trainables::key(self.part, name);
            if let Some(master) = train.tensors.get(&key) {
                return self.leaf(&key, master);
            }
        }
        self.shifted(name, self.frozen(name))
    }

    fn frozen(&self, name: &str) -> Var {
        match (self.stored(name), self.weights.get(name)) {
            (Some(stored), _) => Var::stored(self.cx, stored.clone()),
            (None, Some(tensor)) => Var::constant(tensor.clone()),
            (None, None) => panic!("`{name}` of {} was not verified before use", self.part),
        }
    }

    fn stored(&self, name: &str) -> Option<&Stored> {
        self.fetched.and_then(|fetched| fetched.get(name)).or_else(|| self.weights.stored(name))
    }

    /// Rows `ids` of the table `name [V, D]`: `[ids.len(), D]`. Of a table at rest no more than these are cast.
    pub fn embedding(&self, name: &str, ids: &[u32]) -> Var {
        // A table that learns, or that an adapter adds to, is needed whole.
        let whole = self.train.is_some_and(|t| t.touches(self.part, name.trim_end_matches(".weight")));
        match self.stored(name).filter(|_| !whole) {
            Some(stored) => Var::constant(stored.rows(&self.cx.device, ids, self.cx.compute)),
            None => op::embedding(self.cx, &self.weight(name), ids),
        }
    }

    /// A frozen weight with what an adapter adds to it.
    fn shifted(&self, name: &str, base: Var) -> Var {
        let Some((train, (path, kind))) = self.train.zip(name.rsplit_once('.')) else { return base };
        let Some(adapter) = train.adapters.get(&Trainables::key(self.part, path)) else { return base };
        let Module::Shift { weight, bias } = &adapter.module else { return base };
        let key = if kind == "bias" { bias.as_ref() } else { Some(weight) };
        let Some((key, master)) = key.and_then(|key| Some((key, train.factor(key)?))) else { return base };
        if self.module_dropped(train, adapter, path) {
            return base;
        }
        op::add(self.cx, &base, &op::reshape(self.cx, &self.leaf(key, master), base.shape()))
    }

    /// A weight that may be absent (biases).
    pub fn optional(&self, name: &str) -> Option<Var> {
        let learns = self.train.is_some_and(|t| t.tensors.contains_key(&Trainables::key(self.part, name)));
        (learns || self.weights.has(name)).then(|| self.weight(name))
    }

    fn leaf(&self, key: &str, master: &Tensor) -> Var {
        // A weight kept in less than f32 gets its gradient in the type it is computed in, not rounded once more.
        let kept = if master.dtype() == DType::F32 { master.clone() } else { master.cast(self.cx.compute) };
        op::cast(self.cx, &self.learning(key, kept), self.cx.compute)
    }

    /// Linear layer `path` with its adapter: `x [.., in]` → `[.., out]`.
    pub fn linear(&self, path: &str, x: &Var) -> Var {
        self.layer(path, Layer::Linear, x)
    }

    /// Convolution `path` with its adapter: `x [B, C, H, W]`; `pad` is top, left, bottom, right.
    pub fn conv(&self, path: &str, x: &Var, stride: usize, pad: [usize; 4]) -> Var {
        self.layer(path, Layer::Conv { stride, pad }, x)
    }

    /// Group norm `path`, with SiLU behind it if asked.
    pub fn group_norm(&self, path: &str, x: &Var, groups: usize, eps: f32, silu: bool) -> Var {
        let (w, b) = (self.weight(&format!("{path}.weight")), self.weight(&format!("{path}.bias")));
        op::group_norm(self.cx, x, &w, &b, groups, eps, silu)
    }

    /// Layer norm `path`.
    pub fn layer_norm(&self, path: &str, x: &Var, eps: f32) -> Var {
        let (w, b) = (self.weight(&format!("{path}.weight")), self.weight(&format!("{path}.bias")));
        op::layer_norm(self.cx, x, &w, &b, eps)
    }
}
