//! What all loggers write: one row a step, each number under its name in files and under the name that users of
//! sd-scripts know from TensorBoard and Weights & Biases. Each number is there once.

use pipe_core::run::{EventCx, Measure, Moment, Record};

/// A number of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// Its name in `metrics.jsonl` and `metrics.csv`.
    pub column: String,
    /// Its name in TensorBoard and Weights & Biases.
    pub tag: String,
    /// Its value.
    pub value: f64,
}

/// The numbers of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The step; 0 for what was measured before the first.
    pub step: u64,
    /// The epoch it belongs to, from 1.
    pub epoch: u64,
    /// The numbers, in order; `seconds` last.
    pub scalars: Vec<Scalar>,
}

/// Mean loss of an epoch that is over. Its place on the axis of TensorBoard is the epoch, not the step.
pub const EPOCH_LOSS: &str = "loss_epoch";

impl Row {
    /// A number of the row.
    pub fn get(&self, column: &str) -> Option<f64> {
        self.scalars.iter().find(|scalar| scalar.column == column).map(|scalar| scalar.value)
    }
}

/// Rows that became known at a moment and are due: every so many steps, the last, and those with a number that is not
/// of every step (an epoch's mean, a measurement).
pub fn due(cx: &EventCx, every: u64) -> Vec<Row> {
    let mut rows: Vec<Row> = cx.records.iter().map(|record| row(record, cx.position.steps_per_epoch)).collect();
    let measured = cx.measured.iter().map(scalar_of).collect::<Vec<_>>();
    let is_special = |row: &Row| row.get(EPOCH_LOSS).is_some() || row.step >= cx.position.total_steps;
    rows.retain(|row| {
        let with_measured = !measured.is_empty() && row.step == cx.position.step;
        row.step.is_multiple_of(every.max(1)) || is_special(row) || with_measured
    });
    if !measured.is_empty() {
        match rows.iter_mut().find(|row| row.step == cx.position.step) {
            Some(row) => {
                let seconds = row.scalars.pop();
                row.scalars.extend(measured);
                row.scalars.extend(seconds);
            }
            None => rows.push(Row {
                step: cx.position.step,
                epoch: epoch(cx.position.step, cx.position.steps_per_epoch),
                scalars: measured,
            }),
        }
    }
    rows
}

/// As [`due`], for files that have one row a step: what is measured before the first step or when a run goes on is in
/// `validation.jsonl`.
pub fn of_steps(cx: &EventCx, every: u64) -> Vec<Row> {
    let rows = due(cx, every);
    rows.into_iter().filter(|row| row.step > 0 && cx.moment != Moment::Resume).collect()
}

fn epoch(step: u64, per_epoch: u64) -> u64 {
    step.saturating_sub(1) / per_epoch.max(1) + 1
}

fn row(record: &Record, per_epoch: u64) -> Row {
    let report = &record.report;
    let seconds = (record.seconds * 1e6).round() / 1e6;
    let values = report.values.iter().map(|(name, value)| (name.as_str(), *value));
    let all = std::iter::once(("loss", report.loss)).chain(values).chain([("seconds", seconds)]);
    let scalars = all.map(|(name, value)| Scalar { column: name.into(), tag: tag(name), value }).collect();
    Row { step: report.step, epoch: epoch(report.step, per_epoch), scalars }
}

/// The name in TensorBoard and Weights & Biases.
fn tag(column: &str) -> String {
    let known = match column {
        "loss" => "loss/current",
        "loss_average" => "loss/average",
        EPOCH_LOSS => "loss/epoch_average",
        "grad_norm" => "norm/grad_norm",
        "grad_norm_clipped" => "norm/grad_norm_clipped",
        "norms_scaled" => "max_norm/keys_scaled",
        "norm_largest" => "max_norm/max_key_norm",
        "norm_average" => "norm/avg_key_norm",
        "seconds" => "time/seconds_per_step",
        "d" => "lr/d",
        _ => "",
    };
    if !known.is_empty() {
        return known.into();
    }
    if let Some(group) = column.strip_prefix("lr_") {
        return format!("lr/{}", label(group));
    }
    if let Some(group) = column.strip_prefix("d*lr_") {
        return format!("lr/d*lr/{}", label(group));
    }
    if let Some(start) = column.strip_prefix("loss_t").and_then(|t| t.parse::<u32>().ok()) {
        return format!("loss/timestep/{start:03}-{:03}", start + 99);
    }
    column.into()
}

