//! Every name and shape of the full-size models: mapped, counted, recognised, and named as adapters name them.
//!
//! `family_keys.txt.gz` lists what diffusers and transformers call each tensor (`tests/reference/make_keys.py`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;

use super::*;
use crate::weights::detect::{Architecture, detect_shapes};
use crate::weights::lora_names::{Group, LoraTarget, ModuleClass, TargetKind, Wanted, targets};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Label, part, family, what it is, internal tensors and parameters.
const MODELS: [(&str, Component, Family, Architecture, usize, usize); 15] = [
    ("sd2_unet", Component::Unet, Family::Sd2, Architecture::Sd2, 686, 865_910_724),
    ("sdxl_unet", Component::Unet, Family::Sdxl, Architecture::Sdxl, 1680, 2_567_463_684),
    ("vae16", Component::Vae, Family::Flux, Architecture::Vae { channels: 16 }, 244, 83_819_683),
    ("clip_l", Component::TextEncoder, Family::Sdxl, Architecture::ClipL, 196, 123_060_480),
    ("clip_h", Component::TextEncoder, Family::Sd2, Architecture::OpenClipH, 372, 340_387_840),
    ("clip_g", Component::ClipG, Family::Sdxl, Architecture::OpenClipG, 517, 694_659_840),
    ("t5", Component::T5, Family::Flux, Architecture::T5, 219, 4_762_310_656),
    ("gemma1", Component::Gemma, Family::LuminaNext, Architecture::Gemma1, 164, 2_506_172_416),
    ("gemma2", Component::Gemma, Family::Lumina2, Architecture::Gemma2, 288, 2_614_341_888),
    ("sd3_medium", Component::Mmdit, Family::Sd3, Architecture::Sd3Medium, 491, 2_028_328_000 + 56_623_104),
    ("sd35_medium", Component::Mmdit, Family::Sd3, Architecture::Sd35Medium, 665, 2_243_171_520 + 226_492_416),
    ("sd35_large", Component::Mmdit, Family::Sd3, Architecture::Sd35Large, 923, 8_056_627_520 + 89_653_248),
    ("flux_dev", Component::Flux, Family::Flux, Architecture::FluxDev, 780, 11_901_408_320),
    ("flux_schnell", Component::Flux, Family::Flux, Architecture::FluxSchnell, 776, 11_891_178_560),
    // The authors' files have one unused norm of 2304 more.
    ("lumina2", Component::Lumina2, Family::Lumina2, Architecture::Lumina2, 399, 2_609_771_456 - 2304),
];

/// The lines of a section.
fn section(label: &str) -> Vec<String> {
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../tests/fixtures/family_keys.txt.gz");
    let file = BufReader::new(GzDecoder::new(File::open(path).unwrap()));
    let head = format!("# {label} ");
    let lines = file.lines().map(Result::unwrap).skip_while(|line| !line.starts_with(&head)).skip(1);
    lines.take_while(|line| !line.starts_with('#')).collect()
}

fn listed(label: &str) -> Shapes {
    let entry = |line: String| {
        let (name, shape) = line.split_once(' ').unwrap();
        let sizes = shape.trim_matches(['[', ']']).split(',').filter(|s| !s.is_empty());
        (name.to_owned(), sizes.map(|s| s.parse().unwrap()).collect())
    };
    let shapes: Shapes = section(label).into_iter().map(entry).collect();
    assert!(!shapes.is_empty(), "no section {label}");
    shapes
}

/// Internal names and shapes of stored ones; every name has to be known.
fn internal(component: Component, stored: &Shapes) -> Shapes {
    let given: Vec<Given> = stored.iter().map(|(name, shape)| Given { name, source: name, shape }).collect();
    let naming = naming(component, stored.keys().map(String::as_str));
    let mapped = to_internal(component, naming, &given);
    assert!(mapped.unknown.is_empty() && mapped.faults.is_empty(), "{:?} {:?}", mapped.unknown, mapped.faults);
    mapped.tensors.into_iter().map(|(name, recipe)| (name, recipe.shape)).collect()
}

fn pairs(shapes: &Shapes) -> impl Iterator<Item = (&str, &[usize])> {
    shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
}

