//! Layers with their adapters: what each [`Module`] computes.
//!
//! Low-rank and Kronecker adapters, GLoRA and (IA)³ act on activations, so that ΔW is never built; LoHa, DoRA and OFT
//! need the weight.
//! Every random draw is a function of the pass and the layer: recomputing a segment draws the same.

mod lycoris;

use pipe_ops::rng::{self, Purpose};
use pipe_ops::{DType, Device, Tensor, Var, op};

use crate::adapters::{drawn_slice, noise};
use crate::net::Net;
use crate::trainables::{Adapter, Factor, Module, Trainables};

/// What a layer does with its weight.
#[derive(Clone, Copy)]
pub(crate) enum Layer {
    /// `x [.., in]`.
    Linear,
    /// `x [B, C, H, W]`.
    Conv { stride: usize, pad: [usize; 4] },
}

impl Net<'_> {
    /// A layer whose input is `x`, with the weight `w` (of a convolution's shape or a matrix') and bias `b`.
    fn apply(&self, layer: Layer, x: &Var, w: &Var, b: Option<&Var>) -> Var {
        match layer {
            // A 1×1 convolution kept as such in the checkpoint acts on tokens as a linear layer.
            Layer::Linear if w.shape().len() == 4 => {
                op::linear(self.cx, x, &op::reshape(self.cx, w, &[w.dim(0), w.dim(1)]), b)
            }
            Layer::Linear => op::linear(self.cx, x, w, b),
            Layer::Conv { stride, pad } => op::conv2d(self.cx, x, w, b, stride, pad),
        }
    }

    /// A 1×1 layer behind another: of a convolution with stride 1.
    fn apply_up(&self, layer: Layer, x: &Var, w: &Var) -> Var {
        match layer {
            Layer::Linear => self.apply(layer, x, w, None),
            Layer::Conv { .. } => self.apply(Layer::Conv { stride: 1, pad: [0; 4] }, x, w, None),
        }
    }

    /// Layer `path` with its adapter, if it has one.
    pub(crate) fn layer(&self, path: &str, layer: Layer, x: &Var) -> Var {
        let w = self.weight(&format!("{path}.weight"));
        let b = self.optional(&format!("{path}.bias"));
        let adapter = self.train.and_then(|t| Some((t, t.adapters.get(&Trainables::key(self.part, path))?)));
        match adapter {
            Some((train, adapter)) if !self.module_dropped(train, adapter, path) => {
                Adapted { net: self, train, adapter, path, layer, x }.forward(w, b)
            }
            _ => self.apply(layer, x, &w, b.as_ref()),
        }
    }

    pub(crate) fn module_dropped(&self, train: &Trainables, adapter: &Adapter, path: &str) -> bool {
        if !self.training() || adapter.dropouts.module == 0.0 {
            return false;
        }
        let mut rng =
            rng::named_stream(train.seed, Purpose::Dropout, self.inputs.pass, &format!("module {}.{path}", self.part));
        rng::uniform(&mut rng, 1, 0.0, 1.0)[0] < adapter.dropouts.module
    }
}

/// A layer with an adapter, in one pass.
struct Adapted<'n, 'a> {
    net: &'n Net<'a>,
    train: &'n Trainables,
    adapter: &'n Adapter,
    path: &'n str,
    layer: Layer,
    x: &'n Var,
}

impl Adapted<'_, '_> {
    fn forward(&self, w: Var, b: Option<Var>) -> Var {
        let cx = self.net.cx;
        let delta = match &self.adapter.module {
            Module::LowRank(pairs) => self.low_rank(pairs),
            Module::Nested { down, up, compat } => self.nested(down, up, *compat),
            Module::Kronecker { w1, w2 } => self.kronecker(w1, w2),
            Module::Hadamard { w1, w2, cores } => {
                let product = |(a, b): &(String, String), core: Option<&String>| match core {
                    Some(core) => self.cored(core, a, b),
                    None => op::matmul(cx, &self.master(a), &self.master(b)),
                };
                let (first, second) = (cores.as_ref().map(|c| &c.0), cores.as_ref().map(|c| &c.1));
                let delta = op::mul(cx, &product(w1, first), &product(w2, second));
                let delta = self.times_scalar(delta);
                let delta = op::scale(cx, &delta, self.adapter.scale);
                let delta = op::reshape(cx, &self.drop_rows(delta), w.shape());
                self.net.apply(self.layer, self.x, &op::cast(cx, &delta, cx.compute), None)
            }
            Module::Decomposed { down, up, magnitude } => {
                let w = self.decomposed(&w, down, up, magnitude);
                return self.net.apply(self.layer, self.x, &w, b.as_ref());
            }
            // Weight and bias are what they are to be already.
            Module::Shift { .. } => return self.net.apply(self.layer, self.x, &w, b.as_ref()),
            Module::Rotation { blocks, constraint, rescale } => {
                let w = self.rotated(&w, blocks, *constraint, rescale.as_ref());
                return self.net.apply(self.layer, self.x, &w, b.as_ref());
            }
            Module::Butterfly { blocks, constraint, rescale } => {
                let w = self.mixed(&w, blocks, *constraint, rescale.as_ref());
                return self.net.apply(self.layer, self.x, &w, b.as_ref());
            }
            Module::Scale { weight, on_input } => return self.scaled(&w, b.as_ref(), weight, *on_input),
            Module::General { a, b: added } => return self.general(&w, b.as_ref(), a, added),
        };
        let y = op::add(cx, &self.net.apply(self.layer, self.x, &w, b.as_ref()), &delta);
        match self.noise(&w) {
            Some(noise) => op::add(cx, &y, &noise),
            None => y,
        }
    }

