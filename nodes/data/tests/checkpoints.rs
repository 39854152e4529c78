//! Components are found, named and shaped alike in every layout, and names map back exactly.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{fixture, zeros};
use indexmap::IndexMap;
use pipe_data::keymap::{UnetMap, VaeMap, clip, to_single_file, vae};
use pipe_data::lora_names::{TargetKind, discover, kohya_name};
use pipe_data::weights::shapes::{ClipSize, Shapes, UnetSize, VaeSize, clip_shapes, sd1_shapes, vae_shapes};
use pipe_data::weights::{Architecture, Component, FileError, Header, Layout, WeightSet, component, detect};

const PARTS: [Component; 3] = [Component::Unet, Component::Vae, Component::TextEncoder];

/// Internal names and shapes of a section of the key list.
fn listed(section: &str) -> Shapes {
    let text = fs::read_to_string(fixture("sd15_keys.txt")).unwrap();
    let of_section = text.lines().skip_while(|line| !line.starts_with(&format!("# {section} "))).skip(1);
    let mut shapes = Shapes::new();
    for line in of_section.take_while(|line| !line.starts_with('#')).filter(|line| !line.is_empty()) {
        let (name, shape) = line.split_once(' ').unwrap();
        let sizes = shape.trim_matches(['[', ']']).split(',').filter(|s| !s.is_empty());
        shapes.insert(name.to_owned(), sizes.map(|s| s.parse().unwrap()).collect());
    }
    assert!(!shapes.is_empty(), "no section {section}");
    shapes
}

fn sorted(shapes: &Shapes) -> Vec<(&String, &Vec<usize>)> {
    let mut all: Vec<_> = shapes.iter().collect();
    all.sort();
    all
}

#[test]
fn the_shapes_of_sd15_are_those_of_the_reference() {
    assert_eq!(sorted(&listed("unet")), sorted(&sd1_shapes(&UnetSize::sd15())));
    assert_eq!(sorted(&listed("vae")), sorted(&vae_shapes(&VaeSize::sd())));
    assert_eq!(sorted(&listed("text_encoder")), sorted(&clip_shapes(&ClipSize::clip_l())));
}

#[test]
fn the_layers_of_a_lora_are_those_of_the_reference() {
    let text = fs::read_to_string(fixture("sd15_lora_keys.txt")).unwrap();
    for (section, part, conv, count) in
        [("te", "text_encoder", true, 72), ("unet", "unet", false, 192), ("unet_conv", "unet", true, 278)]
    {
        let lines = text.lines().skip_while(|line| !line.starts_with(&format!("# {section} "))).skip(1);
        let reference: BTreeSet<&str> = lines.take_while(|line| !line.starts_with('#')).collect();
        let prefix = if section == "te" { "lora_te" } else { "lora_unet" };
        let found = discover(listed(part).iter().map(|(n, s)| (n.as_str(), s)), conv);
        let ours: BTreeSet<String> = found
            .iter()
            .map(|target| {
                let kind = match target.kind {
                    TargetKind::Linear => "linear".to_owned(),
                    TargetKind::Conv1x1 => "conv1x1".to_owned(),
                    TargetKind::Conv { k } => format!("conv{k}x{k}"),
                };
                format!("{} {kind} {} {}", kohya_name(prefix, &target.path), target.inputs, target.outputs)
            })
            .collect();
        assert_eq!(ours.len(), count);
        assert_eq!(ours.iter().map(String::as_str).collect::<BTreeSet<_>>(), reference, "{section}");
    }
}

#[test]
fn unet_names_of_any_size_map_both_ways() {
    for (levels, layers) in [(1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 1)] {
        for attention in 0..1 << levels {
            let size = UnetSize {
                channels: 4,
                widths: (0..levels).map(|i| 32 << i.min(2)).collect(),
                attention: (0..levels).map(|i| attention >> i & 1 == 1).collect(),
                layers,
                context: 32,
                linear_projection: false,
            };
            let shapes = sd1_shapes(&size);
            let names = || shapes.keys().map(String::as_str);
            let from_diffusers = UnetMap::from_diffusers(names());
            let ldm: Vec<String> = names().map(|n| from_diffusers.to_ldm(n).unwrap_or_else(|| panic!("{n}"))).collect();
            assert_eq!(ldm.iter().collect::<BTreeSet<_>>().len(), shapes.len());
            let from_ldm = UnetMap::from_ldm(ldm.iter().map(String::as_str));
            assert_eq!(from_ldm, from_diffusers);
            for (name, ldm) in names().zip(&ldm) {
                assert_eq!(from_ldm.to_diffusers(ldm).as_deref(), Some(name));
            }
        }
    }
}

