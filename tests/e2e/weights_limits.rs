//! `merge`, `convert`, `resize` and `extract` at the limits of types, names, sizes and ranks: what is lost elsewhere in
//! silence is told, refused or kept.

use std::collections::BTreeMap;
use std::fs;

use pipe_data::weights::{Component, DType, TensorOut, WeightFile, component, write_safetensors};
use tempfile::TempDir;

use crate::weights_tools::{bytes, delta, dir, distance, fixture, layers, open, pipe, tools};

/// A layer of the tiny U-Net, `[10, 10]`, in both spellings.
const KOHYA: &str = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
const PEFT: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
const WEIGHT: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";

/// Name, shape, and the value at each place.
type Made<'a> = (&'a str, &'a [usize], &'a dyn Fn(usize) -> f32);

/// Writes tensors of these shapes, each filled with its function of the place.
fn file(dir: &TempDir, name: &str, tensors: &[Made]) {
    let made = tensors.iter().map(|(key, shape, value)| {
        TensorOut::f32(*key, DType::F32, shape.to_vec(), (0..shape.iter().product()).map(value).collect::<Vec<_>>())
    });
    write_safetensors(dir.path().join(name), made, &BTreeMap::new()).unwrap();
}

fn wave(i: usize) -> f32 {
    (i as f32 * 0.37).sin()
}

/// Runs a line that is refused with a code and a word, and leaves nothing behind.
#[track_caller]
fn refused(dir: &TempDir, line: &[&str], code: &str, word: &str) {
    let ran = pipe(dir, line).expect(1);
    assert!(ran.err.starts_with(&format!("error[{code}")) && ran.err.contains(word), "{line:?}: {}", ran.err);
    let output = line[line.iter().position(|word| *word == "-o").unwrap() + 1];
    assert!(!dir.path().join(output).exists(), "{line:?} leaves nothing behind");
}

/// The tiny U-Net with one value changed, as a part's folder.
fn unet_with(dir: &TempDir, value: f32) -> String {
    let base = fixture("diffusers_dir/unet");
    let unet = component(&base, Component::Unet).unwrap();
    let tensors = unet.names().map(|name| {
        let mut values = unet.f32(name).unwrap();
        if name == WEIGHT {
            values[3] = value;
        }
        TensorOut::f32(name, DType::F32, unet.shape(name).unwrap(), values)
    });
    let folder = dir.path().join("large");
    fs::create_dir_all(&folder).unwrap();
    write_safetensors(folder.join("diffusion_pytorch_model.safetensors"), tensors, &BTreeMap::new()).unwrap();
    fs::copy(format!("{base}/config.json"), folder.join("config.json")).unwrap();
    folder.display().to_string()
}

#[test]
fn no_infinity_is_written() {
    let dir = dir();
    let large = unet_with(&dir, -7e4);
    for more in [&["--dtype", "f16"][..], &["--dtype", "f16", "--format", "model-only"]] {
        refused(
            &dir,
            &[&["convert", &large, "-o", "half"][..], more].concat(),
            "P0403",
            "1 value beyond the range of f16",
        );
    }
    // In other types it fits, and what is infinite already is not for this to judge.
    pipe(&dir, &["convert", &large, "--dtype", "bf16", "-o", "brain"]).expect(0);
    unet_with(&dir, f32::INFINITY);
    pipe(&dir, &["convert", &large, "--dtype", "f16", "-o", "still"]).expect(0);
    let base = fixture("diffusers_dir/unet");
    file(
        &dir,
        "strong.safetensors",
        &[
            (&format!("{KOHYA}.lora_down.weight"), &[1, 10], &|_| 1e3),
            (&format!("{KOHYA}.lora_up.weight"), &[10, 1], &|_| 1e3),
        ],
    );
    file(
        &dir,
        "beyond.safetensors",
        &[
            (&format!("{KOHYA}.lora_down.weight"), &[1, 10], &|_| 1e30),
            (&format!("{KOHYA}.lora_up.weight"), &[10, 1], &|_| 1e30),
        ],
    );
    let line = ["merge", "--base", &base, "--lora", "strong.safetensors", "-o", "m"];
    refused(&dir, &[&line[..], &["--dtype", "f16"]].concat(), "P0403", "100 values beyond the range of f16");
    refused(&dir, &["merge", "--base", &base, "--lora", "beyond.safetensors", "-o", "m"], "P0403", "range of f32");
    pipe(&dir, &line).expect(0);
    let half = dir.path().join("h");
    pipe(&dir, &["convert", &base, "--dtype", "f16", "-o", "h"]).expect(0);
    let half = half.display().to_string();
    refused(&dir, &["merge", "--base", &half, "--lora", "strong.safetensors", "-o", "n"], "P0403", "range of f16");
}

