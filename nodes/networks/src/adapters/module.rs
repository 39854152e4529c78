//! What the forward pass does with each kind of adapter.

use super::{Kind, Target};
use crate::trainables::{Adapter, Dropouts, Factor, Module};

/// LyCORIS' constraint: 0 is none.
pub(super) fn free(constraint: f32) -> f32 {
    if constraint > 0.0 { constraint } else { f32::INFINITY }
}

impl Target {
    /// What the forward pass does.
    pub fn adapter(&self, dropouts: Dropouts) -> Adapter {
        let mut scale = self.alpha / self.rank as f32;
        let key = |ending: &str| self.key(ending);
        let module = match &self.kind {
            Kind::Lora { parts, .. } if parts.is_empty() => {
                Module::LowRank(vec![(key("lora_down.weight"), key("lora_up.weight"))])
            }
            Kind::Lora { parts, .. } => {
                let pair = |i| (key(&format!("lora_down.{i}.weight")), key(&format!("lora_up.{i}.weight")));
                Module::LowRank((0..parts.len()).map(pair).collect())
            }
            Kind::Nested { unit, compat } => {
                let keys = |name: &str| (0..self.rank / unit).map(|i| key(&format!("{name}.{i}"))).collect();
                Module::Nested { down: keys("lora_A"), up: keys("lora_B"), compat: *compat }
            }
            Kind::Decomposed => Module::Decomposed {
                down: key("lora_down.weight"),
                up: key("lora_up.weight"),
                magnitude: key("dora_scale"),
            },
            Kind::Hadamard { tucker } => Module::Hadamard {
                w1: (key("hada_w1_a"), key("hada_w1_b")),
                w2: (key("hada_w2_a"), key("hada_w2_b")),
                cores: self.cored(*tucker).then(|| (key("hada_t1"), key("hada_t2"))),
            },
            Kind::Kronecker { factor, both, full, tucker } => {
                let (whole1, whole2) = self.whole(*factor, *both, *full);
                if whole1 && whole2 {
                    scale = 1.0;
                }
                let make = |whole: bool, name: &str| match whole {
                    true => Factor::Whole(key(name)),
                    false => Factor::Product(key(&format!("{name}_a")), key(&format!("{name}_b"))),
                };
                let large = match !whole2 && self.cored(*tucker) {
                    true => Factor::Core(key("lokr_t2"), key("lokr_w2_a"), key("lokr_w2_b")),
                    false => make(whole2, "lokr_w2"),
                };
                Module::Kronecker { w1: make(whole1, "lokr_w1"), w2: large }
            }
            Kind::Difference { bias } | Kind::Norm { bias } => {
                scale = 1.0;
                let [weight, own] = self.shift();
                Module::Shift { weight: key(weight), bias: bias.then(|| key(own)) }
            }
            Kind::Rotation { parts } => {
                scale = 1.0;
                let blocks = match parts.is_empty() {
                    true => vec![key("oft_blocks")],
                    false => (0..parts.len()).map(|i| key(&format!("oft_blocks.{i}"))).collect(),
                };
                Module::Rotation { blocks, constraint: self.alpha, rescale: None }
            }
            Kind::Diagonal { rescaled } => {
                scale = 1.0;
                let (blocks, rescale) = (vec![key("oft_blocks")], rescaled.then(|| key("rescale")));
                Module::Rotation { blocks, constraint: free(self.alpha), rescale }
            }
            Kind::Butterfly { rescaled } => {
                scale = 1.0;
                let (blocks, rescale) = (key("oft_blocks"), rescaled.then(|| key("rescale")));
                Module::Butterfly { blocks, constraint: free(self.alpha), rescale }
            }
            Kind::Scale { on_input } => {
                scale = 1.0;
                Module::Scale { weight: key("weight"), on_input: *on_input }
            }
            Kind::General => {
                Module::General { a: (key("a1.weight"), key("a2.weight")), b: (key("b1.weight"), key("b2.weight")) }
            }
        };
        Adapter { module, scale, scalar: self.scalar_key(), dropouts }
    }
}