#[test]
fn unet_names_as_in_public_files() {
    let shapes = sd1_shapes(&UnetSize::sd15());
    let map = UnetMap::from_diffusers(shapes.keys().map(String::as_str));
    for (diffusers, ldm) in [
        ("time_embedding.linear_1.weight", "time_embed.0.weight"),
        ("conv_in.bias", "input_blocks.0.0.bias"),
        ("down_blocks.0.resnets.0.norm1.weight", "input_blocks.1.0.in_layers.0.weight"),
        ("down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
        ("down_blocks.1.resnets.0.conv_shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
        ("down_blocks.2.attentions.1.proj_in.weight", "input_blocks.8.1.proj_in.weight"),
        ("down_blocks.3.resnets.1.conv2.bias", "input_blocks.11.0.out_layers.3.bias"),
        ("mid_block.resnets.1.time_emb_proj.weight", "middle_block.2.emb_layers.1.weight"),
        ("mid_block.attentions.0.norm.weight", "middle_block.1.norm.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("up_blocks.2.upsamplers.0.conv.bias", "output_blocks.8.2.conv.bias"),
        (
            "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
            "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight",
        ),
        ("conv_norm_out.weight", "out.0.weight"),
        ("conv_out.weight", "out.2.weight"),
    ] {
        assert_eq!(map.to_ldm(diffusers).as_deref(), Some(ldm));
        assert_eq!(map.to_diffusers(ldm).as_deref(), Some(diffusers));
    }
    for unknown in [
        "input_blocks.99.0.op.weight",
        "input_blocks.4294967295.0.in_layers.0.weight",
        "middle_block.7.norm.weight",
        "input_blocks.x.0.op.weight",
        "input_blocks.01.0.in_layers.0.weight",
        "nothing",
        "",
    ] {
        assert_eq!(map.to_diffusers(unknown), None);
    }
    assert_eq!(map.to_ldm("mid_block.resnets.4294967295.conv1.weight"), None);
}

#[test]
fn vae_names_of_any_size_map_both_ways() {
    for levels in 1..=6 {
        let size = VaeSize { latent: 4, widths: vec![32; levels], layers: 2, quant_conv: levels % 2 == 0 };
        let shapes = vae_shapes(&size);
        let names = || shapes.keys().map(String::as_str);
        let map = VaeMap::from_diffusers(names());
        let ldm: Vec<String> = names().map(|n| map.to_ldm(n).unwrap_or_else(|| panic!("{n}"))).collect();
        let back = VaeMap::from_ldm(ldm.iter().map(String::as_str));
        assert_eq!(back, map);
        for (name, ldm) in names().zip(&ldm) {
            assert_eq!(back.to_diffusers(ldm).as_deref(), Some(name));
        }
    }
    let shapes = vae_shapes(&VaeSize::sd());
    let map = VaeMap::from_diffusers(shapes.keys().map(String::as_str));
    for (diffusers, ldm) in [
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.down.1.block.0.nin_shortcut.weight"),
        ("encoder.down_blocks.2.downsamplers.0.conv.bias", "encoder.down.2.downsample.conv.bias"),
        ("decoder.up_blocks.0.upsamplers.0.conv.weight", "decoder.up.3.upsample.conv.weight"),
        ("decoder.up_blocks.3.resnets.2.norm2.weight", "decoder.up.0.block.2.norm2.weight"),
        ("decoder.mid_block.attentions.0.to_out.0.weight", "decoder.mid.attn_1.proj_out.weight"),
        ("encoder.mid_block.resnets.1.conv1.weight", "encoder.mid.block_2.conv1.weight"),
        ("encoder.conv_norm_out.weight", "encoder.norm_out.weight"),
        ("post_quant_conv.weight", "post_quant_conv.weight"),
    ] {
        assert_eq!(map.to_ldm(diffusers).as_deref(), Some(ldm));
        assert_eq!(map.to_diffusers(ldm).as_deref(), Some(diffusers));
    }
    for unknown in
        ["decoder.up.4294967295.upsample.conv.weight", "decoder.mid.block_0.conv1.weight", "decoder.up.9.x", "decoder"]
    {
        assert_eq!(map.to_diffusers(unknown), None);
    }
    assert_eq!(map.to_ldm("decoder.up_blocks.4294967295.upsamplers.0.conv.weight"), None);
    assert_eq!(map.to_ldm("decoder.mid_block.resnets.4294967295.conv1.weight"), None);
    let old = "decoder.mid_block.attentions.0.proj_attn.weight";
    assert_eq!(map.to_ldm(old).as_deref(), Some("decoder.mid.attn_1.proj_out.weight"));
    assert_eq!(vae::current_name(old), "decoder.mid_block.attentions.0.to_out.0.weight");
}

#[test]
fn clip_names_of_any_age() {
    let name = "text_model.encoder.layers.3.mlp.fc1.weight";
    assert_eq!(clip::to_internal(name).as_deref(), Some(name));
    assert_eq!(clip::to_internal(&name["text_model.".len()..]).as_deref(), Some(name));
    assert_eq!(clip::to_internal("text_projection.weight").as_deref(), Some("text_projection.weight"));
    assert_eq!(clip::to_internal("text_model.other.weight"), None);
    assert_eq!(clip::from_open_clip("transformer.resblocks.2.attn.in_proj_bias").len(), 3);
    assert_eq!(clip::from_open_clip("ln_final.bias")[0].0, "text_model.final_layer_norm.bias");
}

#[test]
fn single_file_and_diffusers_folder_hold_the_same_model() {
    for part in PARTS {
        let single = component(fixture("single_file/model.safetensors"), part).unwrap();
        let folder = component(fixture("diffusers_dir"), part).unwrap();
        assert_eq!((single.layout, folder.layout), (Layout::SingleFileLdm, Layout::DiffusersDir));
        assert!(single.unexpected.is_empty() && folder.unexpected.is_empty(), "{:?}", single.unexpected);
        assert!(folder.config.is_some());
        let names: BTreeSet<&str> = single.names().collect();
        assert_eq!(names, folder.names().collect(), "{part:?}");
        for name in names {
            assert_eq!(single.shape(name), folder.shape(name), "{name}");
            assert_eq!(single.f32(name).unwrap(), folder.f32(name).unwrap(), "{name}");
        }
        let inner = fixture("diffusers_dir").join(part.folder());
        let by_folder = component(&inner, part).unwrap();
        assert_eq!((by_folder.layout, by_folder.elements()), (Layout::ComponentDir, folder.elements()));
        let file = by_folder.set().files()[0].path().to_path_buf();
        let by_file = component(&file, part).unwrap();
        assert_eq!((by_file.layout, by_file.config.is_some()), (Layout::DiffusersFile, true));
        // Asked for another part, it says what is there.
        let other = PARTS[(PARTS.iter().position(|p| *p == part).unwrap() + 1) % 3];
        let error = component(&file, other).unwrap_err();
        assert!(error.to_string().contains(&format!("it holds a {}", part.name())), "{error}");
    }
}

#[test]
fn names_and_shapes_of_a_single_file_are_restored_exactly() {
    let path = fixture("single_file/model.safetensors");
    let set = WeightSet::open(&path).unwrap();
    let mut rebuilt: IndexMap<String, Vec<usize>> = IndexMap::new();
    let mut ignored = BTreeSet::new();
    for part in PARTS {
        let weights = component(&path, part).unwrap();
        let shapes: Shapes = weights.shapes().map(|(n, s)| (n.to_owned(), s)).collect();
        let entries = to_single_file(part, shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()))).unwrap();
        for entry in entries {
            assert_eq!(weights.tensors[&entry.internal].0, entry.name);
            rebuilt.insert(entry.name, entry.shape);
        }
        ignored.extend(weights.ignored);
    }
    for name in set.names() {
        match rebuilt.get(name) {
            Some(shape) => assert_eq!(*shape, set.info(name).unwrap().shape, "{name}"),
            None => assert!(ignored.contains(name) || !name.contains("_model."), "{name} is lost"),
        }
    }
    let unknown = to_single_file(Component::Unet, [("odd.weight", [1usize].as_slice())]);
    assert_eq!(unknown, Err(vec!["odd.weight".to_owned()]));
}

#[test]
fn bare_files_old_attention_names_and_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vae.safetensors");
    let shapes = vae_shapes(&VaeSize { latent: 4, widths: vec![32, 32], layers: 1, quant_conv: true });
    let old = |name: &str| {
        name.replace(".to_q.", ".query.")
            .replace(".to_k.", ".key.")
            .replace(".to_v.", ".value.")
            .replace(".to_out.0.", ".proj_attn.")
    };
    let renamed: Vec<(String, &Vec<usize>)> = shapes.iter().map(|(n, s)| (old(n), s)).collect();
    zeros(&path, renamed.iter().map(|(n, s)| (n.as_str(), s.as_slice())));
    let weights = component(&path, Component::Vae).unwrap();
    assert_eq!(weights.layout, Layout::DiffusersFile);
    assert_eq!(weights.names().collect::<BTreeSet<_>>(), shapes.keys().map(String::as_str).collect());
    assert!(weights.unexpected.is_empty());

    // The original names without prefix, beside what training left in the file.
    let map = VaeMap::from_diffusers(shapes.keys().map(String::as_str));
    let mut ldm: Vec<(String, Vec<usize>)> = shapes
        .iter()
        .map(|(n, s)| {
            let matrix = vae::is_attention_matrix(n);
            (map.to_ldm(n).unwrap(), if matrix { vec![s[0], s[1], 1, 1] } else { s.clone() })
        })
        .collect();
    ldm.push(("loss.discriminator.main.0.weight".into(), vec![1]));
    ldm.push(("model_ema.decay".into(), vec![]));
    zeros(&path, ldm.iter().map(|(n, s)| (n.as_str(), s.as_slice())));
    let weights = component(&path, Component::Vae).unwrap();
    assert_eq!((weights.layout, weights.names().len()), (Layout::LdmFile, shapes.len()));
    assert!(weights.unexpected.is_empty());
    for (name, shape) in &shapes {
        assert_eq!(weights.shape(name).as_ref(), Some(shape), "{name}");
    }
}

