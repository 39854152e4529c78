//! The same model in its authors' names and in Diffusers' names, tensor by tensor and byte by byte.
//!
//! `layouts.txt.gz` holds names, shapes and checksums of small models of every family in both forms, the second made by
//! diffusers' own converters from the first (`tests/reference/make_layouts.py`). The values follow from the names.

mod common;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use common::fixture;
use flate2::Crc;
use flate2::read::GzDecoder;
use pipe_data::keymap::{Form, PlanError, StoredTensor, plan};
use pipe_data::weights::{
    Component, ComponentWeights, DType, Family, FileError, Layout, Source, TensorOut, component, write_safetensors,
};

const CASES: [(&str, Component, Family, Form); 14] = [
    ("vae16", Component::Vae, Family::Flux, Form::OwnFile),
    ("sd2_text", Component::TextEncoder, Family::Sd2, Form::SingleFile),
    ("sdxl_text_2", Component::ClipG, Family::Sdxl, Form::SingleFile),
    ("sdxl_text", Component::TextEncoder, Family::Sdxl, Form::SingleFile),
    ("sd3_text_2", Component::ClipG, Family::Sd3, Form::SingleFile),
    ("t5", Component::T5, Family::Sd3, Form::SingleFile),
    ("gemma", Component::Gemma, Family::Lumina2, Form::SingleFile),
    ("sd2_unet", Component::Unet, Family::Sd2, Form::SingleFile),
    ("sdxl_unet", Component::Unet, Family::Sdxl, Form::SingleFile),
    ("sd3", Component::Mmdit, Family::Sd3, Form::OwnFile),
    ("sd35", Component::Mmdit, Family::Sd3, Form::OwnFile),
    ("flux", Component::Flux, Family::Flux, Form::OwnFile),
    ("lumina2", Component::Lumina2, Family::Lumina2, Form::OwnFile),
    ("lumina_next", Component::LuminaNext, Family::LuminaNext, Form::OwnFile),
];

/// Name → shape and checksum.
type Listed = BTreeMap<String, (Vec<usize>, u32)>;

/// Name → shape and bytes.
type Stored = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// A section of the list.
fn listed(label: &str, layout: &str) -> Listed {
    let file = BufReader::new(GzDecoder::new(File::open(fixture("layouts.txt.gz")).unwrap()));
    let lines = file.lines().map(Result::unwrap).skip_while(|line| *line != format!("# {label} {layout}")).skip(1);
    let entry = |line: String| {
        let [name, shape, crc] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let sizes = shape.trim_matches(['[', ']']).split(',').filter(|s| !s.is_empty());
        (name.to_owned(), (sizes.map(|s| s.parse().unwrap()).collect(), u32::from_str_radix(crc, 16).unwrap()))
    };
    let list: Listed = lines.take_while(|line| !line.starts_with('#')).map(entry).collect();
    assert!(!list.is_empty(), "no section {label} {layout}");
    list
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The values of a tensor: those of the reference script, cut to the size of an element.
fn pattern(name: &str, shape: &[usize], dtype: DType) -> Vec<u8> {
    let seed = checksum(name.as_bytes());
    let value = |i: usize| (((i as u32).wrapping_mul(2_654_435_761) ^ seed) >> 9) as u16;
    (0..shape.iter().product()).flat_map(|i| value(i).to_le_bytes()[..dtype.size()].to_vec()).collect()
}

fn write(path: &Path, tensors: &Stored, dtype: DType) {
    let list = tensors.iter().map(|(name, (shape, bytes))| TensorOut::bytes(name, dtype, shape.clone(), &bytes[..]));
    write_safetensors(path, list, &Default::default()).unwrap();
}

/// Carries a plan out.
fn make(planned: &[StoredTensor], weights: &[&ComponentWeights], dtype: DType) -> Stored {
    let bytes = |name: &String| {
        let holder = weights.iter().find(|weights| weights.recipe(name).is_some()).unwrap();
        Cow::Owned(holder.bytes(name).unwrap().into_owned())
    };
    let tensor = |tensor: &StoredTensor| {
        let parts = tensor.recipe.names().iter().map(bytes).collect();
        let made = tensor.recipe.bytes(dtype, parts).unwrap_or_else(|| panic!("{}", tensor.name));
        (tensor.name.clone(), (tensor.recipe.shape.clone(), made.into_owned()))
    };
    let stored: Stored = planned.iter().map(tensor).collect();
    assert_eq!(stored.len(), planned.len(), "a name twice");
    stored
}

/// Internal names and shapes, with or without those no network needs.
fn shapes(weights: &ComponentWeights, optional: bool) -> Vec<(String, Vec<usize>)> {
    let mut list: Vec<_> = weights.shapes().map(|(name, shape)| (name.to_owned(), shape)).collect();
    if optional {
        list.extend(weights.optional.iter().map(|(name, recipe)| (name.clone(), recipe.shape.clone())));
    }
    list
}

fn planned(case: (Component, Family, Form), shapes: &[(String, Vec<usize>)]) -> Result<Vec<StoredTensor>, PlanError> {
    plan(case.0, case.1, case.2, shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())))
}

