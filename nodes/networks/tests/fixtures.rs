//! Networks against PyTorch (diffusers, transformers): forward within 1e-5 of the largest value,
//! gradients within 1e-4. The fixtures and their scripts are in `tests/`.

mod common;

use std::collections::HashMap;

use common::{Io, close, fixture};
use pipe_data::weights::{Component, ComponentWeights};
use pipe_networks::clip::{Activation, ClipConfig, Take};
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::unet::{UnetConfig, UnetHints};
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Builder, Inputs, Model, Slot, TextInput, Trainables, Weights};
use pipe_ops::{Cx, DType, Device, op};

/// All weights as trainables, so that every gradient is asked for.
fn full(part: &str, file: &ComponentWeights, shapes: &[(String, Vec<usize>)]) -> Trainables {
    Weights::verify(file, shapes, |_| false).unwrap();
    let weights = Weights::load(file, shapes, &Cx::cpu(), DType::F32, &Default::default()).unwrap();
    let tensors = shapes.iter().map(|(n, _)| (Trainables::key(part, n), weights.get(n).unwrap().clone())).collect();
    Trainables { tensors, ..Default::default() }
}

fn unet_config(file: &ComponentWeights) -> UnetConfig {
    let json = file.config.as_ref().unwrap();
    let heads = match &json["attention_head_dim"] {
        serde_json::Value::Array(list) => list.iter().map(|h| h.as_u64().unwrap() as usize).collect(),
        one => vec![one.as_u64().unwrap() as usize],
    };
    let hints = UnetHints {
        heads: Some(heads),
        head_dim: None,
        size_embedding: None,
        groups: Some(json["norm_num_groups"].as_u64().unwrap() as usize),
    };
    UnetConfig::infer(file, &hints).unwrap()
}

fn unet_net(config: &UnetConfig) -> (Model, Slot, Slot, Slot) {
    let mut b = Builder::new();
    let (x, context) = (b.input(), b.input());
    let out = config.build(&mut b, "unet", x, context, None);
    (b.finish(), x, context, out)
}

#[test]
fn unet_forward_and_gradients_kept_and_recomputed() {
    let file = ComponentWeights::open(fixture("diffusers_dir"), Component::Unet).unwrap();
    let config = unet_config(&file);
    let train = full("unet", &file, &config.shapes());
    let io = Io::open("unet/io.safetensors");
    let (model, x, context, out) = unet_net(&config);
    let timesteps: Vec<f32> = io.ids("timesteps").iter().map(|&t| t as f32).collect();
    let inputs = Inputs { timesteps, ..Default::default() };
    let none = Weights::default();
    // The fused kernels, recomputation, and the composed operations a GPU runs.
    for (policy, device) in
        [(Policy::Keep, Device::Cpu), (Policy::Recompute, Device::Cpu), (Policy::Keep, Device::composed_cpu())]
    {
        let setting = Setting { model: &model, weights: vec![&none], train: Some(&train), inputs: &inputs, policy };
        let cx = Cx::new(device, DType::F32);
        let given = vec![(x, io.tensor("sample"), true), (context, io.tensor("context"), true)];
        let pass = setting.forward(&cx, given, &[out], true);
        close("out", &pass.output(out).to_vec(), &io.values("out"), 1e-5);
        let mut leaves = HashMap::new();
        let grads = setting.backward(&cx, pass, vec![(out, io.tensor("cotangent"))], &[x, context], &mut leaves);
        close("grad.sample", &grads[&x].to_vec(), &io.values("grad.sample"), 1e-4);
        close("grad.context", &grads[&context].to_vec(), &io.values("grad.context"), 1e-4);
        let mut compared = 0;
        for name in io.gradients().iter().filter(|n| *n != "sample" && *n != "context") {
            let ours = &leaves[&Trainables::key("unet", name)];
            close(name, &ours.to_vec(), &io.values(&format!("grad.{name}")), 1e-4);
            compared += 1;
        }
        assert_eq!(compared, 686);
    }
    // A latent that is not a multiple of 8: skips decide the up-sampled sizes.
    let setting =
        Setting { model: &model, weights: vec![&none], train: Some(&train), inputs: &inputs, policy: Policy::Keep };
    let given = vec![(x, io.tensor("sample_odd"), false), (context, io.tensor("context"), false)];
    let pass = setting.forward(&Cx::cpu(), given, &[out], false);
    close("out_odd", &pass.output(out).to_vec(), &io.values("out_odd"), 1e-5);
}

