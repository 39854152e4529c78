//! The networks of SD 2.x, SDXL, SD3, FLUX and Lumina and their text encoders against PyTorch (diffusers, transformers).
//! The fixtures' scripts say where the authors' behaviour was taken instead of diffusers'.

mod common;

use common::{Case, Io, check_sum, close, fixture};
use pipe_networks::clip::{Activation, ClipConfig, Take};
use pipe_networks::flux::FluxConfig;
use pipe_networks::gemma::GemmaConfig;
use pipe_networks::lumina_next::LuminaNextConfig;
use pipe_networks::lumina2::Lumina2Config;
use pipe_networks::mmdit::MmditConfig;
use pipe_networks::t5::T5Config;
use pipe_networks::unet::{UnetConfig, UnetHints};
use pipe_networks::{Builder, Inputs, TextInput};

const PART: &str = "network";

fn never(_: &str) -> bool {
    false
}

/// Height and width of a `[B, C, H, W]` tensor.
fn latent(io: &Io, name: &str) -> [usize; 2] {
    let shape = io.shape(name).unwrap();
    [shape[2], shape[3]]
}

#[test]
fn sdxl_unet() {
    let weights = Io::open("sdxl_unet/diffusion_pytorch_model.safetensors");
    let io = Io::open("sdxl_unet/io.safetensors");
    let hints = UnetHints { heads: Some(vec![1, 2, 4]), head_dim: None, groups: Some(2), size_embedding: Some(4) };
    let config = UnetConfig::infer(&weights, &hints).unwrap();
    assert_eq!(config.shapes().len(), weights.0.names().len());
    let train = weights.trainables(PART);
    let mut b = Builder::new();
    let (x, context, pooled) = (b.input(), b.input(), b.input());
    let out = config.build(&mut b, PART, x, context, Some(pooled));
    let sizes = io.values("time_ids").chunks(6).map(|r| r.try_into().unwrap()).collect();
    let timesteps = io.ids("timesteps").iter().map(|&t| t as f32).collect();
    let case = Case {
        model: b.finish(),
        train: &train,
        inputs: Inputs { timesteps, sizes, ..Default::default() },
        given: vec![(x, "sample"), (context, "context"), (pooled, "text_embeds")],
        outputs: vec![(out, "out", "cotangent")],
        hides_padding: false,
    };
    case.check(&io, PART, never);
}

#[test]
fn open_clip_with_projection() {
    for (folder, pooled) in [("clip_g", true), ("clip_h", false)] {
        let weights = Io::open(&format!("{folder}/model.safetensors"));
        let io = Io::open(&format!("{folder}/io.safetensors"));
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture(&format!("{folder}/config.json"))).unwrap()).unwrap();
        let heads = json["num_attention_heads"].as_u64().unwrap() as usize;
        let mut config = ClipConfig::infer(&weights, Some(heads), Activation::Gelu).unwrap();
        config.eos = json["eos_token_id"].as_u64().unwrap() as u32;
        let train = weights.trainables(PART);
        let tokens = TextInput::of_windows(io.rows("input_ids", |i| i as u32));
        let inputs = Inputs { text: [(PART.to_string(), tokens)].into(), ..Default::default() };
        let zero = |name: &str| name.ends_with("k_proj.bias");
        let mut b = Builder::new();
        let take = Take { clip_skip: if pooled { 2 } else { 1 }, final_norm: !pooled, pooled };
        let out = config.build(&mut b, PART, take);
        let outputs = match out.pooled {
            Some(p) => {
                vec![(out.hidden, "penultimate", "cotangent_penultimate"), (p, "pooled", "cotangent_pooled")]
            }
            None => vec![(out.hidden, "last", "cotangent")],
        };
        let case = Case { model: b.finish(), train: &train, inputs, given: vec![], outputs, hides_padding: false };
        case.check(&io, PART, zero);
    }
}

