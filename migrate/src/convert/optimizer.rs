//! The optimizer node: type, arguments, rates, clipping.

use serde_json::{Value as Json, json};

use super::optimizers::{self, Fixed, HOW, Optimizer};
use super::{Job, off};
use crate::python;
use crate::report::{Entry, Kind};

/// Larger rates are those of optimizers that find their own.
const LARGEST_RATE: f64 = 0.01;

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

    /// The rates of denoiser and text encoders.
    fn rates(&mut self, optimizer: &Optimizer, own: bool, relative: bool) {
        let encoders =
            ["text_encoder_lr", "learning_rate_te", "learning_rate_te1", "learning_rate_te2", "learning_rate_te3"];
        let path = "nodes.optimizer.learning_rate";
        let frozen = self.scope.rate <= 0.0;
        // The given rate is nearer to what was asked for than that of the stand-in; but one of an optimizer that finds
        // its own is a factor.
        let factor = !own && self.scope.rate > LARGEST_RATE;
        let voided = match (factor, relative) {
            (true, _) => Some((Kind::Refused, "the rate belongs to an optimizer that is not available")),
            (false, true) => Some((Kind::Ignored, "Adafactor's relative steps set the rate, for every group")),
            (false, false) => None,
        };
        if voided.is_some() || optimizer.one_rate {
            self.one_rate_of_blocks(relative);
        }
        let blocks = self.draft.get("nodes.full.block_learning_rates").is_some();
        if frozen && !blocks && self.draft.get("nodes.lora.include").is_none() {
            self.denoiser_at_zero(optimizer, relative);
        }
        if let Some((kind, note)) = voided {
            for name in ["learning_rate", "unet_lr"].into_iter().chain(encoders) {
                if self.has(name) {
                    self.tell(name, kind, None, note);
                }
            }
            return;
        }
        // Every weight of SDXL is in one of its blocks, so that only text encoders are left.
        let of_text = self.scope.trained.first().map(|(_, rate)| *rate).filter(|_| blocks && frozen);
        let rate = of_text.unwrap_or(self.scope.rate);
        if of_text.is_some() {
            self.put_plain(path, python::number(rate));
            self.draft.comment(path, "of the text encoders");
        } else if blocks
            && optimizer.node != "optimizer.adafactor"
            && self.scope.trained.iter().all(|(_, own)| *own != rate)
        {
            for name in ["learning_rate", "unet_lr"].into_iter().filter(|name| self.has(name)).collect::<Vec<_>>() {
                self.tell(name, Kind::Ignored, None, "`--block_lr` counts");
            }
        } else if rate > 0.0 {
            let (name, other) =
                if self.has("unet_lr") { ("unet_lr", Some("learning_rate")) } else { ("learning_rate", None) };
            match own {
                true => self.write(name, path, python::number(rate), ""),
                false => self.change(name, path, python::number(rate), "as given, for another optimizer"),
            };
            if let Some(other) = other.filter(|other| self.has(other)) {
                self.tell(other, Kind::Ignored, None, "`--unet_lr` and `--text_encoder_lr` count");
            }
        } else if self.has("learning_rate") {
            let note = "the rate of text encoders without one of their own; the denoiser's is 0";
            self.tell("learning_rate", Kind::Mapped, Some("nodes.optimizer.text_encoder_learning_rate"), note);
        }
        self.encoder_rates(optimizer, rate, encoders);
    }

    /// Blocks with rates of their own beside an optimizer that has one for all, or sets it by itself.
    fn one_rate_of_blocks(&mut self, relative: bool) {
        let path = ["full", "block_learning_rates"].map(str::to_owned);
        let list = self.draft.get("nodes.full.block_learning_rates").and_then(Json::as_array).cloned();
        let Some(list) = list else { return };
        let zero = list.iter().any(off);
        let mut learning = list.iter().filter(|rate| !off(rate));
        let first = learning.next();
        if first.is_none() || !relative && learning.all(|rate| Some(rate) == first) {
            return;
        }
        let (kind, note) = match (relative, zero) {
            (true, false) => (Kind::Ignored, "Adafactor's relative steps set the rate, for every group"),
            (true, true) => (
                Kind::Refused,
                "Adafactor's relative steps set the rate of every block; `relative_step=False` takes those",
            ),
            (false, _) => (
                Kind::Refused,
                "an optimizer that finds its own rate has one for all; sd-scripts fails in the first step",
            ),
        };
        self.draft.remove(&path);
        for entry in self.report.iter_mut().filter(|entry| entry.option == "--block_lr") {
            (entry.kind, entry.target, entry.note) = (kind, None, note.to_owned());
        }
    }

    /// The denoiser stays as it is: its rate is 0. Where an optimizer has no such rate the document fails its check,
    /// rather than to train what should stay.
    fn denoiser_at_zero(&mut self, optimizer: &Optimizer, relative: bool) {
        let path = "nodes.optimizer.learning_rate";
        let name = if self.has("unet_lr") { "unet_lr" } else { "learning_rate" };
        let takes = !relative && !optimizer.one_rate;
        self.draft.put_anyway(path, json!(0));
        let (kind, note) = match takes {
            true => (Kind::Mapped, "the denoiser stays as it is, and its weights with it"),
            false => (
                Kind::Refused,
                "this optimizer finds the rate by itself, for all that learns: take another, as `optimizer.adamw`",
            ),
        };
        self.draft
            .comment(path, if takes { "the denoiser stays as it is" } else { "not with this optimizer: take another" });
        self.tell(name, kind, Some(path), note);
    }

    /// Rates of text encoders: each has a field, and the second and third take the first's where they have none.
    fn encoder_rates(&mut self, optimizer: &Optimizer, rate: f64, options: [&'static str; 5]) {
        let given: Vec<&'static str> = options.into_iter().filter(|name| self.has(name)).collect();
        let trained = self.scope.trained.clone();
        if trained.is_empty() || trained.iter().all(|(_, r)| *r == rate) {
            let learns = !trained.is_empty();
            for name in given {
                match learns {
                    true => self.tell(name, Kind::Mapped, Some("nodes.optimizer.learning_rate"), "the denoiser's rate"),
                    false => self.tell(name, Kind::Ignored, None, "no text encoder learns"),
                }
            }
            return;
        }
        if optimizer.one_rate {
            let note = "an optimizer that finds its own rate has one for all; sd-scripts fails in the first step";
            for name in given {
                self.tell(name, Kind::Refused, None, note);
            }
            return;
        }
        let mut inherited = rate;
        for (encoder, own) in trained {
            let (field, option) = match encoder {
                "clip_g" => ("text_encoder_2_learning_rate", "learning_rate_te2"),
                "t5" => ("text_encoder_3_learning_rate", "learning_rate_te3"),
                _ if self.has("learning_rate_te") => ("text_encoder_learning_rate", "learning_rate_te"),
                _ => ("text_encoder_learning_rate", "learning_rate_te1"),
            };
            let option = if self.has("text_encoder_lr") { "text_encoder_lr" } else { option };
            let path = format!("nodes.optimizer.{field}");
            if own == inherited {
                if self.has(option) {
                    self.tell(option, Kind::Mapped, Some("nodes.optimizer"), "as the rate it is taken from by default");
                }
                continue;
            }
            match self.draft.put(&path, python::number(own)) {
                Ok(()) if self.has(option) => self.tell(option, Kind::Mapped, Some(&path), ""),
                Ok(()) => self.draft.comment(&path, "as `learning_rate` of sd-scripts"),
                Err(miss) => {
                    let note = format!("{miss}; it learns at {}", Entry::show(&python::number(inherited)));
                    match self.has(option) {
                        true => self.tell(option, Kind::Refused, None, &note),
                        false => {
                            self.note(&format!("rate of `{encoder}`"), &own.to_string(), Kind::Refused, None, &note)
                        }
                    }
                }
            }
            if field == "text_encoder_learning_rate" {
                inherited = own;
            }
        }
        for name in given {
            self.tell(name, Kind::Ignored, None, "the encoder it belongs to does not learn");
        }
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
