//! Frozen weights at rest in other types and places: every network with a LoRA computes what it computes with weights
//! that were cast beforehand, to the bit, forward and gradient, kept and recomputed.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::{Io, fixture};
use pipe_data::weights::{Component, ComponentWeights, DType as FileType, TensorOut, convert, write_safetensors};
use pipe_networks::adapters::{self, Target};
use pipe_networks::flux::FluxConfig;
use pipe_networks::lumina_next::LuminaNextConfig;
use pipe_networks::lumina2::Lumina2Config;
use pipe_networks::mmdit::MmditConfig;
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::unet::{UnetConfig, UnetHints};
use pipe_networks::{Builder, Conditions, Dropouts, Inputs, Keeping, Network, Trainables, Weights};
use pipe_ops::rng::{self, Purpose};
use pipe_ops::{Cx, DType, Device, Meter, Storage, Tensor};

const PART: &str = "network";
const BATCH: usize = 2;

/// Every denoiser, of the fixtures' sizes.
fn networks() -> Vec<(&'static str, Network)> {
    let shape_of = |path: &str| {
        let prefix = if path.starts_with("sd3") { "model.diffusion_model." } else { "" };
        Io::prefixed(path, prefix)
    };
    let hints = |heads: Vec<usize>, size_embedding| UnetHints {
        heads: Some(heads),
        head_dim: None,
        groups: Some(2),
        size_embedding,
    };
    let unet = |path: &str, hints: UnetHints| Network::Unet(UnetConfig::infer(&shape_of(path), &hints).unwrap());
    let file = "diffusion_pytorch_model.safetensors";
    vec![
        ("sd1", unet(&format!("diffusers_dir/unet/{file}"), hints(vec![2], None))),
        ("sdxl", unet(&format!("sdxl_unet/{file}"), hints(vec![1, 2, 4], Some(4)))),
        ("sd3", Network::Mmdit(MmditConfig::infer(&shape_of("sd3/original.safetensors"), Some(2)).unwrap())),
        ("flux", Network::Flux(FluxConfig::infer(&shape_of("flux/original.safetensors"), Some([2, 4, 2])).unwrap())),
        ("lumina2", Network::Lumina2(Lumina2Config::infer(&shape_of("lumina2/original.safetensors"), None).unwrap())),
        (
            "lumina_next",
            Network::LuminaNext(LuminaNextConfig::infer(&shape_of("lumina_next/original.safetensors")).unwrap()),
        ),
    ]
}

fn random(name: &str, shape: &[usize], scale: f32) -> Vec<f32> {
    let normal = rng::normal(&mut rng::named_stream(3, Purpose::Noise, 0, name), shape.iter().product());
    normal.into_iter().map(|x| scale * x).collect()
}

/// Random weights of a network.
fn values(network: &Network) -> BTreeMap<String, Vec<f32>> {
    let one = |(name, shape): (String, Vec<usize>)| {
        let fan_in: usize = shape.iter().skip(1).product();
        let values = random(&name, &shape, 1.0 / (fan_in as f32).sqrt());
        (name, values)
    };
    network.shapes().into_iter().map(one).collect()
}

fn weights(network: &Network, values: &BTreeMap<String, Vec<f32>>, cx: &Cx, keeping: &Keeping) -> Weights {
    let mut weights = Weights::default();
    for (name, shape) in network.shapes() {
        weights.put(&name, values[&name].clone(), &shape, cx, DType::F32, keeping).unwrap();
    }
    weights
}

/// A LoRA on every linear layer and convolution, with factors that are not zero.
fn lora(network: &Network, device: &Device) -> Trainables {
    let layers = network.shapes().into_iter().filter_map(|(name, shape)| {
        let path = name.strip_suffix(".weight").filter(|_| shape.len() > 1)?;
        Some(Target::lora(PART, path, &format!("lora_{}", path.replace('.', "_")), &shape, 2, 2.0))
    });
    let targets: Vec<Target> = layers.collect();
    let initial: HashMap<String, Vec<f32>> = targets
        .iter()
        .flat_map(Target::pieces)
        .map(|piece| (piece.key.clone(), random(&piece.key, &piece.shape, 0.1)))
        .collect();
    adapters::create(&targets, Dropouts::default(), 1, device, &initial, &|_, _| None)
}

type Outcome = (Vec<f32>, BTreeMap<String, Vec<f32>>);

