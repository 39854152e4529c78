//! `logger.validation`: the loss on held-out images, with fixed noise and timesteps.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Measure, Moment, Position, RunError};
use pipe_core::settings::Every;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::common::batch::Batches;
use crate::common::plain_value;
use crate::loss::buckets::ByTimestep;
use crate::loss::{At, Loss};

/// Fields of `logger.validation`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// When to measure, besides the start and the end. Default: only those.
    #[serde(default)]
    every: Option<Every>,
    /// Passes over the held-out images; each takes other timesteps, spread evenly. Default 4.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 1000))]
    passes: u64,
    /// At most so many batches in a pass, always the same ones. Default: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    batches: Option<u64>,
    /// Seed of noise and timesteps. Give it to compare runs of different seeds. Default: the run's.
    #[serde(default)]
    seed: Option<u64>,
}

fn four() -> u64 {
    4
}

/// What was measured last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latest {
    /// The step.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// It is the lowest since the first step.
    pub best: bool,
}

/// The value of a `Validation` port.
#[derive(Clone, Debug, Default)]
pub struct Measured(Arc<Mutex<Option<Latest>>>);

plain_value!(Measured);

impl Measured {
    /// What was measured last, in this process.
    pub fn latest(&self) -> Option<Latest> {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The node type.
pub struct Validation;

const FILE: &str = "validation.jsonl";

/// In the first line of those that can be compared: what they depend on besides the weights.
const MEASURED: &str = "measured_with";

impl Node for Validation {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "logger.validation",
        summary: "Measures the loss on held-out images before, during and after training.",
        details: "Noise and timesteps depend on the seed alone, and each image is taken as it is: not mirrored, with its whole \
                  caption, its mask and its weight. So the numbers of one run, and with one `seed` those of several, can be compared. Adapter \
                  dropouts are off. Held-out images are another folder, or those that `validation_split` of the loader sets \
                  aside: `batch: cached.validation`. A continued run may measure otherwise: its numbers are then compared with each \
                  other alone. Writes `validation.jsonl`: `step`, `loss`, `relative_to_first`, `best` where \
                  it is the lowest yet, `divergence` (minus the mean of training) and `loss_t000` to `loss_t900` by timestep. \
                  All loggers show the numbers. A saver with `keep_best: validation` keeps the weights of the lowest loss.",
        example: "validation:\n  type: logger.validation\n  loss: loss\n  batch: heldout\n  every:\n    epochs: 1",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("loss", &[PortType::Loss], Rate::Event, "Loss to measure."),
            Input::one("batch", &[PortType::Batches], Rate::Event, "Held-out images."),
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output::single(
            PortType::Validation,
            Rate::Event,
            "The latest measurement, for savers that keep the best.",
        )]
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        cx.will_write("", FILE.into());
        if let Some(batch) = cx.inputs.one("batch").cloned() {
            if batch.output == "validation" && batch.facts.u64("held_out") == Some(0) {
                let message = format!("`{}` sets no images aside", batch.node);
                let help = "set `validation_split` on its loader, or name a cacher of other images";
                cx.error("P0402", "batch", message, Some(help.into()));
            }
            if batch.output != "validation" && batch.facts.u64("held_out").unwrap_or(0) > 0 {
                let (node, held_out) = (&batch.node, batch.facts.u64("held_out").unwrap_or(0));
                let message =
                    format!("`{node}` gives the images that are trained on; the {held_out} set aside are not measured");
                cx.warn("P0332", "batch", message, Some(format!("name `{node}.validation`")));
            }
            let all = if batch.output == "validation" { "held_out_batches" } else { "batches" };
            if let (Some(most), Some(all)) = (config.batches, batch.facts.u64(all))
                && most > all
                && all > 0
            {
                let message = format!("`batches` has no effect: a pass has no more than {all}");
                cx.error("P0402", "batches", message, Some("leave it out".into()));
            }
        }
        let every = config.every.clone().unwrap_or_default();
        Facts::new().with("every", serde_json::to_value(every).unwrap_or_default())
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let every = config.every.clone().unwrap_or_default();
        let between = cx.length.map_or(0, |(total, per_epoch)| every.between(total, per_epoch));
        NodePlan { event_count: 2 + between, ..Default::default() }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let measured = Measured::default();
        let watch = Watch {
            loss: cx.one::<Loss>("loss")?.clone(),
            batches: cx.one::<Batches>("batch")?.clone(),
            every: config.every.unwrap_or_default(),
            passes: config.passes,
            most: config.batches,
            seed: config.seed.unwrap_or(cx.settings.seed),
            name: cx.name.to_owned(),
            first: None,
            lowest: None,
            at: None,
            measured: measured.clone(),
        };
        Ok(Built { outputs: vec![Arc::new(measured)], listener: Some(Box::new(watch)), ..Default::default() })
    }
}

