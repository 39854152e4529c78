//! Fixtures and comparisons.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pipe_data::weights::WeightFile;
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::{Inputs, Model, Slot, Stored, Trainables, Weights};
use pipe_ops::{Cx, DType, Device, Tensor};

/// Path of a fixture.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../tests/fixtures").join(path)
}

/// Tensors of a fixture file, named without a prefix.
pub struct Io(pub WeightFile, &'static str);

impl Io {
    pub fn open(path: &str) -> Self {
        Self::prefixed(path, "")
    }
    pub fn prefixed(path: &str, prefix: &'static str) -> Self {
        Io(WeightFile::open(fixture(path)).unwrap(), prefix)
    }
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.1)
    }
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.info(&self.full(name)).map(|i| i.shape.clone())
    }
    pub fn tensor(&self, name: &str) -> Tensor {
        Tensor::host(self.values(name), &self.shape(name).unwrap())
    }
    pub fn values(&self, name: &str) -> Vec<f32> {
        self.0.f32(&self.full(name)).unwrap()
    }
    pub fn ids(&self, name: &str) -> Vec<i64> {
        self.0.i64(&self.full(name)).unwrap()
    }
    /// An i64 matrix by rows.
    pub fn rows<T>(&self, name: &str, f: impl Fn(i64) -> T) -> Vec<Vec<T>> {
        let width = self.shape(name).unwrap()[1];
        self.ids(name).chunks(width).map(|r| r.iter().map(|&v| f(v)).collect()).collect()
    }
    pub fn gradients(&self) -> Vec<String> {
        self.0.names().filter_map(|n| n.strip_prefix("grad.")).map(String::from).collect()
    }
    /// Every tensor as a trainable of `part`.
    pub fn trainables(&self, part: &str) -> Trainables {
        let names = self.0.names().filter_map(|n| n.strip_prefix(self.1));
        let tensors = names.map(|n| (Trainables::key(part, n), self.tensor(n))).collect();
        Trainables { tensors, ..Default::default() }
    }
}

impl Stored for Io {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shape(name)
    }
    fn names(&self) -> Vec<&str> {
        self.0.names().filter_map(|name| name.strip_prefix(self.1)).collect()
    }
}

/// The numbers differ by at most `tolerance` of the largest.
pub fn close(name: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{name}: length");
    let scale = theirs.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max) / scale;
    assert!(worst <= tolerance, "{name}: off by {worst:.2e} of {scale:.2e}");
}

/// A network with what goes in and comes out.
pub struct Case<'a> {
    pub model: Model,
    pub train: &'a Trainables,
    pub inputs: Inputs,
    /// Slots with the name of their tensor in the fixture.
    pub given: Vec<(Slot, &'a str)>,
    /// Slots with the names of the result and of its cotangent.
    pub outputs: Vec<(Slot, &'a str, &'a str)>,
    /// Only results at real tokens are compared.
    pub hides_padding: bool,
}

impl Case<'_> {
    /// Results alone.
    pub fn forward(&self, io: &Io) {
        let none = Weights::default();
        let setting = Setting {
            model: &self.model,
            weights: self.model.parts.iter().map(|_| &none).collect(),
            train: Some(self.train),
            inputs: &self.inputs,
            policy: Policy::Keep,
        };
        let given = self.given.iter().map(|(s, n)| (*s, io.tensor(n), false)).collect();
        let slots: Vec<Slot> = self.outputs.iter().map(|o| o.0).collect();
        let pass = setting.forward(&Cx::cpu(), given, &slots, false);
        for (slot, name, _) in &self.outputs {
            let (mut ours, mut theirs) = (pass.output(*slot).to_vec(), io.values(name));
            self.hide_padding(&mut ours);
            self.hide_padding(&mut theirs);
            close(name, &ours, &theirs, 1e-5);
        }
    }

    /// Results within 1e-5, gradients of inputs and every parameter within 1e-4, with the fused kernels kept and
    /// recomputed and with the composed operations of other devices.
    pub fn check(&self, io: &Io, part: &str, zero: impl Fn(&str) -> bool) {
        check_sum(&[self], io, part, zero);
    }

    /// What a causal model says at padding means nothing.
    fn hide_padding(&self, values: &mut [f32]) {
        if !self.hides_padding {
            return;
        }
        let rows: Vec<u8> = self.inputs.text.values().flat_map(|t| t.mask.concat()).collect();
        let width = values.len() / rows.len();
        for (row, _) in values.chunks_mut(width).zip(&rows).filter(|(_, m)| **m == 0) {
            row.fill(0.0);
        }
    }

    fn run(&self, io: &Io, policy: Policy, cx: &Cx, leaves: &mut HashMap<String, Tensor>) -> HashMap<String, Tensor> {
        let none = Weights::default();
        let setting = Setting {
            model: &self.model,
            weights: self.model.parts.iter().map(|_| &none).collect(),
            train: Some(self.train),
            inputs: &self.inputs,
            policy,
        };
        let given = self.given.iter().map(|(s, n)| (*s, io.tensor(n), true)).collect();
        let slots: Vec<Slot> = self.outputs.iter().map(|o| o.0).collect();
        let pass = setting.forward(cx, given, &slots, true);
        for (slot, name, _) in &self.outputs {
            let (mut ours, mut theirs) = (pass.output(*slot).to_vec(), io.values(name));
            self.hide_padding(&mut ours);
            self.hide_padding(&mut theirs);
            close(name, &ours, &theirs, 1e-5);
        }
        let wanted: Vec<Slot> = self.given.iter().map(|g| g.0).collect();
        let seed = |c: &str| {
            let mut values = io.values(c);
            self.hide_padding(&mut values);
            Tensor::host(values, &io.shape(c).unwrap())
        };
        let seeds = self.outputs.iter().map(|(s, _, c)| (*s, seed(c))).collect();
        let mut grads = setting.backward(cx, pass, seeds, &wanted, leaves);
        self.given.iter().map(|(s, n)| (n.to_string(), grads.remove(s).unwrap())).collect()
    }
}

/// As [`Case::check`], with the gradients of several passes added.
pub fn check_sum(cases: &[&Case], io: &Io, part: &str, zero: impl Fn(&str) -> bool) {
    for (policy, device) in
        [(Policy::Keep, Device::Cpu), (Policy::Recompute, Device::Cpu), (Policy::Keep, Device::composed_cpu())]
    {
        let cx = Cx::new(device, DType::F32);
        let mut leaves = HashMap::new();
        let mut inputs = HashMap::new();
        for case in cases {
            inputs.extend(case.run(io, policy, &cx, &mut leaves));
        }
        let mut compared = 0;
        for name in io.gradients() {
            let theirs = io.values(&format!("grad.{name}"));
            let ours = inputs.get(&name).or_else(|| leaves.get(&Trainables::key(part, &name)));
            let ours = ours.unwrap_or_else(|| panic!("no gradient of {name}")).to_vec();
            if zero(&name) {
                assert!(ours.iter().all(|g| g.abs() < 1e-4), "{name}");
            } else {
                close(&name, &ours, &theirs, 1e-4);
            }
            compared += 1;
        }
        assert!(compared > 15, "only {compared} gradients");
    }
}
