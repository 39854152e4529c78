//! The learning-rate schedule.

use serde_json::{Value as Json, json};

use super::Job;
use super::optimizers::Optimizer;
use crate::python;
use crate::report::Kind;

/// A scheduler of the reference.
pub(crate) struct Scheduler {
    /// Name in `--lr_scheduler`.
    pub name: &'static str,
    /// `schedule.type`; empty where there is none.
    pub own: &'static str,
    /// Options it reads, besides the warm-up.
    pub reads: &'static [&'static str],
    /// What to know.
    pub note: &'static str,
}

const fn of(name: &'static str, own: &'static str, reads: &'static [&'static str]) -> Scheduler {
    Scheduler { name, own, reads, note: "" }
}
const fn noted(name: &'static str, own: &'static str, note: &'static str) -> Scheduler {
    Scheduler { name, own, reads: &[], note }
}

/// Every scheduler the reference knows by name.
pub(crate) const SCHEDULES: &[Scheduler] = &[
    of("constant", "constant", &[]),
    of("constant_with_warmup", "constant", &[]),
    of("linear", "linear", &[]),
    of("cosine", "cosine", &[]),
    of("cosine_with_restarts", "cosine_with_restarts", &["lr_scheduler_num_cycles"]),
    of("polynomial", "polynomial", &["lr_scheduler_power"]),
    of("inverse_sqrt", "inverse_sqrt", &["lr_scheduler_timescale"]),
    of("cosine_with_min_lr", "cosine_with_min_lr", &["lr_scheduler_num_cycles", "lr_scheduler_min_lr_ratio"]),
    of(
        "warmup_stable_decay",
        "warmup_stable_decay",
        &["lr_scheduler_num_cycles", "lr_scheduler_min_lr_ratio", "lr_decay_steps"],
    ),
    of("piecewise_constant", "piecewise_constant", &[]),
    noted("adafactor", "", "it only reports the rate that Adafactor's relative steps set"),
    noted("reduce_lr_on_plateau", "", "sd-scripts knows the name and fails with it"),
    noted("cosine_warmup_with_min_lr", "", "sd-scripts knows the name and fails with it"),
];

const PATH: &str = "nodes.optimizer.schedule";
const OPTIONS: [&str; 6] = [
    "lr_decay_steps",
    "lr_scheduler_num_cycles",
    "lr_scheduler_power",
    "lr_scheduler_timescale",
    "lr_scheduler_min_lr_ratio",
    "lr_scheduler_args",
];