struct Watch {
    loss: Loss,
    batches: Batches,
    every: Every,
    passes: u64,
    most: Option<u64>,
    seed: u64,
    /// Name of the node.
    name: String,
    first: Option<f64>,
    /// Of the measurements after the first step.
    lowest: Option<f64>,
    at: Option<u64>,
    measured: Measured,
}

impl Watch {
    /// Mean loss over the held-out images and passes, and by timestep. A function of the weights alone: images, captions,
    /// noise and timesteps are the same every time.
    fn measure(&self, cx: &EventCx) -> Result<(f64, ByTimestep), RunError> {
        let source = &self.batches.0;
        let batches = self.most.unwrap_or(u64::MAX).min(source.plain_batches());
        if batches == 0 {
            return Err(RunError::new("P0306", "no held-out image can be used").at("batch"));
        }
        let what = format!("measure {}", self.name);
        let (mut sum, mut count, mut index, mut by) = (0.0, 0u64, 0u64, ByTimestep::default());
        for pass in 0..self.passes {
            for i in 0..batches {
                if cx.stop.is_set() {
                    return Err(RunError::interrupted());
                }
                cx.progress.tick(&what, pass * batches + i, self.passes * batches);
                let batch = source.plain_batch(i)?;
                let timesteps = (index..index + batch.len() as u64).map(timestep).collect();
                let at = At {
                    seed: self.seed ^ 0x5EED_0F0A_11DA_7E00,
                    step: pass,
                    first_sample: index,
                    pass: 0,
                    scale: 1.0,
                    timesteps: Some(timesteps),
                };
                let losses = self.loss.0.pass(&batch, &at, None)?;
                let values = losses.values();
                by.add(&values, &losses.timesteps);
                sum += values.iter().sum::<f64>();
                count += batch.len() as u64;
                index += batch.len() as u64;
            }
        }
        cx.progress.tick(&what, self.passes * batches, self.passes * batches);
        Ok((sum / count.max(1) as f64, by))
    }

    /// What the numbers depend on besides the weights: those measured otherwise cannot be compared.
    fn measured_with(&self) -> Json {
        let images = blake3::hash(self.batches.0.content().as_bytes()).to_hex();
        json!({ "seed": self.seed, "passes": self.passes, "batches": self.most, "images": images[..16] })
    }

    /// Goes on after the measurements up to a step. Those that were made otherwise are not compared with.
    fn go_on(&mut self, cx: &EventCx, path: &Path) -> Result<(), RunError> {
        // The weights kept as the best may be of a step that is dropped: then the next ones take their place.
        let best_of = |lines: &[Json]| lines.iter().rev().find(|l| l["best"] == true)?["step"].as_u64();
        let dropped = cx.goes_back && best_of(&lines(path)).is_some_and(|step| step > cx.told());
        super::metrics::keep_until(path, cx.told()).map_err(|e| RunError::io("write", path, &e))?;
        let lines = lines(path);
        let begun = lines.iter().rposition(|line| line[MEASURED].is_object()).unwrap_or(0);
        if let Some(before) = lines.get(begun).map(|line| &line[MEASURED]).filter(|before| before.is_object()) {
            let now = self.measured_with();
            let other = ["seed", "passes", "batches", "images"].into_iter().filter(|name| before[name] != now[name]);
            let other: Vec<String> = other.map(|name| format!("`{name}`")).collect();
            if !other.is_empty() {
                let changed = other.join(" and ");
                cx.progress.warn(&format!(
                    "`{}` measures otherwise than before ({changed} changed): its numbers cannot be compared with those up \
                     to step {}, so `best` and `relative_to_first` begin anew",
                    self.name, cx.position.step
                ));
                return Ok(());
            }
        }
        let lines = &lines[begun..];
        let loss = |line: &Json| line["loss"].as_f64();
        self.first = lines.first().and_then(loss);
        let trained = lines.iter().filter(|line| line["step"].as_u64().is_some_and(|step| step > 0));
        self.lowest = trained.filter_map(loss).min_by(f64::total_cmp).filter(|_| !dropped);
        self.at = lines.last().and_then(|line| line["step"].as_u64());
        Ok(())
    }

