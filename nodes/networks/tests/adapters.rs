//! Every kind of adapter on the tiny SD1 U-Net, convolutions included, against lycoris-lora or its formula written out:
//! output within 1e-5 of the largest value, first gradients within 1e-4, 20 AdamW steps, keys and shapes of files.
//! `tests/reference/make_lycoris.py` made the fixtures.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::{Io, close, fixture};
use pipe_data::lora_names;
use pipe_data::weights::{Component, ComponentWeights, Family};
use pipe_networks::adapters::file::Values;
use pipe_networks::adapters::{self, Kind, Target, drawn_slice};
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::unet::{UnetConfig, UnetHints};
use pipe_networks::{Builder, Dropouts, Inputs, Model, Slot, Trainables, Weights};
use pipe_ops::op::{self, Elementwise};
use pipe_ops::optim::{self, AdamW};
use pipe_ops::{Cx, DType, Device, Tensor};

struct Unet {
    weights: Weights,
    shapes: Vec<(String, Vec<usize>)>,
    model: Model,
    x: Slot,
    context: Slot,
    out: Slot,
}

impl Unet {
    fn open() -> Self {
        let file = ComponentWeights::open(fixture("diffusers_dir"), Component::Unet).unwrap();
        let hints = UnetHints { heads: Some(vec![2]), head_dim: None, size_embedding: None, groups: Some(2) };
        let config = UnetConfig::infer(&file, &hints).unwrap();
        let shapes = config.shapes();
        let weights = Weights::load(&file, &shapes, &Cx::cpu(), DType::F32, &Default::default()).unwrap();
        let mut b = Builder::new();
        let (x, context) = (b.input(), b.input());
        let out = config.build(&mut b, "unet", x, context, None);
        Unet { weights, shapes, model: b.finish(), x, context, out }
    }

    fn targets(&self, kind: &Kind, rank: usize, alpha: f32) -> Vec<Target> {
        let named = self.shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
        let wanted = lora_names::Wanted { conv: true, embedders: false };
        let shapes: HashMap<&str, &Vec<usize>> = self.shapes.iter().map(|(n, s)| (n.as_str(), s)).collect();
        lora_names::targets(Family::Sd1, Component::Unet, named, wanted)
            .into_iter()
            .map(|found| {
                let weight = shapes[format!("{}.weight", found.path).as_str()];
                let mut target = Target::lora("unet", &found.path, &found.name, weight, rank, alpha);
                if let Kind::Rotation { .. } = kind {
                    target.name = found.name.replacen("lora_", "oft_", 1);
                }
                target.kind = kind.clone();
                target
            })
            .collect()
    }
}

/// The values a fixture's adapter starts with.
fn start(io: &Io, targets: &[Target]) -> Trainables {
    let mut initial = HashMap::new();
    for target in targets {
        let file = target.file_shapes().into_iter().map(|(name, shape)| {
            assert_eq!(io.shape(&format!("init.{name}")).as_deref(), Some(shape.as_slice()), "{name}");
            let values = io.values(&format!("init.{name}"));
            (name, values)
        });
        initial.extend(target.unpack(file.collect()).unwrap());
    }
    adapters::create(targets, Dropouts::default(), 9, &Device::Cpu, &initial, &|_, _| None)
}

fn kind_of(name: &str) -> (Kind, usize, f32) {
    // rs_lora: α·√r in files.
    let more = 1.5 * (2.0f64 / 2.0f64.sqrt());
    let lokr = |factor, both| Kind::Kronecker { factor, both, full: false, tucker: false };
    match name {
        "loha" => (Kind::Hadamard { tucker: false }, 2, 1.5),
        "lokr" => (lokr(None, false), 2, 1.5),
        "lokr_both" => (lokr(Some(3), true), 1, 1.5),
        "dora" => (Kind::Decomposed, 2, 1.5),
        "oft" => (Kind::Rotation { parts: vec![] }, 2, 0.02),
        "lora_fa" => (Kind::Lora { frozen_down: true, parts: vec![] }, 2, 1.5),
        "locon_more" => (Kind::Lora { frozen_down: false, parts: vec![] }, 2, more as f32),
        "loha_more" => (Kind::Hadamard { tucker: false }, 2, more as f32),
        "lokr_more" => (lokr(None, false), 2, 1.5),
        "glora" => (Kind::General, 2, more as f32),
        "ia3" => (Kind::Scale { on_input: false }, 1, 1.0),
        "ia3_inputs" => (Kind::Scale { on_input: true }, 1, 1.0),
        "diag_oft" => (Kind::Diagonal { rescaled: false }, 4, 0.0),
        "diag_oft_rescaled" => (Kind::Diagonal { rescaled: true }, 4, 0.002),
        "boft" => (Kind::Butterfly { rescaled: true }, 10, 0.002),
        _ => (Kind::Nested { unit: 1, compat: false }, 3, 1.5),
    }
}