#[test]
fn t5_with_and_without_mask() {
    let weights = Io::open("t5/model.safetensors");
    let io = Io::open("t5/io.safetensors");
    let config = T5Config::infer(&weights).unwrap();
    let train = weights.trainables(PART);
    let plain = TextInput::of_windows(io.rows("input_ids", |i| i as u32));
    let masked = TextInput { mask: io.rows("mask", |m| m as u8), ..plain.clone() };
    let cases = [(plain, "out", "cotangent_out"), (masked, "out_masked", "cotangent_out_masked")].map(
        |(tokens, out, cotangent)| {
            let mut b = Builder::new();
            let slot = config.build(&mut b, PART).hidden;
            Case {
                model: b.finish(),
                train: &train,
                inputs: Inputs { text: [(PART.to_string(), tokens)].into(), ..Default::default() },
                given: vec![],
                outputs: vec![(slot, out, cotangent)],
                hides_padding: false,
            }
        },
    );
    check_sum(&[&cases[0], &cases[1]], &io, PART, never);
}

#[test]
fn gemma_both() {
    for folder in ["gemma1", "gemma2"] {
        let prefix = if folder == "gemma1" { "model." } else { "" };
        let weights = Io::prefixed(&format!("{folder}/model.safetensors"), prefix);
        let io = Io::open(&format!("{folder}/io.safetensors"));
        let config = GemmaConfig::infer(&weights, Some(8)).unwrap();
        assert_eq!(config.second, folder == "gemma2");
        let train = weights.trainables(PART);
        let mask = io.rows("mask", |m| m as u8);
        let tokens = TextInput { mask: mask.clone(), ..TextInput::of_windows(io.rows("input_ids", |i| i as u32)) };
        let inputs = Inputs { text: [(PART.to_string(), tokens)].into(), ..Default::default() };
        let mut b = Builder::new();
        let out = config.build(&mut b, PART).hidden;
        let outputs = vec![(out, "out", "cotangent")];
        let case = Case {
            model: b.finish(),
            train: &train,
            inputs: inputs.clone(),
            given: vec![],
            outputs,
            hides_padding: true,
        };
        case.check(&io, PART, never);
        if config.second {
            let capped = GemmaConfig { softcap: Some(50.0), ..config };
            let mut b = Builder::new();
            let out = capped.build(&mut b, PART).hidden;
            let outputs = vec![(out, "out_softcap", "cotangent")];
            Case { model: b.finish(), train: &train, inputs, given: vec![], outputs, hides_padding: true }.forward(&io);
        }
    }
}

#[test]
fn sd3_and_sd35() {
    for (folder, heads) in [("sd3", Some(2)), ("sd35m", None)] {
        let weights = Io::prefixed(&format!("{folder}/original.safetensors"), "model.diffusion_model.");
        let io = Io::open(&format!("{folder}/io.safetensors"));
        let config = MmditConfig::infer(&weights, heads).unwrap();
        assert_eq!(config.shapes().len(), weights.0.names().len());
        assert_eq!((config.qk_norm, config.dual > 0), (heads.is_none(), heads.is_none()));
        let train = weights.trainables(PART);
        let mut b = Builder::new();
        let (x, context, pooled) = (b.input(), b.input(), b.input());
        let out = config.build(&mut b, PART, x, context, pooled);
        let inputs = Inputs { timesteps: io.values("timesteps"), latent: latent(&io, "sample"), ..Default::default() };
        let case = Case {
            model: b.finish(),
            train: &train,
            inputs,
            given: vec![(x, "sample"), (context, "context"), (pooled, "pooled")],
            outputs: vec![(out, "out", "cotangent")],
            hides_padding: false,
        };
        case.check(&io, PART, never);
    }
}

#[test]
fn flux_dev_and_schnell() {
    for (folder, axes) in [("flux", [2, 4, 2]), ("flux_schnell", [2, 2, 4])] {
        let weights = Io::open(&format!("{folder}/original.safetensors"));
        let io = Io::open(&format!("{folder}/io.safetensors"));
        let config = FluxConfig::infer(&weights, Some(axes)).unwrap();
        assert_eq!(config.shapes().len(), weights.0.names().len());
        assert_eq!(config.guidance, folder == "flux");
        let train = weights.trainables(PART);
        let build = || {
            let mut b = Builder::new();
            let (x, context, pooled) = (b.input(), b.input(), b.input());
            let out = config.build(&mut b, PART, x, context, pooled);
            (b.finish(), vec![(x, "sample"), (context, "context"), (pooled, "pooled")], out)
        };
        let guidance = if config.guidance { io.values("guidance") } else { Vec::new() };
        let inputs =
            Inputs { timesteps: io.values("sigmas"), guidance, latent: latent(&io, "sample"), ..Default::default() };
        let (model, given, out) = build();
        let outputs = vec![(out, "out", "cotangent")];
        Case { model, train: &train, inputs: inputs.clone(), given, outputs, hides_padding: false }
            .check(&io, PART, never);
        if io.shape("out_masked").is_some() {
            let inputs = Inputs { text_mask: io.rows("context_mask", |m| m as f32), ..inputs };
            let (model, given, out) = build();
            let outputs = vec![(out, "out_masked", "cotangent")];
            Case { model, train: &train, inputs, given, outputs, hides_padding: false }.forward(&io);
        }
    }
}

