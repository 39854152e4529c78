//! Pictures to draw: each prompt with what the node says where the prompt says nothing.

use std::path::{Path, PathBuf};

use pipe_core::node::CheckCx;
use pipe_core::run::RunError;
use pipe_data::tokenizer::parse_weights;
use pipe_data::weights::Family;
use pipe_networks::Network;
use pipe_train::solve::Solver;

use super::draw::{self, Recipe};
use super::preview::Config;
use super::prompts::{self, Prompt};
use super::prompts_file::{self, Fault};
use crate::common::facts::texts_of_port;
use crate::common::family;

/// Most pictures of an event.
pub const MOST: usize = 256;

/// A picture to draw.
pub struct Shot {
    /// What it should show.
    pub prompt: String,
    /// What it should not.
    pub negative: String,
    /// Width and height in pixels.
    pub size: (u64, u64),
    /// Guidance scale.
    pub guidance: f64,
    /// Everything else.
    pub recipe: Recipe,
}

/// Where a prompt stands.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the document, with its number.
    Here(usize),
    /// On a line of the prompts file.
    File(usize),
}

/// The prompts of the document, then those of the file, or what is wrong with it.
pub fn all(config: &Config, resolve: impl Fn(&str) -> PathBuf) -> (Vec<(Place, Prompt)>, Vec<Fault>) {
    let mut list: Vec<(Place, Prompt)> =
        config.prompts.iter().enumerate().map(|(i, prompt)| (Place::Here(i), prompt.clone())).collect();
    match config.prompts_file.as_deref().map(|text| prompts_file::read(&resolve(text))) {
        Some(Ok(lines)) => list.extend(lines.into_iter().map(|(line, prompt)| (Place::File(line), prompt))),
        Some(Err(faults)) => return (list, faults),
        None => {}
    }
    (list, Vec::new())
}

/// Text of a fault: the file and the line before what is wrong.
pub fn told(path: &Path, Fault { line, message }: &Fault) -> String {
    match line {
        0 => format!("`{}`: {message}", path.display()),
        line => format!("`{}`, line {line}: {message}", path.display()),
    }
}

/// The prompts at the start of a run.
pub fn for_run(config: &Config, resolve: impl Fn(&str) -> PathBuf) -> Result<Vec<Prompt>, RunError> {
    let (list, faults) = all(config, &resolve);
    match (faults.first(), &config.prompts_file) {
        (Some(fault), Some(path)) => Err(RunError::new("P0312", told(&resolve(path), fault)).at("prompts_file")),
        _ => Ok(list.into_iter().map(|(_, prompt)| prompt).collect()),
    }
}

/// A prompt as a picture of a family.
pub fn shot(config: &Config, number: usize, prompt: &Prompt, family: Family, run_seed: u64) -> Shot {
    let guidance = guidance(config, prompt, family);
    let (truncation, renorm) = Recipe::LUMINA;
    Shot {
        prompt: prompt.prompt.clone(),
        negative: prompt.negative_prompt.clone(),
        size: size(config, prompt),
        guidance,
        recipe: Recipe {
            solver: solver(config, prompt),
            steps: prompt.steps.unwrap_or(config.steps) as usize,
            guidance: guidance as f32,
            embedded: prompt.embedded_guidance.or(config.embedded_guidance).unwrap_or(3.5) as f32,
            seed: prompt.seed.unwrap_or(run_seed.wrapping_add(number as u64)),
            lumina: (prompt.guidance_truncation.unwrap_or(truncation), prompt.guidance_renorm.unwrap_or(renorm)),
            shift: prompt.flow_shift,
        },
    }
}

fn solver(config: &Config, prompt: &Prompt) -> Solver {
    prompt.sampler.or(config.sampler).unwrap_or_default()
}

/// Width and height of a prompt's picture.
pub fn size(config: &Config, prompt: &Prompt) -> (u64, u64) {
    (prompt.width.unwrap_or(config.width), prompt.height.unwrap_or(config.height))
}