/// Two layers of one weight, in two spellings: both count, as they do for `merge`.
#[test]
fn layers_of_one_weight_are_added() {
    let (dir, unet) = (dir(), fixture("diffusers_dir"));
    file(
        &dir,
        "both.safetensors",
        &[
            (&format!("{KOHYA}.lora_down.weight"), &[2, 10], &wave),
            (&format!("{KOHYA}.lora_up.weight"), &[10, 2], &|i| wave(i + 5)),
            (&format!("{KOHYA}.alpha"), &[], &|_| 1.0),
            (&format!("{PEFT}.lora_A.weight"), &[1, 10], &|i| wave(i + 50)),
            (&format!("{PEFT}.lora_B.weight"), &[10, 1], &|i| wave(i + 70)),
        ],
    );
    for (format, name) in [("kohya", "k.safetensors"), ("peft", "p.safetensors")] {
        let ran =
            pipe(&dir, &["convert", "both.safetensors", "--format", format, "--for", &unet, "-o", name]).expect(0);
        assert!(ran.err.contains("1 layer"), "{}", ran.err);
    }
    for name in ["both.safetensors", "k.safetensors", "p.safetensors"] {
        let output = format!("m-{name}").replace(".safetensors", "");
        pipe(&dir, &["merge", "--base", &format!("{unet}/unet"), "--lora", name, "-o", &output]).expect(0);
    }
    let weight = |folder: &str| component(dir.path().join(folder), Component::Unet).unwrap().f32(WEIGHT).unwrap();
    let base = component(format!("{unet}/unet"), Component::Unet).unwrap().f32(WEIGHT).unwrap();
    let change = |folder: &str| weight(folder).iter().zip(&base).map(|(a, b)| a - b).collect::<Vec<f32>>();
    let whole = change("m-both");
    let one = delta(&open(dir.path().join("both.safetensors")), KOHYA);
    assert!(distance(&whole, &one) > 0.1, "both layers are in the sum");
    assert!(distance(&change("m-k"), &whole) < 1e-5);
    assert!(distance(&change("m-p"), &whole) < 1e-5);
    assert_eq!(open(dir.path().join("k.safetensors")).info(&format!("{KOHYA}.lora_up.weight")).unwrap().shape, [10, 3]);
}

