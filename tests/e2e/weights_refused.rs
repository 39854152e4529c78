//! What the commands that write weight files refuse, and that nothing is harmed by it.

use std::collections::BTreeMap;
use std::fs;

use pipe_data::weights::{DType, TensorOut, write_safetensors};

use crate::weights_tools::{dir, fixture, pipe, tools};

#[test]
fn what_cannot_be_done_is_told_with_code_place_and_help() {
    let (dir, first, unet) = (dir(), tools("first.safetensors"), fixture("diffusers_dir/unet"));
    let flux = dir.path().join("flux.safetensors");
    let tensors = [("down", [2, 8]), ("up", [24, 2])].map(|(factor, shape)| {
        let name = format!("lora_unet_double_blocks_0_img_attn_qkv.lora_{factor}.weight");
        TensorOut::f32(name, DType::F32, shape, vec![1.0; shape.iter().product()])
    });
    write_safetensors(&flux, tensors, &BTreeMap::new()).unwrap();
    fs::write(dir.path().join("text.safetensors"), "just a text that goes on for a while").unwrap();
    fs::write(dir.path().join("there.safetensors"), "mine").unwrap();
    let wrong_size = dir.path().join("size.safetensors");
    let tensors = [("down", [2, 999]), ("up", [8, 2])].map(|(factor, shape)| {
        let name = format!("lora_unet_mid_block_attentions_0_proj_in.lora_{factor}.weight");
        TensorOut::f32(name, DType::F32, shape, vec![1.0; shape.iter().product()])
    });
    write_safetensors(&wrong_size, tensors, &BTreeMap::new()).unwrap();
    let nan = dir.path().join("nan.safetensors");
    let tensors = [("down", [1, 10]), ("up", [10, 1])].map(|(factor, shape)| {
        let name = format!("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_{factor}.weight");
        TensorOut::f32(name, DType::F32, shape, vec![f32::NAN; 10])
    });
    write_safetensors(&nan, tensors, &BTreeMap::new()).unwrap();
    let both = format!("{}/..", unet);
    let cases: [(&[&str], i32, &str, &str); 14] = [
        (
            &["merge", "--base", &unet, "--lora", "flux.safetensors", "-o", "out"],
            1,
            "P0320",
            "lora_unet_double_blocks_0_img_attn_qkv",
        ),
        (&["merge", "--base", &unet, "--lora", "text.safetensors", "-o", "out"], 1, "P0302", "text file"),
        (&["merge", "--base", &unet, "--lora", "none.safetensors", "-o", "out"], 1, "P0301", "does not exist"),
        (&["merge", "--base", &unet, "--lora", "size.safetensors", "-o", "out"], 1, "P0305", "do not fit"),
        (&["merge", "--base", &unet, "--lora", "nan.safetensors", "-o", "out"], 1, "P0303", "not finite"),
        (&["merge", "--base", &first, "--lora", &first, "-o", "out"], 1, "P0302", "is an adapter"),
        (&["merge", "--base", &unet, "--lora", &unet, "-o", "out"], 1, "P0302", "is a folder"),
        (&["merge", "--lora", &first, "-o", "there.safetensors"], 1, "P0321", "exists already"),
        (&["resize", &first, "--rank", "2", "--force", "-o", &first], 1, "P0321", "which is read"),
        (&["convert", &both, "--dtype", "f16", "--force", "-o", &unet], 1, "P0321", "would replace"),
        (&["resize", "nan.safetensors", "--rank", "1", "-o", "out"], 1, "P0303", "not finite"),
        (
            &["resize", &tools("loha.safetensors"), "--rank", "1", "-o", "out"],
            1,
            "P0302",
            "no pair of low-rank factors",
        ),
        (&["convert", &first, "--format", "peft", "-o", "out"], 1, "P0320", "--for"),
        (&["extract", &unet, "--base", &fixture("flux"), "--rank", "2", "-o", "out"], 1, "P0", ""),
    ];
    for (line, exit, code, word) in cases {
        let ran = pipe(&dir, line).expect(exit);
        assert!(ran.err.starts_with(&format!("error[{code}")) && ran.err.contains(word), "{line:?}: {}", ran.err);
        assert!(ran.err.contains("help: pipe explain P0"), "{line:?}: {}", ran.err);
        assert!(!dir.path().join("out").exists(), "{line:?} leaves nothing behind");
    }
    assert_eq!(fs::read_to_string(dir.path().join("there.safetensors")).unwrap(), "mine");
    let usage: [&[&str]; 6] = [
        &["merge", "--lora", &first, "--like", &unet, "-o", "out"],
        &["merge", "--base", &unet, "--lora", &first, "--rank", "2", "-o", "out"],
        &["resize", &first, "-o", "out"],
        &["resize", &first, "--sv-ratio", "2", "--sv-fro", "0.9", "-o", "out"],
        &["convert", &first, "--format", "diffusers", "-o", "out"],
        &["convert", &unet, "--format", "kohya", "-o", "out"],
    ];
    for line in usage {
        pipe(&dir, line).expect(2);
    }
    // With the flag, what fits is merged and the rest counted.
    let line =
        ["merge", "--base", &unet, "--lora", "flux.safetensors", "--lora", &first, "--skip-unknown", "-o", "out"];
    assert!(pipe(&dir, &line).expect(0).err.contains("1 name matched nothing"));
}

/// A full disk, played by a limit on the size of files: told, and nothing left half written.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_behind() {
    use crate::support::{Ran, command};

    let dir = dir();
    let single = fixture("single_file/model.safetensors");
    fs::write(dir.path().join("there.safetensors"), "mine").unwrap();
    for (format, output) in [("single-file", "there.safetensors"), ("diffusers", "folder"), ("ckpt", "c.ckpt")] {
        let pipe = command(dir.path());
        let mut sh = std::process::Command::new("sh");
        sh.current_dir(dir.path())
            .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""])
            .arg(pipe.get_program());
        sh.args(["convert", &single, "--format", format, "--output", output, "--force"]);
        if format == "diffusers" {
            sh.args(["--like", &fixture("diffusers_dir")]);
        }
        let ran = Ran::of(sh.output().expect("sh starts")).expect(1);
        assert!(ran.err.starts_with("error[P0903]"), "{}", ran.err);
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["there.safetensors"]);
    assert_eq!(fs::read_to_string(dir.path().join("there.safetensors")).unwrap(), "mine");
}
