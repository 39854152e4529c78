//! `logger.metrics`: one line of JSON a step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Moment, Position, RunError};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::rows;

/// Fields of `logger.metrics`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Write every so many steps. Default 1.
    #[serde(default = "super::one")]
    #[schemars(range(min = 1))]
    every_steps: u64,
}

/// The node type.
pub struct Metrics;

/// Name of the file in the run's folder.
pub const FILE: &str = "metrics.jsonl";

impl Node for Metrics {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "logger.metrics",
        summary: "Writes `metrics.jsonl`: step, epoch, loss, learning rate, gradient norm and seconds of every step.",
        details: "One JSON object a line: `step`, `epoch`, `loss`, `loss_average` (over the latest loss of each step of an epoch), \
                  `loss_epoch` where an epoch ends, `lr_…` of each parameter group, `grad_norm` and `grad_norm_clipped`, \
                  `loss_t000` to `loss_t900` (samples of that hundred timesteps), `validation_…` where something was measured, \
                  and `seconds`. A continued run drops the lines behind the state it continues from, so the file reads as if \
                  the run had never stopped.",
        example: "metrics:\n  type: logger.metrics\n  update: adamw",
    };

    fn inputs() -> Vec<Input> {
        super::inputs()
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(_config: &Config, cx: &mut CheckCx) -> Facts {
        cx.will_write("", FILE.into());
        Facts::new()
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        super::plan(cx, config.every_steps, 320)
    }

    fn build(config: Config, _cx: &mut BuildCx) -> Result<Built, RunError> {
        Ok(Built { listener: Some(Box::new(Writer { every: config.every_steps, file: None })), ..Default::default() })
    }
}

struct Writer {
    every: u64,
    file: Option<File>,
}

fn failed(path: &Path, error: std::io::Error) -> RunError {
    RunError::new("P0903", format!("cannot write `{}`: {error}", path.display()))
        .help("free some space and continue with `--resume`")
}

/// Keeps the lines up to a step; a line cut short by a crash goes too.
pub(super) fn keep_until(path: &Path, step: u64) -> std::io::Result<()> {
    let Ok(old) = File::open(path) else { return Ok(()) };
    let mut kept = String::new();
    for line in BufReader::new(old).lines().map_while(Result::ok) {
        let Ok(value) = serde_json::from_str::<Value>(&line) else { break };
        if value["step"].as_u64().is_none_or(|s| s > step) {
            break;
        }
        kept.push_str(&line);
        kept.push('\n');
    }
    pipe_core::folder::atomic_write(path, |f| f.write_all(kept.as_bytes()))
        .map_err(|e| std::io::Error::other(e.message))
}

impl Listener for Writer {
    fn priority(&self) -> u32 {
        20
    }

    fn looks(&self, _: Moment, _: Position) -> bool {
        false
    }

    fn sync(&mut self) -> Result<(), RunError> {
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(|e| failed(Path::new(FILE), e))
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        let path = cx.folder.join(FILE);
        if matches!(cx.moment, Moment::Start | Moment::Resume) {
            keep_until(&path, cx.told()).map_err(|e| failed(&path, e))?;
        }
        if cx.moment == Moment::End {
            cx.artifacts.push(Artifact { kind: "metrics", path: path.clone(), final_result: true });
        }
        let mut text = String::new();
        for row in rows::of_steps(cx, self.every) {
            let mut line = Map::from_iter([("step".into(), json!(row.step)), ("epoch".into(), json!(row.epoch))]);
            line.extend(row.scalars.iter().map(|scalar| (scalar.column.clone(), json!(scalar.value))));
            text.push_str(&Value::Object(line).to_string());
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| failed(&path, e))?;
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()).map_err(|e| failed(&path, e)),
            None => Ok(()),
        }
    }
}