#[test]
fn original_to_diffusers_and_back_is_the_same_to_the_byte() {
    for (label, part, family, form) in CASES {
        for dtype in [DType::BF16, DType::F8E4M3] {
            let folder = tempfile::tempdir().unwrap();
            let (first, second) = (folder.path().join("first.safetensors"), folder.path().join("second.safetensors"));
            let original: Stored = listed(label, "original")
                .into_iter()
                .map(|(name, (shape, _))| (name.clone(), (shape.clone(), pattern(&name, &shape, dtype))))
                .collect();
            write(&first, &original, dtype);
            let loaded = component(&first, part).unwrap();
            let layout = if form == Form::SingleFile { Layout::SingleFileLdm } else { Layout::LdmFile };
            assert_eq!(loaded.layout, layout, "{label}");
            assert!(loaded.unexpected.is_empty() && loaded.ignored.is_empty(), "{label} {:?}", loaded.unexpected);

            // What diffusers' converters make of it, exactly.
            let diffusers = planned((part, family, Form::Diffusers), &shapes(&loaded, true)).unwrap();
            let diffusers = make(&diffusers, &[&loaded], dtype);
            let reference = listed(label, "diffusers");
            assert_eq!(Vec::from_iter(diffusers.keys()), Vec::from_iter(reference.keys()), "{label}");
            for (name, (shape, bytes)) in &diffusers {
                assert_eq!(*shape, reference[name].0, "{label} {name}");
                assert!(dtype.size() != 2 || checksum(bytes) == reference[name].1, "{label} {name}");
            }

            // The same internal tensors come out of it.
            write(&second, &diffusers, dtype);
            let again = component(&second, part).unwrap();
            assert_eq!(again.layout, Layout::DiffusersFile);
            assert!(again.unexpected.is_empty(), "{label} {:?}", again.unexpected);
            let names = |weights: &ComponentWeights| weights.names().map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(names(&loaded), names(&again), "{label}");
            for name in loaded.names() {
                assert_eq!(loaded.shape(name), again.shape(name), "{label} {name}");
                assert_eq!(loaded.bytes(name).unwrap(), again.bytes(name).unwrap(), "{label} {name}");
            }

            // And with what Diffusers drops, the first file again.
            let mut list = shapes(&again, false);
            list.extend(shapes(&loaded, true).split_off(loaded.names().len()));
            let back = make(&planned((part, family, form), &list).unwrap(), &[&again, &loaded], dtype);
            assert_eq!(back, original, "{label}");
        }
    }
}