/// A parameter group as sd-scripts names it: there the denoiser is `unet` in every family.
fn label(group: &str) -> String {
    let rest = |prefix: &str| group.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('_'));
    let named = match (rest("transformer"), rest("text_encoder_2"), rest("text_encoder_3"), rest("text_encoder")) {
        (Some(rest), ..) => format!("unet{rest}"),
        (_, Some(rest), ..) => format!("textencoder 2{rest}"),
        (_, _, Some(rest), _) => format!("textencoder 3{rest}"),
        (.., Some(rest)) => format!("textencoder{rest}"),
        _ => group.to_string(),
    };
    match named.strip_suffix("_plus") {
        Some(base) => format!("{base} plus"),
        None => named,
    }
}

fn scalar_of(measure: &Measure) -> Scalar {
    let when = if measure.of_epoch { "epoch" } else { "step" };
    let tag = match measure.name.as_str() {
        "validation_loss" => format!("loss/validation/{when}_average"),
        "validation_divergence" => format!("loss/validation/{when}_divergence"),
        other => match other.strip_prefix("validation_").map(tag) {
            Some(inner) => inner.replacen("loss/", "loss/validation/", 1),
            None => tag(other),
        },
    };
    Scalar { column: measure.name.clone(), tag, value: measure.value }
}

#[cfg(test)]
mod tests {
    use pipe_core::run::{Position, Progress, StepReport, StopFlag};

    use super::*;

    struct Deaf;

    impl Progress for Deaf {
        fn tick(&self, _: &str, _: u64, _: u64) {}
        fn say(&self, _: &str) {}
        fn warn(&self, _: &str) {}
    }

    #[test]
    fn names_are_those_of_the_reference_each_once() {
        let expected = [
            ("loss", "loss/current"),
            ("loss_average", "loss/average"),
            ("loss_epoch", "loss/epoch_average"),
            ("lr_unet", "lr/unet"),
            ("lr_transformer_plus", "lr/unet plus"),
            ("lr_unet_block3", "lr/unet_block3"),
            ("lr_text_encoder", "lr/textencoder"),
            ("lr_text_encoder_plus", "lr/textencoder plus"),
            ("lr_text_encoder_2", "lr/textencoder 2"),
            ("lr_text_encoder_3_plus", "lr/textencoder 3 plus"),
            ("d*lr_unet", "lr/d*lr/unet"),
            ("loss_t000", "loss/timestep/000-099"),
            ("loss_t900", "loss/timestep/900-999"),
            ("norms_scaled", "max_norm/keys_scaled"),
        ];
        let tags: std::collections::BTreeSet<String> = expected.iter().map(|(column, _)| tag(column)).collect();
        for (column, wanted) in expected {
            assert_eq!(tag(column), wanted);
        }
        assert_eq!(tags.len(), expected.len());
        let measure = |name: &str, of_epoch| scalar_of(&Measure { name: name.into(), value: 1.0, of_epoch }).tag;
        assert_eq!(measure("validation_loss", false), "loss/validation/step_average");
        assert_eq!(measure("validation_loss", true), "loss/validation/epoch_average");
        assert_eq!(measure("validation_divergence", true), "loss/validation/epoch_divergence");
        assert_eq!(measure("validation_loss_t300", false), "loss/validation/timestep/300-399");
    }

    #[test]
    fn rows_are_due_by_cadence_at_the_end_and_with_what_is_rare() {
        let values = |step: u64| match step % 4 {
            0 => vec![("loss_epoch".to_string(), 0.5)],
            _ => Vec::new(),
        };
        let record = |step: u64| Record {
            report: StepReport { step, loss: step as f64, values: values(step), samples: 1 },
            seconds: 0.25,
        };
        let records: Vec<Record> = (1..=11).map(record).collect();
        let mut measured = vec![Measure { name: "validation_loss".into(), value: 2.0, of_epoch: false }];
        let (report, mut artifacts) = (StepReport::default(), Vec::new());
        let cx = EventCx {
            moment: Moment::Step,
            position: Position { step: 11, total_steps: 20, steps_per_epoch: 4 },
            report: &report,
            seconds: 0.25,
            records: &records,
            measured: &mut measured,
            made: &[],
            elapsed: 1.0,
            goes_back: false,
            again: false,
            stop: &StopFlag::default(),
            progress: &Deaf,
            folder: std::path::Path::new(""),
            artifacts: &mut artifacts,
        };
        let rows = due(&cx, 5);
        let steps: Vec<(u64, u64)> = rows.iter().map(|row| (row.step, row.epoch)).collect();
        assert_eq!(steps, [(4, 1), (5, 2), (8, 2), (10, 3), (11, 3)]);
        let last: Vec<&str> = rows[4].scalars.iter().map(|scalar| scalar.column.as_str()).collect();
        assert_eq!(last, ["loss", "validation_loss", "seconds"]);
        assert_eq!((rows[4].get("loss"), rows[0].get("loss_epoch")), (Some(11.0), Some(0.5)));
    }
}
