//! What model a header belongs to, from names and shapes alone.
//!
//! Order matters: the rules go from the most telling tensor to the least. Metadata are not believed; they are only
//! mentioned when they disagree.

mod kinds;
mod lora;

use std::collections::HashMap;

use super::component::Layout;
use super::header::Header;
use super::set::WeightSet;
pub use kinds::{Architecture, FoundPart};
pub use lora::{LoraKind, lora_base, lora_kind};

/// What a file is.
#[derive(Clone, Debug, PartialEq)]
pub struct Detected {
    /// The model, or the only part there is.
    pub architecture: Architecture,
    /// How it is stored; a header alone cannot tell a folder.
    pub layout: Option<Layout>,
    /// The parts in it.
    pub components: Vec<FoundPart>,
    /// The file carries the `v_pred` mark: trained for v-prediction.
    pub v_pred: bool,
    /// The file carries the `ztsnr` mark: trained with zero terminal SNR.
    pub zero_terminal_snr: bool,
    /// `modelspec.architecture`, unchecked.
    pub declared: Option<String>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Says what model a file holds.
pub fn detect(header: &Header) -> Detected {
    let declared = header.metadata.get("modelspec.architecture").cloned();
    detect_shapes(header.tensors.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice())), declared)
}

/// Says what model a set of files holds.
pub fn detect_set(set: &WeightSet) -> Detected {
    let declared = set.metadata("modelspec.architecture").map(str::to_owned);
    let shapes = set.names().filter_map(|name| Some((name, set.info(name)?.shape.as_slice())));
    detect_shapes(shapes, declared)
}

/// Says what model tensors of these names and shapes are.
pub fn detect_shapes<'a>(shapes: impl Iterator<Item = (&'a str, &'a [usize])>, declared: Option<String>) -> Detected {
    let names = Names(shapes.collect());
    let mut notes = Vec::new();
    let architecture = match lora_kind(names.0.keys().copied()) {
        Some(kind) => {
            notes.extend(lora_base(&names.0).map(|base| format!("made for {base}")));
            Architecture::Lora(kind)
        }
        None => names.denoiser(&mut notes).unwrap_or_else(|| names.part(&mut notes)),
    };
    let marked = |mark: &str| names.0.keys().any(|name| *name == mark || name.strip_prefix(PREFIX) == Some(mark));
    let (v_pred, zero_terminal_snr) = (marked("v_pred"), marked("ztsnr"));
    if v_pred {
        notes.push("it is marked as trained for v-prediction".into());
    }
    if zero_terminal_snr {
        notes.push("it is marked as trained with zero terminal SNR".into());
    }
    if names.0.keys().any(|name| ["scaled_fp8", ".scale_weight", ".weight_scale"].iter().any(|e| name.ends_with(e))) {
        notes.push("its fp8 weights have separate scales".into());
    }
    let components = names.components();
    let layout = names.layout(&components);
    Detected { architecture, layout, components, v_pred, zero_terminal_snr, declared, notes }
}

/// Prefix of the denoiser in whole-model files.
const PREFIX: &str = "model.diffusion_model.";

/// Names and shapes of a file.
struct Names<'a>(HashMap<&'a str, &'a [usize]>);

