//! Flow matching: timesteps, weights, what is compared.

use serde_json::json;

use super::Job;
use crate::report::Kind;
use crate::script::Family;

const TIMES: &str = "nodes.loss.timesteps";

impl Job<'_> {
    pub fn flow(&mut self) {
        let sd3 = self.family == Family::Sd3;
        let sampling = if sd3 { "discrete".to_owned() } else { self.effective_text("timestep_sampling") };
        let path = |field: &str| format!("{TIMES}.{field}");
        if sd3 {
            self.put_plain(&path("sampling"), json!("discrete"));
            self.draft.comment(&path("sampling"), "as sd-scripts");
        } else {
            self.write("timestep_sampling", &path("sampling"), json!(sampling), "");
        }
        self.shift(&sampling);
        self.scheme(&sampling);
        for (name, field) in [("min_timestep", "min"), ("max_timestep", "max")] {
            if let Some(t) = self.int(name) {
                self.write(name, &path(field), json!(t), "");
            }
        }
        self.prediction();
        if self.family == Family::Flux {
            let guidance = self.effective("guidance_scale");
            let schnell =
                self.text("pretrained_model_name_or_path").is_some_and(|f| f.to_lowercase().contains("schnell"));
            if schnell {
                if self.has("guidance_scale") {
                    self.tell("guidance_scale", Kind::Ignored, None, "FLUX.1 schnell has no guidance");
                }
            } else {
                self.write("guidance_scale", "nodes.loss.guidance_scale", guidance, "");
            }
        }
    }

    /// What the chosen sampling reads is written, the rest said to be without effect.
    fn shift(&mut self, sampling: &str) {
        let (name, reads) = match self.family {
            Family::Sd3 => ("training_shift", true),
            _ => ("discrete_flow_shift", ["shift", "sigma"].contains(&sampling)),
        };
        if reads {
            let shift = self.effective(name);
            self.write(name, &format!("{TIMES}.shift"), shift, "");
        } else if self.has(name) {
            self.tell(name, Kind::Ignored, None, &format!("`{sampling}` does not read it"));
        }
        if self.family != Family::Sd3 && self.has("sigmoid_scale") {
            if ["sigmoid", "shift", "flux_shift"].contains(&sampling) {
                let scale = self.effective("sigmoid_scale");
                self.write("sigmoid_scale", &format!("{TIMES}.sigmoid_scale"), scale, "");
            } else {
                self.tell("sigmoid_scale", Kind::Ignored, None, &format!("`{sampling}` does not read it"));
            }
        }
    }

    /// The weighting scheme: a density for `sigma` and SD3, a weight only where x0 is compared.
    fn scheme(&mut self, sampling: &str) {
        let scheme = self.effective_text("weighting_scheme");
        let drawn = ["sigma", "discrete"].contains(&sampling);
        let density = ["logit_normal", "mode"].contains(&scheme.as_str());
        let weight = ["sigma_sqrt", "cosmap"].contains(&scheme.as_str());
        let weighs = self.family == Family::Sd3;
        let path = |field: &str| format!("{TIMES}.scheme.{field}");
        let own = if scheme == "none" { "uniform" } else { scheme.as_str() };
        if drawn && (density || own == "uniform" || weighs) || (weight && weighs) {
            // SD3's own default is another density.
            if self.has("weighting_scheme") || self.family == Family::Sd3 {
                let note = match own {
                    "sigma_sqrt" => {
                        "each sample is weighed by its own σ, which is at least 1/1000; sd-scripts multiplies the means of a batch, and σ = 0 ends its run with NaN"
                    }
                    "cosmap" => "each sample is weighed by its own σ; sd-scripts multiplies the means of a batch",
                    _ => "",
                };
                match note {
                    "" => self.write("weighting_scheme", &path("type"), json!(own), ""),
                    note => self.change("weighting_scheme", &path("type"), json!(own), note),
                };
            }
        } else if self.has("weighting_scheme") {
            let note = match weight {
                true => "it weighs the loss on x0 only; with `raw` the velocity is compared",
                false => &format!("`{sampling}` does not read it"),
            };
            self.tell("weighting_scheme", Kind::Ignored, None, note);
        }
        for (name, field, of) in [
            ("logit_mean", "mean", "logit_normal"),
            ("logit_std", "std", "logit_normal"),
            ("mode_scale", "scale", "mode"),
        ] {
            if !self.has(name) {
                continue;
            }
            match drawn && scheme == of {
                true => {
                    let value = self.effective(name);
                    self.write(name, &path(field), value, "");
                }
                false => self.tell(name, Kind::Ignored, None, &format!("only `--weighting_scheme {of}` reads it")),
            }
        }
    }

    fn prediction(&mut self) {
        let path = "nodes.loss.model_prediction";
        if self.family == Family::Sd3 {
            // Fixed in the reference: x̂ against x0.
            self.put_plain(path, json!("sigma_scaled"));
            self.draft.comment(path, "as sd-scripts; `raw` trains on the velocity");
            return;
        }
        let kind = self.effective_text("model_prediction_type");
        if kind == "raw" {
            if self.has("model_prediction_type") {
                self.write("model_prediction_type", path, json!("raw"), "");
            }
            return;
        }
        let note = format!(
            "sd-scripts compares the {} with the target of `raw`, which is another quantity, so `{kind}` trains a wrong objective there; `raw` is right",
            if kind == "additive" { "output plus the noisy latents" } else { "estimate of x0" }
        );
        if self.draft.put(path, json!("raw")).is_ok() {
            self.draft.comment(path, format!("sd-scripts: {kind}, which does not fit its target"));
            self.tell("model_prediction_type", Kind::Changed, Some(path), &note);
        }
    }
}