#[test]
fn old_text_encoders_and_open_clip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let shapes = clip_shapes(&ClipSize { width: 8, layers: 2, mlp: 32, vocabulary: 10, positions: 7 });
    let bare: Vec<(String, &Vec<usize>)> = shapes
        .iter()
        .map(|(n, s)| (format!("cond_stage_model.transformer.{}", n.replace("text_model.", "")), s))
        .collect();
    let mut listed: Vec<(&str, &[usize])> = bare.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    listed.push(("cond_stage_model.transformer.embeddings.position_ids", &[1, 7]));
    zeros(&path, listed);
    let weights = component(&path, Component::TextEncoder).unwrap();
    assert_eq!(weights.names().collect::<BTreeSet<_>>(), shapes.keys().map(String::as_str).collect());
    assert_eq!(weights.ignored.len(), 1);

    let open: &[(&str, &[usize])] = &[
        ("cond_stage_model.model.token_embedding.weight", &[10, 8]),
        ("cond_stage_model.model.positional_embedding", &[7, 8]),
        ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", &[24, 8]),
        ("cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight", &[32, 8]),
        ("cond_stage_model.model.text_projection", &[8, 6]),
        ("cond_stage_model.model.logit_scale", &[]),
        ("cond_stage_model.model.attn_mask", &[7, 7]),
    ];
    let tensors = open.iter().map(|(name, shape)| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32).collect();
        pipe_data::weights::TensorOut::f32(*name, pipe_data::weights::DType::F16, *shape, values)
    });
    pipe_data::weights::write_safetensors(&path, tensors, &Default::default()).unwrap();
    let weights = component(&path, Component::TextEncoder).unwrap();
    assert_eq!((weights.ignored.len(), weights.unexpected.len()), (2, 0));
    let k = "text_model.encoder.layers.0.self_attn.k_proj.weight";
    assert_eq!(weights.shape(k), Some(vec![8, 8]));
    assert_eq!(weights.f32(k).unwrap(), (64..128).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(weights.shape("text_projection.weight"), Some(vec![6, 8]));
    assert_eq!(weights.f32("text_projection.weight").unwrap()[..3], [0.0, 6.0, 12.0]);
}

