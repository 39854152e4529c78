//! The parts of models: their names, folders, prefixes and tell-tale tensors; and the families they form.

use std::fmt;

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// The denoiser of SD1, SD2 and SDXL.
    Unet,
    /// The image autoencoder.
    Vae,
    /// The CLIP text encoder: ViT-L/14, or SD2's OpenCLIP ViT-H/14.
    TextEncoder,
    /// The OpenCLIP ViT-bigG/14 text encoder of SDXL and SD3.
    ClipG,
    /// The T5 v1.1 encoder of SD3 and FLUX.
    T5,
    /// The Gemma of Lumina.
    Gemma,
    /// The transformer of SD3 and SD3.5.
    Mmdit,
    /// The transformer of FLUX.1.
    Flux,
    /// The transformer of Lumina-Image-2.0.
    Lumina2,
    /// The transformer of Lumina-Next.
    LuminaNext,
}

impl Component {
    /// Every part.
    pub const ALL: [Component; 10] = [
        Component::Unet,
        Component::Vae,
        Component::TextEncoder,
        Component::ClipG,
        Component::T5,
        Component::Gemma,
        Component::Mmdit,
        Component::Flux,
        Component::Lumina2,
        Component::LuminaNext,
    ];

    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Component::Unet => "U-Net",
            Component::Vae => "VAE",
            Component::TextEncoder => "CLIP text encoder",
            Component::ClipG => "OpenCLIP bigG text encoder",
            Component::T5 => "T5 encoder",
            Component::Gemma => "Gemma text encoder",
            Component::Mmdit => "SD3 transformer",
            Component::Flux => "FLUX.1 transformer",
            Component::Lumina2 => "Lumina-Image-2.0 transformer",
            Component::LuminaNext => "Lumina-Next transformer",
        }
    }

    /// The name with its article.
    pub fn a_name(self) -> String {
        let article = if matches!(self, Component::ClipG | Component::Mmdit) { "an" } else { "a" };
        format!("{article} {}", self.name())
    }

    /// Its usual folder in a Diffusers pipeline; see [`Family::folder`] for the others.
    pub fn folder(self) -> &'static str {
        self.folders()[0]
    }

    /// The folders of Diffusers pipelines it may be in, the most telling first.
    pub(super) fn folders(self) -> &'static [&'static str] {
        match self {
            Component::Unet => &["unet"],
            Component::Vae => &["vae"],
            Component::TextEncoder | Component::Gemma => &["text_encoder"],
            Component::ClipG => &["text_encoder_2"],
            Component::T5 => &["text_encoder_3", "text_encoder_2"],
            Component::Mmdit | Component::Flux | Component::Lumina2 | Component::LuminaNext => &["transformer"],
        }
    }

    /// Whether it is a diffusion transformer, whose internal names are its authors'.
    pub fn is_transformer(self) -> bool {
        matches!(self, Component::Mmdit | Component::Flux | Component::Lumina2 | Component::LuminaNext)
    }

    /// Its prefixes in files that hold several parts, the longest first.
    pub(super) fn prefixes(self) -> &'static [&'static str] {
        match self {
            Component::Unet => &["model.diffusion_model.", "unet."],
            Component::Vae => &["first_stage_model.", "vae."],
            Component::TextEncoder => &[
                "conditioner.embedders.0.transformer.",
                "text_encoders.clip_l.transformer.",
                "cond_stage_model.transformer.",
                "cond_stage_model.model.",
                "text_encoder.",
                "transformer.",
            ],
            Component::ClipG => {
                &["text_encoders.clip_g.transformer.", "conditioner.embedders.1.model.", "text_encoder_2."]
            }
            Component::T5 => &["text_encoders.t5xxl.transformer.", "text_encoder_3.", "text_encoder_2."],
            Component::Gemma => {
                &["text_encoders.gemma2_2b.transformer.model.", "text_encoder.model.", "text_encoder.", "model."]
            }
            Component::Mmdit | Component::Flux | Component::Lumina2 | Component::LuminaNext => {
                &["model.diffusion_model.", "transformer."]
            }
        }
    }

    /// Tensors that only this part has; without one of them a file does not hold it.
    pub(super) fn markers(self) -> &'static [&'static str] {
        match self {
            Component::Unet => &["input_blocks.0.0.weight", "down_blocks.0.resnets.0.conv1.weight"],
            Component::Vae => &["decoder.conv_in.weight", "encoder.conv_in.weight"],
            Component::TextEncoder | Component::ClipG => &CLIP_EMBEDDINGS,
            Component::T5 => &["encoder.block.0.layer.0.SelfAttention.q.weight"],
            Component::Gemma => &["layers.0.self_attn.q_proj.weight"],
            Component::Mmdit => &["joint_blocks.0.context_block.attn.qkv.weight", "pos_embed.pos_embed"],
            Component::Flux => &["double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.attn.to_q.weight"],
            Component::Lumina2 => &["context_refiner.0.attention.qkv.weight", "context_refiner.0.attn.to_q.weight"],
            Component::LuminaNext => &["layers.0.attention.wk_y.weight", "layers.0.attn2.to_k.weight"],
        }
    }
}