    /// What the noise on the weight adds to the output (GGPO): nothing flows back through it.
    fn noise(&self, w: &Var) -> Option<Var> {
        let cx = self.net.cx;
        self.train.noise.as_ref().filter(|_| self.net.training())?;
        let noise = match &cx.device {
            Device::Meta(meter) => Tensor::meta(w.shape(), cx.compute, meter),
            _ => {
                let rows = self.train.frozen.get(&noise::key(self.net.part, self.path))?.to_vec();
                if rows.iter().all(|x| *x == 0.0) {
                    return None;
                }
                let name = format!("noise {}.{}", self.net.part, self.path);
                let (seed, pass, width) = (self.train.seed, self.net.inputs.pass, w.value.len() / rows.len().max(1));
                let values = rng::normal_rows((seed, Purpose::Dropout, pass, &name), &rows, width);
                cx.device.tensor(values, w.shape(), cx.compute)
            }
        };
        let x = Var::constant(self.x.value.clone());
        Some(self.net.apply(self.layer, &x, &Var::constant(noise), None))
    }

    /// A factor in f32: a leaf where it learns.
    fn master(&self, key: &str) -> Var {
        match self.train.tensors.get(key) {
            Some(master) => self.net.learning(key, master.clone()),
            None => self.constant(key),
        }
    }

    /// A factor through which no gradient flows, in f32.
    fn constant(&self, key: &str) -> Var {
        match self.train.factor(key) {
            Some(tensor) => Var::constant(tensor.clone()),
            None => panic!("factor `{key}` was not made"),
        }
    }

    /// A factor in the compute type.
    fn factor(&self, key: &str) -> Var {
        op::cast(self.net.cx, &self.master(key), self.net.cx.compute)
    }

    /// As a matrix: a convolution's factor with its kernel flattened.
    fn flat(&self, v: Var) -> Var {
        let rows = v.dim(0);
        op::reshape(self.net.cx, &v, &[rows, v.value.len() / rows.max(1)])
    }

    fn low_rank(&self, pairs: &[(String, String)]) -> Var {
        let parts: Vec<Var> = pairs
            .iter()
            .enumerate()
            .map(|(i, (down, up))| {
                let name = if pairs.len() == 1 { String::new() } else { format!(" {i}") };
                let inner = self.net.apply(self.layer, self.x, &self.factor(down), None);
                let inner = self.rank_space(inner, self.adapter.scale, &name);
                let up = op::cast(self.net.cx, &self.times_scalar(self.master(up)), self.net.cx.compute);
                self.net.apply_up(self.layer, &inner, &up)
            })
            .collect();
        self.join(&parts)
    }

    /// Parts of the output behind each other.
    fn join(&self, parts: &[Var]) -> Var {
        match (parts, self.layer) {
            ([only], _) => only.clone(),
            (_, Layer::Linear) => {
                op::concat(self.net.cx, &parts.iter().collect::<Vec<_>>(), parts[0].shape().len() - 1)
            }
            (_, Layer::Conv { .. }) => op::concat(self.net.cx, &parts.iter().collect::<Vec<_>>(), 1),
        }
    }