#[test]
fn what_diffusers_drops_is_made_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (label, part, family, form, lost) in [
        ("sd2_text", Component::TextEncoder, Family::Sd2, Form::SingleFile, 14),
        ("lumina2", Component::Lumina2, Family::Lumina2, Form::OwnFile, 1),
        ("sdxl_text_2", Component::ClipG, Family::Sdxl, Form::SingleFile, 0),
    ] {
        let original = listed(label, "original");
        let tensors: Stored = original
            .iter()
            .map(|(name, (shape, _))| (name.clone(), (shape.clone(), pattern(name, shape, DType::BF16))))
            .collect();
        write(&path, &tensors, DType::BF16);
        let weights = component(&path, part).unwrap();
        let made = make(&planned((part, family, form), &shapes(&weights, false)).unwrap(), &[&weights], DType::BF16);
        let changed: Vec<&String> = made.keys().filter(|name| made[*name] != tensors[*name]).collect();
        assert_eq!(changed.len(), lost, "{label} {changed:?}");
        let ones = |name: &str| made[name].1.as_chunks::<2>().0.iter().all(|b| *b == [0x80, 0x3f]);
        match part {
            Component::TextEncoder => {
                assert_eq!(Vec::from_iter(made.keys()), Vec::from_iter(original.keys()));
                let prefix = "cond_stage_model.model.";
                assert!(ones(&format!("{prefix}text_projection")) && ones(&format!("{prefix}logit_scale")));
                for (name, copy) in &made {
                    if let Some(rest) = name.strip_prefix(&format!("{prefix}transformer.resblocks.23.")) {
                        assert_eq!(*copy, made[&format!("{prefix}transformer.resblocks.22.{rest}")]);
                    }
                }
            }
            Component::Lumina2 => assert!(ones("norm_final.weight")),
            // A scale nobody had is left out.
            _ => assert!(!made.contains_key("conditioner.embedders.1.model.logit_scale")),
        }
    }
    // SD3's folder wants a projection of CLIP-L, which its files do not have: the identity.
    let clip = [("text_model.embeddings.token_embedding.weight", [9usize, 3].as_slice())];
    let stored = plan(Component::TextEncoder, Family::Sd3, Form::Diffusers, clip).unwrap();
    assert_eq!((stored[1].name.as_str(), &stored[1].recipe.source), ("text_projection.weight", &Source::Identity));
    assert_eq!(stored[1].recipe.shape, [3, 3]);
    assert_eq!(plan(Component::TextEncoder, Family::Sdxl, Form::Diffusers, clip).unwrap().len(), 1);
}

#[test]
fn plans_that_cannot_be_made() {
    let q = ("text_model.encoder.layers.0.self_attn.q_proj.weight", [4usize, 4].as_slice());
    let error = plan(Component::ClipG, Family::Sdxl, Form::SingleFile, [q]).unwrap_err();
    assert_eq!(error.to_string(), "tensor `text_model.encoder.layers.0.self_attn.k_proj.weight` is missing");
    let odd = ("double_blocks.0.img_attn.qkv.weight", [4usize, 4].as_slice());
    let error = plan(Component::Flux, Family::Flux, Form::Diffusers, [odd]).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor `double_blocks.0.img_attn.qkv.weight` has shape [4, 4], rows for each of its parts are needed"
    );
    let error = plan(Component::Flux, Family::Flux, Form::Diffusers, [q]).unwrap_err().to_string();
    assert!(error.starts_with("there is no place for `text_model.encoder") && error.ends_with("of FLUX.1"), "{error}");
    let error = plan(Component::ClipG, Family::Flux, Form::OwnFile, [q]).unwrap_err().to_string();
    assert_eq!(error, "FLUX.1 has no OpenCLIP bigG text encoder");
}