#[test]
fn lumina_2() {
    let weights = Io::open("lumina2/original.safetensors");
    let io = Io::open("lumina2/io.safetensors");
    let config = Lumina2Config::infer(&weights, None).unwrap();
    assert_eq!(config.shapes().len(), weights.0.names().len());
    let train = weights.trainables(PART);
    let mut b = Builder::new();
    let (x, context) = (b.input(), b.input());
    let out = config.build(&mut b, PART, x, context);
    let inputs = Inputs {
        timesteps: io.values("sigmas").iter().map(|s| 1.0 - s).collect(),
        latent: latent(&io, "sample"),
        text_mask: io.rows("context_mask", |m| m as f32),
        ..Default::default()
    };
    let case = Case {
        model: b.finish(),
        train: &train,
        inputs,
        given: vec![(x, "sample"), (context, "context")],
        outputs: vec![(out, "out", "cotangent")],
        hides_padding: false,
    };
    case.check(&io, PART, never);
}

#[test]
fn lumina_next() {
    let weights = Io::open("lumina_next/original.safetensors");
    let io = Io::open("lumina_next/io.safetensors");
    let config = LuminaNextConfig::infer(&weights).unwrap();
    assert_eq!(config.shapes().len(), weights.0.names().len());
    let train = weights.trainables(PART);
    let mut b = Builder::new();
    let (x, context) = (b.input(), b.input());
    let out = config.build(&mut b, PART, x, context);
    let inputs = Inputs {
        timesteps: io.values("sigmas").iter().map(|s| 1.0 - s).collect(),
        latent: latent(&io, "sample"),
        text_mask: io.rows("context_mask", |m| m as f32),
        ..Default::default()
    };
    let case = Case {
        model: b.finish(),
        train: &train,
        inputs,
        given: vec![(x, "sample"), (context, "context")],
        outputs: vec![(out, "out", "cotangent")],
        hides_padding: false,
    };
    // A constant added to all keys of a softmax changes nothing.
    case.check(&io, PART, |name| name.ends_with("ky_norm.bias"));
}

/// Two windows: the joined states are those of the windows alone, without the inner start and end tokens.
#[test]
fn clip_windows_are_joined() {
    let weights = Io::open("clip_h/model.safetensors");
    let config = ClipConfig::infer(&weights, Some(2), Activation::Gelu).unwrap();
    let train = weights.trainables(PART);
    let window = |seed: u32| (0..77).map(|i| (i * 7 + seed) % 60).collect::<Vec<u32>>();
    let run = |ids: Vec<Vec<u32>>, windows: usize| {
        let mut b = Builder::new();
        let take = Take { clip_skip: 1, final_norm: true, pooled: false };
        let out = config.build(&mut b, PART, take).hidden;
        let model = b.finish();
        let text = TextInput { windows, ..TextInput::of_windows(ids) };
        let inputs = Inputs { text: [(PART.to_string(), text)].into(), ..Default::default() };
        let none = pipe_networks::Weights::default();
        let setting = pipe_networks::pass::Setting {
            model: &model,
            weights: vec![&none],
            train: Some(&train),
            inputs: &inputs,
            policy: Default::default(),
        };
        setting.forward(&pipe_ops::Cx::cpu(), vec![], &[out], false).output(out).to_vec()
    };
    let d = config.width;
    let alone = [run(vec![window(1)], 1), run(vec![window(2)], 1)];
    let joined = run(vec![window(1), window(2)], 2);
    assert_eq!(joined.len(), 152 * d);
    close("first", &joined[..76 * d], &alone[0][..76 * d], 1e-6);
    close("second", &joined[76 * d..], &alone[1][d..], 1e-6);
}