    /// DyLoRA. With `n` slices of `u` ranks: slice `j` is drawn; those before it are fixed, those behind it cut off,
    /// and the scale is that of the rank `(j+1)·u` that is left. Outside of training all ranks act.
    fn nested(&self, down: &[String], up: &[String], compat: bool) -> Var {
        let (cx, inputs) = (self.net.cx, self.net.inputs);
        let n = down.len();
        let layer = format!("{}.{}", self.net.part, self.path);
        let layer = compat.then_some(layer.as_str());
        let drawn = self.net.training().then(|| drawn_slice(self.train.seed, inputs.pass, n, layer));
        let used = drawn.filter(|_| !compat).map_or(n, |j| j + 1);
        // α/r; of a shorter rank α/rank, or as sd-scripts has it √(r/rank)·α/r.
        let scale = match drawn {
            None => self.adapter.scale,
            Some(j) => {
                let ratio = n as f32 / (j + 1) as f32;
                self.adapter.scale * if compat { ratio.sqrt() } else { ratio }
            }
        };
        let slices = |keys: &[String], axis: usize| {
            let list: Vec<Var> = keys[..used]
                .iter()
                .enumerate()
                .map(|(i, key)| if drawn.is_none_or(|j| i == j) { self.master(key) } else { self.constant(key) })
                .collect();
            op::cast(cx, &op::concat(cx, &list.iter().collect::<Vec<_>>(), axis), cx.compute)
        };
        let inner = self.net.apply(self.layer, self.x, &slices(down, 0), None);
        self.net.apply_up(self.layer, &op::scale(cx, &inner, scale), &slices(up, 1))
    }

    /// `(w1 ⊗ w2)·x`, without the product of the factors: `x` seen as `m` groups of `n` goes through `w2`, then the
    /// groups are mixed by `w1`.
    fn kronecker(&self, w1: &Factor, w2: &Factor) -> Var {
        let cx = self.net.cx;
        let mix = match w1 {
            Factor::Whole(key) => self.master(key),
            Factor::Product(a, b) => op::matmul(cx, &self.master(a), &self.master(b)),
            Factor::Core(core, a, b) => self.cored(core, a, b),
        };
        let mix = op::cast(cx, &self.times_scalar(mix), cx.compute);
        let (l, m) = (mix.dim(0), mix.dim(1));
        let shape = self.x.shape().to_vec();
        let y = match self.layer {
            Layer::Linear => {
                let width = shape[shape.len() - 1];
                let rows = self.x.value.len() / width;
                let groups = op::reshape(cx, self.x, &[rows * m, width / m]);
                let inner = self.large(&groups, w2, width / m);
                let k = inner.dim(1);
                let mixed = op::linear(cx, &op::permute(cx, &inner, &[rows, m, k], &[0, 2, 1]), &mix, None);
                let out = op::permute(cx, &mixed, &[rows, k, l], &[0, 2, 1]);
                let mut to = shape;
                if let Some(last) = to.last_mut() {
                    *last = l * k;
                }
                op::reshape(cx, &out, &to)
            }
            Layer::Conv { .. } => {
                let (b, c) = (shape[0], shape[1]);
                let groups = op::reshape(cx, self.x, &[b * m, c / m, shape[2], shape[3]]);
                let inner = self.large(&groups, w2, c / m);
                let (k, h, w) = (inner.dim(1), inner.dim(2), inner.dim(3));
                let n = k * h * w;
                let mixed = op::linear(cx, &op::permute(cx, &inner, &[b, m, n], &[0, 2, 1]), &mix, None);
                let out = op::permute(cx, &mixed, &[b, n, l], &[0, 2, 1]);
                op::reshape(cx, &out, &[b, l * k, h, w])
            }
        };
        self.drop_outputs(op::scale(cx, &y, self.adapter.scale))
    }

    /// `W[p, q, ..] = Σ t[i, j, ..]·a[i, p]·b[j, q]` as a matrix `[out, in·k·k]`, of a core `t [r, r, k, k]`.
    fn cored(&self, core: &str, a: &str, b: &str) -> Var {
        let cx = self.net.cx;
        let (t, a, b) = (self.master(core), self.master(a), self.master(b));
        let (r, out, inputs) = (a.dim(0), a.dim(1), b.dim(1));
        let kernel = t.value.len() / (r * r);
        let a = op::permute(cx, &a, &[r, out], &[1, 0]);
        let left = op::matmul(cx, &a, &op::reshape(cx, &t, &[r, r * kernel]));
        let left = op::permute(cx, &left, &[out, r, kernel], &[0, 2, 1]);
        let all = op::matmul(cx, &op::reshape(cx, &left, &[out * kernel, r]), &b);
        let all = op::permute(cx, &all, &[out, kernel, inputs], &[0, 2, 1]);
        op::reshape(cx, &all, &[out, inputs * kernel])
    }