fn trajectory(name: &'static str, policy: Policy, device: Device, steps: usize) {
    let unet = Unet::open();
    let io = Io::open(Box::leak(format!("lycoris/{name}.safetensors").into_boxed_str()));
    let (kind, rank, alpha) = kind_of(name);
    let mut targets = unet.targets(&kind, rank, alpha);
    assert_eq!(targets.len(), 278);
    targets.iter_mut().for_each(|t| t.scalar = name.ends_with("_more") || name == "glora");
    // Names and shapes of the file, α among them.
    let mut names: Vec<String> = targets.iter().flat_map(Target::file_shapes).map(|(name, _)| name).collect();
    names.extend(targets.iter().filter(|t| t.has_alpha()).map(Target::alpha_name));
    names.sort_unstable();
    let mut theirs: Vec<String> = io.0.names().filter_map(|n| n.strip_prefix("init.")).map(String::from).collect();
    theirs.sort_unstable();
    assert_eq!(names, theirs, "{name}: keys");
    for target in targets.iter().filter(|t| t.has_alpha()) {
        assert_eq!(target.file_alpha(), io.values(&format!("init.{}", target.alpha_name()))[0], "{}", target.name);
    }

    let mut train = start(&io, &targets);
    let noisy = Io::open("lycoris/noisy.safetensors").values("noisy");
    let replay = Io::open("lora_trajectory/replay.safetensors");
    let (noise, context, times) = (replay.values("noise"), replay.values("context"), replay.ids("timesteps"));
    let slices = (name == "dylora").then(|| io.ids("slices"));
    let cx = Cx::new(device, DType::F32);
    let rows = |values: &[f32], r: [usize; 2], shape: &[usize]| {
        let n: usize = shape.iter().product();
        let values = r.iter().flat_map(|&r| values[r * n..(r + 1) * n].iter().copied()).collect();
        let shape: Vec<usize> = std::iter::once(2).chain(shape.iter().copied()).collect();
        cx.device.tensor(values, &shape, DType::F32)
    };
    let mut moments: BTreeMap<String, (Tensor, Tensor, i32)> = BTreeMap::new();
    for k in 0..steps {
        let r = [2 * k % 8, (2 * k + 1) % 8];
        // A pass that draws the slice of the fixture.
        let pass = slices
            .as_ref()
            .map_or(k as u64, |s| (0..).find(|&pass| drawn_slice(train.seed, pass, 3, None) == s[k] as usize).unwrap());
        let inputs =
            Inputs { timesteps: r.map(|i| times[i] as f32).to_vec(), training: true, pass, ..Default::default() };
        let setting =
            Setting { model: &unet.model, weights: vec![&unet.weights], train: Some(&train), inputs: &inputs, policy };
        let given =
            vec![(unet.x, rows(&noisy, r, &[4, 16, 16]), false), (unet.context, rows(&context, r, &[77, 24]), false)];
        let forward = setting.forward(&cx, given, &[unet.out], true);
        if k == 0 {
            close(name, &forward.output(unet.out).to_vec(), &io.values("out"), 1e-5);
        }
        let target = rows(&noise, r, &[4, 16, 16]);
        let (losses, grad) = op::loss_and_grad(
            &cx,
            Elementwise::L2,
            forward.output(unet.out),
            &target,
            op::Weigh { samples: &[1.0; 2], ..Default::default() },
        );
        let mut leaves = HashMap::new();
        setting.backward(&cx, forward, vec![(unet.out, grad)], &[], &mut leaves);
        let losses = losses.to_vec();
        let loss = losses.iter().map(|l| *l as f64).sum::<f64>() / losses.len() as f64;
        let wanted = io.values("losses")[k] as f64;
        assert!((loss / wanted - 1.0).abs() < 2e-5, "{name}: loss of step {k}: {loss}, not {wanted}");
        if k == 0 {
            let first: Vec<String> = io.0.names().filter_map(|n| n.strip_prefix("grad0.")).map(String::from).collect();
            assert_eq!(first.len(), 24);
            for key in first {
                // A sum over a whole layer, and what is left of a gradient along a held generator, cancel to little.
                let cancels = key.ends_with(".scalar") || name.ends_with("_rescaled") || name == "boft";
                let share = if cancels { 1e-3 } else { 1e-4 };
                close(&key, &leaves[&key].to_vec(), &io.values(&format!("grad0.{key}")), share);
            }
        }
        let mut sorted: Vec<(&String, &Tensor)> = leaves.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        let norm = optim::sum_squares(&cx, &sorted.iter().map(|(_, g)| *g).collect::<Vec<_>>()).sqrt();
        let theirs = io.values("grad_norms")[k] as f64;
        assert!((norm / theirs - 1.0).abs() < 1e-3, "{name}: gradient norm of step {k}: {norm}, not {theirs}");
        for (key, grad) in &leaves {
            let theta = train.tensors.get_mut(key).unwrap();
            let zeros = || cx.device.zeros(theta.shape(), DType::F32);
            let (m, v, updates) = moments.entry(key.clone()).or_insert_with(|| (zeros(), zeros(), 0));
            *updates += 1;
            let params = AdamW {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
                correction1: (1.0 - 0.9f64.powi(*updates)) as f32,
                correction2_sqrt: (1.0 - 0.999f64.powi(*updates)).sqrt() as f32,
                grad_scale: (1.0 / (norm + 1e-6)).min(1.0) as f32,
            };
            optim::adamw(&cx, &params, theta, m, v, grad, None);
        }
    }
    if steps < 20 {
        return;
    }
    // Off by at most 1e-3 of how far training moved the weights, over all that the fixture has.
    let (mut off, mut moved, mut compared) = (0.0f64, 0.0f64, 0);
    for target in &targets {
        for entry in target.entries(|key| train.factor(key)).unwrap() {
            let (now, then) = (format!("final.{}", entry.name), format!("init.{}", entry.name));
            if io.shape(&now).is_none() {
                continue;
            }
            let ours = match entry.values {
                Values::Tensor(tensor) => tensor.to_vec(),
                Values::Made(values) => values,
            };
            for ((a, b), c) in ours.iter().zip(io.values(&now)).zip(io.values(&then)) {
                off += ((a - b) as f64).powi(2);
                moved += ((b - c) as f64).powi(2);
            }
            compared += 1;
        }
    }
    assert!(compared >= 20 && (off / moved).sqrt() < 1e-3, "{name}: {compared} off by {:.2e}", (off / moved).sqrt());
}

