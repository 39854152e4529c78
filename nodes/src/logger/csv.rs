//! `logger.csv`: a table with one row a step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use pipe_core::folder::atomic_write;
use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Moment, Position, RunError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::rows::{self, Row};
use crate::loss::buckets;
use crate::optimizer::PRESERVATION;

/// Fields of `logger.csv`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Write every so many steps. Default 1.
    #[serde(default = "super::one")]
    #[schemars(range(min = 1))]
    every_steps: u64,
}

/// The node type.
pub struct Csv;

/// Name of the file in the run's folder.
const FILE: &str = "metrics.csv";

impl Node for Csv {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "logger.csv",
        summary: "Writes `metrics.csv`: a table with one row a step, for spreadsheets and scripts.",
        details: "The numbers of `logger.metrics` under the same names. The columns are the same in every row; a number that a step \
                  does not have is an empty cell. A continued run drops the rows behind the state it continues from.",
        example: "table:\n  type: logger.csv\n  update: adamw",
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
        super::plan(cx, config.every_steps, 160)
    }

    fn build(config: Config, _cx: &mut BuildCx) -> Result<Built, RunError> {
        let table = Table { every: config.every_steps, columns: Vec::new(), file: None };
        Ok(Built { listener: Some(Box::new(table)), ..Default::default() })
    }
}

struct Table {
    every: u64,
    columns: Vec<String>,
    file: Option<File>,
}

/// Columns of the numbers that not every step has, and of the step itself, before the others.
fn fixed() -> Vec<String> {
    let by_timestep = (0..buckets::BUCKETS).map(buckets::name);
    let first = ["step", "epoch", "loss", "loss_average", rows::EPOCH_LOSS, PRESERVATION].map(String::from);
    let validation = ["validation_loss", "validation_divergence"].map(String::from);
    let measured = (0..buckets::BUCKETS).map(|bucket| format!("validation_{}", buckets::name(bucket)));
    first.into_iter().chain(validation).chain(by_timestep).chain(measured).collect()
}

/// The columns of a table whose first row is this.
fn columns(row: &Row) -> Vec<String> {
    let mut list = fixed();
    for scalar in &row.scalars {
        if !list.contains(&scalar.column) {
            list.push(scalar.column.clone());
        }
    }
    list
}

/// A row as text. Names and numbers need no quotes.
fn line(columns: &[String], row: &Row) -> String {
    let cell = |column: &String| match column.as_str() {
        "step" => row.step.to_string(),
        "epoch" => row.epoch.to_string(),
        name => row.get(name).map(|value| format!("{value:?}")).unwrap_or_default(),
    };
    columns.iter().map(cell).collect::<Vec<_>>().join(",") + "\n"
}

/// Drops the rows behind a step, and one cut short by a crash; gives the columns.
fn keep_until(path: &Path, step: u64) -> Result<Vec<String>, RunError> {
    let Ok(old) = File::open(path) else { return Ok(Vec::new()) };
    let mut lines = BufReader::new(old).lines().map_while(Result::ok);
    let Some(head) = lines.next() else { return Ok(Vec::new()) };
    let columns: Vec<String> = head.split(',').map(String::from).collect();
    let is_kept = |line: &String| {
        let of = line.split(',').next().and_then(|cell| cell.parse::<u64>().ok());
        line.split(',').count() == columns.len() && of.is_some_and(|of| of <= step)
    };
    let kept: Vec<String> = lines.take_while(is_kept).collect();
    atomic_write(path, |file| std::iter::once(&head).chain(&kept).try_for_each(|line| writeln!(file, "{line}")))?;
    Ok(columns)
}

/// Removes a table.
fn forget(path: &Path) -> Result<(), RunError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RunError::io("write", path, &error)),
        _ => Ok(()),
    }
}

impl Listener for Table {
    fn priority(&self) -> u32 {
        20
    }

    fn looks(&self, _: Moment, _: Position) -> bool {
        false
    }

    fn sync(&mut self) -> Result<(), RunError> {
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(|e| RunError::io("write", Path::new(FILE), &e))
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        let path = cx.folder.join(FILE);
        match cx.moment {
            Moment::Resume => self.columns = keep_until(&path, cx.told())?,
            // Of a run that was killed before its first state.
            Moment::Start => forget(&path)?,
            Moment::Step | Moment::End => {}
        }
        let rows = rows::of_steps(cx, self.every);
        let mut text = String::new();
        if self.columns.is_empty()
            && let Some(first) = rows.first()
        {
            self.columns = columns(first);
            text = self.columns.join(",") + "\n";
        }
        rows.iter().for_each(|row| text.push_str(&line(&self.columns, row)));
        if !text.is_empty() {
            let failed = |e: std::io::Error| RunError::io("write", &path, &e);
            if self.file.is_none() {
                self.file = Some(OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?);
            }
            if let Some(file) = &mut self.file {
                file.write_all(text.as_bytes()).map_err(failed)?;
            }
        }
        if cx.moment == Moment::End {
            cx.artifacts.push(Artifact { kind: "table", path, final_result: true });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Scalar;
    use super::*;

    fn row(step: u64, numbers: &[(&str, f64)]) -> Row {
        let scalar =
            |(name, value): &(&str, f64)| Scalar { column: name.to_string(), tag: String::new(), value: *value };
        Row { step, epoch: 1, scalars: numbers.iter().map(scalar).collect() }
    }

    #[test]
    fn a_table_cut_back_goes_on_with_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let columns = columns(&row(1, &[("loss", 0.5), ("lr_unet", 1e-4), ("seconds", 0.25)]));
        assert_eq!((columns[0].as_str(), columns[2].as_str()), ("step", "loss"));
        assert_eq!(columns[columns.len() - 2..], ["lr_unet", "seconds"]);
        let mut text = columns.join(",") + "\n";
        for step in 1..=5 {
            text += &line(&columns, &row(step, &[("loss", step as f64 / 4.0), ("lr_unet", 1e-4)]));
        }
        std::fs::write(&path, format!("{text}6,1,0.7")).unwrap();
        assert_eq!(keep_until(&path, 9).unwrap(), columns, "the row cut short is gone");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        keep_until(&path, 3).unwrap();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept.lines().count(), 4);
        let cells: Vec<&str> = kept.lines().last().unwrap().split(',').collect();
        assert_eq!((cells.len(), cells[0], cells[2], cells[4]), (columns.len(), "3", "0.75", ""));
        assert_eq!(cells[columns.len() - 2], "0.0001");
    }
}
