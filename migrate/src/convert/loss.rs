//! The loss: noise, weights, Huber; flow matching is in `flow`.

use serde_json::json;

use super::{Job, off};
use crate::report::Kind;

impl Job<'_> {
    pub fn loss(&mut self) {
        let flow = self.family.flow();
        self.draft.node("loss", if flow { "loss.flow" } else { "loss.diffusion" });
        let model = if self.script.adapter { "lora" } else { "full" };
        self.put_plain("nodes.loss.model", json!(model));
        self.put_plain("nodes.loss.batch", json!("cached"));
        if flow {
            self.flow();
        } else {
            self.noise();
            self.weights();
            for (name, field) in [("min_timestep", "min"), ("max_timestep", "max")] {
                if let Some(t) = self.int(name) {
                    self.write(name, &format!("nodes.loss.timesteps.{field}"), json!(t), "");
                }
            }
        }
        self.strength("ip_noise_gamma", "ip_noise_gamma_random_strength");
        self.huber();
    }

    /// A flag that multiplies another option by a random number.
    fn strength(&mut self, base: &'static str, random: &'static str) {
        if !self.has(random) {
            return;
        }
        if self.value(base).is_none_or(off) {
            self.tell(random, Kind::Ignored, None, &format!("without effect without `--{base}`"));
        } else {
            self.write(random, &format!("nodes.loss.{random}"), json!(true), "");
        }
    }

    fn noise(&mut self) {
        self.pyramid();
        self.strength("noise_offset", "noise_offset_random_strength");
        if let Some(value) = self.value("adaptive_noise_scale").cloned() {
            if self.value("noise_offset").is_none_or(off) {
                let note = "it needs `--noise_offset`; sd-scripts stops here";
                self.tell("adaptive_noise_scale", Kind::Refused, None, note);
            } else {
                self.write("adaptive_noise_scale", "nodes.loss.adaptive_noise_scale", value, "");
            }
        }
    }

    /// Noise of several resolutions.
    fn pyramid(&mut self) {
        let levels = self.value("multires_noise_iterations").cloned().unwrap_or_default();
        if off(&levels) {
            for name in ["multires_noise_iterations", "multires_noise_discount"] {
                if self.has(name) {
                    let kind = if name.ends_with("iterations") { Kind::Mapped } else { Kind::Ignored };
                    self.tell(name, kind, None, "off, so left out");
                }
            }
            return;
        }
        let (name, path) = ("multires_noise_iterations", "nodes.loss.multires_noise.iterations");
        match self.draft.put(path, levels) {
            Ok(()) => self.tell(name, Kind::Changed, Some(path), self.note_of(name)),
            Err(miss) => self.missing(name, &miss),
        }
        if self.has("multires_noise_discount") {
            let discount = self.effective("multires_noise_discount");
            self.write("multires_noise_discount", "nodes.loss.multires_noise.discount", discount, "");
        }
    }

    fn weights(&mut self) {
        let v = self.flag("v_parameterization");
        let name = "scale_v_pred_loss_like_noise_pred";
        match (self.flag(name), v) {
            (true, true) => {
                self.write(name, "nodes.loss.scale_v_pred_loss_like_noise_pred", json!(true), "");
            }
            (true, false) => {
                self.tell(name, Kind::Refused, None, "it needs `--v_parameterization`; sd-scripts stops here")
            }
            _ => {}
        }
        if let Some(weight) = self.value("v_pred_like_loss").cloned() {
            if off(&weight) {
                self.tell("v_pred_like_loss", Kind::Mapped, None, "off, so left out");
            } else if v {
                let note = "not for a model that predicts v; sd-scripts stops here";
                self.tell("v_pred_like_loss", Kind::Refused, None, note);
            } else {
                self.write("v_pred_like_loss", "nodes.loss.v_pred_like_loss", weight, "");
            }
        }
    }

    fn huber(&mut self) {
        let kind = self.effective_text("loss_type");
        let options = ["huber_schedule", "huber_c", "huber_scale"];
        if !["huber", "smooth_l1"].contains(&kind.as_str()) {
            for name in options.into_iter().filter(|name| self.given.contains_key(name)).collect::<Vec<_>>() {
                self.tell(name, Kind::Ignored, None, &format!("without effect with `--loss_type {kind}`"));
            }
            return;
        }
        let schedule = self.effective("huber_schedule");
        let snr = schedule == json!("snr");
        let path = |field: &str| format!("nodes.loss.huber.{field}");
        if snr && self.family.flow() {
            let note = "flow models have no such schedule; sd-scripts fails with it";
            self.change("huber_schedule", &path("schedule"), json!("constant"), note);
        } else {
            self.write("huber_schedule", &path("schedule"), schedule, "");
        }
        let c = self.effective("huber_c");
        self.write("huber_c", &path("c"), c, "");
        if self.has("huber_scale") {
            let scale = self.effective("huber_scale");
            match snr && !self.family.flow() {
                true => self.tell("huber_scale", Kind::Ignored, None, "the schedule `snr` does not read it"),
                false => {
                    self.write("huber_scale", &path("scale"), scale, "");
                }
            }
        }
    }
}