macro_rules! trajectories {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            trajectory(stringify!($name), Policy::Keep, Device::Cpu, 20);
            trajectory(stringify!($name), Policy::Recompute, Device::Cpu, 2);
            trajectory(stringify!($name), Policy::Keep, Device::composed_cpu(), 1);
        }
    )*};
}

trajectories!(loha, lokr, lokr_both, dora, oft, lora_fa, dylora);
trajectories!(locon_more, loha_more, lokr_more, glora, ia3, ia3_inputs, diag_oft, diag_oft_rescaled, boft);

/// Fresh adapters change nothing, and start from the values the formulas say.
#[test]
fn fresh_adapters_are_the_base() {
    let unet = Unet::open();
    let io = Io::open("lora_trajectory/io.safetensors");
    let base = |_: &str, name: &str| unet.weights.get(name).map(Tensor::to_vec);
    let plain = ["loha", "lokr", "lokr_both", "dora", "oft", "lora_fa", "dylora"];
    let more = ["locon_more", "loha_more", "lokr_more", "glora", "ia3", "ia3_inputs", "diag_oft_rescaled", "boft"];
    for name in plain.into_iter().chain(more) {
        let (kind, rank, alpha) = kind_of(name);
        let mut targets = unet.targets(&kind, rank, alpha);
        targets.iter_mut().for_each(|t| t.scalar = name.ends_with("_more") || name == "glora");
        let train = adapters::create(&targets, Dropouts::default(), 5, &Device::Cpu, &HashMap::new(), &base);
        assert_eq!(train.frozen.len(), if name == "lora_fa" { 278 } else { 0 });
        let timesteps: Vec<f32> = io.ids("timesteps").iter().map(|&t| t as f32).collect();
        let inputs = Inputs { timesteps, ..Default::default() };
        let setting = Setting {
            model: &unet.model,
            weights: vec![&unet.weights],
            train: Some(&train),
            inputs: &inputs,
            policy: Policy::Keep,
        };
        let given = vec![(unet.x, io.tensor("sample"), false), (unet.context, io.tensor("context"), false)];
        let pass = setting.forward(&Cx::cpu(), given, &[unet.out], false);
        close(name, &pass.output(unet.out).to_vec(), &io.values("out"), 1e-5);
    }
}

