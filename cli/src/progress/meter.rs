//! The numbers of a run as they are shown: smoothed loss, pace, time left, memory.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use pipe_core::plan::{bytes_text, seconds_text};
use pipe_core::run::{Position, StepReport};

use crate::machine;

/// Weight of the past in the smoothed loss.
const BETA: f64 = 0.95;
/// Steps whose pace is averaged.
const WINDOW: usize = 50;
/// Steps below which first and last losses say nothing.
const LEAST_STEPS: usize = 20;
/// How often the memory is asked for.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

/// The numbers so far.
#[derive(Debug, Default)]
pub struct Meter {
    position: Position,
    losses: Vec<f64>,
    /// Σ βⁿ⁻ⁱ lossᵢ and Σ βⁿ⁻ⁱ: their quotient is not drawn towards zero in the first steps.
    smooth: (f64, f64),
    rate: Option<f64>,
    ends: VecDeque<Instant>,
    seconds: VecDeque<f64>,
    memory: Option<(Instant, u64)>,
}

/// The mean loss at the beginning and at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossChange {
    /// Of the first steps.
    pub first: f64,
    /// Of the last steps.
    pub last: f64,
    /// How many steps each mean is over; 0 when it is no mean of steps.
    pub steps: usize,
}

impl fmt::Display for LossChange {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let LossChange { first, last, steps } = *self;
        let over = match steps {
            0 => String::new(),
            1 => ", first and last step".into(),
            _ => format!(", means of the first and last {steps} steps"),
        };
        write!(f, "{} → {} ({:+.0} %{over})", number(first), number(last), (last / first - 1.0) * 100.0)
    }
}

impl Meter {
    /// Takes in a step.
    pub fn update(&mut self, position: &Position, report: &StepReport, seconds: f64) {
        self.position = *position;
        self.losses.push(report.loss);
        self.smooth = (BETA * self.smooth.0 + report.loss, BETA * self.smooth.1 + 1.0);
        self.rate = report.values.iter().find(|(name, _)| name == "lr" || name.starts_with("lr_")).map(|(_, lr)| *lr);
        self.seconds.push_back(seconds);
        if self.seconds.len() > WINDOW {
            self.seconds.pop_front();
        }
        self.ends.push_back(Instant::now());
        if self.ends.len() > WINDOW + 1 {
            self.ends.pop_front();
        }
        if self.memory.is_none_or(|(asked, _)| asked.elapsed() > MEMORY_EVERY) {
            self.memory = machine::resident().map(|bytes| (Instant::now(), bytes));
        }
    }

    /// The loss, averaged over the last steps with weights that fade.
    pub fn loss(&self) -> f64 {
        self.smooth.0 / self.smooth.1
    }

    /// Seconds from one step to the next, saves and previews included.
    pub fn pace(&self) -> f64 {
        match (self.ends.front(), self.ends.back()) {
            (Some(first), Some(last)) if self.ends.len() > 1 => {
                last.duration_since(*first).as_secs_f64() / (self.ends.len() - 1) as f64
            }
            _ => self.seconds.back().copied().unwrap_or_default(),
        }
    }

    /// Mean seconds of the last steps, without what came between them.
    fn step_pace(&self) -> f64 {
        self.seconds.iter().sum::<f64>() / self.seconds.len().max(1) as f64
    }

    /// Seconds of the last steps, saves and previews not included.
    pub fn step_seconds(&self) -> Vec<f64> {
        self.seconds.iter().copied().collect()
    }

    /// Everything but the step, the most asked for first, since narrow terminals cut the end:
    /// `loss 0.1234  12 s left  2.31 steps/s  epoch 3/8  lr 1.0e-4  RAM 412 MiB`.
    pub fn line(&self) -> String {
        self.parts().join("  ")
    }

    /// As much of the line as goes into so many columns, whole numbers only.
    pub fn line_within(&self, columns: usize) -> String {
        let mut parts = self.parts();
        let width = |parts: &[String]| parts.iter().map(|part| part.chars().count() + 2).sum::<usize>();
        while parts.len() > 1 && width(&parts) > columns + 2 {
            parts.pop();
        }
        parts.join("  ")
    }

