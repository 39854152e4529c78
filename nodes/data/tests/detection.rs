//! Models of every supported kind, and the unsupported ones, are told apart by names and shapes.

mod common;

use pipe_data::detect::{Architecture, FoundPart, LoraKind, detect_set, detect_shapes};
use pipe_data::weights::{Layout, WeightSet};

fn of(tensors: &[(&str, &[usize])]) -> Architecture {
    detect_shapes(tensors.iter().copied(), None).architecture
}

const P: &str = "model.diffusion_model.";

/// With and without the prefix of whole-model files.
fn both(tensors: &[(&str, &[usize])], wanted: Architecture) {
    assert_eq!(of(tensors), wanted);
    let names: Vec<String> = tensors.iter().map(|(name, _)| format!("{P}{name}")).collect();
    let prefixed: Vec<(&str, &[usize])> = names.iter().zip(tensors).map(|(n, (_, s))| (n.as_str(), *s)).collect();
    assert_eq!(of(&prefixed), wanted);
}

#[test]
fn transformers() {
    use Architecture::*;
    let flux: &[(&str, &[usize])] =
        &[("double_blocks.0.img_attn.qkv.weight", &[9216, 3072]), ("img_in.weight", &[3072, 64])];
    both(flux, FluxSchnell);
    both(&[flux, &[("guidance_in.in_layer.weight", &[3072, 256])]].concat(), FluxDev);
    both(
        &[("double_blocks.0.img_attn.qkv.weight", &[1, 1]), ("img_in.weight", &[3072, 384])],
        Unsupported("FLUX.1 Fill"),
    );
    both(
        &[("double_blocks.0.img_attn.qkv.weight", &[1, 1]), ("img_in.weight", &[3072, 128])],
        Unsupported("FLUX.1 depth/canny"),
    );
    both(&[flux, &[("distilled_guidance_layer.in_proj.weight", &[1])]].concat(), Unsupported("Chroma"));
    let diffusers: &[(&str, &[usize])] = &[
        ("transformer_blocks.0.attn.add_k_proj.bias", &[3072]),
        ("single_transformer_blocks.0.attn.to_q.weight", &[3072, 3072]),
        ("time_text_embed.guidance_embedder.linear_1.weight", &[3072, 256]),
    ];
    both(diffusers, FluxDev);
    both(&diffusers[..2], FluxSchnell);
    let sd3: &[(&str, &[usize])] = &[("joint_blocks.0.context_block.attn.qkv.weight", &[4608, 1536])];
    let norm: &[(&str, &[usize])] = &[("joint_blocks.0.context_block.attn.ln_k.weight", &[64])];
    let second: &[(&str, &[usize])] = &[("joint_blocks.0.x_block.attn2.qkv.weight", &[4608, 1536])];
    both(sd3, Sd3Medium);
    both(&[sd3, norm].concat(), Sd35Large);
    both(&[sd3, norm, second].concat(), Sd35Medium);
    both(
        &[("pos_embed.pos_embed", &[1, 36864, 1536]), ("transformer_blocks.0.attn.add_k_proj.bias", &[1536])],
        Sd3Medium,
    );
    let lumina: &[(&str, &[usize])] = &[
        ("layers.0.attention.qkv.weight", &[1, 1]),
        ("context_refiner.0.attention.qkv.weight", &[1, 1]),
        ("cap_embedder.0.weight", &[1]),
    ];
    both(lumina, Lumina2);
    both(&[lumina, &[("layers.0.adaLN_modulation.0.weight", &[1])]].concat(), Unsupported("Z-Image"));
    both(&[("layers.0.attention.wk_y.weight", &[1, 1]), ("pad_token", &[1])], LuminaNext);
    both(&[("layers.0.attn2.to_k.weight", &[1, 1]), ("time_caption_embed.caption_embedder.0.bias", &[1])], LuminaNext);
}

