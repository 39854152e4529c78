//! What learns: the denoiser, which text encoders, and at which rates.

use serde_json::{Value as Json, json};

use super::Job;
use crate::script::Family;

/// What learns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// The model's text encoders, by the names of their nodes.
    pub encoders: Vec<&'static str>,
    /// Those that learn, with their rates.
    pub trained: Vec<(&'static str, f64)>,
    /// Rate of the denoiser.
    pub rate: f64,
    /// Why a text encoder that was asked for does not learn.
    pub refused: Option<&'static str>,
}

impl Scope {
    pub fn of(job: &Job<'_>) -> Scope {
        let encoders: Vec<&'static str> = match job.family {
            Family::Sd1 | Family::Sd2 => vec!["clip"],
            Family::Sdxl => vec!["clip_l", "clip_g"],
            Family::Sd3 => vec!["clip_l", "clip_g", "t5"],
            Family::Flux => vec!["clip_l", "t5"],
            Family::Lumina2 | Family::LuminaNext => vec!["gemma"],
        };
        let mut scope = Scope { encoders, ..Scope::default() };
        if job.script.adapter {
            scope.adapter(job)
        } else {
            scope.full(job)
        }
        scope
    }

    /// Whether an encoder learns.
    pub fn trains(&self, encoder: &str) -> bool {
        self.trained.iter().any(|(name, _)| *name == encoder)
    }

    fn adapter(&mut self, job: &Job<'_>) {
        let base = job.effective("learning_rate").as_f64().unwrap_or(0.0);
        self.rate = job.float("unet_lr").unwrap_or(base);
        let module = job.text("network_module").unwrap_or_default();
        let of_unet = module.contains("lycoris") && !job.preset().text();
        if job.flag("network_train_unet_only") || module.contains("oft") || of_unet {
            return;
        }
        let cached = job.flag("cache_text_encoder_outputs") || job.flag("cache_text_encoder_outputs_to_disk");
        if cached && job.family == Family::Sdxl {
            self.refused = Some(
                "text encoders cannot learn from cached outputs; sd-scripts stops here without `--network_train_unet_only`",
            );
            return;
        }
        let t5 = job.network_arg("train_t5xxl").is_some_and(|value| value == "True");
        let rates: Vec<f64> = job
            .value("text_encoder_lr")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_f64)
            .collect();
        for (i, encoder) in self.encoders.iter().enumerate().filter(|(_, encoder)| t5 || **encoder != "t5") {
            // SDXL has one rate for both; of several the last stands for the rest.
            let i = if job.family == Family::Sdxl { 0 } else { i };
            let rate = rates.get(i).or(rates.last()).copied().unwrap_or(base);
            if rate > 0.0 {
                self.trained.push((encoder, rate));
            }
        }
    }

    fn full(&mut self, job: &Job<'_>) {
        let base = job.effective("learning_rate").as_f64().unwrap_or(0.0);
        self.rate = base;
        let rate = |name| job.float(name).unwrap_or(base);
        let wanted: Vec<(&'static str, f64)> = match job.script.name {
            "train_db" if job.int("stop_text_encoder_training").is_none_or(|steps| steps > 0) => {
                vec![("clip", rate("learning_rate_te"))]
            }
            "fine_tune" if job.flag("train_text_encoder") => vec![("clip", rate("learning_rate_te"))],
            "sdxl_train" if job.flag("train_text_encoder") => {
                vec![("clip_l", rate("learning_rate_te1")), ("clip_g", rate("learning_rate_te2"))]
            }
            "sd3_train" if job.flag("train_text_encoder") => {
                let mut list = vec![("clip_l", rate("learning_rate_te1")), ("clip_g", rate("learning_rate_te2"))];
                if job.flag("train_t5xxl") {
                    list.push(("t5", rate("learning_rate_te3")));
                }
                list
            }
            _ => Vec::new(),
        };
        let cached = ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"];
        if !wanted.is_empty() && job.family.has_text_cache() && cached.iter().any(|name| job.flag(name)) {
            self.refused = Some("text encoders cannot learn from cached outputs; sd-scripts stops here");
            return;
        }
        self.trained = wanted.into_iter().filter(|(_, rate)| *rate > 0.0).collect();
    }
}

impl Family {
    fn has_text_cache(self) -> bool {
        !matches!(self, Family::Sd1 | Family::Sd2)
    }
}

impl Job<'_> {
    /// A value of `--network_args`.
    pub fn network_arg(&self, name: &str) -> Option<&str> {
        let list = self.value("network_args")?.as_array()?;
        let mut pairs = list.iter().rev().filter_map(|item| item.as_str()?.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Names of nodes for a port: one by itself, several as a list.
    pub fn names(list: &[&str]) -> Json {
        match list {
            [one] => json!(one),
            list => json!(list),
        }
    }
}