impl Job<'_> {
    pub fn schedule(&mut self, optimizer: &Optimizer, own: bool, relative: bool) {
        let name = self.effective_text("lr_scheduler");
        let voided = match (relative, optimizer.no_schedule) {
            (true, _) => Some("Adafactor's relative steps set the rate"),
            (_, true) => Some("a schedule-free optimizer keeps its rate"),
            _ => None,
        };
        if let Some(why) = voided {
            for option in ["lr_scheduler", "lr_warmup_steps"].into_iter().chain(OPTIONS) {
                if self.has(option) {
                    self.tell(option, Kind::Ignored, None, why);
                }
            }
            return;
        }
        let found = SCHEDULES.iter().find(|s| s.name == name);
        let Some(scheduler) = found.filter(|s| !s.own.is_empty()) else {
            let note = match found {
                Some(s) if !own => format!("{}; the schedule is constant", s.note),
                Some(s) => format!("{}; the schedule is constant", s.note),
                None => "sd-scripts has no such scheduler; the schedule is constant".into(),
            };
            self.tell("lr_scheduler", Kind::Refused, None, &note);
            self.unread(&[], "the scheduler they belong to is not available");
            self.warmup(true);
            return;
        };
        let args = self.scheduler_args();
        let path = format!("{PATH}.type");
        if let Err(miss) = self.draft.takes(&path, &json!(scheduler.own)) {
            self.tell("lr_scheduler", Kind::Refused, None, &format!("{miss}; the schedule is constant"));
            self.unread(&[], "the scheduler they belong to is not available yet");
            self.warmup(true);
            return;
        }
        let warmup = self.value("lr_warmup_steps").is_some_and(|w| !w.is_null());
        let plain = scheduler.own == "constant" && !warmup;
        if !plain || self.has("lr_scheduler") {
            self.put_plain(&path, json!(scheduler.own));
        }
        if self.has("lr_scheduler") {
            let note = match scheduler.name {
                "cosine" => "past the end of the run the rate stays at 0; in sd-scripts it rises again",
                _ => scheduler.note,
            };
            self.tell("lr_scheduler", Kind::Mapped, Some(&path), note);
        }
        self.warmup(scheduler.own != "piecewise_constant");
        self.shape(scheduler, &args);
        self.unread(scheduler.reads, &format!("`{}` does not read it", scheduler.name));
    }

    fn warmup(&mut self, taken: bool) {
        let Some(value) = self.value("lr_warmup_steps").cloned() else { return };
        if value.is_null() {
            self.tell("lr_warmup_steps", Kind::Mapped, None, "none, so left out");
        } else if !taken {
            self.tell("lr_warmup_steps", Kind::Ignored, None, "`piecewise_constant` has no warm-up");
        } else {
            if self.draft.get(&format!("{PATH}.type")).is_none() {
                self.put_plain(&format!("{PATH}.type"), json!("constant"));
            }
            let path = format!("{PATH}.warmup");
            let alone = self.effective_text("lr_scheduler") == "constant";
            if alone {
                let note = "a constant rate after the warm-up; sd-scripts stops here and wants `constant_with_warmup`";
                self.change("lr_warmup_steps", &path, value, note);
            } else {
                self.write("lr_warmup_steps", &path, value, "");
            }
        }
    }

    /// What belongs to one scheduler.
    fn shape(&mut self, scheduler: &Scheduler, args: &[(String, Json)]) {
        let arg = |name: &str| args.iter().rev().find(|(arg, _)| arg == name).map(|(_, value)| value.clone());
        let path = |field: &str| format!("{PATH}.{field}");
        for option in scheduler.reads {
            let falls = scheduler.own == "warmup_stable_decay" && *option == "lr_scheduler_num_cycles";
            if falls && self.has(option) && arg("decay_type").is_some_and(|form| form != json!("cosine")) {
                self.tell(option, Kind::Ignored, None, "only a fall of type `cosine` reads it");
                continue;
            }
            let field = match *option {
                "lr_scheduler_num_cycles" => "cycles",
                "lr_scheduler_power" => "power",
                "lr_scheduler_timescale" => "timescale",
                "lr_scheduler_min_lr_ratio" => "min_ratio",
                _ => "decay",
            };
            let value = self.effective(option);
            if self.has(option) && !value.is_null() {
                self.write(option, &path(field), value, "");
            }
        }
        match scheduler.own {
            "polynomial" => {
                // Of this rate, whatever the groups' own are.
                let rate = self.effective("learning_rate").as_f64().unwrap_or(0.0);
                if rate > 1e-7 {
                    self.put_plain(&path("end_ratio"), rounded(1e-7 / rate));
                    self.draft.comment(&path("end_ratio"), "sd-scripts ends at a rate of 1e-7");
                }
            }
            "cosine_with_min_lr" | "warmup_stable_decay" => {
                if let Some(ratio) = arg("min_lr_ratio").or_else(|| {
                    let least = arg("min_lr")?.as_f64()?;
                    (self.scope.rate > 0.0).then(|| rounded(least / self.scope.rate))
                }) {
                    self.put_plain(&path("min_ratio"), ratio);
                }
                if scheduler.own == "cosine_with_min_lr" && self.draft.get(&path("min_ratio")).is_none() {
                    let note = "`cosine_with_min_lr` needs a smallest rate; sd-scripts fails without one. Here it is 0";
                    self.put_plain(&path("min_ratio"), json!(0));
                    self.note(
                        "--lr_scheduler_min_lr_ratio (not given)",
                        "",
                        Kind::Changed,
                        Some(&path("min_ratio")),
                        note,
                    );
                }
                if scheduler.own == "warmup_stable_decay" {
                    for name in ["warmup_type", "decay_type"] {
                        if let Some(value) = arg(name) {
                            self.put_plain(&path(name), value);
                        }
                    }
                    if self.draft.get(&path("decay")).is_none() {
                        let note = "without `--lr_decay_steps` nothing falls: a constant rate";
                        self.put_plain(
                            PATH,
                            self.draft.get(&path("warmup")).map_or(
                                json!({ "type": "constant" }),
                                |warmup| json!({ "type": "constant", "warmup": warmup }),
                            ),
                        );
                        self.note("--lr_decay_steps (not given)", "", Kind::Changed, Some(&path("type")), note);
                    }
                }
            }
            "piecewise_constant" => self.pieces(arg("step_rules")),
            _ => {}
        }
    }

    /// `1:10,0.1:20,0.01`: factors and the steps before which they hold.
    fn pieces(&mut self, rules: Option<Json>) {
        let text = rules.as_ref().and_then(Json::as_str).unwrap_or_default().to_owned();
        let parts: Vec<&str> = text.split(',').collect();
        let read = || -> Option<(Vec<Json>, f64)> {
            let (rest, pieces) = parts.split_last()?;
            let pieces = pieces.iter().map(|piece| {
                let (factor, until) = piece.split_once(':')?;
                let factor = python::number(python::float(factor)?);
                Some(json!({ "factor": factor, "until": { "steps": python::int(until)? } }))
            });
            Some((pieces.collect::<Option<_>>()?, python::float(rest)?))
        };
        match read() {
            Some((pieces, rest)) if !pieces.is_empty() => {
                self.put_plain(&format!("{PATH}.pieces"), json!(pieces));
                self.put_plain(&format!("{PATH}.rest"), python::number(rest));
            }
            Some((_, rest)) => {
                let note = "one factor for the whole run: multiply the learning rate by it";
                self.put_plain(PATH, json!({ "type": "constant" }));
                self.note("--lr_scheduler_args step_rules", &rest.to_string(), Kind::Refused, None, note);
            }
            None => {
                let note =
                    "`piecewise_constant` needs rules as `step_rules='1:10,0.1:20,0.01'`; the schedule is constant";
                self.put_plain(PATH, json!({ "type": "constant" }));
                self.note("--lr_scheduler_args step_rules", &text, Kind::Refused, None, note);
            }
        }
    }

    fn scheduler_args(&mut self) -> Vec<(String, Json)> {
        let Some(words) = self.value("lr_scheduler_args").and_then(Json::as_array).cloned() else { return Vec::new() };
        let known = ["min_lr", "min_lr_ratio", "warmup_type", "decay_type", "step_rules"];
        let (mut read, mut wrong) = (Vec::new(), Vec::new());
        for word in words.iter().filter_map(Json::as_str) {
            let pair = word.split_once('=').filter(|(name, text)| known.contains(name) && !text.contains('='));
            match pair.and_then(|(name, text)| Some((name.to_owned(), python::literal(text)?))) {
                Some(pair) => read.push(pair),
                None => wrong.push(word.to_owned()),
            }
        }
        for word in wrong {
            let note = "no scheduler here takes it, or its value is no Python literal (text needs quotes)";
            self.note("--lr_scheduler_args", &word, Kind::Refused, None, note);
        }
        self.tell("lr_scheduler_args", Kind::Mapped, Some(PATH), "");
        read
    }

    fn unread(&mut self, reads: &[&str], why: &str) {
        for option in OPTIONS.into_iter().filter(|option| !reads.contains(option)) {
            if self.has(option) {
                self.tell(option, Kind::Ignored, None, why);
            }
        }
    }
}

/// A quotient without the last digits' noise.
fn rounded(x: f64) -> Json {
    python::number(format!("{x:.10e}").parse().unwrap_or(x))
}