impl<'a> Names<'a> {
    /// Shape of a denoiser tensor, with or without prefix.
    fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.0.get(name).or_else(|| self.0.get(format!("{PREFIX}{name}").as_str())).copied()
    }

    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    fn any(&self, part: &str) -> bool {
        self.0.keys().any(|name| name.contains(part))
    }

    fn starts(&self, head: &str) -> bool {
        self.0
            .keys()
            .any(|name| name.starts_with(head) || name.strip_prefix(PREFIX).is_some_and(|n| n.starts_with(head)))
    }

    /// The diffusion model, if there is one.
    fn denoiser(&self, notes: &mut Vec<String>) -> Option<Architecture> {
        use Architecture::*;
        if self.starts("distilled_guidance_layer.") {
            return Some(Unsupported("Chroma"));
        }
        if self.has("double_blocks.0.img_attn.qkv.weight") {
            self.pruned(["double_blocks", "single_blocks"], notes);
            return Some(match self.shape("img_in.weight").and_then(|s| s.get(1)) {
                Some(384) => Unsupported("FLUX.1 Fill"),
                Some(128) => Unsupported("FLUX.1 depth/canny"),
                _ if self.has("guidance_in.in_layer.weight") => FluxDev,
                _ => FluxSchnell,
            });
        }
        if self.starts("single_transformer_blocks.") && self.starts("transformer_blocks.") {
            self.pruned(["transformer_blocks", "single_transformer_blocks"], notes);
            return Some(match self.shape("x_embedder.weight").and_then(|s| s.get(1)) {
                Some(384) => Unsupported("FLUX.1 Fill"),
                Some(128) => Unsupported("FLUX.1 depth/canny"),
                _ if self.starts("time_text_embed.guidance_embedder.") => FluxDev,
                _ => FluxSchnell,
            });
        }
        if self.has("joint_blocks.0.context_block.attn.qkv.weight") {
            return Some(
                match (self.has("joint_blocks.0.context_block.attn.ln_k.weight"), self.any(".x_block.attn2.")) {
                    (false, _) => Sd3Medium,
                    (true, true) => Sd35Medium,
                    (true, false) => Sd35Large,
                },
            );
        }
        if self.has("pos_embed.pos_embed") && self.has("transformer_blocks.0.attn.add_k_proj.bias") {
            return Some(match (self.has("transformer_blocks.0.attn.norm_k.weight"), self.any(".attn2.")) {
                (false, _) => Sd3Medium,
                (true, true) => Sd35Medium,
                (true, false) => Sd35Large,
            });
        }
        if self.starts("context_refiner.0.") {
            return Some(if self.has("layers.0.adaLN_modulation.0.weight") { Unsupported("Z-Image") } else { Lumina2 });
        }
        let next = ["layers.0.attention.wk_y.weight", "layers.0.attn2.to_k.weight"];
        if next.iter().any(|name| self.has(name)) && (self.has("pad_token") || self.starts("time_caption_embed.")) {
            return Some(LuminaNext);
        }
        let (conv_in, sdxl, block) = if let Some(conv_in) = self.shape("input_blocks.0.0.weight") {
            (conv_in, self.shape("label_emb.0.0.weight"), "input_blocks.1.1")
        } else if self.has("down_blocks.0.resnets.0.conv1.weight") {
            let conv_in = self.shape("conv_in.weight").unwrap_or_default();
            (conv_in, self.shape("add_embedding.linear_1.weight"), "down_blocks.0.attentions.0")
        } else {
            return None;
        };
        Some(self.unet(conv_in, sdxl, block, notes))
    }

    /// Tells of a FLUX of other than 19 and 38 blocks, by the highest numbers.
    fn pruned(&self, [double, single]: [&str; 2], notes: &mut Vec<String>) {
        let count = |head: &str| {
            let number = |name: &&str| {
                let name = name.strip_prefix(PREFIX).unwrap_or(name);
                name.strip_prefix(head)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok()
            };
            self.0.keys().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
        };
        let (double, single) = (count(double), count(single));
        if (double, single) != (19, 38) {
            notes.push(format!("it has {double} double and {single} single blocks, FLUX.1 has 19 and 38"));
        }
    }

    fn unet(&self, conv_in: &[usize], sdxl: Option<&[usize]>, block: &str, notes: &mut Vec<String>) -> Architecture {
        use Architecture::*;
        let family = match sdxl {
            Some([1536, _]) => SdxlRefiner,
            Some(_) => Sdxl,
            None => {
                let width = self.shape(&format!("{block}.transformer_blocks.0.attn2.to_k.weight"));
                match width.and_then(|s| s.get(1)) {
                    Some(768) => Sd1,
                    Some(1024) => Sd2,
                    width => {
                        if let Some(width) = width {
                            notes.push(format!("its context width is {width}, that of a reduced model"));
                        }
                        // SD2 made the projections around the attention matrices.
                        let projection = self.shape(&format!("{block}.proj_in.weight"));
                        if projection.is_some_and(|s| s.len() == 2) { Sd2 } else { Sd1 }
                    }
                }
            }
        };
        match conv_in.get(1) {
            Some(9) => Unsupported("inpainting U-Net with 9 input channels"),
            Some(8) => Unsupported("instruct-pix2pix U-Net with 8 input channels"),
            _ => family,
        }
    }

    /// The part this file is, when there is no diffusion model.
    fn part(&self, notes: &mut Vec<String>) -> Architecture {
        for prefix in ["", "first_stage_model.", "vae."] {
            let shape = self.0.get(format!("{prefix}decoder.conv_in.weight").as_str());
            if let Some(&channels) = shape.and_then(|s| s.get(1)) {
                return Architecture::Vae { channels };
            }
        }
        let width = |name: &str| self.0.get(name).and_then(|s| s.get(1)).copied();
        let hugging_face = ["text_model.", "", "cond_stage_model.transformer.text_model.", "text_encoder.text_model."]
            .iter()
            .find_map(|prefix| width(&format!("{prefix}embeddings.token_embedding.weight")));
        let open_clip = ["", "cond_stage_model.model."]
            .iter()
            .find(|prefix| self.0.contains_key(format!("{prefix}positional_embedding").as_str()))
            .and_then(|prefix| width(&format!("{prefix}token_embedding.weight")));
        if let Some(width) = hugging_face.or(open_clip) {
            return match width {
                1024 => Architecture::OpenClipH,
                1280 => Architecture::OpenClipG,
                768 => Architecture::ClipL,
                _ => {
                    notes.push(format!("its width is {width}, that of a reduced model"));
                    Architecture::ClipL
                }
            };
        }
        if self.any("encoder.block.0.layer.0.SelfAttention.q.weight") {
            return Architecture::T5;
        }
        let gemma = ["model.layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.weight"];
        if gemma.iter().any(|name| self.0.contains_key(name)) {
            return if self.second_gemma() { Architecture::Gemma2 } else { Architecture::Gemma1 };
        }
        Architecture::Unknown
    }

    /// The second generation has a norm on either side of attention and feed-forward.
    fn second_gemma(&self) -> bool {
        self.any("layers.0.pre_feedforward_layernorm.weight")
    }

    fn components(&self) -> Vec<FoundPart> {
        use FoundPart::*;
        let heads: [(FoundPart, &[&str]); 9] = [
            (Unet, &["input_blocks.0.0.weight", "down_blocks.0.resnets.0.conv1.weight"]),
            (
                Transformer,
                &[
                    "double_blocks.0.",
                    "joint_blocks.0.",
                    "transformer_blocks.0.attn.",
                    "context_refiner.0.",
                    "layers.0.attention.wk_y.",
                    "layers.0.attn2.to_k.",
                ],
            ),
            (UnetEma, &["model_ema."]),
            (Vae, &["first_stage_model.decoder.", "vae.decoder.", "decoder.conv_in."]),
            (
                ClipL,
                &[
                    "cond_stage_model.transformer.",
                    "conditioner.embedders.0.transformer.",
                    "text_encoders.clip_l.",
                    "text_encoder.text_model.",
                ],
            ),
            (OpenClipH, &["cond_stage_model.model."]),
            (OpenClipG, &["conditioner.embedders.1.model.", "text_encoders.clip_g.", "text_encoder_2.text_model."]),
            (
                T5,
                &[
                    "text_encoders.t5xxl.",
                    "encoder.block.0.layer.0.SelfAttention.",
                    "text_encoder_2.encoder.block.0.",
                    "text_encoder_3.encoder.block.0.",
                ],
            ),
            (
                if self.second_gemma() { Gemma2 } else { Gemma1 },
                &[
                    "text_encoders.gemma",
                    "text_encoder.layers.0.self_attn.",
                    "text_encoder.model.layers.0.self_attn.",
                    "model.layers.0.self_attn.q_proj.",
                    "layers.0.self_attn.q_proj.",
                ],
            ),
        ];
        let present = |(_, heads): &(FoundPart, &[&str])| heads.iter().any(|head| self.starts(head));
        // OpenCLIP-H under Transformers names is told by its width.
        let tables = ["cond_stage_model.transformer.text_model.", "text_encoder.text_model."];
        let width = tables
            .iter()
            .find_map(|prefix| self.0.get(format!("{prefix}embeddings.token_embedding.weight").as_str())?.get(1));
        let named = |part: FoundPart| if part == ClipL && width == Some(&1024) { OpenClipH } else { part };
        heads.iter().filter(|entry| present(entry)).map(|(part, _)| named(*part)).collect()
    }

    fn layout(&self, components: &[FoundPart]) -> Option<Layout> {
        let prefixes = [PREFIX, "first_stage_model.", "cond_stage_model.", "conditioner.embedders.", "text_encoders."];
        if self.0.keys().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))) {
            return Some(Layout::SingleFileLdm);
        }
        let original = [
            "input_blocks.0.",
            "double_blocks.0.",
            "joint_blocks.0.",
            "layers.0.attention.",
            "decoder.up.0.",
            "transformer.resblocks.",
        ];
        if original.iter().any(|head| self.starts(head)) {
            return Some(Layout::LdmFile);
        }
        let others = ["text_model.", "embeddings.", "decoder.up_blocks."];
        (!components.is_empty() || others.iter().any(|head| self.starts(head))).then_some(Layout::DiffusersFile)
    }
}
