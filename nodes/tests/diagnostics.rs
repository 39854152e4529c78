//! Diagnostics of the real node types as Markdown: each file of `tests/diagnostics/nodes` holds a document and the
//! report expected of it. `UPDATE=1 cargo test -p pipe-nodes --test diagnostics` rewrites the reports.
//!
//! The documents name files of a folder that [`files`] makes: good and bad weights, pictures and captions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pipe_core::check::check_text;
use pipe_core::diagnostic::{Format, render};
use pipe_core::document::Syntax;
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn root() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..")
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy_tree(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

/// Writes the tensors of a file again, as `change` has them: another shape, or nothing.
fn rewrite(from: &Path, to: &Path, change: impl Fn(&str, Vec<usize>) -> Option<Vec<usize>>, more: &[(&str, &[usize])]) {
    let file = WeightFile::open(from).unwrap();
    let zeros = |shape: &[usize]| vec![0.0; shape.iter().product()];
    let kept = file.names().filter_map(|name| {
        let shape = change(name, file.info(name).unwrap().shape.clone())?;
        let values = zeros(&shape);
        Some(TensorOut::f32(name, DType::F32, shape, values))
    });
    let more = more.iter().map(|(name, shape)| TensorOut::f32(*name, DType::F32, *shape, zeros(shape)));
    write_safetensors(to, kept.chain(more), &BTreeMap::new()).unwrap();
}

/// Writes the tensors of a file again with other sizes: each that is listed becomes its partner.
fn resize(from: &Path, to: &Path, sizes: &[(usize, usize)], lost: &str) {
    let other = |n: usize| sizes.iter().find(|(old, _)| *old == n).map_or(n, |(_, new)| *new);
    let keep = |name: &str| lost.is_empty() || !name.contains(lost);
    rewrite(from, to, |name, shape| keep(name).then(|| shape.into_iter().map(other).collect()), &[]);
}

/// Tensors of zeros with these shapes, timesteps among them.
fn rows(path: &Path, shapes: &[(&str, &[usize])]) {
    let tensor = |(name, shape): &(&str, &[usize])| {
        TensorOut::f32(*name, DType::F32, *shape, vec![0.0; shape.iter().product::<usize>()])
    };
    write_safetensors(path, shapes.iter().map(tensor), &BTreeMap::new()).unwrap();
}

/// A replay file of two rows.
fn replay(path: &Path, timesteps: [f32; 2], more: &[&str]) {
    let tensor = |name: &str, shape: &[usize]| {
        TensorOut::f32(name, DType::F32, shape, vec![0.0; shape.iter().product::<usize>()])
    };
    let mut tensors =
        vec![tensor("latents", &[2, 4, 8, 8]), tensor("noise", &[2, 4, 8, 8]), tensor("context", &[2, 77, 24])];
    tensors.push(TensorOut::f32("timesteps", DType::F32, [2], timesteps.to_vec()));
    tensors.extend(more.iter().map(|name| tensor(name, &[2])));
    write_safetensors(path, tensors, &BTreeMap::new()).unwrap();
}

/// A tensor of 8-bit floats, all zero.
fn fp8(name: &str, shape: &[usize]) -> TensorOut<'static> {
    TensorOut::bytes(name, DType::F8E4M3, shape, vec![0; shape.iter().product::<usize>()])
}

