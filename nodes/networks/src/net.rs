//! What a network function is written with.

use pipe_ops::rng::{self, Purpose};
use pipe_ops::{Cx, Tensor, Var, op};

use crate::text::{TextInput, TextInputs};
use crate::trainables::{Adapter, Trainables};
use crate::weights::Weights;

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
        match self.weights.get(name) {
            Some(tensor) => Var::constant(tensor.clone()),
            None => panic!("`{name}` of {} was not verified before use", self.part),
        }
    }

    /// A weight that may be absent (biases).
    pub fn optional(&self, name: &str) -> Option<Var> {
        let learns = self.train.is_some_and(|t| t.tensors.contains_key(&Trainables::key(self.part, name)));
        (learns || self.weights.has(name)).then(|| self.weight(name))
    }

    fn leaf(&self, key: &str, master: &Tensor) -> Var {
        let var = match &self.cx.tape {
            Some(tape) => tape.leaf(key, master.clone()),
            None => Var::constant(master.clone()),
        };
        op::cast(self.cx, &var, self.cx.compute)
    }

    fn adapter(&self, path: &str) -> Option<(&Trainables, &Adapter)> {
        let train = self.train?;
        train.adapters.get(&Trainables::key(self.part, path)).map(|a| (train, a))
    }

    /// Linear layer `path` with its adapter: `x [.., in]` → `[.., out]`.
    pub fn linear(&self, path: &str, x: &Var) -> Var {
        let w = self.weight(&format!("{path}.weight"));
        // A 1×1 convolution kept as such in the checkpoint acts on tokens as a linear layer.
        let w = if w.shape().len() == 4 { op::reshape(self.cx, &w, &[w.dim(0), w.dim(1)]) } else { w };
        let b = self.optional(&format!("{path}.bias"));
        let y = op::linear(self.cx, x, &w, b.as_ref());
        let Some((train, adapter)) = self.adapter(path) else { return y };
        if self.module_dropped(train, adapter, path) {
            return y;
        }
        let flat = |key: &str| {
            let v = self.leaf(key, &train.tensors[key]);
            if v.shape().len() == 4 { op::reshape(self.cx, &v, &[v.dim(0), v.dim(1)]) } else { v }
        };
        let down = op::linear(self.cx, x, &flat(&adapter.down), None);
        let down = self.rank_space(train, adapter, path, down);
        let up = op::linear(self.cx, &down, &flat(&adapter.up), None);
        op::add(self.cx, &y, &up)
    }

    /// Convolution `path` with its adapter: `x [B, C, H, W]`; `pad` is top, left, bottom, right.
    pub fn conv(&self, path: &str, x: &Var, stride: usize, pad: [usize; 4]) -> Var {
        let w = self.weight(&format!("{path}.weight"));
        let b = self.optional(&format!("{path}.bias"));
        let y = op::conv2d(self.cx, x, &w, b.as_ref(), stride, pad);
        let Some((train, adapter)) = self.adapter(path) else { return y };
        if self.module_dropped(train, adapter, path) {
            return y;
        }
        let down = self.leaf(&adapter.down, &train.tensors[&adapter.down]);
        let up = self.leaf(&adapter.up, &train.tensors[&adapter.up]);
        let down = op::conv2d(self.cx, x, &down, None, stride, pad);
        let down = self.rank_space(train, adapter, path, down);
        let up = op::conv2d(self.cx, &down, &up, None, 1, [0; 4]);
        op::add(self.cx, &y, &up)
    }

    fn module_dropped(&self, train: &Trainables, adapter: &Adapter, path: &str) -> bool {
        if !self.inputs.training || adapter.dropouts.module == 0.0 {
            return false;
        }
        let mut rng =
            rng::named_stream(train.seed, Purpose::Dropout, self.inputs.pass, &format!("module {}.{path}", self.part));
        rng::uniform(&mut rng, 1, 0.0, 1.0)[0] < adapter.dropouts.module
    }

    /// Scale and dropouts on the rank-space activations: `[B, .., r]`, or `[B, r, H, W]` of a convolution.
    fn rank_space(&self, train: &Trainables, adapter: &Adapter, path: &str, mut x: Var) -> Var {
        let d = adapter.dropouts;
        let mut scale = adapter.scale;
        if self.inputs.training && (d.neuron > 0.0 || d.rank > 0.0) {
            let name = format!("rank {}.{path}", self.part);
            let mut rng = rng::named_stream(train.seed, Purpose::Dropout, self.inputs.pass, &name);
            let n = x.value.len();
            let mut mask = vec![1.0f32; n];
            if d.neuron > 0.0 {
                let keep = 1.0 / (1.0 - d.neuron);
                for (m, u) in mask.iter_mut().zip(rng::uniform(&mut rng, n, 0.0, 1.0)) {
                    *m = if u < d.neuron { 0.0 } else { keep };
                }
            }
            if d.rank > 0.0 {
                let conv = x.shape().len() == 4;
                let (b, r) = (x.dim(0), if conv { x.dim(1) } else { x.dim(x.shape().len() - 1) });
                let kept: Vec<f32> = rng::uniform(&mut rng, b * r, 0.0, 1.0)
                    .iter()
                    .map(|&u| if u > d.rank { 1.0 } else { 0.0 })
                    .collect();
                let (per, inner) = (n / b, if conv { n / b / r } else { 1 });
                for (i, m) in mask.iter_mut().enumerate() {
                    *m *= kept[i / per * r + (i % per) / inner % r];
                }
                scale /= 1.0 - d.rank;
            }
            let mask = self.cx.device.tensor(mask, x.shape(), x.value.dtype());
            x = op::mul_const(self.cx, &x, &mask);
        }
        op::scale(self.cx, &x, scale)
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