    /// Measures, and tells the file, the loggers and the savers.
    fn tell(&mut self, cx: &mut EventCx, path: &Path) -> Result<(), RunError> {
        let step = cx.position.step;
        let (loss, by) = self.measure(cx)?;
        if !loss.is_finite() {
            let message = format!("the validation loss of step {step} is {loss}");
            return Err(RunError::new("P0901", message).help("lower the learning rate, or use bf16 or f32"));
        }
        self.at = Some(step);
        let begins = self.first.is_none();
        let first = *self.first.get_or_insert(loss);
        // What the base model does is not worth a file.
        let best = step > 0 && self.lowest.is_none_or(|lowest| loss < lowest);
        self.lowest = if best { Some(loss) } else { self.lowest };
        *self.measured.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(Latest { step, loss, best });

        let training = cx.report.values.iter().find(|(name, _)| name == "loss_average").map(|(_, mean)| loss - mean);
        let means: Vec<(String, f64)> = by.means().collect();
        let mut line = Map::from_iter([("step".to_string(), json!(step)), ("loss".into(), json!(loss))]);
        line.insert("relative_to_first".into(), json!(loss / first));
        best.then(|| line.insert("best".into(), json!(true)));
        training.map(|divergence| line.insert("divergence".into(), json!(divergence)));
        begins.then(|| line.insert(MEASURED.into(), self.measured_with()));
        line.extend(means.iter().map(|(name, mean)| (name.clone(), json!(mean))));
        let failed = |e: std::io::Error| RunError::io("write", path, &e);
        let fresh = cx.moment == Moment::Start;
        let mut options = std::fs::OpenOptions::new();
        let options = options.create(true).append(!fresh).write(true).truncate(fresh);
        let mut file = options.open(path).map_err(failed)?;
        writeln!(file, "{}", Json::Object(line)).and_then(|()| file.sync_data()).map_err(failed)?;

        let by_epochs = Every { steps: None, ..self.every.clone() };
        let of_epoch = cx.moment == Moment::Step && cx.position.due(&by_epochs);
        let numbers = [("validation_loss".to_string(), Some(loss)), ("validation_divergence".into(), training)];
        let by = means.into_iter().map(|(name, mean)| (format!("validation_{name}"), Some(mean)));
        let told =
            numbers.into_iter().chain(by).filter_map(|(name, value)| Some(Measure { name, value: value?, of_epoch }));
        cx.measured.extend(told);
        Ok(())
    }
}

/// Timestep of the measurement `index` of all: multiples of the golden ratio, which are spread evenly from the first
/// few on and never repeat.
fn timestep(index: u64) -> f32 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    (((index as f64 + 0.5) * GOLDEN).fract() * 1000.0).floor() as f32
}

/// What was measured before.
fn lines(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

impl Listener for Watch {
    fn priority(&self) -> u32 {
        5
    }

    fn looks(&self, moment: Moment, position: Position) -> bool {
        match moment {
            Moment::Start | Moment::Resume => true,
            Moment::Step => position.due(&self.every) || position.is_last(),
            Moment::End => false,
        }
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        let path = cx.folder.join(FILE);
        if cx.moment == Moment::Resume {
            self.go_on(cx, &path)?;
        }
        // A run that goes on without a number to compare with begins with one, unless its step is told anew.
        let begins = self.first.is_none() && !cx.again;
        let due = self.looks(cx.moment, cx.position) && (cx.moment != Moment::Resume || begins);
        if due && self.at != Some(cx.position.step) {
            self.tell(cx, &path)?;
        }
        if cx.moment == Moment::End {
            cx.artifacts.push(Artifact { kind: "validation", path, final_result: true });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::timestep;

    #[test]
    fn timesteps_are_spread_evenly_however_many_there_are() {
        for count in [4u64, 16, 617, 2468] {
            let mut all: Vec<f32> = (0..count).map(timestep).collect();
            let mean = all.iter().sum::<f32>() / count as f32;
            assert!((mean - 500.0).abs() < 80.0, "{count}: {mean}");
            all.sort_by(f32::total_cmp);
            let widest = all.windows(2).map(|pair| pair[1] - pair[0]).fold(all[0], f32::max);
            // Three gaps at most, the widest below the golden ratio squared over the count.
            assert!(widest <= 2.7 * 1000.0 / count as f32 + 1.0, "{count}: {widest}");
        }
    }
}