fn guidance(config: &Config, prompt: &Prompt, family: Family) -> f64 {
    prompt.guidance_scale.or(config.guidance_scale).unwrap_or(draw::default_guidance(family))
}

/// What is known of the sides, in pixels, that a model can draw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sides {
    /// They are multiples of this.
    pub step: Option<u64>,
    /// None is longer than this.
    pub most: Option<u64>,
}

/// Reports what of the prompts a family does not read, and sizes that it cannot make.
pub fn check(
    config: &Config,
    cx: &mut CheckCx,
    prompts: &[(Place, Prompt)],
    (family, network): (Option<Family>, Option<&Network>),
    sides: Sides,
) {
    let file = config.prompts_file.as_deref().map(|text| cx.path(text)).unwrap_or_default();
    // `message` says what is wrong after the field's name, which in a file is that of the option.
    let report = |cx: &mut CheckCx, place: &Place, field: &str, code, message: &str, help: Option<String>| match place {
        Place::Here(i) => cx.error(code, &format!("prompts.{i}.{field}"), format!("`{field}` {message}"), help),
        Place::File(line) => {
            let message = match field {
                "prompt" => format!("the prompt {message}"),
                option => format!("`--{}` {message}", prompts::option_of(option)),
            };
            cx.error(code, "prompts_file", told(&file, &Fault { line: *line, message }), help);
        }
    };
    let leave = || Some("leave it out".to_owned());
    let emphasis = texts_of_port(cx.inputs, "text").iter().any(|text| text.weighted);
    for (place, prompt) in prompts {
        for (field, text) in [("prompt", &prompt.prompt), ("negative_prompt", &prompt.negative_prompt)] {
            if let (true, Err(fault)) = (emphasis, parse_weights(text)) {
                let help = "correct the number, or leave `weighted_captions` out of the text encoder";
                report(cx, place, field, "P0311", &format!("cannot be read: {fault}"), Some(help.into()));
            }
        }
        for (field, own, side) in
            [("width", prompt.width, size(config, prompt).0), ("height", prompt.height, size(config, prompt).1)]
        {
            if let Some(step) = sides.step.filter(|step| own.is_some() && side % step != 0) {
                let message = format!("is {side}, not a multiple of {step}, which the model needs");
                let near = (side / step * step).max(step);
                report(cx, place, field, "P0403", &message, Some(format!("{near} is one")));
            }
            if let Some(most) = sides.most.filter(|most| own.is_some() && side > *most) {
                let message = format!("is {side}, the model's position table ends at {most} pixels");
                report(cx, place, field, "P0401", &message, Some("draw a smaller picture".into()));
            }
        }
        let Some(family) = family else { continue };
        if guidance(config, prompt, family) == 1.0 && !prompt.negative_prompt.is_empty() {
            let message = "has no effect with a guidance scale of 1";
            let help = "leave it out, or raise `guidance_scale`".to_owned();
            report(cx, place, "negative_prompt", "P0402", message, Some(help));
        }
        let flow = family::flow(family).is_some();
        let lumina = family == Family::Lumina2;
        let embeds = network.is_none_or(|network| matches!(network, Network::Flux(c) if c.guidance));
        let shifts = flow && family != Family::Flux;
        let of_lumina = "only Lumina-Image-2.0 is guided so";
        for (field, set, reads, why) in [
            ("sampler", prompt.sampler.is_some(), !flow, "flow models are sampled by Euler steps"),
            ("embedded_guidance", prompt.embedded_guidance.is_some(), embeds, "the model has no guidance embedding"),
            ("guidance_truncation", prompt.guidance_truncation.is_some(), lumina, of_lumina),
            ("guidance_renorm", prompt.guidance_renorm.is_some(), lumina, of_lumina),
            ("flow_shift", prompt.flow_shift.is_some(), shifts, "only SD3 and Lumina have a shift that can be chosen"),
        ] {
            if set && !reads {
                report(cx, place, field, "P0402", &format!("has no effect on {family}: {why}"), leave());
            }
        }
    }
}