/// The other families: small models, and text encoders with tables of the published number of rows.
fn families(dir: &Path) {
    let at = |path: &str| dir.join(path);
    let fixture = |path: &str| root().join("tests/fixtures").join(path);
    for folder in ["sdxl_unet", "sd3", "flux", "flux_schnell"] {
        copy_tree(&fixture(folder), &at(folder));
        fs::remove_file(at(folder).join("io.safetensors")).unwrap();
        fs::remove_file(at(folder).join("original.safetensors")).ok();
    }
    for folder in ["lumina2", "lumina_next"] {
        fs::create_dir(at(folder)).unwrap();
        for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
            fs::copy(fixture(folder).join(file), at(folder).join(file)).unwrap();
        }
    }
    fs::create_dir(at("sd2")).unwrap();
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(fixture("lora_trajectory_sd2").join(file), at("sd2").join(file)).unwrap();
    }
    let texts = |file: &str| fixture(&format!("lora_trajectory_text_{file}.safetensors"));
    resize(&texts("sdxl/clip_l"), &at("clip_l.safetensors"), &[(64, 49408)], "");
    resize(&texts("sdxl/clip_g"), &at("clip_g.safetensors"), &[(64, 49408)], "");
    resize(&texts("sd3/clip_g"), &at("sd3_clip_g.safetensors"), &[(64, 49408)], "");
    resize(&texts("sd3/t5"), &at("t5.safetensors"), &[(64, 32128)], "");
    resize(&fixture("clip_h/model.safetensors"), &at("clip_h.safetensors"), &[(66, 49408), (16, 32)], "");
    fs::create_dir(at("lonely")).unwrap();
    for to in ["gemma.safetensors", "lonely/gemma.safetensors"] {
        resize(&fixture("gemma2/model.safetensors"), &at(to), &[(40, 1100), (24, 12)], "");
    }
    resize(&fixture("gemma1/model.safetensors"), &at("gemma1.safetensors"), &[(40, 1100), (24, 12)], "");
    fs::copy(fixture("gemma_small/tokenizer.json"), at("tokenizer.json")).unwrap();
    fs::copy(at("sd1/vae/diffusion_pytorch_model.safetensors"), at("vae_alone.safetensors")).unwrap();

    // What is wrong with a model's configuration or tensors.
    copy_tree(&at("flux"), &at("flux_axes"));
    let config = fs::read_to_string(at("flux_axes/config.json")).unwrap();
    let start = config.find("\"axes_dims_rope\"").unwrap();
    let end = start + config[start..].find(']').unwrap() + 1;
    fs::write(
        at("flux_axes/config.json"),
        format!("{}\"axes_dims_rope\": [2, \"four\"]{}", &config[..start], &config[end..]),
    )
    .unwrap();
    for folder in ["sd1_words", "emptied", "strange"] {
        copy_tree(&at("sd1/unet"), &at(folder).join("unet"));
    }
    let config = fs::read_to_string(at("sd1_words/unet/config.json")).unwrap();
    let words = config.replace("\"norm_num_groups\": 2", "\"norm_num_groups\": \"two\"");
    assert_ne!(words, config);
    fs::write(at("sd1_words/unet/config.json"), words).unwrap();
    let unet = at("sd1").join(UNET);
    let emptied = |name: &str, shape: Vec<usize>| Some(if name == "conv_out.bias" { vec![0] } else { shape });
    rewrite(&unet, &at("emptied").join(UNET), emptied, &[]);
    rewrite(&unet, &at("strange").join(UNET), |_, shape| Some(shape), &[("\u{1b}[2J\u{7}\u{202e}knots", &[1])]);
    let flux = WeightFile::open(fixture("flux/original.safetensors")).unwrap();
    let scaled = flux.names().map(|name| {
        let shape = flux.info(name).unwrap().shape.clone();
        let matrix = name.ends_with("qkv.weight");
        if matrix {
            fp8(name, &shape)
        } else {
            TensorOut::f32(name, DType::F32, shape.clone(), vec![0.0; shape.iter().product()])
        }
    });
    let marked = scaled.chain([fp8("scaled_fp8", &[2])]);
    write_safetensors(at("flux_scaled.safetensors"), marked, &BTreeMap::new()).unwrap();
    fs::copy(fixture("lora_trajectory_text_sd1/init.safetensors"), at("lora-text.safetensors")).unwrap();
}