#[test]
fn shards_are_followed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let index = at("diffusion_pytorch_model.safetensors.index.json");
    let shapes =
        sd1_shapes(&UnetSize { widths: vec![32], attention: vec![true], layers: 1, context: 8, ..UnetSize::sd15() });
    let (first, second) = (Vec::from_iter(shapes.iter().take(20)), Vec::from_iter(shapes.iter().skip(20)));
    zeros(&at("part-1.safetensors"), first.iter().map(|(n, s)| (n.as_str(), s.as_slice())));
    zeros(&at("part-2.safetensors"), second.iter().map(|(n, s)| (n.as_str(), s.as_slice())));
    let map: serde_json::Map<String, serde_json::Value> = shapes
        .keys()
        .enumerate()
        .map(|(i, n)| (n.clone(), if i < 20 { "part-1.safetensors" } else { "part-2.safetensors" }.into()))
        .collect();
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        fs::write(&index, serde_json::json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    };
    write(&map);
    for path in [folder.path(), &index] {
        let weights = component(path, Component::Unet).unwrap();
        assert_eq!((weights.names().len(), weights.set().files().len()), (shapes.len(), 2));
    }
    for (shard, wanted) in [
        ("../part-1.safetensors", "outside the folder"),
        ("/etc/passwd", "outside the folder"),
        ("part-2.safetensors", "has no tensor"),
        ("part-3.safetensors", "does not exist"),
    ] {
        let mut bad = map.clone();
        bad.insert("conv_in.weight".into(), shard.into());
        write(&bad);
        let error = component(folder.path(), Component::Unet).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    fs::write(&index, "{").unwrap();
    assert!(matches!(WeightSet::open(folder.path()), Err(FileError::BadJson { .. })));
    fs::write(&index, "{}").unwrap();
    assert!(matches!(WeightSet::open(folder.path()), Err(FileError::BadIndex { .. })));
}