#[test]
fn unet_with_linear_projections_and_heads_by_level() {
    let file = ComponentWeights::open(fixture("unet_linear"), Component::Unet).unwrap();
    let config = unet_config(&file);
    let train = full("unet", &file, &config.shapes());
    let io = Io::open("unet_linear/io.safetensors");
    let (model, x, context, out) = unet_net(&config);
    let timesteps: Vec<f32> = io.ids("timesteps").iter().map(|&t| t as f32).collect();
    let inputs = Inputs { timesteps, ..Default::default() };
    let none = Weights::default();
    for policy in [Policy::Keep, Policy::Recompute] {
        let setting = Setting { model: &model, weights: vec![&none], train: Some(&train), inputs: &inputs, policy };
        let cx = Cx::cpu();
        let given = vec![(x, io.tensor("sample"), true), (context, io.tensor("context"), true)];
        let pass = setting.forward(&cx, given, &[out], true);
        close("out", &pass.output(out).to_vec(), &io.values("out"), 1e-5);
        let mut leaves = HashMap::new();
        let grads = setting.backward(&cx, pass, vec![(out, io.tensor("cotangent"))], &[x, context], &mut leaves);
        close("grad.sample", &grads[&x].to_vec(), &io.values("grad.sample"), 1e-4);
        close("grad.context", &grads[&context].to_vec(), &io.values("grad.context"), 1e-4);
        let gradients = io.gradients();
        assert_eq!(gradients.len(), config.shapes().len() + 2);
        for name in gradients.iter().filter(|n| *n != "sample" && *n != "context") {
            let ours = &leaves[&Trainables::key("unet", name)];
            close(name, &ours.to_vec(), &io.values(&format!("grad.{name}")), 1e-4);
        }
    }
}

