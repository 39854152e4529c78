//! The optimizer node: type, arguments, rates, clipping.

use serde_json::{Value as Json, json};

use super::optimizers::{self, Fixed, HOW, Optimizer};
use super::{Job, off};
use crate::python;
use crate::report::Kind;

impl Job<'_> {
    /// The name that counts, of the option or a legacy flag.
    pub(super) fn optimizer_name(&self) -> String {
        match self.text("optimizer_type") {
            Some(name) => name.to_owned(),
            None if self.flag("use_8bit_adam") => "AdamW8bit".into(),
            None if self.flag("use_lion_optimizer") => "Lion".into(),
            None => "AdamW".into(),
        }
    }

    /// Whether the optimizer finds one rate for everything.
    pub fn estimates_one_rate(&self) -> bool {
        optimizers::find(&self.optimizer_name()).is_some_and(|optimizer| optimizer.one_rate)
    }

    pub fn optimizer(&mut self) {
        let name = self.optimizer_name();
        let found = optimizers::find(&name);
        let adamw = optimizers::find("AdamW").expect("AdamW is in the table");
        let path = "nodes.optimizer.type";
        let option = match self.has("optimizer_type") {
            false if self.flag("use_8bit_adam") => "use_8bit_adam",
            false if self.flag("use_lion_optimizer") => "use_lion_optimizer",
            _ => "optimizer_type",
        };
        for legacy in ["use_8bit_adam", "use_lion_optimizer"] {
            if self.has(legacy) && legacy != option {
                self.tell(legacy, Kind::Ignored, None, "another option names the optimizer; sd-scripts stops here");
            }
        }
        let exists = |node: &str| self.draft.product().has_type(node);
        // Its own node, one with the same update, or one that only fills the place.
        let (node, own) = match found {
            Some(o) if exists(o.node) => (o.node, true),
            Some(Optimizer { stand_in: Some(node), .. }) if exists(node) => (*node, true),
            _ => ("optimizer.adamw", false),
        };
        let averages =
            found.is_some_and(|o| o.no_schedule) && ["train_db", "fine_tune", "sdxl_train"].contains(&self.script.name);
        let note = match found {
            Some(o) if o.node == node && averages => {
                "the averaged weights are saved and drawn, as they should be; this script of sd-scripts takes those that are trained".to_owned()
            }
            None => format!("`{name}` is not available; `optimizer.adamw` stands in its place, with its own rate"),
            Some(o) if o.node == node => o.changed.to_owned(),
            Some(o) if own => {
                format!("not available yet: `{}`; `{node}` does the same update with 32-bit state", o.node)
            }
            Some(o) => format!("not available yet: `{}`; `{node}` stands in its place, with its own rate", o.node),
        };
        let kind = match found {
            Some(o) if o.node == node && averages => Kind::Changed,
            Some(o) if o.node == node && o.changed.is_empty() && self.has(option) => Kind::Mapped,
            Some(o) if o.node == node && o.changed.is_empty() => Kind::Defaulted,
            Some(o) if o.node == node => Kind::Changed,
            _ => Kind::Refused,
        };
        self.draft.node("optimizer", node);
        if kind != Kind::Defaulted {
            self.tell(option, kind, Some(path), &note);
            if !note.is_empty() {
                self.draft.comment(path, format!("sd-scripts: {name}"));
            }
        }
        self.put_plain("nodes.optimizer.loss", json!("loss"));
        let optimizer = if own { found.unwrap_or(adamw) } else { adamw };
        let args = self.optimizer_args(own.then_some(optimizer));
        let relative = optimizer.node == "optimizer.adafactor" && self.adafactor(&args);
        self.rates(optimizer, own, relative);
        self.text_encoder_stop();
        self.clipping();
        self.schedule(optimizer, own, relative);
        self.fused(optimizer);
    }

    /// `--optimizer_args` by the optimizer's table; what was read, for the rules between them.
    fn optimizer_args(&mut self, optimizer: Option<&Optimizer>) -> Vec<(String, Json)> {
        let words: Vec<String> = match self.value("optimizer_args").and_then(Json::as_array) {
            Some(list) => list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect(),
            None => Vec::new(),
        };
        if self.has("optimizer_args") {
            let note = "each has an entry of its own";
            self.tell_value("optimizer_args", "", Kind::Mapped, Some("nodes.optimizer"), note);
        }
        for (field, value) in optimizer.map_or(&[][..], |o| o.fixed) {
            let value = match value {
                Fixed::Number(n) => python::number(*n),
                Fixed::Bool(b) => json!(b),
            };
            if !words.iter().any(|word| word.starts_with(&format!("{field}="))) {
                self.put_plain(&format!("nodes.optimizer.{field}"), value);
            }
        }
        let mut read = Vec::new();
        for word in &words {
            let label = |name: &str| format!("--optimizer_args {name}");
            let pair = word.split_once('=').filter(|(_, text)| !text.contains('='));
            let Some((name, text)) = pair else {
                self.note(
                    &label(word),
                    "",
                    Kind::Refused,
                    None,
                    "an argument is `name=value` with one `=`; sd-scripts stops here",
                );
                continue;
            };
            let Some(value) = python::literal(text) else {
                let note = "the value is no Python literal; sd-scripts stops here";
                self.note(&label(name), text, Kind::Refused, None, note);
                continue;
            };
            let decay = |word: &String| {
                word.strip_prefix("weight_decay=").and_then(|text| text.parse().ok()).is_some_and(|x: f64| x > 0.0)
            };
            let idle = name == "decouple"
                && optimizer.is_some_and(|one| one.node.starts_with("optimizer.dadapt"))
                && !words.iter().any(decay);
            let (kind, target, note) = match idle {
                true => (Kind::Ignored, None, "without effect without `weight_decay`".into()),
                false => self.optimizer_arg(optimizer, name, &value),
            };
            self.note(&label(name), text, kind, target.as_deref(), &note);
            read.push((name.to_owned(), value));
        }
        read
    }

    fn optimizer_arg(
        &mut self,
        optimizer: Option<&Optimizer>,
        name: &str,
        value: &Json,
    ) -> (Kind, Option<String>, String) {
        let Some(optimizer) = optimizer else {
            return (Kind::Refused, None, "it belongs to an optimizer that is not available".into());
        };
        if HOW.contains(&name) {
            return (Kind::Ignored, None, "how a step is computed changes no result".into());
        }
        if name == "lr" {
            return (Kind::Refused, None, "the rate comes from `--learning_rate`".into());
        }
        let Some((_, field)) = optimizer.args.iter().find(|(arg, _)| *arg == name) else {
            let near = pipe_core::diagnostic::suggest(name, optimizer.args.iter().map(|(arg, _)| *arg));
            let hint = near.first().map(|name| format!("; did you mean `{name}`")).unwrap_or_default();
            let off = *value == json!(false) || *value == json!(0) || value.is_null();
            return match off {
                true => (Kind::Mapped, None, "off, so left out".into()),
                false => (Kind::Refused, None, format!("`{}` has nothing like it{hint}", optimizer.node)),
            };
        };
        let path = format!("nodes.optimizer.{field}");
        if value.is_null() {
            return (Kind::Mapped, None, "none, so left out".into());
        }
        // Adafactor's rules decide these together.
        if optimizer.node == "optimizer.adafactor" && ["relative_step", "warmup_init"].contains(field) {
            return (Kind::Mapped, Some(path), String::new());
        }
        match self.draft.put(&path, value.clone()) {
            Ok(()) => (Kind::Mapped, Some(path), String::new()),
            Err(miss) => (Kind::Refused, None, miss.to_string()),
        }
    }

    /// Whether Adafactor sets its own rate: unless told not to, and always with `warmup_init`.
    fn adafactor(&mut self, args: &[(String, Json)]) -> bool {
        let of = |name: &str| args.iter().rev().find(|(arg, _)| arg == name).map(|(_, value)| value.clone());
        let warmup = of("warmup_init") == Some(json!(true));
        let asked = of("relative_step").is_none_or(|value| value == json!(true));
        if warmup && !asked {
            let note = "`warmup_init` needs relative steps, so they are on, as sd-scripts does too";
            self.note(
                "--optimizer_args relative_step",
                "False",
                Kind::Changed,
                Some("nodes.optimizer.relative_step"),
                note,
            );
        }
        let relative = asked || warmup;
        self.put_plain("nodes.optimizer.relative_step", json!(relative));
        if warmup {
            self.put_plain("nodes.optimizer.warmup_init", json!(true));
        }
        relative
    }

    /// The step from which text encoders stay as they are.
    fn text_encoder_stop(&mut self) {
        let name = "stop_text_encoder_training";
        let Some(steps) = self.int(name).filter(|steps| *steps > 0) else { return };
        let path = "nodes.optimizer.stop_text_encoder_training";
        let total = (!self.has("max_train_epochs")).then(|| self.effective("max_train_steps").as_i64()).flatten();
        if self.scope.trained.is_empty() {
            self.tell(name, Kind::Ignored, None, "no text encoder learns");
        } else if total.is_some_and(|total| steps >= total) {
            self.tell(name, Kind::Ignored, None, "the run ends before it");
        } else {
            self.change(name, path, json!({ "steps": steps }), "sd-scripts crashes when the step is reached");
        }
    }

    fn clipping(&mut self) {
        let value = self.effective("max_grad_norm");
        let path = "nodes.optimizer.max_grad_norm";
        if off(&value) {
            self.write("max_grad_norm", path, json!(false), "");
        } else if self.has("max_grad_norm") {
            self.write("max_grad_norm", path, value, "");
        }
    }

    /// Stepping each tensor as soon as its gradient is known.
    fn fused(&mut self, optimizer: &Optimizer) {
        let path = "nodes.optimizer.fused_backward";
        let passes = self.int("gradient_accumulation_steps").unwrap_or(1);
        let why = if optimizer.one_rate || optimizer.no_schedule {
            Some("the optimizer needs the gradients of all tensors at once; the result is that of the usual step")
        } else if passes > 1 {
            Some(
                "the gradients of several passes must be kept until they are added up; in sd-scripts the first group steps in each pass",
            )
        } else {
            None
        };
        let options = ["fused_backward_pass", "blockwise_fused_optimizers", "fused_optimizer_groups"];
        let given: Vec<&'static str> =
            options.into_iter().filter(|name| self.value(name).is_some_and(|value| !off(value))).collect();
        for (i, name) in given.into_iter().enumerate() {
            match why {
                Some(why) => self.tell(name, Kind::Refused, None, why),
                None if i == 0 => {
                    let note =
                        "each tensor by itself, as soon as its gradient is complete; it is clipped by itself too";
                    self.write(name, path, json!(true), note);
                }
                None => {
                    let note = "one field for both; with both sd-scripts trains the first group alone";
                    self.tell(name, Kind::Changed, Some(path), note);
                }
            }
        }
    }
}
