//! Files that hold something else than a part of a model: strange tensors, integers, one shard of several.

mod common;

use std::collections::BTreeSet;

use pipe_data::weights::{Component, DType, TensorOut, component, write_safetensors};

#[test]
fn what_belongs_to_no_part_is_listed_with_the_denoiser() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let file: &[(&str, &[usize])] = &[
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", &[6, 2]),
        ("vae.decoder.conv_in.weight", &[2, 16, 3, 3]),
        ("text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight", &[4, 2]),
        ("text_encoders.clip_l.logit_scale", &[]),
        ("text_encoders.t5xxl.spiece_model", &[5]),
        ("model_ema.decay", &[1]),
        ("model_ema.diffusion_modeldouble_blocks0img_attnqkvweight", &[1]),
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", &[1, 77]),
        ("betas", &[4]),
        ("sqrt_alphas_cumprod", &[4]),
        ("denoiser.sigmas", &[4]),
        ("v_pred", &[0]),
        ("scaled_fp8", &[0]),
        ("something.else", &[2]),
        ("model.knots", &[2]),
        ("vision.x", &[2]),
    ];
    common::zeros(&path, file.iter().copied());
    let strays = |part| component(&path, part).unwrap().strays;
    assert_eq!(
        BTreeSet::from_iter(strays(Component::Flux)),
        BTreeSet::from(["model.knots", "something.else", "vision.x"].map(String::from))
    );
    assert!(strays(Component::Vae).is_empty() && strays(Component::TextEncoder).is_empty());
    // Without a denoiser, with any of its parts.
    common::zeros(&path, file[1..].iter().copied());
    let strays = |part| component(&path, part).unwrap().strays;
    assert_eq!((strays(Component::Vae).len(), strays(Component::TextEncoder).len()), (3, 3));
    // Files of one part: a text encoder's own strange tensors are unexpected, the autoencoder leaves alone what is not its.
    let alone: &[(&str, &[usize])] =
        &[("decoder.conv_in.weight", &[2, 4, 3, 3]), ("loss.logvar", &[1]), ("knots", &[1])];
    common::zeros(&path, alone.iter().copied());
    let vae = component(&path, Component::Vae).unwrap();
    assert_eq!((&vae.strays[..], vae.unexpected.len()), (&["knots".to_owned()][..], 0));
    let gemma: &[(&str, &[usize])] = &[
        ("model.layers.0.self_attn.q_proj.weight", &[2, 2]),
        ("model.embed_tokens.weight", &[2, 2]),
        ("lm_head.weight", &[2, 2]),
        ("spiece_model", &[9]),
    ];
    common::zeros(&path, gemma.iter().copied());
    assert_eq!(component(&path, Component::Gemma).unwrap().strays, Vec::<String>::new());
}

#[test]
fn weights_are_floats() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for dtype in DType::ALL {
        let tensors = ["double_blocks.0.img_attn.qkv.weight", "double_blocks.0.img_attn.proj.weight"].map(|name| {
            let dtype = if name.contains("proj") { dtype } else { DType::F32 };
            TensorOut::bytes(name, dtype, [2usize, 2], vec![0; 4 * dtype.size()])
        });
        write_safetensors(&path, tensors, &Default::default()).unwrap();
        let found = component(&path, Component::Flux);
        assert_eq!(found.is_ok(), dtype.is_float(), "{dtype}");
        if let Err(error) = found {
            let text = error.to_string();
            assert!(
                text.contains("img_attn.proj.weight") && text.contains(&format!("is `{dtype}`, a float type is")),
                "{text}"
            );
        }
    }
    // Buffers, whatever their type, are none.
    let tensors = [
        TensorOut::bytes("text_model.embeddings.token_embedding.weight", DType::F16, [2usize, 2], vec![0; 8]),
        TensorOut::bytes("text_model.embeddings.position_ids", DType::I64, [2usize], vec![0; 16]),
    ];
    write_safetensors(&path, tensors, &Default::default()).unwrap();
    assert!(component(&path, Component::TextEncoder).is_ok());
}

#[test]
fn a_shard_says_that_it_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("diffusion_pytorch_model-00001-of-00003.safetensors");
    let first: &[(&str, &[usize])] =
        &[("transformer_blocks.0.attn.to_q.weight", &[2, 2]), ("single_transformer_blocks.4.proj_out.weight", &[2, 2])];
    common::zeros(&shard, first.iter().copied());
    let error = component(&shard, Component::Flux).unwrap_err().to_string();
    let wanted = "has no FLUX.1 transformer: it holds shard 1 of 3 of FLUX.1 schnell";
    assert!(error.ends_with(wanted), "{error}");
    // The same under a name that says nothing, and a file that is the only one.
    for name in ["model.safetensors", "consolidated-00001-of-00001.safetensors"] {
        let path = folder.path().join(name);
        common::zeros(&path, first.iter().copied());
        let error = component(&path, Component::Flux).unwrap_err().to_string();
        assert!(error.ends_with("it holds only some tensors of one (FLUX.1 schnell)"), "{error}");
    }
}
