//! Whether text encoders are what a family reads, together.

use pipe_core::node::{CheckCx, Facts};
use pipe_data::tokenizer::clip::WINDOW;
use pipe_data::weights::{Component, Family};
use pipe_networks::{Network, TextNetwork};

use super::facts::{TextFacts, network_of, read};
use super::family;
use super::lengths::{self, BothLengths};

/// Reports on `port` a caption whose emphasis cannot be read, where one of the encoders reads emphasis.
pub fn emphasis(cx: &mut CheckCx, port: &str, captions: &Facts, texts: &[TextFacts]) {
    let (Some(fault), Some(text)) = (captions.str("emphasis_fault"), texts.iter().find(|t| t.weighted)) else { return };
    let help = format!("correct the caption, or leave `weighted_captions` out of `{}`", text.node);
    let message = fault.to_owned();
    cx.error("P0311", port, message, Some(help));
}

/// Reports on `port` captions that CLIP's encoders cut off, and windows that none fills. Families that read a caption
/// through T5 as well are used with one window of CLIP.
pub fn lengths(cx: &mut CheckCx, port: &str, family: Family, captions: &Facts, texts: &[&TextFacts]) {
    let of_clip = |text: &&&TextFacts| matches!(text.network, TextNetwork::Clip(_));
    let Some(text) = texts.iter().find(of_clip) else { return };
    let Some(both) = read::<BothLengths>(captions, "lengths") else { return };
    if !matches!(family, Family::Sd1 | Family::Sd2 | Family::Sdxl) {
        return;
    }
    let lengths = if text.weighted { both.weighted } else { both.plain };
    let room = (text.tokens as usize).saturating_sub(2);
    let windows = (room / WINDOW).clamp(1, lengths::MOST);
    let cut = lengths.over[windows - 1];
    if cut > 0 {
        let message = format!(
            "{cut} of {} captions are longer than the {room} tokens that `{}` reads: what is behind is cut off",
            lengths.captions, text.node
        );
        let enough = (windows..lengths::MOST).find(|more| lengths.over[*more] == 0).unwrap_or(lengths::MOST - 1);
        let help = match windows == lengths::MOST {
            true => "shorten them: there is no room for more".to_owned(),
            false => format!("set `max_tokens: {}` on the text encoder, or shorten them", WINDOW * (enough + 1)),
        };
        cx.warn("P0335", port, message, Some(help));
    } else if windows > 1 && lengths.over[windows - 2] == 0 && lengths.captions > 0 {
        let enough = (0..windows - 1).find(|fewer| lengths.over[*fewer] == 0).unwrap_or(0);
        let fit = WINDOW * (enough + 1);
        let message = format!(
            "no caption has more than {fit} tokens: `max_tokens: {room}` of `{}` adds padding alone",
            text.node
        );
        let help = if enough == 0 { "leave `max_tokens` out".into() } else { format!("set `max_tokens: {fit}`") };
        cx.warn("P0402", port, message, Some(help));
    }
}

/// Reports on `port` what of the encoders the model would read wrongly.
pub fn check(cx: &mut CheckCx, port: &str, family: Family, model: &Facts, texts: &[&TextFacts]) {
    for text in texts.iter().filter(|t| family.has(t.component())) {
        let wanted = family::encoder_type(family, text.component());
        if text.node != wanted {
            let message = format!("{family} reads captions through `{wanted}`, not `{}`", text.node);
            cx.error("P0401", port, message, Some(format!("set `type: {wanted}` on the text encoder")));
        }
        // SD 1.x reads other states than the rest, which is told where they are joined.
        if let Some(told) = text.told.as_deref().and_then(family::of_id)
            && told != family
            && !text.single
            && family != Family::Sd1
        {
            let (told, own) = (family::id(told), family::id(family));
            let message = format!("the text encoder has `family: {told}`, the model is {family}");
            cx.error("P0401", port, message, Some(format!("set `family: {own}` on the text encoder, or leave it out")));
        }
    }
    let have = |c: Component| texts.iter().find(|t| t.component() == c).copied();
    let (l, g) = (have(Component::TextEncoder), have(Component::ClipG));
    if let (Family::Sdxl, Some(l), Some(g)) = (family, l, g) {
        if l.tokens != g.tokens {
            let message = format!("the two CLIP encoders read {} and {} tokens", l.tokens - 2, g.tokens - 2);
            cx.error("P0403", port, message, Some("give both the same `max_tokens`".into()));
        }
        if l.weighted != g.weighted {
            let message = "one of the two CLIP encoders reads emphasis in captions, the other does not";
            cx.error("P0403", port, message, Some("give both the same `weighted_captions`".into()));
        }
    }
    if family != Family::Sd3
        && let Some(text) = g.filter(|g| g.hides_padding)
    {
        let message = format!("{family} reads CLIP with its padding, `attention_mask` of `{}` cannot be", text.node);
        cx.error("P0402", port, message, Some("leave `attention_mask` out".into()));
    }
    if matches!(family, Family::Sd3 | Family::Flux) {
        // CLIP-L, where it is told what it encodes for, has said so itself.
        for text in [l.filter(|l| l.assumed), g].into_iter().flatten() {
            let fields = [("max_tokens", text.tokens != 77), ("weighted_captions", text.weighted)];
            for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
                let message =
                    format!("{family} reads one plain window of CLIP, `{field}` of `{}` cannot be", text.node);
                cx.error("P0402", port, message, Some(format!("leave `{field}` out")));
            }
        }
    }
    if family == Family::LuminaNext && have(Component::Gemma).is_some_and(|t| t.prompted) {
        let message = "Lumina-Next was trained on bare captions, `system_prompt` is for Lumina-Image-2.0";
        cx.error("P0402", port, message, Some("leave `system_prompt` out of the encoder".into()));
    }
    let network = network_of(model);
    let long = family == Family::Sd3 || matches!(&network, Some(Network::Flux(c)) if !c.guidance);
    if long && have(Component::T5).is_some_and(|t| t.assumed) {
        let message = "T5 reads 512 tokens by default, this model was trained with 256";
        cx.warn("P0403", port, message, Some("set `max_tokens: 256` on `encoder.t5xxl`".into()));
    }
    let Some(pooled) = model.u64("pooled_dim") else { return };
    let given = |t: Option<&TextFacts>| t.and_then(|t| t.pooled);
    let (found, whole) = match family {
        Family::Sdxl => (given(g), true),
        Family::Flux => (given(l), true),
        Family::Sd3 => (Some(given(l).unwrap_or(0) + given(g).unwrap_or(0)), l.is_some() && g.is_some()),
        _ => return,
    };
    if let Some(found) = found
        && (if whole { found != pooled } else { found > pooled })
    {
        let message = format!("the model reads a pooled vector of width {pooled}, the text encoders give {found}");
        cx.error("P0401", port, message, Some("use the text encoders of the model's family".into()));
    }
}