/// Output and gradients of the adapter.
fn run(network: &Network, weights: &Weights, cx: &Cx, policy: Policy) -> Outcome {
    let train = lora(network, &cx.device);
    let mut b = Builder::new();
    b.part(PART);
    let (x, context, pooled) = (b.input(), b.input(), network.pooled().map(|_| b.input()));
    let out = network.build(&mut b, PART, x, Conditions { context, pooled });
    let model = b.finish();
    let inputs = Inputs {
        timesteps: vec![0.3, 0.8],
        guidance: vec![1.0, 3.5],
        sizes: vec![[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]; BATCH],
        latent: [8, 8],
        training: true,
        ..Default::default()
    };
    let setting = Setting { model: &model, weights: vec![weights], train: Some(&train), inputs: &inputs, policy };
    let tensor = |name: &str, shape: &[usize]| cx.device.tensor(random(name, shape, 1.0), shape, DType::F32);
    let mut given = vec![
        (x, tensor("x", &[BATCH, network.channels(), 8, 8]), false),
        (context, tensor("context", &[BATCH, 6, network.context()]), false),
    ];
    if let (Some(slot), Some(width)) = (pooled, network.pooled()) {
        given.push((slot, tensor("pooled", &[BATCH, width]), false));
    }
    let pass = setting.forward(cx, given, &[out], true);
    let y = pass.output(out).clone();
    let mut leaves = HashMap::new();
    setting.backward(cx, pass, vec![(out, y.clone())], &[], &mut leaves);
    assert_eq!(leaves.len(), train.tensors.len(), "every factor learns");
    (y.to_vec(), leaves.into_iter().map(|(key, gradient)| (key, gradient.to_vec())).collect())
}

fn types() -> [Storage; 3] {
    [Storage::F16, Storage::Bf16, Storage::F8E4M3]
}

/// Weights cast beforehand, as far as they rest in another type.
fn cast(network: &Network, values: &BTreeMap<String, Vec<f32>>, keeping: &Keeping) -> BTreeMap<String, Vec<f32>> {
    let file_type = |storage| match storage {
        Storage::F16 => FileType::F16,
        Storage::Bf16 => FileType::BF16,
        Storage::F8E4M3 => FileType::F8E4M3,
        Storage::F32 => FileType::F32,
    };
    let one = |(name, shape): (String, Vec<usize>)| {
        let own = &values[&name];
        let cast = keeping.of(&name, &shape, DType::F32).map(|(storage, _)| {
            // By the conversion of files, which is another than that of weights at rest.
            let bytes = convert::f32_to_bytes(own, file_type(storage)).unwrap();
            convert::to_f32(file_type(storage), &bytes).unwrap()
        });
        (name, cast.unwrap_or_else(|| own.clone()))
    };
    network.shapes().into_iter().map(one).collect()
}

#[test]
fn every_network_computes_with_the_cast_weights() {
    for (name, network) in networks() {
        let values = values(&network);
        for device in [Device::Cpu, Device::composed_cpu()] {
            let cx = Cx::new(device, DType::F32);
            let exact = run(&network, &weights(&network, &values, &cx, &Keeping::default()), &cx, Policy::Keep);
            for storage in types() {
                let keeping = Keeping::in_type(Some(storage));
                let plain = weights(&network, &cast(&network, &values, &keeping), &cx, &Keeping::default());
                let stored = weights(&network, &values, &cx, &keeping);
                assert!(stored.rests() && !plain.rests());
                for policy in [Policy::Keep, Policy::Recompute] {
                    let expected = run(&network, &plain, &cx, policy);
                    assert!(run(&network, &stored, &cx, policy) == expected, "{name} {storage:?} {policy:?}");
                    assert!(expected.0 != exact.0, "{name} {storage:?}: the weights are rounded");
                    assert!(expected.0.iter().all(|x| x.is_finite()));
                }
            }
        }
    }
}

