//! Every optimizer over 50 steps against the package that publishes it (`tests/reference/make_optimizers.py`).

#[path = "support/gradients.rs"]
mod gradients;
mod support;

use pipe_train::optim::{
    self, Context, Entry, Group, Kind, Optimizer, OptimizerConfig, Report, Slot, Values, dequantise, quantise,
};
use serde_json::Value;
use support::{Fixture, close, deviation, path};

struct Tensor {
    name: String,
    shape: Vec<usize>,
    seed: u64,
    start: Vec<f32>,
    weights: Vec<f32>,
}

struct Case {
    name: String,
    optimizer: Box<dyn Optimizer>,
    rate: f64,
    warmup: u64,
    tensors: Vec<Tensor>,
}

impl Case {
    fn new(case: &Value) -> Case {
        let config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let tensors = case["tensors"].as_array().unwrap().iter().enumerate();
        let tensors = tensors.map(|(seed, pair)| {
            let name = pair[0].as_str().unwrap().to_string();
            let shape: Vec<usize> = serde_json::from_value(pair[1].clone()).unwrap();
            let start = gradients::start(&name, seed as u64, shape.iter().product());
            Tensor { name, shape, seed: seed as u64, weights: start.clone(), start }
        });
        Case {
            name: case["name"].as_str().unwrap().to_string(),
            optimizer: config.build().unwrap(),
            rate: case["rate"].as_f64().unwrap(),
            warmup: case["warmup"].as_u64().unwrap(),
            tensors: tensors.collect(),
        }
    }

    fn step(&mut self, k: u64) -> Report {
        let factor = if self.warmup > 0 { (k as f64 / self.warmup as f64).min(1.0) } else { 1.0 };
        let gradients: Vec<Vec<f32>> =
            self.tensors.iter().map(|t| gradients::gradient(t.seed, k, t.weights.len())).collect();
        let slots = self.tensors.iter_mut().zip(&gradients);
        let slots = slots.map(|(t, g)| Slot {
            name: &t.name,
            shape: &t.shape,
            values: Values::F32(&mut t.weights),
            gradient: Some(g),
        });
        let mut groups = [Group { name: "all", rate: self.rate * factor, slots: slots.collect() }];
        self.optimizer.step(&Context::default(), &mut groups).unwrap()
    }
}

fn entry<'a>(entries: &'a [Entry], name: &str) -> &'a Entry {
    entries.iter().find(|e| e.name == name).unwrap_or_else(|| panic!("no entry {name}"))
}

fn floats(entry: &Entry) -> Vec<f32> {
    assert_eq!(entry.kind, Kind::F32);
    entry.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn fifty_steps_as_published() {
    let file = Fixture::open("train/optimizers.safetensors");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path("train/optimizers.json")).unwrap()).unwrap();
    assert!(cases.len() >= 30);
    let mut failures = Vec::new();
    for case in &cases {
        let mut case = Case::new(case);
        let mut rates = Vec::new();
        let mut last = Report::default();
        for k in 0..50 {
            last = case.step(k);
            rates.push(last.rates[0]);
            let stage = match k {
                9 => "after_10",
                49 => "final",
                _ => continue,
            };
            for t in &case.tensors {
                let key = format!("{}.{}.{stage}", case.name, t.name);
                let theirs = file.f32(&key);
                let d = deviation(&t.weights, &theirs);
                // Of the way gone as well, as far as the rounding of larger weights lets it be seen.
                let way = |w: &[f32]| -> Vec<f32> { w.iter().zip(&t.start).map(|(w, s)| w - s).collect() };
                let moved = deviation(&way(&t.weights), &way(&theirs));
                println!("{key}: {d:.1e} of the weights, {moved:.1e} of the way");
                let largest = |w: &[f32]| w.iter().fold(0.0f32, |m, w| m.max(w.abs())) as f64;
                let rounding = 1e-6 * largest(&theirs) / largest(&way(&theirs));
                if d > 1e-6 || moved > 1e-6 + rounding {
                    failures.push(format!("{key}: {d:.2e}, {moved:.2e} of the way"));
                }
            }
        }
        let key = format!("{}.d", case.name);
        if file.has(&key) {
            let (ours, theirs) = (last.distance.unwrap(), file.f64(&key)[0]);
            if (ours / theirs - 1.0).abs() > 1e-6 {
                failures.push(format!("{key}: {ours:e}, not {theirs:e}"));
            }
        }
        let key = format!("{}.rates", case.name);
        if file.has(&key) {
            for (k, (ours, theirs)) in rates.iter().zip(file.f64(&key)).enumerate() {
                assert!((ours / theirs - 1.0).abs() < 1e-6, "{key} {k}: {ours} {theirs}");
            }
        }
        averages(&case, &file);
        packed(&case, &file);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The weights that a schedule-free run saves.
fn averages(case: &Case, file: &Fixture) {
    let names = case.tensors.iter().map(|t| format!("{}.{}.average", case.name, t.name));
    assert_eq!(case.optimizer.averages(), names.clone().all(|key| file.has(&key)));
    for (t, key) in case.tensors.iter().zip(names).filter(|(_, key)| file.has(key)) {
        let ours = case.optimizer.averaged(&t.name, &t.weights).unwrap();
        close(&key, &ours, &file.f32(&key), 1e-6);
    }
}

/// Codes and absmax of 8-bit state.
fn packed(case: &Case, file: &Fixture) {
    let entries = case.optimizer.save();
    for t in &case.tensors {
        for state in ["m", "v"] {
            let (key, absmax) = (format!("{}.{}.{state}", case.name, t.name), format!("{state}_absmax.{}", t.name));
            if !file.has(&key) {
                continue;
            }
            let ours = entry(&entries, &format!("{state}.{}", t.name));
            if t.weights.len() < 4096 {
                close(&key, &floats(ours), &file.f32(&key), 1e-6);
                continue;
            }
            let theirs = file.u8(&key);
            let same = ours.bytes.iter().zip(&theirs).filter(|(a, b)| a == b).count();
            println!("{key}: {same} of {} codes", theirs.len());
            assert!(same as f64 >= 0.999 * theirs.len() as f64, "{key}: {same} of {}", theirs.len());
            close(&absmax, &floats(entry(&entries, &absmax)), &file.f32(&format!("{key}_absmax")), 1e-6);
        }
    }
}

#[test]
fn eight_bit_numbers() {
    let file = Fixture::open("train/optimizers.safetensors");
    for (signed, name, map) in [(true, "signed", optim::signed_map()), (false, "unsigned", optim::unsigned_map())] {
        assert_eq!(map.to_vec(), file.f32(&format!("map.{name}")));
        let values = file.f32(&format!("quant.{name}.value"));
        let (codes, absmax) = quantise(signed, &values);
        assert_eq!(absmax, file.f32(&format!("quant.{name}.absmax")));
        let theirs = file.u8(&format!("quant.{name}.code"));
        assert_eq!(dequantise(signed, &theirs, &absmax), file.f32(&format!("quant.{name}.back")));
        // The library's table misses the nearest code, of small numbers above all; ours is never further from the value.
        let (near, far) = (dequantise(signed, &codes, &absmax), dequantise(signed, &theirs, &absmax));
        for (i, &x) in values.iter().enumerate() {
            assert!((near[i] - x).abs() <= (far[i] - x).abs(), "{x}: {} {}", near[i], far[i]);
        }
        let same = codes.iter().zip(&theirs).filter(|(a, b)| a == b).count();
        assert!(same as f64 > 0.9 * values.len() as f64, "{name}: {same} of {}", values.len());
    }
}