/// Rows of a joined weight beside a layer for all of it, and rows that are there twice.
#[test]
fn parts_beside_a_whole_are_added() {
    let (dir, model) = (dir(), fixture("flux/original.safetensors"));
    let base = component(&model, Component::Flux).unwrap();
    let path = "double_blocks.0.img_attn.qkv";
    let shape = base.shape(&format!("{path}.weight")).unwrap();
    let (rows, width) = (shape[0] / 3, shape[1]);
    let (whole, key) = ("lora_unet_double_blocks_0_img_attn_qkv", "transformer.transformer_blocks.0.attn.to_k");
    let plain = "base_model.model.transformer_blocks.0.attn.to_k";
    let (k_down, k_up) = (vec![1, width], vec![rows, 1]);
    file(
        &dir,
        "mixed.safetensors",
        &[
            (&format!("{whole}.lora_down.weight"), &[2, width], &wave),
            (&format!("{whole}.lora_up.weight"), &[3 * rows, 2], &|i| wave(i + 3)),
            (&format!("{key}.lora_A.weight"), &k_down, &|i| wave(i + 11)),
            (&format!("{key}.lora_B.weight"), &k_up, &|i| wave(i + 13)),
        ],
    );
    file(
        &dir,
        "twice.safetensors",
        &[
            (&format!("{key}.lora_A.weight"), &k_down, &|i| wave(i + 11)),
            (&format!("{key}.lora_B.weight"), &k_up, &|i| wave(i + 13)),
            (&format!("{plain}.lora_A.weight"), &k_down, &|i| wave(i + 17)),
            (&format!("{plain}.lora_B.weight"), &k_up, &|i| wave(i + 19)),
        ],
    );
    let merged = |lora: &str| {
        let output = format!("m-{lora}.safetensors");
        let lora = format!("{lora}.safetensors");
        pipe(&dir, &["merge", "--base", &model, "--lora", &lora, "-o", &output]).expect(0);
        component(dir.path().join(&output), Component::Flux).unwrap().f32(&format!("{path}.weight")).unwrap()
    };
    for name in ["mixed", "twice"] {
        let wanted = merged(name);
        for format in ["kohya", "peft"] {
            let (from, to) = (format!("{name}.safetensors"), format!("{name}-{format}"));
            let output = format!("{to}.safetensors");
            pipe(&dir, &["convert", &from, "--format", format, "--for", &model, "-o", &output]).expect(0);
            assert!(distance(&merged(&to), &wanted) < 1e-6, "{name} as {format}");
        }
    }
    let names = layers(&open(dir.path().join("mixed-kohya.safetensors")));
    assert_eq!(names.into_iter().collect::<Vec<_>>(), [whole]);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let (dir, unet) = (dir(), fixture("diffusers_dir/unet"));
    let norm = "lora_unet_mid_block_resnets_0_norm1";
    let size = component(&unet, Component::Unet).unwrap().shape("mid_block.resnets.0.norm1.weight").unwrap()[0];
    for (name, values) in [("short", size - 1), ("long", size + 1), ("fits", size)] {
        file(
            &dir,
            &format!("{name}.safetensors"),
            &[(&format!("{norm}.w_norm"), &[size], &wave), (&format!("{norm}.b_norm"), &[values], &wave)],
        );
        let lora = format!("{name}.safetensors");
        let line = ["merge", "--base", &unet, "--lora", &lora, "-o", name];
        match values == size {
            true => drop(pipe(&dir, &line).expect(0)),
            false => refused(&dir, &line, "P0305", "difference of a bias"),
        }
    }
    file(
        &dir,
        "dora.safetensors",
        &[
            (&format!("{KOHYA}.lora_down.weight"), &[1, 10], &wave),
            (&format!("{KOHYA}.lora_up.weight"), &[10, 1], &wave),
            (&format!("{KOHYA}.dora_scale"), &[7, 1], &wave),
        ],
    );
    refused(&dir, &["resize", "dora.safetensors", "--rank", "1", "-o", "r"], "P0305", "7 magnitudes");
}

/// Programs choose by the ending how they read a file.
#[test]
fn endings_that_lie_are_refused() {
    let (dir, first, unet) = (dir(), tools("first.safetensors"), fixture("diffusers_dir/unet"));
    let single = fixture("single_file/model.safetensors");
    let lines: [&[&str]; 7] = [
        &["merge", "--lora", &first, "-o", "a.ckpt"],
        &["merge", "--base", &single, "--lora", &first, "-o", "a.ckpt"],
        &["resize", &first, "--rank", "2", "-o", "a.pt"],
        &["convert", &first, "-o", "a.pth"],
        &["convert", &single, "--format", "single-file", "-o", "a.ckpt"],
        &["convert", &single, "--format", "ckpt", "-o", "a.safetensors"],
        &["extract", &unet, "--base", &unet, "--rank", "2", "-o", "a.ckpt"],
    ];
    for line in lines {
        refused(&dir, line, "P0403", "which its ending");
    }
    pipe(&dir, &["convert", &single, "-o", "b.ckpt"]).expect(0);
}