/// On a device with a memory of its own, blocks that rest in the host's compute the same.
#[test]
fn blocks_may_rest_away_from_the_device() {
    for (name, network) in networks() {
        let values = values(&network);
        let cx = Cx::new(Device::composed_cpu(), DType::F32);
        let blocks: Vec<String> = match network {
            Network::Flux(_) => vec!["double_blocks.0".into(), "single_blocks.1".into()],
            Network::Mmdit(_) => vec!["joint_blocks.0".into(), "joint_blocks.1".into()],
            Network::Lumina2(_) | Network::LuminaNext(_) => vec!["layers.1".into()],
            Network::Unet(_) => vec!["down_blocks.0".into(), "mid_block".into()],
        };
        for storage in [None, Some(Storage::Bf16), Some(Storage::F8E4M3)] {
            let here = weights(&network, &values, &cx, &Keeping::in_type(storage));
            let keeping = Keeping { storage, away: blocks.clone() };
            let away = weights(&network, &values, &cx, &keeping);
            assert!(!away.fetched(&blocks, &cx.device).is_empty() && here.fetched(&blocks, &cx.device).is_empty());
            for policy in [Policy::Keep, Policy::Recompute] {
                let expected = run(&network, &here, &cx, policy);
                assert!(run(&network, &away, &cx, policy) == expected, "{name} {storage:?} {policy:?}");
            }
            // What waits in the host's memory comes back as it was.
            let expected = run(&network, &here, &cx, Policy::Recompute);
            for weights in [&here, &away] {
                assert!(run(&network, weights, &cx, Policy::Offload) == expected, "{name} {storage:?} offloaded");
            }
        }
    }
}

/// What a plan counts: bytes at rest, and more of them only while they are used.
#[test]
fn shapes_alone_tell_what_is_saved() {
    let network = Network::Flux(FluxConfig { double: 3, single: 4, ..FluxConfig::dev() });
    let shapes = network.shapes();
    let peaks = |keeping: &Keeping, policy: Policy| -> (u64, u64) {
        let meter = Meter::new();
        let cx = Cx::new(Device::Meta(meter.clone()), DType::BF16);
        let weights = Weights::meta(&shapes, &meter, DType::BF16, keeping);
        assert_eq!(meter.live(), keeping.bytes(&shapes, DType::BF16).device);
        let resting = keeping.bytes(&shapes, DType::BF16).host;
        assert_eq!(meter.away(), resting);
        let mut b = Builder::new();
        b.part(PART);
        let (x, context, pooled) = (b.input(), b.input(), b.input());
        let out = network.build(&mut b, PART, x, Conditions { context, pooled: Some(pooled) });
        let model = b.finish();
        let inputs = Inputs { timesteps: vec![0.5], guidance: vec![1.0], latent: [16, 16], ..Default::default() };
        let target = Target::lora(PART, "double_blocks.0.img_attn.proj", "lora", &[3072, 3072], 4, 4.0);
        let train = adapters::meta(&[target], Dropouts::default(), &meter);
        let setting = Setting { model: &model, weights: vec![&weights], train: Some(&train), inputs: &inputs, policy };
        let tensor = |shape: &[usize]| Tensor::meta(shape, DType::BF16, &meter);
        let given = vec![
            (x, tensor(&[1, 16, 16, 16]), false),
            (context, tensor(&[1, 8, 4096]), false),
            (pooled, tensor(&[1, 768]), false),
        ];
        let pass = setting.forward(&cx, given, &[out], true);
        let y = pass.output(out).clone();
        setting.backward(&cx, pass, vec![(out, y)], &[], &mut HashMap::new());
        (meter.peak(), meter.away() - resting)
    };
    let peak = |keeping: &Keeping, policy: Policy| peaks(keeping, policy).0;
    let whole = Keeping::default().bytes(&shapes, DType::BF16).device;
    for policy in [Policy::Keep, Policy::Recompute] {
        let plain = peak(&Keeping::default(), policy);
        let small = peak(&Keeping::in_type(Some(Storage::F8E4M3)), policy);
        // Half the weights, and one layer of the type that is computed in.
        assert!(small < plain - whole / 2 + (200 << 20), "{small} of {plain}");
        let away = Keeping { storage: None, away: vec!["double_blocks.1".into(), "double_blocks.2".into()] };
        let swapped = peak(&away, policy);
        // Two blocks are away; where blocks are computed again, one of them comes back at a time.
        let block = 339_738_624 * 2;
        let back = if policy == Policy::Recompute { block } else { 0 };
        let saved = plain - swapped;
        assert!(saved.abs_diff(2 * block - back) < 200 << 20, "{policy:?}: {saved} of {}", 2 * block - back);
    }
}

