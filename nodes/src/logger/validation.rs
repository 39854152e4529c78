//! `logger.validation`: the loss on held-out images, with fixed noise and timesteps.

use std::io::Write;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Moment, Position, RunError};
use pipe_core::settings::Every;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::common::batch::Batches;
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
}

fn four() -> u64 {
    4
}

/// The node type.
pub struct Validation;

const FILE: &str = "validation.jsonl";

impl Node for Validation {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "logger.validation",
        summary: "Measures the loss on held-out images before, during and after training.",
        details: "Noise and timesteps depend on the seed alone, so the numbers of one run can be compared with each other. Adapter \
                  dropouts are off. Writes `validation.jsonl`.",
        example: "validation:\n  type: logger.validation\n  loss: loss\n  batch: heldout\n  every:\n    epochs: 1",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("loss", &[PortType::Loss], Rate::Event, "Loss to measure."),
            Input::one("batch", &[PortType::Batches], Rate::Event, "Held-out images."),
        ]
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(_config: &Config, cx: &mut CheckCx) -> Facts {
        cx.will_write("", FILE.into());
        Facts::new()
    }

    fn plan(_config: &Config, _cx: &PlanCx) -> NodePlan {
        NodePlan { event_count: 2, ..Default::default() }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let measure = Measure {
            loss: cx.one::<Loss>("loss")?.clone(),
            batches: cx.one::<Batches>("batch")?.clone(),
            every: config.every.unwrap_or_default(),
            passes: config.passes,
            seed: cx.settings.seed,
            first: None,
            measured: None,
        };
        Ok(Built { listener: Some(Box::new(measure)), ..Default::default() })
    }
}

struct Measure {
    loss: Loss,
    batches: Batches,
    every: Every,
    passes: u64,
    seed: u64,
    first: Option<f64>,
    measured: Option<u64>,
}

impl Measure {
    /// Mean loss over all held-out images and passes.
    fn measure(&self) -> Result<f64, RunError> {
        let source = &self.batches.0;
        let (mut sum, mut count, mut index) = (0.0, 0u64, 0u64);
        let total = self.passes * source.per_epoch() * 16;
        for pass in 0..self.passes {
            for i in 0..source.per_epoch() {
                let mut batch = source.batch(0, i)?;
                // Captions as they are: the order and dropouts of epoch 0 are fixed by the seed.
                batch.weights.fill(1.0);
                let timesteps = (0..batch.len() as u64)
                    .map(|j| {
                        (((pass * 16 * source.per_epoch() + i * 16 + j) * 617 % total) as f32 + 0.5) / total as f32
                            * 1000.0
                    })
                    .map(f32::floor)
                    .collect();
                let at = At {
                    seed: self.seed ^ 0x5EED_0F0A_11DA_7E00,
                    step: pass,
                    first_sample: index,
                    pass: 0,
                    scale: 1.0,
                    timesteps: Some(timesteps),
                };
                let losses = self.loss.0.pass(&batch, &at, None)?;
                sum += losses.mean() * batch.len() as f64;
                count += batch.len() as u64;
                index += batch.len() as u64;
            }
        }
        Ok(sum / count.max(1) as f64)
    }
}

/// What was measured before.
fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

impl Listener for Measure {
    fn priority(&self) -> u32 {
        15
    }

    fn looks(&self, moment: Moment, position: Position) -> bool {
        match moment {
            Moment::Start => true,
            Moment::Resume => false,
            Moment::Step => position.due(&self.every),
            Moment::End => self.measured != Some(position.step) && position.is_last(),
        }
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        let due = self.looks(cx.moment, cx.position);
        let path = cx.folder.join(FILE);
        if cx.moment == Moment::Resume {
            let failed = |e: std::io::Error| RunError::new("P0903", format!("cannot write `{}`: {e}", path.display()));
            super::metrics::keep_until(&path, cx.position.step).map_err(failed)?;
            let lines = lines(&path);
            self.first = lines.first().and_then(|line| line["loss"].as_f64());
            self.measured = lines.last().and_then(|line| line["step"].as_u64());
        }
        if due {
            let loss = self.measure()?;
            self.measured = Some(cx.position.step);
            let first = *self.first.get_or_insert(loss);
            let line = json!({"step": cx.position.step, "loss": loss, "relative_to_first": loss / first});
            let failed = |e: std::io::Error| RunError::new("P0903", format!("cannot write `{}`: {e}", path.display()));
            let fresh = cx.moment == Moment::Start;
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(!fresh)
                .write(true)
                .truncate(fresh)
                .open(&path)
                .map_err(failed)?;
            writeln!(file, "{line}").map_err(failed)?;
        }
        if cx.moment == Moment::End {
            cx.artifacts.push(Artifact { kind: "validation", path, final_result: true });
        }
        Ok(())
    }
}