#[test]
fn ranks_end_at_the_smaller_side_and_can_learn() {
    let dir = dir();
    let (a, b) = ("lora_unet_small", "lora_unet_wide");
    file(
        &dir,
        "a.safetensors",
        &[
            (&format!("{a}.lora_down.weight"), &[2, 8], &wave),
            (&format!("{a}.lora_up.weight"), &[6, 2], &wave),
            (&format!("{a}.alpha"), &[], &|_| 1.0),
            (&format!("{b}.lora_down.weight"), &[2, 30], &wave),
            (&format!("{b}.lora_up.weight"), &[20, 2], &wave),
            (&format!("{b}.alpha"), &[], &|_| 1.0),
        ],
    );
    let whole = open(dir.path().join("a.safetensors"));
    let lines: [&[&str]; 2] = [
        &["resize", "a.safetensors", "--rank", "16", "-o", "r.safetensors"],
        &["merge", "-l", "a.safetensors", "--rank", "16", "-o", "m.safetensors"],
    ];
    for line in lines {
        let ran = pipe(&dir, line).expect(0);
        assert!(ran.err.contains("1 layer got a lower rank than asked for"), "{}", ran.err);
        let made = open(dir.path().join(line[line.len() - 1]));
        for (layer, rank) in [(a, 6), (b, 16)] {
            let info = |file: &WeightFile| file.info(&format!("{layer}.lora_down.weight")).unwrap().shape.clone();
            assert_eq!(info(&made)[0], rank);
            assert!(distance(&delta(&made, layer), &delta(&whole, layer)) < 1e-5, "{layer}");
            // A rank of two factors of zeros has no gradient, ever.
            let down = made.f32(&format!("{layer}.lora_down.weight")).unwrap();
            let width = info(&made)[1];
            assert!(down.chunks(width).all(|row| row.iter().map(|x| x * x).sum::<f32>() > 0.9), "{layer}");
        }
        assert_eq!(made.header().metadata["ss_network_dim"], "Dynamic");
    }
}

#[test]
fn small_things_are_told_right() {
    let (dir, unet) = (dir(), fixture("diffusers_dir/unet"));
    file(
        &dir,
        "odd.safetensors",
        &[(&format!("{KOHYA}.lora_down.weight"), &[1, 10], &wave), (&format!("{KOHYA}.alpha"), &[], &wave)],
    );
    let line = ["merge", "--base", &unet, "--lora", "odd.safetensors", "-o", "out"];
    refused(&dir, &line, "P0305", "it has `lora_down.weight`, `alpha`");
    file(
        &dir,
        "foreign.safetensors",
        &[("lora_unet_x.lora_down.weight", &[1, 10], &wave), ("lora_unet_x.lora_up.weight", &[10, 1], &wave)],
    );
    let line = ["merge", "--base", &unet, "--lora", "foreign.safetensors", "-o", "out"];
    refused(&dir, &line, "P0320", "1 name of `foreign.safetensors` matches nothing in the base");
    let whole = fs::read(tools("first.safetensors")).unwrap();
    fs::write(dir.path().join("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    refused(&dir, &["convert", "cut.safetensors", "--format", "peft", "-o", "out"], "P0303", "cut.safetensors");
    // The limit is for the difference of two models.
    for limit in ["3", "nan"] {
        let line = ["extract", "cut.safetensors", "--rank", "1", "--min-diff", limit, "-o", "out"];
        assert!(pipe(&dir, &line).expect(2).err.contains("--base"));
    }
    // What is kept is told of the factors as they are written.
    let changed = unet_with(&dir, 0.9);
    let kept = |more: &[&str]| {
        let line = ["extract", &changed, "--base", &unet, "--rank", "1", "--dtype", "f32", "--force", "-o", "e"];
        let ran = pipe(&dir, &[&line[..], more].concat()).expect(0);
        let line = ran.out.lines().last().unwrap().to_owned();
        line.split(": ").nth(1).unwrap().split('%').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(kept(&[]), 100.0);
    let cut = kept(&["--clamp-quantile", "0.9"]);
    assert!(cut < 50.0, "{cut}");
    let values = bytes(dir.path().join("e"));
    assert_eq!(values.len(), 3);
}