/// Files that lack tensors, have too many, or hold them in a wrong type.
fn broken(dir: &Path) {
    let at = |path: &str| dir.join(path);
    let fixture = |path: &str| root().join("tests/fixtures").join(path);
    let without = |from: &Path, to: &str, lost: &str| {
        rewrite(from, &at(to), |name, shape| (!name.starts_with(lost)).then_some(shape), &[]);
    };
    let whole = fixture("single_file/model.safetensors");
    fs::copy(&whole, at("whole.safetensors")).unwrap();
    // It has the schedule's buffers and the places' numbers already.
    let usual: [(&str, &[usize]); 3] =
        [("model_ema.diffusion_modelinput_blocks00weight", &[1]), ("v_pred", &[0]), ("something.else", &[2])];
    rewrite(&whole, &at("strays.safetensors"), |_, shape| Some(shape), &usual);
    let vae = fixture("diffusers_dir/vae/diffusion_pytorch_model.safetensors");
    let beside: [(&str, &[usize]); 2] = [("loss.logvar", &[1]), ("knots", &[1])];
    rewrite(&vae, &at("vae_strays.safetensors"), |_, shape| Some(shape), &beside);
    without(&whole, "vae_lacking.safetensors", "first_stage_model.encoder.mid.block_1.");
    without(
        &at("clip_l.safetensors"),
        "clip_lacking.safetensors",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
    );
    let flux = fixture("flux/original.safetensors");
    without(&flux, "flux_lacking.safetensors", "single_blocks.0.");
    let file = WeightFile::open(&flux).unwrap();
    let tensors = file.names().map(|name| {
        let shape = file.info(name).unwrap().shape.clone();
        let dtype = if name == "img_in.weight" { DType::I32 } else { DType::F32 };
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        TensorOut::bytes(name, dtype, shape, bytes)
    });
    write_safetensors(at("flux_integers.safetensors"), tensors, &BTreeMap::new()).unwrap();
    fs::create_dir(at("shards")).unwrap();
    let flux = fixture("flux/diffusion_pytorch_model.safetensors");
    for (number, lost) in [(1, "single_transformer_blocks.0."), (2, "single_transformer_blocks.1.")] {
        let name = format!("shards/diffusion_pytorch_model-0000{number}-of-00003.safetensors");
        without(&flux, &name, lost);
    }
    fs::create_dir(at("my models")).unwrap();
    fs::copy(at("lora4.safetensors"), at("my models/it's one.safetensors")).unwrap();
    let gemma = fixture("gemma2/model.safetensors");
    resize(&gemma, &at("gemma_large.safetensors"), &[(40, 4000), (24, 12)], "");
    fs::copy(fixture("vae16/diffusion_pytorch_model.safetensors"), at("vae16_alone.safetensors")).unwrap();
    fs::write(at("prompts-sd3.txt"), "a face\na cat --w 256 --h 64\n").unwrap();
}

/// Replays of all kinds.
fn replays(dir: &Path) {
    let at = |name: &str| dir.join(format!("replay-{name}.safetensors"));
    let (latents, times, text): ((&str, &[usize]), _, _) =
        (("latents", &[2, 4, 8, 8]), ("timesteps", [2].as_slice()), ("context", [2, 77, 24].as_slice()));
    let noise = ("noise", latents.1);
    rows(&at("textless"), &[latents, noise, times]);
    rows(&at("flat"), &[("latents", &[2, 256]), ("noise", &[2, 256]), times, text]);
    rows(&at("noise"), &[latents, ("noise", &[2, 4, 8, 4]), times, text]);
    rows(&at("context"), &[latents, noise, times, ("context", &[77, 24])]);
    rows(&at("pooled"), &[latents, noise, times, text, ("pooled", &[3, 10])]);
    rows(&at("mask"), &[latents, noise, times, text, ("context_mask", &[2, 76])]);
    rows(&at("words"), &[latents, noise, times, ("captions", &[3, 8])]);
    rows(&at("sdxl-less"), &[latents, noise, times, ("context", &[2, 77, 12]), ("time_ids", &[2, 6])]);
    let flux: &[(&str, &[usize])] = &[("latents", &[2, 16, 8, 8]), ("noise", &[2, 16, 8, 8]), times];
    rows(&at("flux"), &[flux, &[("context", &[2, 9, 20]), ("pooled", &[2, 12]), ("sigmas", &[2])]].concat());
    for (name, more, byte) in [("captions", None, b'a'), ("both", Some(text), b'a'), ("bytes", None, 0xff)] {
        let zeros = [latents, noise, times]
            .into_iter()
            .chain(more)
            .map(|(name, shape)| TensorOut::f32(name, DType::F32, shape, vec![0.0; shape.iter().product::<usize>()]));
        let captions = TensorOut::bytes("captions", DType::U8, [2, 3], vec![byte; 6]);
        write_safetensors(at(name), zeros.chain([captions]), &BTreeMap::new()).unwrap();
    }
}

