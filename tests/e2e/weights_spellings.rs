//! `merge` and `convert`: layers in several spellings, weights that a program holds twice, DoRA on joined layers, and files of
//! different models.

use std::collections::BTreeMap;

use pipe_data::weights::{Component, DType, TensorOut, component, write_safetensors};
use tempfile::TempDir;

use crate::weights_tools::{delta, dir, distance, fixture, layers, open, pipe};

fn wave(i: usize) -> f32 {
    (i as f32 * 0.37).sin()
}

/// A tensor of a file: its key, shape and what its values begin with.
type Made<'a> = (String, &'a [usize], usize);

fn file(dir: &TempDir, name: &str, tensors: &[Made], metadata: &[(&str, &str)]) {
    let made = tensors.iter().map(|(key, shape, seed)| {
        let values = (0..shape.iter().product()).map(|i| 0.1 * wave(i + seed)).collect::<Vec<f32>>();
        TensorOut::f32(key, DType::F32, shape.to_vec(), values)
    });
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>();
    write_safetensors(dir.path().join(name), made, &metadata).unwrap();
}

/// A pair of factors of rank 2.
fn pair(layer: &str, [down, up]: [&'static [usize]; 2], seed: usize) -> [Made<'static>; 2] {
    let ends = if layer.contains('.') { ["lora_A", "lora_B"] } else { ["lora_down", "lora_up"] };
    [(format!("{layer}.{}.weight", ends[0]), down, seed), (format!("{layer}.{}.weight", ends[1]), up, seed + 7)]
}

/// Diffusers' Lumina-Next has the query of an attention twice, for the picture and for the text.
#[test]
fn both_copies_of_a_weight_change() {
    let (dir, model) = (dir(), fixture("lumina_next"));
    let sizes: [&[usize]; 2] = [&[2, 32], &[32, 2]];
    file(&dir, "kohya.safetensors", &pair("lora_unet_layers_0_attention_wq", sizes, 0), &[]);
    pipe(&dir, &["convert", "kohya.safetensors", "--format", "peft", "--for", &model, "-o", "peft.safetensors"])
        .expect(0);
    let names = ["transformer.layers.0.attn1.to_q", "transformer.layers.0.attn2.to_q"];
    let peft = open(dir.path().join("peft.safetensors"));
    assert_eq!(peft.names().len(), 4);
    assert!(names.iter().all(|name| peft.info(&format!("{name}.lora_A.weight")).is_some()));
    pipe(&dir, &["convert", "peft.safetensors", "--format", "kohya", "--for", &model, "-o", "back.safetensors"])
        .expect(0);
    let stored = "diffusion_pytorch_model.safetensors";
    let base = open(format!("{model}/{stored}"));
    let keys = ["layers.0.attn1.to_q.weight", "layers.0.attn2.to_q.weight"];
    let old = base.f32(keys[0]).unwrap();
    let mut first = None;
    for lora in ["kohya", "peft", "back"] {
        let lora_file = format!("{lora}.safetensors");
        pipe(&dir, &["merge", "--base", &model, "--lora", &lora_file, "-o", lora, "--dtype", "f32"]).expect(0);
        let merged = open(dir.path().join(lora).join(stored));
        let new = merged.f32(keys[0]).unwrap();
        assert_eq!(new, merged.f32(keys[1]).unwrap(), "{lora}");
        let change: Vec<f32> = new.iter().zip(&old).map(|(a, b)| a - b).collect();
        assert!(change.iter().any(|x| x.abs() > 1e-4));
        let wanted = first.get_or_insert(change.clone());
        assert!(distance(&change, wanted) < 1e-4, "{lora}");
    }
    pipe(&dir, &["convert", &model, "--dtype", "f16", "-o", "half"]).expect(0);
    let half = open(dir.path().join("half").join(stored));
    assert!(keys.iter().all(|key| half.info(key).unwrap().dtype == DType::F16));
    // Trained apart, they are no LoRA of this model.
    let apart: Vec<Made> = names.iter().enumerate().flat_map(|(i, name)| pair(name, sizes, i)).collect();
    file(&dir, "apart.safetensors", &apart, &[]);
    let ran = pipe(&dir, &["merge", "--base", &model, "--lora", "apart.safetensors", "-o", "no"]).expect(1);
    assert!(ran.err.starts_with("error[P0302") && ran.err.contains("do not change it alike"), "{}", ran.err);
}

/// PEFT has DoRA on query, key and value by themselves; a row's length is its own.
#[test]
fn magnitudes_go_between_spellings() {
    let (dir, model) = (dir(), fixture("flux/original.safetensors"));
    let base = component(&model, Component::Flux).unwrap();
    let path = "double_blocks.0.img_attn.qkv.weight";
    let shape = base.shape(path).unwrap();
    let name = "lora_unet_double_blocks_0_img_attn_qkv";
    let (down, up, lengths) = (vec![2, shape[1]], vec![shape[0], 2], vec![shape[0], 1]);
    let made = [("lora_down.weight", &down), ("lora_up.weight", &up), ("dora_scale", &lengths)];
    let made: Vec<Made> = made.iter().map(|(end, shape)| (format!("{name}.{end}"), shape.as_slice(), 3)).collect();
    file(&dir, "kohya.safetensors", &made, &[]);
    for (format, from, to) in [("peft", "kohya", "peft"), ("kohya", "peft", "back")] {
        let (from, to) = (format!("{from}.safetensors"), format!("{to}.safetensors"));
        pipe(&dir, &["convert", &from, "--format", format, "--for", &model, "-o", &to]).expect(0);
    }
    assert_eq!(open(dir.path().join("peft.safetensors")).names().len(), 9);
    let merged = |lora: &str| {
        let (lora, output) = (format!("{lora}.safetensors"), format!("m-{lora}.safetensors"));
        pipe(&dir, &["merge", "--base", &model, "--lora", &lora, "-o", &output]).expect(0);
        component(dir.path().join(&output), Component::Flux).unwrap().f32(path).unwrap()
    };
    let wanted = merged("kohya");
    assert!(distance(&wanted, &base.f32(path).unwrap()) > 0.1);
    for lora in ["peft", "back"] {
        assert!(distance(&merged(lora), &wanted) < 1e-6, "{lora}");
    }
    // A convolution's magnitudes have its axes, and are of rows though they begin with 1.
    let (conv, unet) = ("lora_unet_mid_block_attentions_0_proj_in", fixture("diffusers_dir"));
    let made: [Made; 3] = [
        (format!("{conv}.lora_down.weight"), &[2, 10, 1, 1], 0),
        (format!("{conv}.lora_up.weight"), &[10, 2, 1, 1], 5),
        (format!("{conv}.dora_scale"), &[10, 1, 1, 1], 9),
    ];
    file(&dir, "conv.safetensors", &made, &[]);
    pipe(&dir, &["convert", "conv.safetensors", "--format", "peft", "--for", &unet, "-o", "conv-peft.safetensors"])
        .expect(0);
    let peft = open(dir.path().join("conv-peft.safetensors"));
    let magnitude = peft.names().find(|name| name.contains("magnitude")).unwrap();
    assert_eq!(peft.info(magnitude).unwrap().shape, [1, 10, 1, 1]);
    let merged = |lora: &str| {
        pipe(&dir, &["merge", "--base", &format!("{unet}/unet"), "--lora", &format!("{lora}.safetensors"), "-o", lora])
            .expect(0);
        component(dir.path().join(lora), Component::Unet).unwrap().f32("mid_block.attentions.0.proj_in.weight").unwrap()
    };
    assert!(distance(&merged("conv-peft"), &merged("conv")) < 1e-6);
}

/// What is joined is for one model, whatever it calls its layers.
#[test]
fn one_sum_for_each_layer_of_one_model() {
    let dir = dir();
    let sizes: [&[usize]; 2] = [&[2, 640], &[640, 2]];
    let inner = "transformer_blocks_1_attn1_to_q";
    let own = format!("lora_unet_input_blocks_4_1_{inner}");
    file(&dir, "own.safetensors", &pair(&own, sizes, 0), &[]);
    file(&dir, "other.safetensors", &pair(&format!("lora_unet_down_blocks_1_attentions_0_{inner}"), sizes, 40), &[]);
    file(&dir, "same.safetensors", &pair(&own, sizes, 40), &[]);
    let join = |b: &str, output: &str| {
        pipe(&dir, &["merge", "--lora", "own.safetensors", "--lora", b, "-o", output]).expect(0);
        open(dir.path().join(output))
    };
    let (mixed, wanted) = (join("other.safetensors", "a.safetensors"), join("same.safetensors", "b.safetensors"));
    assert!(layers(&mixed).into_iter().eq([own.clone()]));
    assert_eq!(delta(&mixed, &own), delta(&wanted, &own));
    let line = ["merge", "--lora", "own.safetensors", "--lora", "same.safetensors", "--rank", "3", "--conv-rank", "1"];
    let ran = pipe(&dir, &[&line[..], &["-o", "no.safetensors"]].concat()).expect(1);
    assert!(ran.err.starts_with("error[P0402") && ran.err.contains("`--conv-rank` has no effect"), "{}", ran.err);
    // By what the metadata say, and by names that are of no one family.
    file(
        &dir,
        "sdxl.safetensors",
        &pair(&own, sizes, 0),
        &[("modelspec.architecture", "stable-diffusion-xl-v1-base/lora")],
    );
    file(&dir, "sd1.safetensors", &pair(&own, sizes, 0), &[("ss_base_model_version", "sd_v1")]);
    file(&dir, "flux.safetensors", &pair("lora_unet_double_blocks_0_img_attn_qkv", sizes, 0), &[]);
    for (a, b) in [("sdxl", "sd1"), ("own", "flux")] {
        let [a, b] = [a, b].map(|name| format!("{name}.safetensors"));
        let ran = pipe(&dir, &["merge", "--lora", &a, "--lora", &b, "-o", "no.safetensors"]).expect(1);
        assert!(ran.err.starts_with("error[P0305") && ran.err.contains("different models"), "{}", ran.err);
        assert!(!dir.path().join("no.safetensors").exists());
    }
}
