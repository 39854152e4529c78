//! A prompt of a preview, and the names that its settings have in the prompts files of sd-scripts.

use pipe_train::solve::Solver;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

/// One picture. What is left out is as the node says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
pub struct Prompt {
    /// What the picture should show.
    pub prompt: String,
    /// What it should not show.
    #[serde(default)]
    pub negative_prompt: String,
    /// Seed of the noise. Default: the run's seed plus the prompt's number.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Width in pixels.
    #[serde(default)]
    #[schemars(range(min = 8, max = 8192))]
    pub width: Option<u64>,
    /// Height in pixels.
    #[serde(default)]
    #[schemars(range(min = 8, max = 8192))]
    pub height: Option<u64>,
    /// Steps of the sampler.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub steps: Option<u64>,
    /// Classifier-free guidance scale; 1 is none.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub guidance_scale: Option<f64>,
    /// FLUX.1 dev: distilled guidance the model is given.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub embedded_guidance: Option<f64>,
    /// SD 1.x, 2.x and SDXL: sampler.
    #[serde(default)]
    pub sampler: Option<Solver>,
    /// Lumina-Image-2.0: guidance acts in this first part of the sampling. Default 0.25.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub guidance_truncation: Option<f64>,
    /// Lumina-Image-2.0: largest norm of the guided output, times that of the unguided one. Default 1.0.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1000.0))]
    pub guidance_renorm: Option<f64>,
    /// SD3 and Lumina: shift of the sampler's noise levels towards noise. Default: SD3 3, Lumina-Image-2.0 6, Lumina-Next 1.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 100.0))]
    pub flow_shift: Option<f64>,
}

/// A prompt's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The text itself.
    Prompt,
    /// What it should not show.
    Negative,
    /// Width.
    Width,
    /// Height.
    Height,
    /// Seed.
    Seed,
    /// Steps.
    Steps,
    /// Guidance scale.
    Scale,
    /// Embedded guidance.
    Embedded,
    /// Sampler.
    Sampler,
    /// Picture for a ControlNet.
    Control,
    /// Part in which guidance acts.
    Truncation,
    /// Limit of its norm.
    Renorm,
    /// Shift of the noise levels.
    Shift,
}

/// Names in a line.
pub const LINE: [(&str, Choice); 12] = [
    ("n", Choice::Negative),
    ("w", Choice::Width),
    ("h", Choice::Height),
    ("d", Choice::Seed),
    ("s", Choice::Steps),
    ("l", Choice::Scale),
    ("g", Choice::Embedded),
    ("ss", Choice::Sampler),
    ("cn", Choice::Control),
    ("ctr", Choice::Truncation),
    ("rcfg", Choice::Renorm),
    ("fs", Choice::Shift),
];

/// The name that a field of [`Prompt`] has in a line.
pub fn option_of(field: &str) -> &'static str {
    match field {
        "negative_prompt" => "n",
        "width" => "w",
        "height" => "h",
        "seed" => "d",
        "steps" => "s",
        "guidance_scale" => "l",
        "embedded_guidance" => "g",
        "sampler" => "ss",
        "guidance_truncation" => "ctr",
        "guidance_renorm" => "rcfg",
        _ => "fs",
    }
}

/// Names in a table: those of sd-scripts.
const TABLE: [(&str, Choice); 13] = [
    ("prompt", Choice::Prompt),
    ("negative_prompt", Choice::Negative),
    ("width", Choice::Width),
    ("height", Choice::Height),
    ("seed", Choice::Seed),
    ("sample_steps", Choice::Steps),
    ("scale", Choice::Scale),
    ("guidance_scale", Choice::Embedded),
    ("sample_sampler", Choice::Sampler),
    ("controlnet_image", Choice::Control),
    ("cfg_trunc_ratio", Choice::Truncation),
    ("renorm_cfg", Choice::Renorm),
    ("flow_shift", Choice::Shift),
];

/// The reference's names of samplers, and ours.
fn solver(name: &str) -> Option<Solver> {
    Some(match name {
        "ddim" => Solver::Ddim,
        "euler" | "k_euler" => Solver::Euler,
        "euler_a" | "k_euler_a" | "euler_ancestral" => Solver::EulerAncestral,
        "dpmsolver++" | "dpmpp2m" => Solver::Dpmpp2m,
        _ => return None,
    })
}

/// Sets an option; says what is wrong with the value otherwise.
pub fn set(prompt: &mut Prompt, option: Choice, value: &Json) -> Result<(), String> {
    let shown = || value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text = || value.as_str().map(str::to_owned).ok_or_else(|| format!("needs a text, found {}", shown()));
    let number = |range: std::ops::RangeInclusive<f64>| {
        let found = value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|n: &f64| n.is_finite());
        let found = found.ok_or_else(|| format!("needs a number, found `{}`", shown()))?;
        match range.contains(&found) {
            true => Ok(found),
            false => Err(format!("must be from {} to {}, found {found}", range.start(), range.end())),
        }
    };
    let whole = |range: std::ops::RangeInclusive<u64>| {
        let found = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let found = found.ok_or_else(|| format!("needs a whole number, found `{}`", shown()))?;
        match range.contains(&found) {
            true => Ok(found),
            false => Err(format!("must be from {} to {}, found {found}", range.start(), range.end())),
        }
    };
    match option {
        Choice::Prompt => prompt.prompt = text()?,
        Choice::Negative => prompt.negative_prompt = text()?,
        Choice::Width => prompt.width = Some(whole(8..=8192)?),
        Choice::Height => prompt.height = Some(whole(8..=8192)?),
        Choice::Seed => prompt.seed = Some(whole(0..=u64::MAX)?),
        Choice::Steps => prompt.steps = Some(whole(1..=1000)?),
        Choice::Scale => prompt.guidance_scale = Some(number(0.0..=100.0)?),
        Choice::Embedded => prompt.embedded_guidance = Some(number(0.0..=100.0)?),
        Choice::Truncation => prompt.guidance_truncation = Some(number(0.0..=1.0)?),
        Choice::Renorm => prompt.guidance_renorm = Some(number(0.000_001..=1000.0)?),
        Choice::Shift => prompt.flow_shift = Some(number(0.001..=100.0)?),
        Choice::Control => return Err("names a picture for a ControlNet, and there is none here".into()),
        Choice::Sampler => {
            let name = text()?;
            let known = "`ddim`, `euler`, `euler_a` and `dpmsolver++`";
            prompt.sampler = Some(solver(&name).ok_or_else(|| format!("is `{name}`; the samplers here are {known}"))?);
        }
    }
    Ok(())
}

/// Sets an entry of a table.
pub fn set_entry(prompt: &mut Prompt, key: &str, value: &Json) -> Result<(), String> {
    let Some((_, option)) = TABLE.iter().find(|(known, _)| *known == key) else {
        let known: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
        return Err(format!("`{key}` is none of {}", known.join(", ")));
    };
    set(prompt, *option, value).map_err(|why| format!("`{key}` {why}"))
}