#[test]
fn parts_that_are_missing_or_of_another_kind_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let all: Stored = listed("sd35", "diffusers")
        .into_iter()
        .map(|(name, (shape, _))| {
            (format!("model.diffusion_model.{name}"), (shape.clone(), pattern(&name, &shape, DType::F16)))
        })
        .collect();
    let k = "model.diffusion_model.transformer_blocks.1.attn2.to_k.weight";
    let mut less = all.clone();
    less.remove(k);
    write(&path, &less, DType::F16);
    let error = component(&path, Component::Mmdit).unwrap_err();
    assert!(matches!(&error, FileError::NoTensor { tensor, .. } if tensor == k), "{error}");

    let list = all.iter().map(|(name, (shape, bytes))| match name == k {
        true => TensorOut::f32(name, DType::F32, shape.clone(), vec![0.0; bytes.len() / 2]),
        false => TensorOut::bytes(name, DType::F16, shape.clone(), &bytes[..]),
    });
    write_safetensors(&path, list, &Default::default()).unwrap();
    let error = component(&path, Component::Mmdit).unwrap_err().to_string();
    assert!(error.contains(k) && error.contains("is `F32`, the type of those it is joined with is needed"), "{error}");

    let mut wide = all.clone();
    wide.insert(k.into(), (vec![8, 9], vec![0; 144]));
    write(&path, &wide, DType::F16);
    assert!(matches!(component(&path, Component::Mmdit), Err(FileError::WrongShape { tensor, .. }) if tensor == k));

    write(&path, &all, DType::F16);
    assert_eq!(component(&path, Component::Mmdit).unwrap().layout, Layout::SingleFileLdm);
    let error = component(&path, Component::Flux).unwrap_err().to_string();
    assert!(error.ends_with("has no FLUX.1 transformer: it holds an SD3 transformer"), "{error}");
}

#[test]
fn wrong_families_say_what_the_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let error = |tensors: &[(&str, &[usize])], part| {
        common::zeros(&path, tensors.iter().copied());
        component(&path, part).unwrap_err().to_string()
    };
    let flux: &[(&str, &[usize])] = &[("double_blocks.0.img_attn.qkv.weight", &[6, 2]), ("img_in.weight", &[2, 4])];
    assert!(error(flux, Component::Unet).ends_with("has no U-Net: it holds a FLUX.1 transformer"));
    let chroma = [flux, &[("distilled_guidance_layer.in_proj.weight", &[2, 2])]].concat();
    assert!(error(&chroma, Component::Flux).contains("it is Chroma, which is not supported"));
    let fill: &[(&str, &[usize])] = &[("double_blocks.0.img_attn.qkv.weight", &[6, 2]), ("img_in.weight", &[2, 384])];
    assert!(error(fill, Component::Flux).contains("FLUX.1 Fill"));
    let z: &[(&str, &[usize])] =
        &[("context_refiner.0.attention.qkv.weight", &[6, 2]), ("layers.0.adaLN_modulation.0.weight", &[2, 2])];
    assert!(error(z, Component::Lumina2).contains("Z-Image"));
    let gemma: &[(&str, &[usize])] = &[("model.layers.0.self_attn.q_proj.weight", &[2, 2])];
    assert!(error(gemma, Component::T5).ends_with("has no T5 encoder: it holds a Gemma text encoder"));
    let big: &[(&str, &[usize])] = &[("text_model.embeddings.token_embedding.weight", &[2, 1280])];
    assert!(error(big, Component::TextEncoder).ends_with("it holds an OpenCLIP bigG text encoder"));
    let small: &[(&str, &[usize])] = &[("text_model.embeddings.token_embedding.weight", &[2, 768])];
    assert!(error(small, Component::ClipG).ends_with("it holds a CLIP text encoder"));
    assert!(error(&[("x.lora_up.weight", &[2, 2])], Component::Flux).contains("it holds a LoRA"));
    assert!(error(&[("x.weight", &[2, 2])], Component::Gemma).contains("tensors named `x`"));
}