/// Dropouts act in training alone, and a recomputed pass draws what the first one drew.
#[test]
fn dropouts_are_functions_of_the_pass() {
    let unet = Unet::open();
    for name in ["loha", "lokr", "lokr_both", "dora", "lora_fa"] {
        let io = Io::open(Box::leak(format!("lycoris/{name}.safetensors").into_boxed_str()));
        let (kind, rank, alpha) = kind_of(name);
        let targets = unet.targets(&kind, rank, alpha);
        let mut train = start(&io, &targets);
        for adapter in train.adapters.values_mut() {
            adapter.dropouts = Dropouts { module: 0.2, neuron: 0.0, rank: 0.4 };
        }
        let replay = Io::open("lora_trajectory/io.safetensors");
        let run = |training: bool, pass: u64, policy: Policy| {
            let timesteps: Vec<f32> = replay.ids("timesteps").iter().map(|&t| t as f32).collect();
            let inputs = Inputs { timesteps, training, pass, ..Default::default() };
            let setting = Setting {
                model: &unet.model,
                weights: vec![&unet.weights],
                train: Some(&train),
                inputs: &inputs,
                policy,
            };
            let given = vec![(unet.x, replay.tensor("sample"), false), (unet.context, replay.tensor("context"), false)];
            let cx = Cx::cpu();
            let forward = setting.forward(&cx, given, &[unet.out], true);
            let out = forward.output(unet.out).clone();
            let mut leaves = HashMap::new();
            setting.backward(&cx, forward, vec![(unet.out, out.clone())], &[], &mut leaves);
            let sums: BTreeMap<String, Vec<f32>> = leaves.into_iter().map(|(k, g)| (k, g.to_vec())).collect();
            (out.to_vec(), sums)
        };
        let kept = run(true, 3, Policy::Keep);
        assert_eq!(kept, run(true, 3, Policy::Recompute), "{name}");
        assert_ne!(kept.0, run(true, 4, Policy::Keep).0, "{name}");
        assert_eq!(run(false, 3, Policy::Keep).0, run(false, 4, Policy::Keep).0, "{name}");
        assert_ne!(kept.0, run(false, 3, Policy::Keep).0, "{name}");
    }
}

/// One linear layer with an adapter: output, and which leaves get gradients.
fn single(target: &Target, train: &Trainables, weights: &Weights, pass: u64) -> (Vec<f32>, HashMap<String, Vec<f32>>) {
    let mut b = Builder::new();
    let x = b.input();
    b.part("unet");
    let path = target.path.clone();
    let out = b.push("layer", &[target.path.as_str()], &[x], move |net, x| net.linear(&path, &x[0]));
    let model = b.finish();
    let inputs = Inputs { training: true, pass, ..Default::default() };
    let setting =
        Setting { model: &model, weights: vec![weights], train: Some(train), inputs: &inputs, policy: Policy::Keep };
    let cx = Cx::cpu();
    let values = (0..15).map(|i| (i as f32 * 0.7).sin()).collect();
    let forward = setting.forward(&cx, vec![(x, Tensor::host(values, &[1, 3, 5]), false)], &[out], true);
    let y = forward.output(out).clone();
    let mut leaves = HashMap::new();
    setting.backward(&cx, forward, vec![(out, y.clone())], &[], &mut leaves);
    (y.to_vec(), leaves.into_iter().map(|(k, g)| (k, g.to_vec())).collect())
}

fn filled(target: &Target) -> (Trainables, Weights) {
    let mut train = adapters::create(
        std::slice::from_ref(target),
        Dropouts::default(),
        1,
        &Device::Cpu,
        &HashMap::new(),
        &|_, _| None,
    );
    let mut keys: Vec<String> = train.tensors.keys().cloned().collect();
    keys.sort_unstable();
    for (i, key) in keys.iter().enumerate() {
        let tensor = train.tensors.get_mut(key).unwrap();
        tensor.update(|v| v.iter_mut().enumerate().for_each(|(j, v)| *v = ((i * 7 + j) as f32 * 1.1).cos()));
    }
    let weight = (0..30).map(|i| (i as f32 * 0.3).sin()).collect();
    (train, Weights::from_map(HashMap::from([("lin.weight".to_owned(), Tensor::host(weight, &[6, 5]))])))
}