fn saved(component: Component, family: Family, form: Form, shapes: &Shapes) -> Shapes {
    let stored = plan(component, family, form, pairs(shapes)).unwrap();
    let len = stored.len();
    let saved: Shapes = stored.into_iter().map(|tensor| (tensor.name, tensor.recipe.shape)).collect();
    assert_eq!(saved.len(), len, "a name twice");
    saved
}

fn parameters(shapes: &Shapes) -> usize {
    shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
}

#[test]
fn full_size_models_map_completely() {
    for (label, component, family, architecture, tensors, count) in MODELS {
        let diffusers = listed(label);
        let inside = internal(component, &diffusers);
        assert_eq!((inside.len(), parameters(&inside)), (tensors, count), "{label}");
        assert_eq!(saved(component, family, Form::Diffusers, &inside), diffusers, "{label}");
        // In the authors' names, with and without prefix, and back.
        let own = saved(component, family, Form::OwnFile, &inside);
        let single = saved(component, family, Form::SingleFile, &inside);
        assert_eq!(parameters(&own) - count, if component == Component::Lumina2 { 2304 } else { 0 }, "{label}");
        let bare: Shapes = own.into_iter().map(|(n, s)| (n.trim_start_matches("model.").to_owned(), s)).collect();
        let without_norm: Shapes = bare.into_iter().filter(|(name, _)| name != NORM_FINAL).collect();
        assert_eq!(internal(component, &without_norm), inside, "{label}");
        for shapes in [&diffusers, &without_norm, &single] {
            let found = detect_shapes(pairs(shapes), None);
            // A text encoder or autoencoder behind its prefix is recognised by the parts it adds to.
            if component == Component::Unet || component.is_transformer() || shapes.len() != single.len() {
                assert_eq!(found.architecture, architecture, "{label}");
                assert!(found.notes.is_empty(), "{label} {:?}", found.notes);
            }
        }
    }
}

#[test]
fn lumina_next_has_its_duplicates_tied() {
    let diffusers = listed("lumina_next");
    let inside = internal(Component::LuminaNext, &diffusers);
    assert_eq!((inside.len(), parameters(&inside)), (567, 1_627_386_400));
    assert_eq!(saved(Component::LuminaNext, Family::LuminaNext, Form::Diffusers, &inside), diffusers);
    assert_eq!(saved(Component::LuminaNext, Family::LuminaNext, Form::OwnFile, &inside), inside);
    for shapes in [&diffusers, &inside] {
        assert_eq!(detect_shapes(pairs(shapes), None).architecture, Architecture::LuminaNext);
    }
}

#[test]
fn single_files_as_they_are_published() {
    let names = |label: &str, component, family| {
        saved(component, family, Form::SingleFile, &internal(component, &listed(label)))
    };
    let unet = names("sdxl_unet", Component::Unet, Family::Sdxl);
    assert_eq!(unet["model.diffusion_model.label_emb.0.0.weight"], [1280, 2816]);
    assert_eq!(unet["model.diffusion_model.output_blocks.2.2.conv.weight"], [1280, 1280, 3, 3]);
    assert_eq!(unet["model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight"], [1280, 2048]);
    let clip_g = names("clip_g", Component::ClipG, Family::Sdxl);
    assert_eq!(clip_g["conditioner.embedders.1.model.text_projection"], [1280, 1280]);
    assert_eq!(clip_g["conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"], [3840, 1280]);
    let clip_h = names("clip_h", Component::TextEncoder, Family::Sd2);
    let last = "cond_stage_model.model.transformer.resblocks.23.attn.in_proj_bias";
    assert_eq!((clip_h[last].as_slice(), clip_h.len()), ([3072].as_slice(), 2 + 24 * 12 + 2 + 2));
    let sd3 = names("clip_g", Component::ClipG, Family::Sd3);
    assert_eq!(sd3["text_encoders.clip_g.transformer.text_projection.weight"], [1280, 1280]);
    let flux = names("flux_dev", Component::Flux, Family::Flux);
    assert_eq!(flux["model.diffusion_model.single_blocks.37.linear1.weight"], [21504, 3072]);
    let lumina = names("lumina2", Component::Lumina2, Family::Lumina2);
    assert_eq!(lumina.len(), 400);
    assert_eq!(lumina["model.diffusion_model.noise_refiner.1.attention.qkv.weight"], [3840, 2304]);
    let gemma = names("gemma2", Component::Gemma, Family::Lumina2);
    assert!(gemma.contains_key("text_encoders.gemma2_2b.transformer.model.layers.25.mlp.down_proj.weight"));
}