#[test]
fn prefixes_duplicates_and_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let q = "encoder.block.0.layer.0.SelfAttention.q.weight";
    for prefix in ["", "text_encoders.t5xxl.transformer."] {
        for embeddings in [&["shared"][..], &["encoder.embed_tokens"], &["encoder.embed_tokens", "shared"]] {
            let mut names = vec![format!("{prefix}{q}"), format!("{prefix}decoder.block.0.x.weight")];
            names.extend(embeddings.iter().map(|name| format!("{prefix}{name}.weight")));
            common::zeros(&path, names.iter().map(|name| (name.as_str(), [2usize, 2].as_slice())));
            let weights = component(&path, Component::T5).unwrap();
            assert_eq!(weights.names().collect::<BTreeSet<_>>(), BTreeSet::from([q, "shared.weight"]));
            assert_eq!(weights.ignored.len(), embeddings.len());
            assert!(weights.unexpected.is_empty());
            let wanted = embeddings.last().unwrap();
            assert_eq!(weights.tensors["shared.weight"].names(), [format!("{prefix}{wanted}.weight")]);
        }
    }
    for prefix in ["", "model.", "text_encoders.gemma2_2b.transformer.model."] {
        let names = ["embed_tokens", "layers.0.self_attn.q_proj", "norm"].map(|name| format!("{prefix}{name}.weight"));
        let mut list: Vec<(&str, &[usize])> =
            names.iter().map(|name| (name.as_str(), [2usize, 2].as_slice())).collect();
        list.extend(
            [("text_encoders.gemma2_2b.spiece_model", [2usize].as_slice())].iter().filter(|_| prefix.len() > 6),
        );
        common::zeros(&path, list);
        let weights = component(&path, Component::Gemma).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>().len(), 3);
        assert!(weights.unexpected.is_empty() && weights.shape("layers.0.self_attn.q_proj.weight").is_some());
    }
    // One file with everything: each part finds its own tensors.
    let all: &[(&str, &[usize])] = &[
        ("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight", &[6, 2]),
        ("model.diffusion_model.pos_embed", &[1, 4, 2]),
        ("first_stage_model.decoder.conv_in.weight", &[2, 16, 3, 3]),
        ("text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight", &[4, 2]),
        ("text_encoders.clip_g.transformer.text_model.embeddings.token_embedding.weight", &[4, 3]),
        ("text_encoders.clip_g.transformer.text_projection.weight", &[3, 3]),
        ("text_encoders.t5xxl.transformer.shared.weight", &[4, 5]),
        ("text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight", &[5, 5]),
    ];
    common::zeros(&path, all.iter().copied());
    for (part, tensors) in [
        (Component::Mmdit, 2),
        (Component::Vae, 1),
        (Component::TextEncoder, 1),
        (Component::ClipG, 2),
        (Component::T5, 2),
    ] {
        let weights = component(&path, part).unwrap();
        assert_eq!((weights.names().len(), weights.layout), (tensors, Layout::SingleFileLdm), "{part:?}");
        assert!(weights.unexpected.is_empty());
    }
    let all: &[(&str, &[usize])] = &[
        ("model.diffusion_model.context_refiner.0.attention.qkv.weight", &[6, 2]),
        ("model.diffusion_model.norm_final.weight", &[2]),
        ("text_encoders.gemma2_2b.transformer.model.layers.0.self_attn.q_proj.weight", &[2, 2]),
        ("text_encoders.gemma2_2b.spiece_model", &[7]),
        ("vae.decoder.conv_in.weight", &[2, 16, 3, 3]),
        ("model_ema.diffusion_modelcontext_refiner0attentionqkvweight", &[6, 2]),
    ];
    common::zeros(&path, all.iter().copied());
    for part in [Component::Lumina2, Component::Gemma, Component::Vae] {
        let weights = component(&path, part).unwrap();
        assert_eq!((weights.names().len(), weights.unexpected.len()), (1, 0), "{part:?}");
        assert_eq!(weights.optional.len(), usize::from(part == Component::Lumina2));
    }
    // Without prefix, beside parts that have theirs.
    let mixed: &[(&str, &[usize])] = &[
        ("double_blocks.0.img_attn.qkv.weight", &[6, 2]),
        ("vae.decoder.conv_in.weight", &[2, 16, 3, 3]),
        ("model_ema.decay", &[1]),
        ("alphas_cumprod", &[4]),
        ("something.else", &[4]),
    ];
    common::zeros(&path, mixed.iter().copied());
    let weights = component(&path, Component::Flux).unwrap();
    assert_eq!((weights.names().len(), &weights.unexpected[..]), (1, &["something.else".to_owned()][..]));
}

