//! Flow matching: SD3, FLUX and Lumina.

use super::Fate::*;
use super::*;
use crate::script::*;

const TIMES: &str = "nodes.loss.timesteps";
const FLUX_SAMPLING: &[&str] = &["sigma", "uniform", "sigmoid", "shift", "flux_shift"];
const LUMINA_SAMPLING: &[&str] = &["sigma", "uniform", "sigmoid", "shift", "nextdit_shift", "flux_shift"];
const PREDICTIONS: &[&str] = &["raw", "additive", "sigma_scaled"];
const SCHEMES: &[&str] = &["sigma_sqrt", "logit_normal", "mode", "cosmap", "none", "uniform"];
const PREDICTION: &str = "nodes.loss.model_prediction";

const fn choice(name: &'static str, of: &'static [&'static str], default: &'static str, scripts: Scripts) -> Opt {
    Opt::new(name, Type::Choice(of), default, scripts, Part(TIMES))
}

pub(super) const OPTIONS: &[Opt] = &[
    choice("timestep_sampling", FLUX_SAMPLING, "sigma", FLUX),
    choice("timestep_sampling", LUMINA_SAMPLING, "shift", LUMINA),
    float("sigmoid_scale", "1.0", FLUX.or(LUMINA), Part("nodes.loss.timesteps.sigmoid_scale")),
    float("discrete_flow_shift", "3.0", FLUX, Part("nodes.loss.timesteps.shift")),
    float("discrete_flow_shift", "6.0", LUMINA, Part("nodes.loss.timesteps.shift")),
    float("training_shift", "1.0", SD3, Part("nodes.loss.timesteps.shift")),
    Opt::new("model_prediction_type", Type::Choice(PREDICTIONS), "sigma_scaled", FLUX, Part(PREDICTION)),
    Opt::new("model_prediction_type", Type::Choice(PREDICTIONS), "raw", LUMINA, Part(PREDICTION)),
    Opt::new("weighting_scheme", Type::Choice(SCHEMES), "uniform", FLOW, Part("nodes.loss.timesteps.scheme.type")),
    float("logit_mean", "0.0", FLOW, Part("nodes.loss.timesteps.scheme.mean")),
    float("logit_std", "1.0", FLOW, Part("nodes.loss.timesteps.scheme.std")),
    float("mode_scale", "1.29", FLOW, Part("nodes.loss.timesteps.scheme.scale")),
    float("guidance_scale", "3.5", FLUX, Part("nodes.loss.guidance_scale")),
];