#[test]
fn a_config_that_cannot_be_read_is_an_error_and_a_missing_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        fixture("diffusers_dir/vae/diffusion_pytorch_model.safetensors"),
        folder.path().join("diffusion_pytorch_model.safetensors"),
    )
    .unwrap();
    assert!(component(folder.path(), Component::Vae).unwrap().config.is_none());
    let config = folder.path().join("config.json");
    fs::write(&config, "{\"norm_num_groups\": 8}").unwrap();
    assert_eq!(component(folder.path(), Component::Vae).unwrap().config.unwrap()["norm_num_groups"], 8);
    for (bytes, wanted) in [
        (&b"{\"norm_num_groups\": 8"[..], "not valid JSON"),
        (b"[]", "no table of settings"),
        (b"\xff\xfe", "not valid JSON"),
    ] {
        fs::write(&config, bytes).unwrap();
        let error = component(folder.path(), Component::Vae).unwrap_err();
        assert!(matches!(&error, FileError::BadJson { path, .. } if *path == config), "{error:?}");
        assert!(
            error.to_string().contains("config.json` is damaged: ") && error.to_string().contains(wanted),
            "{error}"
        );
    }
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert!(matches!(component(folder.path(), Component::Vae), Err(FileError::IsFolder { .. })));
}

#[test]
fn folders_without_usable_weights_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &std::path::Path| component(path, Component::Unet).unwrap_err().to_string();
    assert!(error(folder.path()).contains("no safetensors file"));
    fs::write(folder.path().join("diffusion_pytorch_model.bin"), b"x").unwrap();
    assert!(error(folder.path()).contains("convert them"));
    fs::write(folder.path().join("model_index.json"), b"{}").unwrap();
    fs::create_dir(folder.path().join("transformer")).unwrap();
    assert!(error(folder.path()).contains("it holds `transformer`"));
    assert!(error(&folder.path().join("none")).contains("does not exist"));
}

#[test]
fn models_are_recognised() {
    let of = |path: &str| detect(&Header::read(fixture(path)).unwrap());
    let single = of("single_file/model.safetensors");
    assert_eq!((single.architecture, single.layout), (Architecture::Sd1, Some(Layout::SingleFileLdm)));
    assert_eq!(single.components.len(), 3, "{:?}", single.components);
    assert_eq!(of("diffusers_dir/unet/diffusion_pytorch_model.safetensors").architecture, Architecture::Sd1);
    assert_eq!(of("unet_linear/diffusion_pytorch_model.safetensors").architecture, Architecture::Sd2);
    assert_eq!(of("vae16/diffusion_pytorch_model.safetensors").architecture, Architecture::Vae { channels: 16 });
    assert_eq!(
        of("diffusers_dir/vae/diffusion_pytorch_model.safetensors").architecture,
        Architecture::Vae { channels: 4 }
    );
    assert_eq!(of("diffusers_dir/text_encoder/model.safetensors").architecture, Architecture::ClipL);
}
