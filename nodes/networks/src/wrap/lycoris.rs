//! Kinds of LyCORIS: (IA)³, GLoRA, rotations with rescaled rows, and the number that a change is multiplied by.

use pipe_ops::{DType, Var, op};

use super::{Adapted, Layer};
use crate::adapters::rotate;

impl Adapted<'_, '_> {
    /// A factor or change times the number that learns beside it, if one does.
    pub(super) fn times_scalar(&self, x: Var) -> Var {
        let (Some(key), cx) = (&self.adapter.scalar, self.net.cx) else { return x };
        let scalar = op::reshape(cx, &self.master(key), &[1, 1]);
        let shape = x.shape().to_vec();
        let rows = op::reshape(cx, &x, &[x.value.len(), 1]);
        op::reshape(cx, &op::matmul(cx, &rows, &scalar), &shape)
    }

    /// What each row of a weight is multiplied by, as a matrix of one column.
    fn lengths(&self, rescale: Option<&String>) -> Option<Var> {
        rescale.map(|key| self.flat(self.master(key)))
    }

    /// OFT and Diag-OFT.
    pub(super) fn rotated(&self, w: &Var, blocks: &[String], constraint: f32, rescale: Option<&String>) -> Var {
        let cx = self.net.cx;
        let base = self.flat(op::cast(cx, w, DType::F32));
        let blocks: Vec<Var> = blocks.iter().map(|key| self.master(key)).collect();
        let turned = rotate::blocks(cx, &base, &blocks, constraint, self.lengths(rescale).as_ref());
        op::cast(cx, &op::reshape(cx, &turned, w.shape()), cx.compute)
    }

    /// BOFT.
    pub(super) fn mixed(&self, w: &Var, blocks: &str, constraint: f32, rescale: Option<&String>) -> Var {
        let cx = self.net.cx;
        let base = self.flat(op::cast(cx, w, DType::F32));
        let turned = rotate::butterfly(cx, &base, &self.master(blocks), constraint, self.lengths(rescale).as_ref());
        op::cast(cx, &op::reshape(cx, &turned, w.shape()), cx.compute)
    }

    /// (IA)³: `y = (1 + w) ⊙ (W·x) + b`, or `y = W·((1 + w) ⊙ x) + b`.
    pub(super) fn scaled(&self, w: &Var, b: Option<&Var>, key: &str, on_input: bool) -> Var {
        let factor = self.factor(key);
        if on_input {
            return self.net.apply(self.layer, &self.channels(self.x, &factor, None), w, b);
        }
        self.channels(&self.net.apply(self.layer, self.x, w, None), &factor, b)
    }

    /// `x·(1 + scale) + shift` for each channel.
    fn channels(&self, x: &Var, scale: &Var, shift: Option<&Var>) -> Var {
        let cx = self.net.cx;
        let n = scale.value.len();
        let rows = match self.layer {
            Layer::Linear => x.clone(),
            Layer::Conv { .. } => op::to_tokens(cx, x),
        };
        let shape = rows.shape().to_vec();
        let one = |v: &Var| op::reshape(cx, v, &[1, n]);
        let flat = op::reshape(cx, &rows, &[1, rows.value.len() / n, n]);
        let y = op::modulate(cx, &flat, &one(scale), shift.map(one).as_ref());
        let y = op::reshape(cx, &y, &shape);
        match self.layer {
            Layer::Linear => y,
            Layer::Conv { .. } => op::from_tokens(cx, &y, x.dim(2), x.dim(3)),
        }
    }

    /// GLoRA: `y = W·(x + s·a1·a2·x) + b + s·b1·b2·x`.
    pub(super) fn general(&self, w: &Var, b: Option<&Var>, a: &(String, String), added: &(String, String)) -> Var {
        let cx = self.net.cx;
        let down = |key: &str| op::cast(cx, &self.times_scalar(self.master(key)), cx.compute);
        let scaled = |x: Var| op::scale(cx, &x, self.adapter.scale);
        let inner = scaled(self.net.apply_up(self.layer, self.x, &down(&a.1)));
        let moved = op::add(cx, self.x, &self.net.apply_up(self.layer, &inner, &self.factor(&a.0)));
        let inner = scaled(self.net.apply(self.layer, self.x, &down(&added.1), None));
        let delta = self.net.apply_up(self.layer, &inner, &self.factor(&added.0));
        op::add(cx, &self.net.apply(self.layer, &moved, w, b), &delta)
    }
}