#[test]
fn unets() {
    use Architecture::*;
    let unet = |channels: &'static [usize], context: &'static [usize]| {
        [("input_blocks.0.0.weight", channels), ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", context)]
    };
    both(&unet(&[320, 4, 3, 3], &[320, 768]), Sd1);
    both(&unet(&[320, 4, 3, 3], &[320, 1024]), Sd2);
    both(&unet(&[320, 9, 3, 3], &[320, 768]), Unsupported("inpainting U-Net with 9 input channels"));
    both(&unet(&[320, 8, 3, 3], &[320, 768]), Unsupported("instruct-pix2pix U-Net with 8 input channels"));
    both(&[("input_blocks.0.0.weight", &[320, 4, 3, 3]), ("label_emb.0.0.weight", &[1280, 2816])], Sdxl);
    both(&[("input_blocks.0.0.weight", &[384, 4, 3, 3]), ("label_emb.0.0.weight", &[1536, 2560])], SdxlRefiner);
    assert_eq!(
        of(&[
            ("conv_in.weight", &[320, 4, 3, 3]),
            ("down_blocks.0.resnets.0.conv1.weight", &[320, 320, 3, 3]),
            ("add_embedding.linear_1.weight", &[1280, 2816]),
        ]),
        Sdxl
    );
    // Averaged weights, named without points, change nothing.
    let averaged = ("model_ema.diffusion_modeldouble_blocks0img_attnqkvweight", [9, 3].as_slice());
    let sd2 = unet(&[320, 4, 3, 3], &[320, 1024]);
    let found = detect_shapes(sd2.into_iter().chain([averaged]), None);
    assert_eq!((found.architecture, found.components), (Sd2, vec![FoundPart::Unet, FoundPart::UnetEma]));
    let marked = detect_shapes(
        [
            ("model.diffusion_model.input_blocks.0.0.weight", [320, 4, 3, 3].as_slice()),
            ("model.diffusion_model.label_emb.0.0.weight", &[1280, 2816]),
            ("conditioner.embedders.1.model.positional_embedding", &[77, 1280]),
            ("first_stage_model.decoder.conv_in.weight", &[512, 4, 3, 3]),
            ("v_pred", &[0]),
            ("ztsnr", &[0]),
        ]
        .into_iter(),
        Some("stable-diffusion-xl-v1-base".into()),
    );
    assert!(marked.v_pred && marked.zero_terminal_snr && marked.notes.len() == 2);
    assert_eq!(marked.components, [FoundPart::Unet, FoundPart::Vae, FoundPart::OpenClipG]);
}

#[test]
fn encoders_and_decoders() {
    use Architecture::*;
    for (width, wanted) in [(768, ClipL), (1024, OpenClipH), (1280, OpenClipG), (32, ClipL)] {
        assert_eq!(of(&[("text_model.embeddings.token_embedding.weight", &[49408, width])]), wanted);
        assert_eq!(of(&[("token_embedding.weight", &[49408, width]), ("positional_embedding", &[77, width])]), wanted);
    }
    assert_eq!(of(&[("first_stage_model.decoder.conv_in.weight", &[512, 16, 3, 3])]), Vae { channels: 16 });
    assert_eq!(of(&[("encoder.block.0.layer.0.SelfAttention.q.weight", &[4096, 4096])]), T5);
    let gemma: &[(&str, &[usize])] = &[("model.layers.0.self_attn.q_proj.weight", &[2048, 2304])];
    let norm: &[(&str, &[usize])] = &[("model.layers.0.pre_feedforward_layernorm.weight", &[2304])];
    assert_eq!(of(gemma), Gemma1);
    assert_eq!(of(&[gemma, norm].concat()), Gemma2);
    assert_eq!(of(&[("something.weight", &[1])]), Unknown);
    assert_eq!(of(&[]), Unknown);
}

#[test]
fn adapters() {
    for (name, kind) in [
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", LoraKind::Kohya),
        ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight", LoraKind::Peft),
        ("base_model.model.x.lora_B.default.weight", LoraKind::Peft),
        ("down_blocks.0.attn1.processor.to_q_lora.down.weight", LoraKind::DiffusersOld),
        ("lora_unet_x.hada_w1_a", LoraKind::LoHa),
        ("lora_unet_x.lokr_w1", LoraKind::LoKr),
        ("lora_unet_x.lora_mid.weight", LoraKind::LoCon),
        ("lora_unet_x.oft_blocks", LoraKind::Oft),
        ("lora_unet_x.oft_blocks.2", LoraKind::Oft),
        ("lora_unet_x.dora_scale", LoraKind::Dora),
        ("lora_unet_x.diff", LoraKind::Full),
    ] {
        assert_eq!(of(&[(name, &[4, 320])]), Architecture::Lora(kind), "{name}");
    }
    let context = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight";
    for (width, base) in [(768, "SD1"), (1024, "SD2"), (2048, "SDXL")] {
        let found = detect_shapes([(context, [4, width].as_slice())].into_iter(), None);
        assert_eq!(found.notes, [format!("made for {base}")]);
    }
}

/// The authors' files are told from Diffusers' by their names.
#[test]
fn whose_names_a_part_has() {
    for family in ["flux", "flux_schnell", "lumina2", "lumina_next", "sd3", "sd35m"] {
        // SD3's have their prefix.
        let original = if family.starts_with("sd3") { Layout::SingleFileLdm } else { Layout::LdmFile };
        for (file, layout) in
            [("original.safetensors", original), ("diffusion_pytorch_model.safetensors", Layout::DiffusersFile)]
        {
            let set = WeightSet::open(common::fixture(&format!("{family}/{file}"))).unwrap();
            assert_eq!(detect_set(&set).layout, Some(layout), "{family} {file}");
        }
    }
}