/// sd-scripts' DyLoRA: all ranks act with the scale `√(r/(b+unit))·α/r`, one slice learns.
#[test]
fn dylora_as_sd_scripts_has_it() {
    let mut target = Target::lora("unet", "lin", "lora_unet_lin", &[6, 5], 4, 2.0);
    target.kind = Kind::Nested { unit: 2, compat: true };
    let (train, weights) = filled(&target);
    let mut plain = Target::lora("unet", "lin", "lora_unet_lin", &[6, 5], 4, 2.0);
    let file: HashMap<String, Vec<f32>> = target
        .entries(|key| train.factor(key))
        .unwrap()
        .into_iter()
        .map(|e| match e.values {
            Values::Made(v) => (e.name, v),
            Values::Tensor(t) => (e.name, t.to_vec()),
        })
        .collect();
    let mut seen = [false; 2];
    for pass in 0..16 {
        let j = drawn_slice(train.seed, pass, 2, Some("unet.lin"));
        seen[j] = true;
        let (y, grads) = single(&target, &train, &weights, pass);
        plain.alpha = 2.0 * (4.0 / (2 * (j + 1)) as f32).sqrt();
        let whole =
            adapters::create(std::slice::from_ref(&plain), Dropouts::default(), 1, &Device::Cpu, &file, &|_, _| None);
        let (wanted, all) = single(&plain, &whole, &weights, pass);
        close("output", &y, &wanted, 1e-6);
        let mut keys: Vec<&String> = grads.keys().collect();
        keys.sort_unstable();
        assert_eq!(keys, [&format!("lora_unet_lin.lora_A.{j}"), &format!("lora_unet_lin.lora_B.{j}")]);
        let down = &all["lora_unet_lin.lora_down.weight"][j * 10..(j + 1) * 10];
        close("gradient", &grads[&format!("lora_unet_lin.lora_A.{j}")], down, 1e-5);
    }
    assert_eq!(seen, [true; 2]);
}

/// The parts of a split LoRA compute what a plain reader makes of their file.
#[test]
fn split_parts_are_one_lora_in_the_file() {
    let mut target = Target::lora("unet", "lin", "lora_unet_lin", &[6, 5], 2, 3.0);
    target.kind = Kind::Lora { frozen_down: false, parts: vec![2, 3, 1] };
    let (train, weights) = filled(&target);
    let (y, grads) = single(&target, &train, &weights, 0);
    assert_eq!(grads.len(), 6);
    let entries = target.entries(|key| train.factor(key)).unwrap();
    let file = entries.into_iter().map(|e| match e.values {
        Values::Made(v) => (e.name, v),
        Values::Tensor(t) => (e.name, t.to_vec()),
    });
    let plain = Target::lora("unet", "lin", "lora_unet_lin", &[6, 5], 6, target.file_alpha());
    let initial = file.collect();
    let whole =
        adapters::create(std::slice::from_ref(&plain), Dropouts::default(), 1, &Device::Cpu, &initial, &|_, _| None);
    close("output", &y, &single(&plain, &whole, &weights, 0).0, 1e-6);
}

/// What the adapter adds to a layer of 4 inputs, `[B, T, 4]` or `[B, 4, H, W]`, beside what it adds without dropout: by
/// `(sample, rank, token)`. The factors are such that each output is a rank's own.
fn factors_of_dropout(conv: bool, dropouts: Dropouts, pass: u64) -> Vec<[[f32; 16]; 4]> {
    let weight: &[usize] = if conv { &[4, 4, 1, 1] } else { &[4, 4] };
    let target = Target::lora("unet", "lin", "lora_unet_lin", weight, 4, 2.0);
    let (mut train, _) = filled(&target);
    let unit = train.tensors.get_mut("lora_unet_lin.lora_up.weight").unwrap();
    unit.update(|v| v.iter_mut().enumerate().for_each(|(i, v)| *v = f32::from(u8::from(i / 4 == i % 4))));
    let zeros = Tensor::host(vec![0.0; 16], weight);
    let weights = Weights::from_map(HashMap::from([("lin.weight".to_owned(), zeros)]));
    let (samples, tokens) = (32, 16);
    let shape: &[usize] = if conv { &[samples, 4, 4, 4] } else { &[samples, tokens, 4] };
    let mut outputs = Vec::new();
    for dropouts in [Dropouts::default(), dropouts] {
        train.adapters.values_mut().for_each(|adapter| adapter.dropouts = dropouts);
        let mut b = Builder::new();
        let x = b.input();
        b.part("unet");
        let out = b.push("layer", &["lin"], &[x], move |net, x| match conv {
            true => net.conv("lin", &x[0], 1, [0; 4]),
            false => net.linear("lin", &x[0]),
        });
        let model = b.finish();
        let inputs = Inputs { training: true, pass, ..Default::default() };
        let setting = Setting {
            model: &model,
            weights: vec![&weights],
            train: Some(&train),
            inputs: &inputs,
            policy: Policy::Keep,
        };
        let values = (0..samples * tokens * 4).map(|i| (i as f32 * 0.7).sin() + 2.0).collect();
        let forward = setting.forward(&Cx::cpu(), vec![(x, Tensor::host(values, shape), false)], &[out], true);
        outputs.push(forward.output(out).to_vec());
    }
    let at = |i: usize, r: usize, t: usize| if conv { (i * 4 + r) * tokens + t } else { (i * tokens + t) * 4 + r };
    let of = |i: usize, r: usize, t: usize| outputs[1][at(i, r, t)] / outputs[0][at(i, r, t)];
    (0..samples).map(|i| std::array::from_fn(|r| std::array::from_fn(|t| of(i, r, t)))).collect()
}

