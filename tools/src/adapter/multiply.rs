//! What a weight is multiplied by: (IA)³ (Liu et al. 2022) and GLoRA (Chavan et al. 2023) in LyCORIS' form.

use super::Change;
use super::apply::{inputs_and_kernel, product, times};
use super::file::Tensor::{A1, A2, B1, B2, Factors, OnInput};
use crate::error::Result;
use crate::linear::multiply_f32;

impl Change<'_> {
    fn is_factors(&self) -> bool {
        self.layer.is(&[Factors, OnInput], &[])
    }
    fn is_general(&self) -> bool {
        self.layer.is(&[A1, A2, B1, B2], &[])
    }

    /// What is wrong with it for a weight of this shape; nothing where it is of another kind.
    pub(super) fn check_product(&self, shape: &[usize]) -> Option<Result<(), String>> {
        let size = |tensor| self.file.shape(self.layer, tensor).map_or(0, product);
        let (inputs, kernel) = inputs_and_kernel(shape);
        let out = shape[0];
        let (kind, fits) = if self.is_factors() {
            ("(IA)³", size(Factors) == out || shape.len() > 1 && size(Factors) == inputs)
        } else if self.is_general() {
            let rank = self.file.shape(self.layer, B2).and_then(|s| s.first().copied()).unwrap_or(0);
            let square = size(A1) == times(&[inputs, rank]) && size(A2) == times(&[rank, inputs]);
            let pair = size(B1) == times(&[out, rank]) && size(B2) == times(&[rank, inputs, kernel]);
            ("GLoRA", rank > 0 && shape.len() > 1 && square && pair)
        } else {
            return None;
        };
        let misfit = || Err(format!("its tensors do not fit a weight of {shape:?}"));
        Some(self.whole(kind).and_then(|()| if fits { Ok(()) } else { misfit() }))
    }

    /// The weight at strength 1, if this multiplies it: `W·(1 + w)` by rows or columns, `W + s·(W·a1·a2 + b1·b2)`. The
    /// layer was checked.
    pub(super) fn multiplied(&self, weight: &[f32], shape: &[usize]) -> Result<Option<Vec<f32>>> {
        let (file, layer) = (self.file, self.layer);
        let (out, (inputs, kernel)) = (shape[0], inputs_and_kernel(shape));
        let row = inputs * kernel;
        if self.is_factors() {
            let factors = file.values(layer, Factors)?;
            let on_input = file.number(layer, OnInput)? != 0.0;
            let place = |i: usize| if on_input { i % row / kernel } else { i / row };
            if factors.len() != if on_input { inputs } else { out } {
                let message = format!("`{}` has {} factors for a weight of {shape:?}", self.name, factors.len());
                return Err(crate::ToolError::new("P0305", message).at(file.path()));
            }
            return Ok(Some(weight.iter().enumerate().map(|(i, w)| w * (1.0 + factors[place(i)])).collect()));
        }
        if !self.is_general() {
            return Ok(None);
        }
        let rank = file.shape(layer, B2).and_then(|s| s.first().copied()).unwrap_or(0);
        let scale = file.alpha(self.name, layer, rank)?.map_or(1.0, |alpha| alpha / rank as f32);
        // Inputs last, so that they can be multiplied: row o, pixel y, input i.
        let pixels = out * kernel;
        let last = |x: usize| {
            let (o, y, i) = (x / row, x / inputs % kernel, x % inputs);
            (o * inputs + i) * kernel + y
        };
        let turned: Vec<f32> = (0..weight.len()).map(|x| weight[last(x)]).collect();
        let narrow = multiply_f32(pixels, rank, inputs, &turned, &file.values(layer, A1)?);
        let wide = multiply_f32(pixels, inputs, rank, &narrow, &file.values(layer, A2)?);
        let mut delta = multiply_f32(out, row, rank, &file.values(layer, B1)?, &file.values(layer, B2)?);
        wide.iter().enumerate().for_each(|(x, value)| delta[last(x)] += value);
        Ok(Some(weight.iter().zip(&delta).map(|(w, d)| w + scale * d).collect()))
    }
}