#[test]
fn folders_are_chosen_by_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let write = |inner: &str, tensors: &[(&str, &[usize])]| {
        std::fs::create_dir_all(folder.path().join(inner)).unwrap();
        common::zeros(&folder.path().join(inner).join("model.safetensors"), tensors.iter().copied());
    };
    let t5: &[(&str, &[usize])] = &[("encoder.block.0.layer.0.SelfAttention.q.weight", &[2, 2])];
    let clip: &[(&str, &[usize])] = &[("text_model.embeddings.token_embedding.weight", &[9, 1280])];
    std::fs::write(folder.path().join("model_index.json"), "{}").unwrap();
    // FLUX: T5 is the second encoder, and there is no bigG.
    write("text_encoder_2", t5);
    assert_eq!(component(folder.path(), Component::T5).unwrap().layout, Layout::DiffusersDir);
    let error = component(folder.path(), Component::ClipG).unwrap_err().to_string();
    assert!(error.contains("text_encoder_2") && error.contains("it holds a T5 encoder"), "{error}");
    // SD3: T5 is the third.
    write("text_encoder_2", clip);
    let error = component(folder.path(), Component::T5).unwrap_err().to_string();
    assert!(error.contains("it holds an OpenCLIP bigG text encoder"), "{error}");
    write("text_encoder_3", t5);
    assert_eq!(component(folder.path(), Component::T5).unwrap().layout, Layout::DiffusersDir);
    assert_eq!(component(folder.path(), Component::ClipG).unwrap().shape(clip[0].0), Some(vec![9, 1280]));
    assert!(component(folder.path(), Component::Flux).unwrap_err().to_string().contains("it holds `text_encoder_2`"));
    assert_eq!(Family::Sd3.folder(Component::T5), Some("text_encoder_3"));
    assert_eq!(Family::Flux.folder(Component::T5), Some("text_encoder_2"));
    assert_eq!(Family::Flux.folder(Component::ClipG), None);
}

/// A tensor that is not there is called as the file would call it: without one of its tensors, a file lacks internal
/// ones whose stored name is that tensor's.
#[test]
fn what_is_missing_has_its_stored_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (label, part, ..) in CASES {
        for layout in ["original", "diffusers"] {
            let all: Stored = listed(label, layout)
                .into_iter()
                .map(|(name, (shape, _))| (name.clone(), (shape.clone(), pattern(&name, &shape, DType::F8E4M3))))
                .collect();
            write(&path, &all, DType::F8E4M3);
            let whole = component(&path, part).unwrap();
            let mut told = 0;
            for (stored, _) in all.iter().step_by(1 + all.len() / 40) {
                let mut less = all.clone();
                less.remove(stored);
                write(&path, &less, DType::F8E4M3);
                // The part may be known by this tensor, or the tensor be joined with others, which is told otherwise.
                let Ok(lacking) = component(&path, part) else { continue };
                for name in whole.names().filter(|name| lacking.shape(name).is_none()) {
                    assert!(lacking.stored_names(name).contains(stored), "{label} {layout}: {name} of {stored}");
                    told += 1;
                }
                let there = whole.names().find(|name| lacking.shape(name).is_some()).unwrap();
                assert_eq!(lacking.stored_names(there), lacking.recipe(there).unwrap().names());
            }
            assert!(told >= 5, "{label} {layout}: {told} tensors");
        }
    }
    // Files of CLIP without the inner part of its names.
    let old: [(&str, &[usize]); 2] = [
        ("cond_stage_model.transformer.embeddings.token_embedding.weight", &[4, 2]),
        ("cond_stage_model.transformer.final_layer_norm.weight", &[2]),
    ];
    common::zeros(&path, old);
    let weights = component(&path, Component::TextEncoder).unwrap();
    assert_eq!(
        weights.stored_names("text_model.final_layer_norm.bias"),
        ["cond_stage_model.transformer.final_layer_norm.bias"]
    );
}