/// Offloaded inputs of blocks are counted once each, in the host's memory.
#[test]
fn offloaded_inputs_are_counted_apart() {
    let network = Network::Flux(FluxConfig { double: 3, single: 4, ..FluxConfig::dev() });
    let shapes = network.shapes();
    let run = |policy: Policy| {
        let meter = Meter::new();
        let cx = Cx::new(Device::Meta(meter.clone()), DType::BF16);
        let weights = Weights::meta(&shapes, &meter, DType::BF16, &Keeping::default());
        let mut b = Builder::new();
        b.part(PART);
        let (x, context, pooled) = (b.input(), b.input(), b.input());
        let out = network.build(&mut b, PART, x, Conditions { context, pooled: Some(pooled) });
        let model = b.finish();
        let inputs = Inputs { timesteps: vec![0.5], guidance: vec![1.0], latent: [64, 64], ..Default::default() };
        let target = Target::lora(PART, "double_blocks.0.img_attn.proj", "lora", &[3072, 3072], 4, 4.0);
        let train = adapters::meta(&[target], Dropouts::default(), &meter);
        let setting = Setting { model: &model, weights: vec![&weights], train: Some(&train), inputs: &inputs, policy };
        let tensor = |shape: &[usize]| Tensor::meta(shape, DType::BF16, &meter);
        let given = vec![
            (x, tensor(&[1, 16, 64, 64]), false),
            (context, tensor(&[1, 512, 4096]), false),
            (pooled, tensor(&[1, 768]), false),
        ];
        let base = meter.live();
        meter.reset_peak();
        let pass = setting.forward(&cx, given, &[out], true);
        let kept = meter.live() - base;
        let y = pass.output(out).clone();
        setting.backward(&cx, pass, vec![(out, y)], &[], &mut HashMap::new());
        (kept, meter.away())
    };
    let ((here, none), (left, away)) = (run(Policy::Recompute), run(Policy::Offload));
    // Before each of 7 blocks, where both streams are joined, and before the final layer: 1024 + 512 tokens of 3072 values.
    let boundary = 1536 * 3072 * 2;
    assert_eq!(none, 0);
    assert!(away >= 9 * boundary && away < 10 * boundary, "{away} of {boundary}");
    assert!(here - left > 8 * boundary, "{here} and {left}");
}

/// What is in 8 bits in the file is taken over byte for byte, NaN is refused, and scaled weights are cast.
#[test]
fn files_in_8_bits_are_read_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unet.safetensors");
    let from = ComponentWeights::open(fixture("diffusers_dir"), Component::Unet).unwrap();
    let hints = UnetHints { heads: Some(vec![2]), head_dim: None, size_embedding: None, groups: Some(2) };
    let shapes = UnetConfig::infer(&from, &hints).unwrap().shapes();
    let keeping = Keeping::in_type(Some(Storage::F8E4M3));
    let cx = Cx::cpu();
    let write = |bad: bool| {
        let tensor = |name: &str, shape: Vec<usize>| {
            let mut bytes = convert::f32_to_bytes(&from.f32(name).unwrap(), FileType::F8E4M3).unwrap();
            if bad && name == "mid_block.resnets.0.conv1.weight" {
                bytes[5] = 0xff;
            }
            TensorOut::bytes(name.to_owned(), FileType::F8E4M3, shape, bytes)
        };
        write_safetensors(&path, from.shapes().map(|(name, shape)| tensor(name, shape)), &BTreeMap::new()).unwrap();
        ComponentWeights::open(&path, Component::Unet).unwrap()
    };
    let small = write(false);
    let loaded = Weights::load(&small, &shapes, &cx, DType::F32, &keeping).unwrap();
    let made = Weights::load(&from, &shapes, &cx, DType::F32, &keeping).unwrap();
    let mut resting = 0;
    for (name, _) in &shapes {
        assert_eq!(loaded.values(name), Some(small.f32(name).unwrap()), "{name}");
        if loaded.stored(name).is_some() {
            resting += 1;
            assert_eq!(loaded.values(name), made.values(name), "{name}: cast by torch's rule or taken over");
        }
    }
    assert!(resting > 50);
    let error = Weights::load(&write(true), &shapes, &cx, DType::F32, &keeping).unwrap_err();
    assert!(error.to_string().contains("`mid_block.resnets.0.conv1.weight` holds values that are no numbers"));
}

/// Rounding and values of all codes are PyTorch's.
#[test]
fn codes_are_those_of_torch() {
    let io = Io::open("pickles/fp8.safetensors");
    let (codes, values) = (io.0.bytes("cast.codes").unwrap(), io.values("cast.values"));
    assert!(values.len() > 1500);
    assert_eq!(Storage::F8E4M3.bytes(&values), codes.as_ref());
    let all = io.0.bytes("e4m3.codes").unwrap();
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert!(Storage::F8E4M3.values(&all).iter().zip(&io.values("e4m3.values")).all(same));
}