/// The token embedding of a CLIP text encoder, in each spelling.
pub(super) const CLIP_EMBEDDINGS: [&str; 3] =
    ["text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight", "token_embedding.weight"];

/// Models of the same parts, files and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL.
    Sdxl,
    /// Stable Diffusion 3 and 3.5.
    Sd3,
    /// FLUX.1.
    Flux,
    /// Lumina-Image-2.0.
    Lumina2,
    /// Lumina-Next.
    LuminaNext,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 7] =
        [Family::Sd1, Family::Sd2, Family::Sdxl, Family::Sd3, Family::Flux, Family::Lumina2, Family::LuminaNext];

    /// Its denoiser.
    pub fn denoiser(self) -> Component {
        match self {
            Family::Sd1 | Family::Sd2 | Family::Sdxl => Component::Unet,
            Family::Sd3 => Component::Mmdit,
            Family::Flux => Component::Flux,
            Family::Lumina2 => Component::Lumina2,
            Family::LuminaNext => Component::LuminaNext,
        }
    }

    /// Its text encoders, in the order of the pipeline's folders.
    pub fn text_encoders(self) -> &'static [Component] {
        match self {
            Family::Sd1 | Family::Sd2 => &[Component::TextEncoder],
            Family::Sdxl => &[Component::TextEncoder, Component::ClipG],
            Family::Sd3 => &[Component::TextEncoder, Component::ClipG, Component::T5],
            Family::Flux => &[Component::TextEncoder, Component::T5],
            Family::Lumina2 | Family::LuminaNext => &[Component::Gemma],
        }
    }

    /// Whether a model of this family has the part.
    pub fn has(self, component: Component) -> bool {
        component == Component::Vae || component == self.denoiser() || self.text_encoders().contains(&component)
    }

    /// The folder of a part in this family's Diffusers pipeline; nothing when it has no such part.
    pub fn folder(self, component: Component) -> Option<&'static str> {
        if !self.has(component) {
            return None;
        }
        match self.text_encoders().iter().position(|text| *text == component) {
            Some(place) => ["text_encoder", "text_encoder_2", "text_encoder_3"].get(place).copied(),
            None => Some(component.folder()),
        }
    }

    /// Library and class of a part in this family's `model_index.json`; nothing when it has no such part.
    ///
    /// Transformers parts are stored as `model.safetensors`, Diffusers parts as `diffusion_pytorch_model.safetensors`.
    pub fn class(self, component: Component) -> Option<(&'static str, &'static str)> {
        let class = match component {
            Component::Unet => ("diffusers", "UNet2DConditionModel"),
            Component::Vae => ("diffusers", "AutoencoderKL"),
            Component::TextEncoder if self == Family::Sd3 => ("transformers", "CLIPTextModelWithProjection"),
            Component::TextEncoder => ("transformers", "CLIPTextModel"),
            Component::ClipG => ("transformers", "CLIPTextModelWithProjection"),
            Component::T5 => ("transformers", "T5EncoderModel"),
            Component::Gemma if self == Family::LuminaNext => ("transformers", "GemmaModel"),
            Component::Gemma => ("transformers", "Gemma2Model"),
            Component::Mmdit => ("diffusers", "SD3Transformer2DModel"),
            Component::Flux => ("diffusers", "FluxTransformer2DModel"),
            Component::Lumina2 => ("diffusers", "Lumina2Transformer2DModel"),
            Component::LuminaNext => ("diffusers", "LuminaNextDiT2DModel"),
        };
        self.has(component).then_some(class)
    }

    /// Class of its Diffusers pipeline.
    pub fn pipeline(self) -> &'static str {
        match self {
            Family::Sd1 | Family::Sd2 => "StableDiffusionPipeline",
            Family::Sdxl => "StableDiffusionXLPipeline",
            Family::Sd3 => "StableDiffusion3Pipeline",
            Family::Flux => "FluxPipeline",
            Family::Lumina2 => "Lumina2Pipeline",
            Family::LuminaNext => "LuminaPipeline",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Sd1 => "Stable Diffusion 1.x",
            Family::Sd2 => "Stable Diffusion 2.x",
            Family::Sdxl => "Stable Diffusion XL",
            Family::Sd3 => "Stable Diffusion 3",
            Family::Flux => "FLUX.1",
            Family::Lumina2 => "Lumina-Image-2.0",
            Family::LuminaNext => "Lumina-Next",
        })
    }
}