fn lora(label: &str, component: Component, family: Family, wanted: Wanted) -> Vec<LoraTarget> {
    let found = targets(family, component, pairs(&internal(component, &listed(label))), wanted);
    let names: BTreeSet<&str> = found.iter().map(|target| target.name.as_str()).collect();
    assert_eq!(names.len(), found.len(), "{label}: a name twice");
    found
}

#[test]
fn adapters_wrap_the_layers_the_reference_wraps() {
    for (label, component, family, conv, count) in [
        ("sd2_unet", Component::Unet, Family::Sd2, false, 192),
        ("sdxl_unet", Component::Unet, Family::Sdxl, false, 722),
        ("sdxl_unet_conv", Component::Unet, Family::Sdxl, true, 788),
        ("clip_l", Component::TextEncoder, Family::Sdxl, false, 72),
        ("clip_h", Component::TextEncoder, Family::Sd2, false, 138),
        ("clip_g", Component::ClipG, Family::Sdxl, false, 192),
        ("t5", Component::T5, Family::Flux, false, 168),
        ("gemma1", Component::Gemma, Family::LuminaNext, false, 126),
        ("gemma2", Component::Gemma, Family::Lumina2, false, 182),
    ] {
        let found = lora(label.trim_end_matches("_conv"), component, family, Wanted { conv, embedders: true });
        let ours: BTreeSet<String> = found
            .iter()
            .map(|target| {
                let kind = match target.kind {
                    TargetKind::Linear => "linear".to_owned(),
                    TargetKind::Conv1x1 => "conv1x1".to_owned(),
                    TargetKind::Conv { k } => format!("conv{k}x{k}"),
                };
                format!("{} {kind} {} {}", target.path, target.inputs, target.outputs)
            })
            .collect();
        assert_eq!(ours.len(), count, "{label}");
        assert_eq!(ours, section(&format!("{label}.lora")).into_iter().collect(), "{label}");
    }
}

#[test]
fn layer_counts_of_the_transformers() {
    for (label, component, family, usual, embedders) in [
        ("flux_dev", Component::Flux, Family::Flux, 304, 8),
        ("flux_schnell", Component::Flux, Family::Flux, 304, 6),
        ("sd3_medium", Component::Mmdit, Family::Sd3, 237, 8),
        ("sd35_medium", Component::Mmdit, Family::Sd3, 263, 8),
        ("sd35_large", Component::Mmdit, Family::Sd3, 377, 8),
        ("lumina2", Component::Lumina2, Family::Lumina2, 180, 4),
        ("lumina_next", Component::LuminaNext, Family::LuminaNext, 242, 4),
    ] {
        assert_eq!(lora(label, component, family, Wanted::default()).len(), usual, "{label}");
        let all = lora(label, component, family, Wanted { embedders: true, conv: true });
        assert_eq!(all.len(), usual + embedders, "{label}");
        assert!(all.iter().all(|target| target.name.starts_with("lora_unet_")));
    }
}