    /// LoKr's large factor on groups of `n` inputs.
    fn large(&self, x: &Var, w2: &Factor, n: usize) -> Var {
        let cx = self.net.cx;
        match w2 {
            Factor::Whole(key) => self.net.apply(self.layer, x, &self.factor(key), None),
            Factor::Core(core, a, b) => {
                // Down to the core's channels, through its kernel, and up again.
                let (t, a, b) = (self.factor(core), self.factor(a), self.factor(b));
                let (r, k) = (a.dim(0), a.dim(1));
                let up = op::permute(cx, &a, &[r, k], &[1, 0]);
                let inner = self.net.apply_up(self.layer, x, &op::reshape(cx, &b, &[r, n, 1, 1]));
                let inner = self.net.apply(self.layer, &inner, &t, None);
                self.net.apply_up(self.layer, &inner, &op::reshape(cx, &up, &[k, r, 1, 1]))
            }
            Factor::Product(a, b) => {
                let (a, b) = (self.factor(a), self.factor(b));
                if let Layer::Linear = self.layer {
                    return op::linear(cx, &op::linear(cx, x, &b, None), &a, None);
                }
                // Kernels are square.
                let side = ((b.dim(1) / n) as f64).sqrt().round() as usize;
                let b = op::reshape(cx, &b, &[b.dim(0), n, side, side]);
                let a = op::reshape(cx, &a, &[a.dim(0), a.dim(1), 1, 1]);
                self.net.apply_up(self.layer, &self.net.apply(self.layer, x, &b, None), &a)
            }
        }
    }

    fn decomposed(&self, w: &Var, down: &str, up: &str, magnitude: &str) -> Var {
        let cx = self.net.cx;
        let delta = op::matmul(cx, &self.flat(self.master(up)), &self.flat(self.master(down)));
        let delta = self.drop_rows(op::scale(cx, &self.times_scalar(delta), self.adapter.scale));
        let base = self.flat(op::cast(cx, w, DType::F32));
        let w2 = op::with_row_norms(cx, &op::add(cx, &base, &delta), &self.master(magnitude));
        op::cast(cx, &op::reshape(cx, &w2, w.shape()), cx.compute)
    }

    /// Which of `n` outputs are kept in this pass.
    fn kept_rows(&self, n: usize) -> Option<Vec<f32>> {
        let p = self.adapter.dropouts.rank;
        if !self.net.training() || p == 0.0 {
            return None;
        }
        let name = format!("rows {}.{}", self.net.part, self.path);
        let mut rng = rng::named_stream(self.train.seed, Purpose::Dropout, self.net.inputs.pass, &name);
        Some(rng::uniform(&mut rng, n, 0.0, 1.0).iter().map(|&u| if u > p { 1.0 } else { 0.0 }).collect())
    }

    /// Rank dropout of LyCORIS: rows of ΔW.
    fn drop_rows(&self, delta: Var) -> Var {
        let width = delta.value.len() / delta.dim(0);
        let Some(kept) = self.kept_rows(delta.dim(0)) else { return delta };
        let mask = kept.iter().flat_map(|&m| std::iter::repeat_n(m, width)).collect();
        let mask = self.net.cx.device.tensor(mask, delta.shape(), delta.value.dtype());
        op::mul_const(self.net.cx, &delta, &mask)
    }

    /// The same on the outputs that those rows make.
    fn drop_outputs(&self, y: Var) -> Var {
        let shape = y.shape();
        let (axis, inner) = match self.layer {
            Layer::Linear => (shape.len() - 1, 1),
            Layer::Conv { .. } => (1, shape[2] * shape[3]),
        };
        let n = shape[axis];
        let Some(kept) = self.kept_rows(n) else { return y };
        let mask = (0..y.value.len()).map(|i| kept[i / inner % n]).collect();
        let mask = self.net.cx.device.tensor(mask, shape, y.value.dtype());
        op::mul_const(self.net.cx, &y, &mask)
    }

    /// Scale and dropouts on the rank-space activations: `[B, .., r]`, or `[B, r, H, W]` of a convolution.
    fn rank_space(&self, mut x: Var, mut scale: f32, name: &str) -> Var {
        let (d, net) = (self.adapter.dropouts, self.net);
        if net.training() && (d.neuron > 0.0 || d.rank > 0.0) {
            let name = format!("rank {}.{}{name}", net.part, self.path);
            let mut rng = rng::named_stream(self.train.seed, Purpose::Dropout, net.inputs.pass, &name);
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
            let mask = net.cx.device.tensor(mask, x.shape(), x.value.dtype());
            x = op::mul_const(net.cx, &x, &mask);
        }
        op::scale(net.cx, &x, scale)
    }
}