#[test]
fn single_file_and_folder_give_the_same_tensors() {
    for component in [Component::Unet, Component::Vae, Component::TextEncoder] {
        let folder = ComponentWeights::open(fixture("diffusers_dir"), component).unwrap();
        let single = ComponentWeights::open(fixture("single_file/model.safetensors"), component).unwrap();
        let mut names: Vec<&str> = folder.names().collect();
        names.sort_unstable();
        let mut other: Vec<&str> = single.names().collect();
        other.sort_unstable();
        assert_eq!(names, other);
        for name in names {
            assert_eq!(folder.shape(name), single.shape(name), "{name}");
            assert_eq!(folder.f32(name).unwrap(), single.f32(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn clip_forward_and_gradients() {
    let file = ComponentWeights::open(fixture("diffusers_dir"), Component::TextEncoder).unwrap();
    let config = ClipConfig::infer(&file, Some(4), Activation::QuickGelu).unwrap();
    let train = full("text_encoder", &file, &config.shapes());
    let io = Io::open("clip_l/io.safetensors");
    let tokens: Vec<Vec<u32>> = io.ids("input_ids").chunks(77).map(|w| w.iter().map(|&i| i as u32).collect()).collect();
    let input = TextInput::of_windows(tokens);
    let mask: Vec<Vec<u8>> = io.ids("mask").chunks(77).map(|w| w.iter().map(|&m| m as u8).collect()).collect();
    let masked = TextInput { mask, ..input.clone() };
    let with = |input| Inputs { text: [("text_encoder".to_string(), input)].into(), ..Default::default() };
    let (inputs, masked) = (with(input), with(masked));
    let none = Weights::default();
    for (skip, name) in [(1, "last"), (2, "skip2")] {
        let mut b = Builder::new();
        let take = Take { clip_skip: skip, final_norm: true, pooled: false };
        let out = config.build(&mut b, "text_encoder", take).hidden;
        let model = b.finish();
        let setting =
            Setting { model: &model, weights: vec![&none], train: Some(&train), inputs: &inputs, policy: Policy::Keep };
        let cx = Cx::cpu();
        let pass = setting.forward(&cx, vec![], &[out], skip == 1);
        close(name, &pass.output(out).to_vec(), &io.values(name), 1e-5);
        if skip == 1 {
            let hidden =
                Setting { inputs: &masked, weights: vec![&none], ..setting }.forward(&cx, vec![], &[out], false);
            close("last_masked", &hidden.output(out).to_vec(), &io.values("last_masked"), 1e-5);
            let mut leaves = HashMap::new();
            setting.backward(&cx, pass, vec![(out, io.tensor("cotangent"))], &[], &mut leaves);
            for name in io.gradients() {
                // The gradient of a key bias is zero in theory; both sides hold rounding only.
                let ours = leaves[&Trainables::key("text_encoder", &name)].to_vec();
                if name.ends_with("k_proj.bias") {
                    assert!(ours.iter().all(|g| g.abs() < 1e-4), "{name}");
                } else {
                    close(&name, &ours, &io.values(&format!("grad.{name}")), 1e-4);
                }
            }
        }
    }
}

#[test]
fn vae_both_kinds() {
    for (folder, io) in [("diffusers_dir", "vae4/io.safetensors"), ("vae16", "vae16/io.safetensors")] {
        let file = ComponentWeights::open(fixture(folder), Component::Vae).unwrap();
        let groups = file.config.as_ref().unwrap()["norm_num_groups"].as_u64().unwrap() as usize;
        let config = VaeConfig::infer(&file, Some(groups)).unwrap();
        let train = full("vae", &file, &config.shapes());
        let io = Io::open(io);
        let mut b = Builder::new();
        let image = b.input();
        let moments = config.build_encoder(&mut b, image);
        let latent = b.input();
        let decoded = config.build_decoder(&mut b, latent);
        let model = b.finish();
        let (none, inputs, cx) = (Weights::default(), Inputs::default(), Cx::cpu());
        let setting =
            Setting { model: &model, weights: vec![&none], train: Some(&train), inputs: &inputs, policy: Policy::Keep };
        let encode = setting.forward(&cx, vec![(image, io.tensor("image"), true)], &[moments], true);
        close("moments", &encode.output(moments).to_vec(), &io.values("moments"), 1e-5);
        let given = setting.forward(&cx, vec![(latent, io.tensor("latent"), false)], &[decoded], false);
        close("decoded", &given.output(decoded).to_vec(), &io.values("decoded"), 1e-5);
        // Through the mean: gradients of image and weights.
        let tape = pipe_ops::Tape::new();
        let m = tape.input(encode.output(moments).clone());
        let mean = op::sample_gaussian(&cx.with_tape(&tape), &m, None, 0.0);
        let decode = setting.forward(&cx, vec![(latent, mean.value.clone(), true)], &[decoded], true);
        let mut leaves = HashMap::new();
        let seeds = vec![(decoded, io.tensor("cotangent_image"))];
        let mut grads = setting.backward(&cx, decode, seeds, &[latent], &mut leaves);
        let up = grads.remove(&latent).unwrap();
        let gm = tape.backward(&cx, vec![(mean, up)], &[m], &mut leaves).pop().unwrap().unwrap();
        let grads = setting.backward(&cx, encode, vec![(moments, gm)], &[image], &mut leaves);
        close("grad.image", &grads[&image].to_vec(), &io.values("grad.image"), 1e-4);
        // Of every weight but the two key biases, whose gradients are zero in theory, and of the image.
        let gradients = io.gradients();
        assert_eq!(gradients.len(), config.shapes().len() - 2 + 1);
        for name in gradients.iter().filter(|n| *n != "image") {
            let ours = &leaves[&Trainables::key("vae", name)];
            close(name, &ours.to_vec(), &io.values(&format!("grad.{name}")), 1e-4);
        }
    }
}

/// The base with the adapter of `final.safetensors`: what diffusers computes with the same file.
#[test]
fn lora_output_is_that_of_diffusers() {
    let file = ComponentWeights::open(fixture("diffusers_dir"), Component::Unet).unwrap();
    let config = unet_config(&file);
    let shapes = config.shapes();
    let weights = Weights::load(&file, &shapes, &Cx::cpu(), DType::F32, &Default::default()).unwrap();
    let lora = Io::open("lora_trajectory/final.safetensors");
    let mut train = Trainables::default();
    for target in pipe_data::lora_names::discover(shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice())), false) {
        let name = pipe_data::lora_names::kohya_name("lora_unet", &target.path);
        let key = |part: &str| format!("{name}.{part}");
        let (down, up) = (key("lora_down.weight"), key("lora_up.weight"));
        let rank = lora.0.info(&down).unwrap().shape[0] as f32;
        let scale = lora.values(&key("alpha"))[0] / rank;
        for factor in [&down, &up] {
            train.tensors.insert(factor.clone(), lora.tensor(factor));
        }
        let module = pipe_networks::Module::LowRank(vec![(down, up)]);
        let adapter = pipe_networks::Adapter { module, scale, scalar: None, dropouts: Default::default() };
        train.adapters.insert(Trainables::key("unet", &target.path), adapter);
    }
    assert_eq!(train.adapters.len(), 192);
    let io = Io::open("lora_trajectory/io.safetensors");
    let (model, x, context, out) = unet_net(&config);
    let timesteps: Vec<f32> = io.ids("timesteps").iter().map(|&t| t as f32).collect();
    let inputs = Inputs { timesteps, ..Default::default() };
    for (train, name) in [(None, "out"), (Some(&train), "out_with_lora")] {
        let setting = Setting { model: &model, weights: vec![&weights], train, inputs: &inputs, policy: Policy::Keep };
        let given = vec![(x, io.tensor("sample"), false), (context, io.tensor("context"), false)];
        let pass = setting.forward(&Cx::cpu(), given, &[out], false);
        close(name, &pass.output(out).to_vec(), &io.values(name), 1e-5);
    }
}
