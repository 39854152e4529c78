//! What files say of the base model: the words other programs know each family by.

use crate::weights::component::Family;
use crate::weights::detect::Architecture;

/// A model that was trained, or that an adapter was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseModel {
    /// Which model.
    pub architecture: Architecture,
    /// Whether it predicts v; SD1, SD2 and SDXL alone can do either.
    pub v_prediction: bool,
}

impl BaseModel {
    /// `modelspec.architecture`, without `/lora`; nothing when it is no supported model.
    ///
    /// `lumina-next` is this program's own word; the others are kohya's.
    pub fn architecture(self) -> Option<&'static str> {
        Some(match self.architecture {
            Architecture::Sd1 => "stable-diffusion-v1",
            Architecture::Sd2 if self.v_prediction => "stable-diffusion-v2-768-v",
            Architecture::Sd2 => "stable-diffusion-v2-512",
            Architecture::Sdxl => "stable-diffusion-xl-v1-base",
            Architecture::Sd3Medium => "stable-diffusion-3-medium",
            Architecture::Sd35Medium => "stable-diffusion-3-5-medium",
            Architecture::Sd35Large => "stable-diffusion-3-5-large",
            Architecture::FluxDev => "flux-1-dev",
            Architecture::FluxSchnell => "flux-1-schnell",
            Architecture::Lumina2 => "lumina-2",
            Architecture::LuminaNext => "lumina-next",
            _ => return None,
        })
    }

    /// `ss_base_model_version`.
    pub fn version(self) -> Option<&'static str> {
        Some(match (self.architecture, self.v_prediction) {
            (Architecture::Sd1, false) => "sd_v1",
            (Architecture::Sd1, true) => "sd_v1_v",
            (Architecture::Sd2, false) => "sd_v2",
            (Architecture::Sd2, true) => "sd_v2_v",
            (Architecture::Sdxl, _) => "sdxl_base_v1-0",
            (Architecture::Sd3Medium, _) => "medium",
            (Architecture::Sd35Medium, _) => "5-medium",
            (Architecture::Sd35Large, _) => "5-large",
            (Architecture::FluxDev | Architecture::FluxSchnell, _) => "flux1",
            (Architecture::Lumina2, _) => "lumina2",
            (Architecture::LuminaNext, _) => "lumina_next",
            _ => return None,
        })
    }

    /// `modelspec.implementation` of an adapter or, when `lora` is not set, of a checkpoint in the original layout.
    pub fn implementation(self, lora: bool) -> Option<&'static str> {
        Some(match self.architecture.family()? {
            Family::Flux => "https://github.com/black-forest-labs/flux",
            Family::Lumina2 => "https://github.com/Alpha-VLLM/Lumina-Image-2.0",
            Family::LuminaNext => "https://github.com/Alpha-VLLM/Lumina-T2X",
            Family::Sd1 | Family::Sd2 | Family::Sd3 if lora => "diffusers",
            Family::Sd3 => "https://github.com/Stability-AI/sd3.5",
            _ => "https://github.com/Stability-AI/generative-models",
        })
    }

    /// Width and height it is usually trained for, where a run does not say.
    pub fn resolution(self) -> Option<(usize, usize)> {
        let side = match self.architecture.family()? {
            Family::Sd2 if self.v_prediction => 768,
            Family::Sd1 | Family::Sd2 => 512,
            _ => 1024,
        };
        Some((side, side))
    }

    /// `modelspec.prediction_type`: `epsilon` or `v`; nothing for flow matching.
    pub fn prediction_type(self) -> Option<&'static str> {
        match self.architecture.family()? {
            Family::Sd1 | Family::Sd2 | Family::Sdxl => Some(if self.v_prediction { "v" } else { "epsilon" }),
            _ => None,
        }
    }

    /// `ss_network_module` whose file format an adapter for it has.
    pub fn network_module(self) -> Option<&'static str> {
        Some(match self.architecture.family()? {
            Family::Sd1 | Family::Sd2 | Family::Sdxl => "networks.lora",
            Family::Sd3 => "networks.lora_sd3",
            Family::Flux => "networks.lora_flux",
            Family::Lumina2 | Family::LuminaNext => "networks.lora_lumina",
        })
    }

    /// `ss_v2`.
    pub fn is_v2(self) -> bool {
        self.architecture == Architecture::Sd2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_each_family() {
        let of = |architecture, v_prediction| BaseModel { architecture, v_prediction };
        let words = |base: BaseModel| (base.architecture().unwrap(), base.version().unwrap());
        assert_eq!(words(of(Architecture::Sd2, true)), ("stable-diffusion-v2-768-v", "sd_v2_v"));
        assert_eq!(words(of(Architecture::Sd2, false)), ("stable-diffusion-v2-512", "sd_v2"));
        assert_eq!(words(of(Architecture::Sdxl, true)), ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"));
        assert_eq!(words(of(Architecture::Sd35Large, false)), ("stable-diffusion-3-5-large", "5-large"));
        assert_eq!(words(of(Architecture::FluxSchnell, false)), ("flux-1-schnell", "flux1"));
        assert_eq!(of(Architecture::Sd2, true).resolution(), Some((768, 768)));
        assert_eq!(of(Architecture::FluxDev, false).prediction_type(), None);
        assert_eq!(of(Architecture::Sdxl, true).prediction_type(), Some("v"));
        assert_eq!(of(Architecture::Sd3Medium, false).implementation(true), Some("diffusers"));
        let whole = |architecture| of(architecture, false).implementation(false).unwrap();
        assert!(
            whole(Architecture::Sd3Medium).ends_with("/sd3.5")
                && whole(Architecture::Sd1).ends_with("/generative-models")
        );
        for flow in [Architecture::Sd3Medium, Architecture::Sd35Large, Architecture::FluxSchnell, Architecture::Lumina2]
        {
            assert_eq!(of(flow, false).prediction_type(), None, "{flow:?} predicts a velocity");
        }
        let lumina = of(Architecture::Lumina2, false);
        assert_eq!((lumina.network_module(), lumina.is_v2()), (Some("networks.lora_lumina"), false));
        for architecture in [Architecture::Unknown, Architecture::SdxlRefiner, Architecture::T5] {
            let base = of(architecture, false);
            assert_eq!((base.architecture(), base.version(), base.resolution()), (None, None, None));
        }
    }
}
