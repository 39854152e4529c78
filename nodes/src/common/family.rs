//! What differs between families of models, in one place.

use pipe_data::weights::{Component, Family};
use pipe_networks::TextKind;
use pipe_networks::clip::Take;
use pipe_train::flow;

/// Name of a family in facts and documents.
pub fn id(family: Family) -> &'static str {
    match family {
        Family::Sd1 => "sd1",
        Family::Sd2 => "sd2",
        Family::Sdxl => "sdxl",
        Family::Sd3 => "sd3",
        Family::Flux => "flux",
        Family::Lumina2 => "lumina2",
        Family::LuminaNext => "lumina_next",
    }
}

/// The family with this name.
pub fn of_id(text: &str) -> Option<Family> {
    Family::ALL.into_iter().find(|f| id(*f) == text)
}

/// Name of a component: the prefix of its trainables, and its parameter group.
pub fn part(component: Component) -> &'static str {
    match component {
        Component::Unet => "unet",
        Component::Vae => "vae",
        Component::TextEncoder | Component::Gemma => "text_encoder",
        Component::ClipG => "text_encoder_2",
        Component::T5 => "text_encoder_3",
        Component::Mmdit | Component::Flux | Component::Lumina2 | Component::LuminaNext => "transformer",
    }
}

/// What a text encoder is.
pub fn text_kind(component: Component) -> Option<TextKind> {
    match component {
        Component::TextEncoder => Some(TextKind::Clip),
        Component::ClipG => Some(TextKind::ClipG),
        Component::T5 => Some(TextKind::T5),
        Component::Gemma => Some(TextKind::Gemma),
        _ => None,
    }
}

/// The component of a text encoder's kind.
pub fn text_component(kind: TextKind) -> Component {
    match kind {
        TextKind::Clip => Component::TextEncoder,
        TextKind::ClipG => Component::ClipG,
        TextKind::T5 => Component::T5,
        TextKind::Gemma => Component::Gemma,
    }
}

/// The node type that makes an encoder of a family.
pub fn encoder_type(family: Family, component: Component) -> &'static str {
    match (family, component) {
        (Family::Sd2, Component::TextEncoder) => "encoder.clip_h",
        (_, Component::TextEncoder) => "encoder.clip_l",
        (_, Component::ClipG) => "encoder.clip_g",
        (_, Component::T5) => "encoder.t5xxl",
        _ => "encoder.gemma",
    }
}

/// Which states of CLIP a family reads: SD 1.x and 2.x the last layer's through the final norm (`clip_skip` counts
/// back), the others those before the last layer without norm, and the pooled vector.
pub fn take(single: bool, clip_skip: usize) -> Take {
    if single {
        Take { clip_skip, final_norm: true, pooled: false }
    } else {
        Take { clip_skip: 2, final_norm: false, pooled: true }
    }
}

/// The flow-matching family, where it is one; SD 1.x, 2.x and SDXL predict noise or v.
pub fn flow(family: Family) -> Option<flow::Family> {
    match family {
        Family::Sd1 | Family::Sd2 | Family::Sdxl => None,
        Family::Sd3 => Some(flow::Family::Sd3),
        Family::Flux => Some(flow::Family::Flux),
        Family::Lumina2 => Some(flow::Family::Lumina2),
        Family::LuminaNext => Some(flow::Family::LuminaNext),
    }
}

/// Scale and shift of a family's latents.
pub fn latent_scale(family: Family) -> (f64, f64) {
    match family {
        Family::Sd1 | Family::Sd2 => (0.18215, 0.0),
        Family::Sdxl | Family::LuminaNext => (0.13025, 0.0),
        Family::Sd3 => (1.5305, 0.0609),
        Family::Flux | Family::Lumina2 => (0.3611, 0.1159),
    }
}

/// The shift beside a scale that some family's latents have.
pub fn shift_of_scale(scale: f64) -> Option<f64> {
    Family::ALL.into_iter().map(latent_scale).find(|known| (known.0 - scale).abs() < 1e-6).map(|known| known.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for family in Family::ALL {
            assert_eq!(of_id(id(family)), Some(family));
        }
    }
}