/// Everything that the documents name.
fn files(dir: &Path) {
    let at = |path: &str| dir.join(path);
    let fixture = |path: &str| root().join("tests/fixtures").join(path);
    // Pictures: two good ones in each folder, and what is wrong with it.
    let concept = root().join("pipelines/quickstart/images/concept");
    let mut pngs: Vec<PathBuf> = fs::read_dir(concept).unwrap().map(|entry| entry.unwrap().path()).collect();
    pngs.retain(|path| path.extension().is_some_and(|extension| extension == "png"));
    pngs.sort();
    for folder in ["photos", "damaged", "encoding", "captions", "blank", "links", "emphasis", "empty"] {
        fs::create_dir(at(folder)).unwrap();
        for (name, png) in ["a", "b"].iter().zip(&pngs).filter(|_| folder != "empty") {
            fs::copy(png, at(folder).join(format!("{name}.png"))).unwrap();
            fs::write(at(folder).join(format!("{name}.txt")), "a face").unwrap();
        }
    }
    fs::write(at("damaged/a.png"), "this is no picture").unwrap();
    fs::write(at("encoding/b.txt"), b"caf\xe9").unwrap();
    for name in ["a", "b"] {
        fs::rename(at("captions").join(format!("{name}.txt")), at("captions").join(format!("{name}.caption"))).unwrap();
    }
    fs::write(at("blank/b.txt"), " \n").unwrap();
    fs::write(at("emphasis/b.txt"), "a (face:0) of a cat").unwrap();
    // Captions with tags, with lines and alternatives, and long ones.
    for (folder, captions) in [
        ("tags", ["\nsks,dog, red, wide", "sks,dog"]),
        ("lines", ["a (face:{0|1.2})\na sks dog", "a sks {cat|dog}"]),
        ("long", ["a face, seen from the front ", "a face"]),
    ] {
        fs::create_dir(at(folder)).unwrap();
        for ((name, png), caption) in ["a", "b"].iter().zip(&pngs).zip(captions) {
            fs::copy(png, at(folder).join(format!("{name}.png"))).unwrap();
            let times = if folder == "long" && *name == "a" { 20 } else { 1 };
            fs::write(at(folder).join(format!("{name}.txt")), caption.repeat(times)).unwrap();
        }
    }
    // Metadata files.
    for (name, text) in [
        ("meta.json", r#"{ "a": { "caption": "a face", "tags": "red" }, "b.png": { "tags": "blue" } }"#),
        ("meta-keys.json", r#"{ "a": { "caption": "x" }, "a.png": { "caption": "x" }, "c": { "caption": "x" } }"#),
        ("meta-number.json", "{\n  \"a\": { \"caption\": \"x\" },\n  \"b\": { \"caption\": 7 }\n}"),
        ("meta-lines.jsonl", "{ \"image_path\": \"a.png\", \"caption\": \"x\" }\n{ \"caption\": \"x\" }\n"),
        ("meta-empty.json", r#"{ "a": {}, "b": { "caption": " " } }"#),
        ("meta-some.json", r#"{ "a": { "caption": "x" } }"#),
    ] {
        fs::write(at(name), text).unwrap();
    }
    // Masks: good ones, one too few and one too many, one of another shape.
    for (folder, names) in [("masks", ["a", "b"]), ("masks-others", ["a", "c"]), ("masks-wide", ["a", "b"])] {
        fs::create_dir(at(folder)).unwrap();
        for name in names {
            let (width, height) = if folder == "masks-wide" && name == "b" { (64, 32) } else { (32, 32) };
            let picture = pipe_data::images::Rgb8::new(width, height);
            pipe_data::images::png::write(at(folder).join(format!("{name}.png")), &picture, &[]).unwrap();
        }
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("/nowhere/at/all.png", at("links/c.png")).unwrap();

    // A small model, and its U-Net in every state of disrepair.
    copy_tree(&fixture("diffusers_dir"), &at("sd1"));
    copy_tree(&fixture("vae16"), &at("vae16"));
    for folder in ["lacking", "shaped", "unread"] {
        copy_tree(&at("sd1/unet"), &at(folder).join("unet"));
    }
    let unet = at("sd1").join(UNET);
    let lost = |name: &str| name.starts_with("mid_block.resnets.0.conv");
    rewrite(&unet, &at("lacking").join(UNET), |name, shape| (!lost(name)).then_some(shape), &[]);
    let longer = |name: &str, shape: Vec<usize>| Some(if name == "conv_out.bias" { vec![shape[0] + 1] } else { shape });
    rewrite(&unet, &at("shaped").join(UNET), longer, &[]);
    fs::write(at("unread/unet/config.json"), "{ \"attention_head_dim\": 8,").unwrap();
    rewrite(&unet, &at("sdxl.safetensors"), |_, shape| Some(shape), &[("add_embedding.linear_1.weight", &[8, 8])]);
    let bytes = fs::read(&unet).unwrap();
    fs::write(at("cut.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
    fs::write(at("page.safetensors"), "<!DOCTYPE html><html><body>Not Found</body></html>").unwrap();
    fs::write(at("old.ckpt"), b"PK\x03\x04 and so on, as torch.save writes it").unwrap();
    let lora = at("lora4.safetensors");
    fs::copy(fixture("lora_trajectory/init.safetensors"), &lora).unwrap();
    let layer = "lora_te_text_model_encoder_layers_0_self_attn_q_proj";
    let (down, up) = (format!("{layer}.lora_down.weight"), format!("{layer}.lora_up.weight"));
    let text: [(&str, &[usize]); 2] = [(&down, &[4, 24]), (&up, &[24, 4])];
    rewrite(&lora, &at("lora4-text.safetensors"), |_, shape| Some(shape), &text);
    rewrite(&lora, &at("lora-text-only.safetensors"), |_, _| None, &text);

    copy_tree(&fixture("flux"), &at("flux"));
    fs::copy(fixture("lora_trajectory_flux/replay.safetensors"), at("flux-rows.safetensors")).unwrap();
    // Prompts files.
    fs::write(
        at("prompts.txt"),
        "# faces\na face --n blurry --d 3 --w 128 --h 64 --s 4 --l 5 --ss euler_a\nan apple\n",
    )
    .unwrap();
    fs::write(at("prompts-bad.txt"), "a face --w wide\nan apple --x 3\n\na pear --s 0 --d 1\n").unwrap();
    fs::write(at("prompts-bad.toml"), "[prompt]\nwidth = 64\n\n[[prompt.subset]]\nprompt = 'a face'\nheigth = 64\n")
        .unwrap();
    let others = "[\n  \"a face --w 60\",\n  { \"prompt\": \"an apple\", \"guidance_scale\": 3.5, \"renorm_cfg\": 1 },\n  \"a pear --l 1 --n blurry\"\n]";
    fs::write(at("prompts-other.json"), others).unwrap();

    replay(&at("replay.safetensors"), [0.0, 999.0], &[]);
    replay(&at("replay-fraction.safetensors"), [3.0, 500.5], &[]);
    replay(&at("replay-late.safetensors"), [3.0, 1000.0], &[]);
    replay(&at("replay-more.safetensors"), [3.0, 4.0], &["latent", "time_ids"]);
    rewrite(&at("replay.safetensors"), &at("replay-less.safetensors"), |n, s| (n != "noise").then_some(s), &[]);
    families(dir);
    broken(dir);
    replays(dir);
}

/// The content of the first fenced block of a language, and where it stands.
fn block<'t>(text: &'t str, language: &str) -> Option<(std::ops::Range<usize>, &'t str)> {
    let open = format!("```{language}\n");
    let start = text.find(&format!("\n{open}"))? + 1 + open.len();
    let end = start + text[start..].find("```\n").filter(|end| *end == 0 || text[start..][..*end].ends_with('\n'))?;
    Some((start..end, &text[start..end]))
}

fn cases() -> Vec<PathBuf> {
    let folder = root().join("tests/diagnostics/nodes");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths
}

#[test]
fn every_case_reports_as_written() {
    let update = std::env::var_os("UPDATE").is_some();
    let (registry, dir) = (pipe_nodes::registry(), tempfile::tempdir().unwrap());
    files(dir.path());
    let here = format!("{}/", dir.path().display());
    let (mut wrong, mut codes) = (Vec::new(), std::collections::BTreeSet::new());
    for path in cases() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{}: a title is needed", path.display());
        let (_, source) = block(&text, "yaml").unwrap_or_else(|| panic!("{}: no block of yaml", path.display()));
        let checked = check_text(&registry, source, &dir.path().join("case.yaml"), Syntax::Yaml, &[]);
        codes.extend(checked.diagnostics.iter().map(|fault| fault.code));
        let report = render(&checked.diagnostics, checked.files(), Format::Human, false).replace(&here, "");
        let report = if report.is_empty() { "no problems\n".to_owned() } else { report };
        let (range, expected) = block(&text, "text").unwrap_or_else(|| panic!("{}: no block of text", path.display()));
        if report != expected {
            if update {
                let mut text = text.clone();
                text.replace_range(range, &report);
                fs::write(&path, text).unwrap();
            } else {
                wrong.push(format!("{}\n--- expected\n{expected}--- found\n{report}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ (UPDATE=1 rewrites them)\n\n{}", wrong.len(), wrong.join("\n"));
    let wanted = [
        "P0207", "P0213", "P0301", "P0302", "P0303", "P0304", "P0305", "P0306", "P0307", "P0308", "P0309", "P0311",
        "P0312", "P0313", "P0401", "P0402", "P0403", "P0904",
    ];
    let missing: Vec<&str> = wanted.into_iter().filter(|code| !codes.contains(code)).collect();
    assert!(missing.is_empty(), "no case shows {missing:?}");
    assert!(cases().len() >= 170, "{} cases", cases().len());
}
