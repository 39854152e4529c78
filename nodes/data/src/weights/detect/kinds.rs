//! What can be found in weight files: kinds of models, and the parts in a file.

use std::fmt;

use super::lora::LoraKind;
use crate::weights::component::Family;

/// A kind of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL base.
    Sdxl,
    /// Stable Diffusion XL refiner.
    SdxlRefiner,
    /// Stable Diffusion 3 Medium.
    Sd3Medium,
    /// Stable Diffusion 3.5 Medium.
    Sd35Medium,
    /// Stable Diffusion 3.5 Large.
    Sd35Large,
    /// FLUX.1 dev.
    FluxDev,
    /// FLUX.1 schnell.
    FluxSchnell,
    /// Lumina-Image-2.0.
    Lumina2,
    /// Lumina-Next.
    LuminaNext,
    /// An image autoencoder with that many latent channels.
    Vae {
        /// 4 or 16 in public models.
        channels: usize,
    },
    /// CLIP ViT-L/14 text encoder.
    ClipL,
    /// OpenCLIP ViT-H/14 text encoder.
    OpenClipH,
    /// OpenCLIP ViT-bigG/14 text encoder.
    OpenClipG,
    /// T5 encoder.
    T5,
    /// Gemma 1, as Lumina-Next reads it.
    Gemma1,
    /// Gemma 2, as Lumina-Image-2.0 reads it.
    Gemma2,
    /// An adapter.
    Lora(LoraKind),
    /// Known, and not supported.
    Unsupported(&'static str),
    /// Nothing known.
    Unknown,
}

impl Architecture {
    /// The family of a whole model or denoiser; nothing for single parts, adapters and what is not supported.
    pub fn family(self) -> Option<Family> {
        Some(match self {
            Architecture::Sd1 => Family::Sd1,
            Architecture::Sd2 => Family::Sd2,
            Architecture::Sdxl => Family::Sdxl,
            Architecture::Sd3Medium | Architecture::Sd35Medium | Architecture::Sd35Large => Family::Sd3,
            Architecture::FluxDev | Architecture::FluxSchnell => Family::Flux,
            Architecture::Lumina2 => Family::Lumina2,
            Architecture::LuminaNext => Family::LuminaNext,
            _ => return None,
        })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Architecture::Sd1 => "Stable Diffusion 1.x",
            Architecture::Sd2 => "Stable Diffusion 2.x",
            Architecture::Sdxl => "Stable Diffusion XL",
            Architecture::SdxlRefiner => "Stable Diffusion XL refiner",
            Architecture::Sd3Medium => "Stable Diffusion 3 Medium",
            Architecture::Sd35Medium => "Stable Diffusion 3.5 Medium",
            Architecture::Sd35Large => "Stable Diffusion 3.5 Large",
            Architecture::FluxDev => "FLUX.1 dev",
            Architecture::FluxSchnell => "FLUX.1 schnell",
            Architecture::Lumina2 => "Lumina-Image-2.0",
            Architecture::LuminaNext => "Lumina-Next",
            Architecture::Vae { channels } => return write!(f, "VAE with {channels} latent channels"),
            Architecture::ClipL => "CLIP ViT-L text encoder",
            Architecture::OpenClipH => "OpenCLIP ViT-H text encoder",
            Architecture::OpenClipG => "OpenCLIP ViT-bigG text encoder",
            Architecture::T5 => "T5 encoder",
            Architecture::Gemma1 => "Gemma 1",
            Architecture::Gemma2 => "Gemma 2",
            Architecture::Lora(kind) => return write!(f, "LoRA ({kind})"),
            Architecture::Unsupported(name) => return write!(f, "{name} (not supported)"),
            Architecture::Unknown => "unknown",
        })
    }
}

/// A part found in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundPart {
    Unet,
    Transformer,
    UnetEma,
    Vae,
    ClipL,
    OpenClipH,
    OpenClipG,
    T5,
    Gemma1,
    Gemma2,
}

impl fmt::Display for FoundPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FoundPart::Unet => "U-Net",
            FoundPart::Transformer => "transformer",
            FoundPart::UnetEma => "averaged U-Net",
            FoundPart::Vae => "VAE",
            FoundPart::ClipL => "CLIP-L",
            FoundPart::OpenClipH => "OpenCLIP-H",
            FoundPart::OpenClipG => "OpenCLIP-bigG",
            FoundPart::T5 => "T5",
            FoundPart::Gemma1 => "Gemma 1",
            FoundPart::Gemma2 => "Gemma 2",
        })
    }
}