/// Rank dropout: ranks of a sample are left out whole, whatever the token or the place, each sample its own; the others
/// count `1/(1−p)` times. Neuron dropout: every value by itself, with the same factor. Neither changes the mean.
#[test]
fn dropouts_are_those_of_their_formulas() {
    let near = |a: f32, b: f32| (a - b).abs() < 1e-4 * b.max(1.0);
    for conv in [false, true] {
        let p = 0.25;
        let all = factors_of_dropout(conv, Dropouts { rank: p, ..Dropouts::default() }, 5);
        let mut kept = Vec::new();
        for sample in &all {
            for rank in sample {
                assert!(
                    rank.iter().all(|x| (*x == 0.0) == (rank[0] == 0.0)),
                    "one decision for all of a sample: {rank:?}"
                );
                assert!(rank.iter().all(|x| *x == 0.0 || near(*x, 1.0 / (1.0 - p))), "{rank:?}");
                kept.push(rank[0] != 0.0);
            }
        }
        // 128 decisions, 96 of them kept on average, with a deviation of 5.
        let number = kept.iter().filter(|kept| **kept).count();
        assert!((76..=116).contains(&number), "{number} of 128 are kept");
        assert!(kept.chunks(4).any(|sample| sample != &kept[..4]), "each sample has its own");
        assert!((0..4).any(|r| (0..4).any(|q| kept.chunks(4).any(|s| s[r] != s[q]))), "each rank has its own");

        let p = 0.5;
        let all = factors_of_dropout(conv, Dropouts { neuron: p, ..Dropouts::default() }, 5);
        let values: Vec<f32> = all.iter().flatten().flatten().copied().collect();
        assert!(values.iter().all(|x| *x == 0.0 || near(*x, 1.0 / (1.0 - p))));
        // 2048 decisions with a deviation of 23.
        let number = values.iter().filter(|x| **x != 0.0).count();
        assert!((932..=1116).contains(&number), "{number} of 2048 are kept");
        assert!(all.iter().flatten().any(|rank| rank.contains(&0.0) && rank.iter().any(|x| *x != 0.0)));

        let both = factors_of_dropout(conv, Dropouts { neuron: 0.5, rank: 0.25, ..Dropouts::default() }, 5);
        let values: Vec<f32> = both.iter().flatten().flatten().copied().collect();
        assert!(values.iter().all(|x| *x == 0.0 || near(*x, 2.0 / 0.75)));
        assert!(both.iter().flatten().any(|rank| rank.iter().all(|x| *x == 0.0)), "whole ranks too");
        assert!(both.iter().flatten().any(|rank| rank.contains(&0.0) && rank.iter().any(|x| *x != 0.0)));
    }
    // In parts that are left out whole nothing is scaled.
    let modules: Vec<f32> = (0..64)
        .map(|pass| factors_of_dropout(false, Dropouts { module: 0.5, ..Dropouts::default() }, pass)[0][0][0])
        .collect();
    assert!(modules.iter().all(|x| *x == 0.0 || near(*x, 1.0)));
    let number = modules.iter().filter(|x| **x != 0.0).count();
    assert!((16..=48).contains(&number), "{number} of 64 passes");
}