    fn parts(&self) -> Vec<String> {
        let Position { step, total_steps, steps_per_epoch } = self.position;
        let mut parts = vec![format!("loss {}", number(self.loss()))];
        let pace = self.pace();
        let left = total_steps.saturating_sub(step);
        if left > 0 {
            parts.push(format!("{} left", seconds_text(pace * left as f64)));
        }
        let each = self.step_pace();
        parts.push(if each < 1.0 { format!("{:.2} steps/s", 1.0 / each) } else { format!("{each:.2} s/step") });
        let per_epoch = steps_per_epoch.max(1);
        let (epoch, epochs) = (step.div_ceil(per_epoch).max(1), total_steps.div_ceil(per_epoch).max(1));
        parts.push(format!("epoch {epoch}/{epochs}"));
        parts.extend(self.rate.map(|rate| if rate == 0.0 { "lr 0".into() } else { format!("lr {rate:.1e}") }));
        parts.extend(self.memory.map(|(_, bytes)| format!("RAM {}", bytes_text(bytes))));
        parts
    }

    /// How the loss went, once there are enough steps to say: single losses differ by their timesteps and noise.
    pub fn loss_change(&self) -> Option<LossChange> {
        let steps = (self.losses.len() / 10).clamp(1, 50);
        let enough = self.losses.len() >= LEAST_STEPS;
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        enough.then(|| LossChange {
            first: mean(&self.losses[..steps]),
            last: mean(&self.losses[self.losses.len() - steps..]),
            steps,
        })
    }
}

/// A loss in four significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e4).contains(&size) => format!("{value:.3e}"),
        size if size < 1.0 => format!("{value:.4}"),
        size => format!("{value:.*}", 3usize.saturating_sub(size.log10() as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(losses: &[f64]) -> Meter {
        let mut meter = Meter::default();
        for (at, loss) in losses.iter().enumerate() {
            let position = Position { step: at as u64 + 1, total_steps: 20, steps_per_epoch: 5 };
            let report = StepReport { step: position.step, loss: *loss, values: vec![("lr".into(), 1e-4)], samples: 1 };
            meter.update(&position, &report, 2.0);
        }
        meter
    }

    #[test]
    fn the_first_loss_is_shown_as_it_is() {
        assert_eq!(fed(&[0.5]).loss(), 0.5);
        assert!((fed(&[0.4, 0.4, 0.4]).loss() - 0.4).abs() < 1e-12);
        let line = fed(&[0.5]).line();
        assert!(line.starts_with("loss 0.5000  38 s left  2.00 s/step  epoch 1/4  lr 1.0e-4"), "{line}");
    }

    #[test]
    fn what_comes_between_steps_counts_for_the_time_left_alone() {
        let mut meter = fed(&[0.5]);
        std::thread::sleep(Duration::from_millis(20));
        let position = Position { step: 2, total_steps: 20, steps_per_epoch: 5 };
        meter.update(&position, &StepReport { step: 2, loss: 0.5, values: Vec::new(), samples: 1 }, 0.001);
        meter.seconds = [0.001, 0.001].into();
        assert!(meter.pace() >= 0.02, "{}", meter.pace());
        assert!(meter.line().contains("1000.00 steps/s"), "{}", meter.line());
    }

    #[test]
    fn a_narrow_terminal_gets_whole_parts() {
        let meter = fed(&[0.5]);
        assert_eq!(meter.line_within(200), meter.line());
        assert_eq!(meter.line_within(35), "loss 0.5000  38 s left  2.00 s/step");
        assert_eq!(meter.line_within(34), "loss 0.5000  38 s left");
        assert_eq!(meter.line_within(1), "loss 0.5000");
    }

    #[test]
    fn epochs_count_from_one() {
        for (steps, epoch) in [(1, "epoch 1/4"), (5, "epoch 1/4"), (6, "epoch 2/4"), (20, "epoch 4/4")] {
            assert!(fed(&vec![1.0; steps]).line().contains(epoch), "{steps}");
        }
    }

    #[test]
    fn change_of_the_loss() {
        assert_eq!(fed(&[1.0; 19]).loss_change(), None);
        let change = LossChange { first: 0.2, last: 0.15, steps: 40 };
        assert_eq!(change.to_string(), "0.2000 → 0.1500 (-25 %, means of the first and last 40 steps)");
        let losses: Vec<f64> = (0..20).map(|i| 20.0 - f64::from(i)).collect();
        assert_eq!(fed(&losses).loss_change(), Some(LossChange { first: 19.5, last: 1.5, steps: 2 }));
    }

    #[test]
    fn four_digits() {
        assert_eq!(
            [0.12345, 1.23456, 12.3456, 1234.5, 0.00012, 0.0].map(number),
            ["0.1235", "1.235", "12.35", "1234", "1.200e-4", "0"]
        );
    }
}
