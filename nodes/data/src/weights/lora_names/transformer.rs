//! The layers of diffusion transformers and text encoders, by their internal paths.

use super::class::{Group, ModuleClass};
use crate::weights::component::Component;

/// A layer within a block, or by itself, and its class.
type Row = (&'static str, ModuleClass);

/// A list of blocks: its name, and the layers of each block.
type Blocks = (&'static str, Group, &'static [Row]);

/// Where a layer is, if an adapter wraps it.
pub(super) fn place(component: Component, path: &str, embedders: bool) -> Option<(Group, Option<usize>, ModuleClass)> {
    let (blocks, last, outer): (&[Blocks], &[Row], &[Row]) = match component {
        Component::Flux => (
            &[("double_blocks", Group::Double, FLUX_DOUBLE), ("single_blocks", Group::Single, FLUX_SINGLE)],
            &[],
            FLUX_IN,
        ),
        Component::Mmdit => (&[("joint_blocks", Group::Joint, SD3)], &[], SD3_OUTER),
        Component::Lumina2 => (
            &[
                ("layers", Group::Layers, LUMINA2),
                ("noise_refiner", Group::NoiseRefiner, LUMINA2),
                ("context_refiner", Group::ContextRefiner, LUMINA2),
            ],
            LUMINA_LAST,
            LUMINA_OUTER,
        ),
        Component::LuminaNext => (&[("layers", Group::Layers, LUMINA_NEXT)], LUMINA_LAST, LUMINA_OUTER),
        Component::TextEncoder | Component::ClipG => (&[("text_model.encoder.layers", Group::Text, CLIP)], &[], &[]),
        Component::T5 => (&[("encoder.block", Group::Text, T5)], &[], &[]),
        Component::Gemma => (&[("layers", Group::Text, GEMMA)], &[], &[]),
        Component::Unet | Component::Vae => return None,
    };
    for (head, group, rows) in blocks {
        let inner = path.strip_prefix(head).and_then(|rest| rest.strip_prefix('.'));
        let Some((number, inner)) = inner.and_then(|rest| rest.split_once('.')) else { continue };
        let number: usize = number.parse().ok()?;
        let (_, class) = rows.iter().find(|(layer, _)| *layer == inner)?;
        return Some((*group, (*group != Group::Text).then_some(number), *class));
    }
    let whole = |rows: &[Row]| rows.iter().find(|(layer, _)| *layer == path).map(|(_, class)| *class);
    if let Some(class) = whole(last) {
        return Some((Group::Final, None, class));
    }
    let class = whole(outer).filter(|_| embedders)?;
    let group = if path.starts_with("final_layer.") { Group::Final } else { Group::Embedder };
    Some((group, None, class))
}

use ModuleClass::*;

const FLUX_DOUBLE: &[Row] = &[
    ("img_attn.qkv", ImgAttn),
    ("img_attn.proj", ImgAttn),
    ("txt_attn.qkv", TxtAttn),
    ("txt_attn.proj", TxtAttn),
    ("img_mlp.0", ImgMlp),
    ("img_mlp.2", ImgMlp),
    ("txt_mlp.0", TxtMlp),
    ("txt_mlp.2", TxtMlp),
    ("img_mod.lin", ImgMod),
    ("txt_mod.lin", TxtMod),
];

const FLUX_SINGLE: &[Row] = &[("linear1", Single), ("linear2", Single), ("modulation.lin", SingleMod)];

const FLUX_IN: &[Row] = &[
    ("img_in", ImgIn),
    ("time_in.in_layer", TimeIn),
    ("time_in.out_layer", TimeIn),
    ("vector_in.in_layer", VectorIn),
    ("vector_in.out_layer", VectorIn),
    ("guidance_in.in_layer", GuidanceIn),
    ("guidance_in.out_layer", GuidanceIn),
    ("txt_in", TxtIn),
];

const SD3: &[Row] = &[
    ("context_block.attn.qkv", ContextAttn),
    ("context_block.attn.proj", ContextAttn),
    ("context_block.mlp.fc1", ContextMlp),
    ("context_block.mlp.fc2", ContextMlp),
    ("context_block.adaLN_modulation.1", ContextMod),
    ("x_block.attn.qkv", XAttn),
    ("x_block.attn.proj", XAttn),
    ("x_block.attn2.qkv", XAttn),
    ("x_block.attn2.proj", XAttn),
    ("x_block.mlp.fc1", XMlp),
    ("x_block.mlp.fc2", XMlp),
    ("x_block.adaLN_modulation.1", XMod),
];

const SD3_OUTER: &[Row] = &[
    ("context_embedder", ContextEmbedder),
    ("t_embedder.mlp.0", TEmbedder),
    ("t_embedder.mlp.2", TEmbedder),
    ("x_embedder.proj", XEmbedder),
    ("y_embedder.mlp.0", YEmbedder),
    ("y_embedder.mlp.2", YEmbedder),
    ("final_layer.adaLN_modulation.1", FinalMod),
    ("final_layer.linear", FinalLinear),
];

const LUMINA2: &[Row] = &[
    ("attention.qkv", Attn),
    ("attention.out", Attn),
    ("feed_forward.w1", Mlp),
    ("feed_forward.w2", Mlp),
    ("feed_forward.w3", Mlp),
    ("adaLN_modulation.1", Mod),
];

const LUMINA_NEXT: &[Row] = &[
    ("attention.wq", Attn),
    ("attention.wk", Attn),
    ("attention.wv", Attn),
    ("attention.wk_y", Attn),
    ("attention.wv_y", Attn),
    ("attention.wo", Attn),
    ("feed_forward.w1", Mlp),
    ("feed_forward.w2", Mlp),
    ("feed_forward.w3", Mlp),
    ("adaLN_modulation.1", Mod),
];

/// kohya's name test for modulations takes the last layer's as well.
const LUMINA_LAST: &[Row] = &[("final_layer.linear", FinalLinear), ("final_layer.adaLN_modulation.1", Mod)];

const LUMINA_OUTER: &[Row] = &[
    ("x_embedder", XEmbedder),
    ("t_embedder.mlp.0", TEmbedder),
    ("t_embedder.mlp.2", TEmbedder),
    ("cap_embedder.1", CapEmbedder),
];

const CLIP: &[Row] = &[
    ("self_attn.q_proj", Attn),
    ("self_attn.k_proj", Attn),
    ("self_attn.v_proj", Attn),
    ("self_attn.out_proj", Attn),
    ("mlp.fc1", Mlp),
    ("mlp.fc2", Mlp),
];

const T5: &[Row] = &[
    ("layer.0.SelfAttention.q", Attn),
    ("layer.0.SelfAttention.k", Attn),
    ("layer.0.SelfAttention.v", Attn),
    ("layer.0.SelfAttention.o", Attn),
    ("layer.1.DenseReluDense.wi_0", Mlp),
    ("layer.1.DenseReluDense.wi_1", Mlp),
    ("layer.1.DenseReluDense.wo", Mlp),
];

const GEMMA: &[Row] = &[
    ("self_attn.q_proj", Attn),
    ("self_attn.k_proj", Attn),
    ("self_attn.v_proj", Attn),
    ("self_attn.o_proj", Attn),
    ("mlp.gate_proj", Mlp),
    ("mlp.up_proj", Mlp),
    ("mlp.down_proj", Mlp),
];
