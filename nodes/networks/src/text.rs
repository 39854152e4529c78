//! What text encoders have in common.

use std::collections::BTreeMap;

use pipe_ops::{Cx, DType, Tensor, Var, op};

use crate::segment::{Builder, Slot};

/// Text encoders by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextKind {
    /// CLIP ViT-L, or SD 2.x's OpenCLIP ViT-H.
    Clip,
    /// OpenCLIP ViT-bigG.
    ClipG,
    /// T5 v1.1.
    T5,
    /// Gemma.
    Gemma,
}

/// Token ids of a batch for one text encoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextInput {
    /// Ids, one window after the other: sample 0's windows, then sample 1's. All of one length.
    pub ids: Vec<Vec<u32>>,
    /// Windows of a sample (CLIP: 1 to 3; else 1).
    pub windows: usize,
    /// 1 for real tokens, 0 for padding, a row for each window; empty: no padding mask.
    pub mask: Vec<Vec<u8>>,
    /// Weight of each token of the joined output, a row for each sample; empty: 1 throughout.
    pub weights: Vec<Vec<f32>>,
}

impl TextInput {
    /// Windows of a batch without mask and weights.
    pub fn of_windows(ids: Vec<Vec<u32>>) -> Self {
        TextInput { ids, windows: 1, ..Default::default() }
    }
    /// Number of windows of the batch.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }
    /// Tokens of a window.
    pub fn length(&self) -> usize {
        self.ids.first().map_or(0, Vec::len)
    }
    /// Samples of the batch.
    pub fn samples(&self) -> usize {
        self.rows() / self.windows.max(1)
    }
    /// The mask as a tensor `[rows, length]`.
    pub fn mask_tensor(&self, cx: &Cx) -> Option<Tensor> {
        if self.mask.is_empty() {
            return None;
        }
        let values = self.mask.iter().flatten().map(|&m| m as f32).collect();
        Some(cx.device.tensor(values, &[self.mask.len(), self.length()], DType::F32))
    }
    pub(crate) fn flat(&self) -> Vec<u32> {
        self.ids.iter().flatten().copied().collect()
    }
}

/// Inputs of text encoders by component name.
pub type TextInputs = BTreeMap<String, TextInput>;

/// What a text encoder gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOut {
    /// Hidden states `[B, S, D]`.
    pub hidden: Slot,
    /// One vector for the whole text `[B, P]`.
    pub pooled: Option<Slot>,
}

/// Multiplies the hidden states by the tokens' weights, where there are any.
pub(crate) fn push_weights(b: &mut Builder, hidden: Slot) -> Slot {
    b.push("token weights", &[], &[hidden], |net, x| {
        let weights = &net.text().weights;
        if weights.is_empty() {
            return x[0].clone();
        }
        let d = x[0].dim(2);
        let values: Vec<f32> = weights.iter().flatten().flat_map(|&w| std::iter::repeat_n(w, d)).collect();
        let mask = net.cx.device.tensor(values, x[0].shape(), x[0].value.dtype());
        op::mul_const(net.cx, &x[0], &mask)
    })
}

/// Rows of the token table as `[rows, length, D]`.
pub(crate) fn embed(net: &crate::Net, table: &str) -> Var {
    let text = net.text();
    let x = net.embedding(table, &text.flat());
    op::reshape(net.cx, &x, &[text.rows(), text.length(), x.dim(1)])
}