#[test]
fn names_blocks_and_classes_of_layers() {
    let all = Wanted { conv: true, embedders: true };
    let flux = lora("flux_dev", Component::Flux, Family::Flux, all);
    let sd3 = lora("sd35_medium", Component::Mmdit, Family::Sd3, all);
    let lumina = lora("lumina2", Component::Lumina2, Family::Lumina2, all);
    let sdxl = lora("sdxl_unet", Component::Unet, Family::Sdxl, all);
    let t5 = lora("t5", Component::T5, Family::Flux, all);
    let clip_g = lora("clip_g", Component::ClipG, Family::Sd3, all);
    let gemma = lora("gemma2", Component::Gemma, Family::Lumina2, all);
    use ModuleClass::*;
    for (list, name, class, group, block, size) in [
        (&flux, "lora_unet_double_blocks_0_img_attn_qkv", ImgAttn, Group::Double, Some(0), (3072, 9216)),
        (&flux, "lora_unet_double_blocks_18_txt_mlp_0", TxtMlp, Group::Double, Some(18), (3072, 12288)),
        (&flux, "lora_unet_double_blocks_3_img_mod_lin", ImgMod, Group::Double, Some(3), (3072, 18432)),
        (&flux, "lora_unet_single_blocks_37_linear2", Single, Group::Single, Some(37), (15360, 3072)),
        (&flux, "lora_unet_single_blocks_5_modulation_lin", SingleMod, Group::Single, Some(5), (3072, 9216)),
        (&flux, "lora_unet_guidance_in_out_layer", GuidanceIn, Group::Embedder, None, (3072, 3072)),
        (&sd3, "lora_unet_joint_blocks_0_context_block_attn_qkv", ContextAttn, Group::Joint, Some(0), (1536, 4608)),
        (&sd3, "lora_unet_joint_blocks_12_x_block_attn2_qkv", XAttn, Group::Joint, Some(12), (1536, 4608)),
        (&sd3, "lora_unet_joint_blocks_22_context_block_mlp_fc1", ContextMlp, Group::Joint, Some(22), (1536, 6144)),
        (&sd3, "lora_unet_joint_blocks_23_x_block_adaLN_modulation_1", XMod, Group::Joint, Some(23), (1536, 9216)),
        (&sd3, "lora_unet_x_embedder_proj", XEmbedder, Group::Embedder, None, (16, 1536)),
        (&sd3, "lora_unet_final_layer_linear", FinalLinear, Group::Final, None, (1536, 64)),
        (&lumina, "lora_unet_layers_0_attention_qkv", Attn, Group::Layers, Some(0), (2304, 3840)),
        (&lumina, "lora_unet_noise_refiner_1_feed_forward_w1", Mlp, Group::NoiseRefiner, Some(1), (2304, 9216)),
        (&lumina, "lora_unet_context_refiner_0_attention_qkv", Attn, Group::ContextRefiner, Some(0), (2304, 3840)),
        (&lumina, "lora_unet_final_layer_adaLN_modulation_1", Mod, Group::Final, None, (1024, 2304)),
        (&lumina, "lora_unet_cap_embedder_1", CapEmbedder, Group::Embedder, None, (2304, 2304)),
        (&sdxl, "lora_unet_input_blocks_4_1_proj_in", Proj, Group::Unet, Some(5), (640, 640)),
        (
            &sdxl,
            "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_v",
            CrossAttn,
            Group::Unet,
            Some(9),
            (2048, 1280),
        ),
        (&sdxl, "lora_unet_middle_block_1_transformer_blocks_0_ff_net_2", Mlp, Group::Unet, Some(11), (5120, 1280)),
        (&sdxl, "lora_unet_output_blocks_5_1_proj_out", Proj, Group::Unet, Some(18), (640, 640)),
        (&sdxl, "lora_unet_input_blocks_1_0_in_layers_2", Resnet, Group::Unet, Some(2), (320, 320)),
        (&sdxl, "lora_unet_input_blocks_4_0_skip_connection", Resnet, Group::Unet, Some(5), (320, 640)),
        (&sdxl, "lora_unet_input_blocks_3_0_op", Sampler, Group::Unet, Some(4), (320, 320)),
        (&sdxl, "lora_unet_output_blocks_2_2_conv", Sampler, Group::Unet, Some(15), (1280, 1280)),
        (&t5, "lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_1", Mlp, Group::Text, None, (4096, 10240)),
        (&clip_g, "lora_te2_text_model_encoder_layers_31_self_attn_out_proj", Attn, Group::Text, None, (1280, 1280)),
        (&gemma, "lora_te_layers_25_mlp_down_proj", Mlp, Group::Text, None, (9216, 2304)),
    ] {
        let target = list.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("{name}"));
        let found = (target.class, target.group, target.block_index, (target.inputs, target.outputs));
        assert_eq!(found, (class, group, block, size), "{name}");
    }
    let blocks: BTreeSet<_> = sdxl.iter().map(|target| target.block_index).collect();
    assert_eq!(blocks, (2..=21).map(Some).collect());
}
