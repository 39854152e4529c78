//! The rates of what learns, and how optimizers that find their own go with them.

use serde_json::{Value as Json, json};

use super::optimizers::Optimizer;
use super::{Job, off};
use crate::python;
use crate::report::{Entry, Kind};

/// Larger rates are those of optimizers that find their own.
const LARGEST_RATE: f64 = 0.01;

impl Job<'_> {
    /// The rates of denoiser and text encoders.
    pub(super) fn rates(&mut self, optimizer: &Optimizer, own: bool, relative: bool) {
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
}
