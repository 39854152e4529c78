//! What a run learns and how fast: parameter groups, and a curve over the steps with its drawing.

use serde::Serialize;

use super::bytes_text;
use super::render::grouped;

/// Tensors that share a learning rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterGroup {
    /// Its name, such as `unet`.
    pub name: String,
    /// Learning rate before the schedule; nothing where the optimizer sets its own.
    pub rate: Option<f64>,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of values.
    pub values: u64,
    /// Bytes of the tensors.
    pub bytes: u64,
    /// Bytes of the optimizer's state of them.
    pub state_bytes: u64,
}

/// A number at each step of the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// What it is, such as `learning rate: cosine`.
    pub name: String,
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps, from 0, with their values: at most [`Curve::SAMPLES`], evenly spread, the first and the last among them.
    pub samples: Vec<(u64, f64)>,
    /// Somewhere it goes up and down again between two samples, or the other way round: a sample has the largest number
    /// from its step to the next one's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rough: bool,
}

/// Lines of a drawing above its axis.
const ROWS: usize = 4;
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Curve {
    /// Most samples, and columns of a drawing.
    pub const SAMPLES: u64 = 60;

    /// Samples `f`, a function of the steps done, over a run.
    pub fn sample(name: impl Into<String>, steps: u64, f: impl Fn(u64) -> f64) -> Curve {
        let count = steps.clamp(1, Self::SAMPLES);
        let last = steps.saturating_sub(1);
        // In 128 bits: a run may have any number of steps.
        let at = |i: u64| (u128::from(i) * u128::from(last) / u128::from(count.max(2) - 1)) as u64;
        let samples: Vec<(u64, f64)> = (0..count).map(|i| (at(i), f(at(i)))).collect();
        let mut curve = Curve { name: name.into(), steps, samples, rough: false };
        // The most between two samples, where it is not on the way from one to the other.
        let tops: Vec<f64> = (1..count).map(|i| between(at(i - 1), at(i), &f)).collect();
        curve.rough = curve.samples.windows(2).zip(&tops).any(|(ends, top)| {
            let [low, high] = [ends[0].1.min(ends[1].1), ends[0].1.max(ends[1].1)];
            *top > high + 0.1 * (high - low).max(high.abs())
        });
        if curve.rough {
            curve.samples.iter_mut().zip(tops).for_each(|(sample, top)| sample.1 = sample.1.max(top));
        }
        curve
    }

    /// The number after so many steps, between samples on the line that joins them.
    pub fn at(&self, step: u64) -> f64 {
        let after = self.samples.partition_point(|(at, _)| *at < step);
        match (after.checked_sub(1).and_then(|i| self.samples.get(i)), self.samples.get(after)) {
            (Some((a, x)), Some((b, y))) => x + (y - x) * (step - a) as f64 / (b - a).max(1) as f64,
            (Some((_, x)), None) | (None, Some((_, x))) => *x,
            (None, None) => 0.0,
        }
    }

    /// The curve as an area over an axis from step 1 to the last, at most `width` columns beside its scale.
    ///
    /// ```
    /// use pipe_core::plan::Curve;
    /// let rise = Curve::sample("rate", 4, |t| t as f64 / 3.0);
    /// assert_eq!(rise.draw(60)[0], "1 │   █");
    /// ```
    pub fn draw(&self, width: usize) -> Vec<String> {
        let top = self.samples.iter().map(|(_, y)| *y).fold(0.0, f64::max);
        let columns = self.samples.len().min(width.max(1));
        let of = |column: usize| self.samples[column * (self.samples.len() - 1) / columns.saturating_sub(1).max(1)].1;
        let level = |y: f64| match y {
            y if y > 0.0 && top > 0.0 => ((y / top * (8 * ROWS) as f64).round() as usize).max(1),
            _ => 0,
        };
        let scale = number(top);
        let side = scale.chars().count().max(1);
        let mut lines = Vec::with_capacity(ROWS + 2);
        for row in 0..ROWS {
            let below = 8 * (ROWS - 1 - row);
            let area: String = (0..columns).map(|c| BLOCKS[level(of(c)).saturating_sub(below).min(8)]).collect();
            let label = if row == 0 { scale.as_str() } else { "" };
            lines.push(format!("{label:>side$} │{area}").trim_end().to_owned());
        }
        lines.push(format!("{:>side$} └{}", "0", "─".repeat(columns)));
        let (first, last) = ("1", self.steps.to_string());
        let gap = columns.saturating_sub(first.len() + last.len());
        let axis = if gap > 0 { format!("{first}{}{last}", " ".repeat(gap)) } else { last };
        lines.push(format!("{:side$}  {axis}", ""));
        lines
    }
}

/// The largest number from a step up to another, looked for at a few places.
fn between(from: u64, to: u64, f: &impl Fn(u64) -> f64) -> f64 {
    let (steps, most) = (to - from, 97);
    let places =
        (0..steps.min(most)).map(|k| from + (u128::from(k) * u128::from(steps) / u128::from(steps.min(most))) as u64);
    places.map(f).fold(f64::NEG_INFINITY, f64::max)
}

/// `1e-4`, `0.5`, `1`.
pub(super) fn number(x: f64) -> String {
    if x == 0.0 || (1e-3..1e6).contains(&x.abs()) {
        let text = format!("{x:.4}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let text = format!("{x:.3e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
}

/// A table of groups, one line each below a head.
pub(super) fn table(groups: &[ParameterGroup]) -> Vec<String> {
    let head = ["group", "rate", "tensors", "values", "bytes", "state"].map(str::to_owned);
    let rows = groups.iter().map(|g| {
        let rate = g.rate.map_or("own".into(), number);
        let (bytes, state) = (bytes_text(g.bytes), bytes_text(g.state_bytes));
        [g.name.clone(), rate, grouped(g.tensors), grouped(g.values), bytes, state]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 6]| {
        let first = format!("{:<width$}", row[0], width = width(0));
        let rest = (1..6).map(|column| format!("  {:>width$}", row[column], width = width(column)));
        std::iter::once(first).chain(rest).collect()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_hold_both_ends() {
        let curve = Curve::sample("x", 1000, |t| t as f64);
        assert_eq!(curve.samples.len(), 60);
        assert_eq!((curve.samples[0], curve.samples[59]), ((0, 0.0), (999, 999.0)));
        assert!(curve.samples.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(Curve::sample("x", 3, |t| t as f64).samples, [(0, 0.0), (1, 1.0), (2, 2.0)]);
        assert_eq!(Curve::sample("x", 1, |_| 2.0).samples, [(0, 2.0)]);
        assert_eq!(Curve::sample("x", u64::MAX, |_| 1.0).samples[59].0, u64::MAX - 1);
    }

    #[test]
    fn what_turns_between_samples_shows_its_tops() {
        let teeth = |cycles: u64| move |t: u64| 1.0 - ((t * cycles) % 600) as f64 / 600.0;
        let few = Curve::sample("x", 600, teeth(3));
        assert!(!few.rough, "a tooth is wider than a column");
        let many = Curve::sample("x", 600, teeth(60));
        assert!(many.rough && many.samples[..59].iter().all(|(_, y)| *y > 0.85), "{:?}", many.samples);
        let smooth = Curve::sample("x", 1000, |t| (t as f64 / 1000.0 * std::f64::consts::PI).sin());
        assert!(!smooth.rough && smooth.samples[0].1 == 0.0);
    }

    #[test]
    fn drawings() {
        let warm = Curve::sample("rate", 40, |t| if t < 10 { t as f64 / 10.0 } else { (40 - t) as f64 / 30.0 });
        let expected = "\
1 │        ▂▅█▇▆▅▄▃▂▁
  │      ▃▆██████████▇▆▅▄▃▂▁
  │   ▂▅█████████████████████▇▆▅▄▃▂▁
  │ ▃▆██████████████████████████████▇▆▅▄▃▂▁
0 └────────────────────────────────────────
   1                                     40";
        assert_eq!(warm.draw(60).join("\n"), expected);
        // A narrow terminal, a constant, nothing at all, and a tiny number.
        assert!(warm.draw(20).iter().all(|line| line.chars().count() <= 23));
        assert_eq!(Curve::sample("x", 3, |_| 1e-4).draw(9)[0], "1e-4 │███");
        assert_eq!(Curve::sample("x", 2, |_| 0.0).draw(9)[3], "  │");
        assert_eq!(Curve::sample("x", 1, |_| 1.0).draw(9)[5], "   1");
        let tiny = Curve::sample("x", 2, |t| if t == 0 { 1.0 } else { 1e-9 });
        assert_eq!(tiny.draw(9)[3], "  │█▁");
    }

    #[test]
    fn numbers_and_tables() {
        for (x, text) in
            [(0.0, "0"), (1.0, "1"), (1e-4, "1e-4"), (2.5e-5, "2.5e-5"), (0.0025, "0.0025"), (120.0, "120")]
        {
            assert_eq!(number(x), text);
        }
        let group = |name: &str, rate, values| ParameterGroup {
            name: name.into(),
            rate,
            tensors: 2,
            values,
            bytes: 4 * values,
            state_bytes: 8 * values,
        };
        assert_eq!(
            table(&[group("unet", Some(1e-4), 1024), group("text_encoder", None, 5)]),
            [
                "group         rate  tensors  values     bytes     state",
                "unet          1e-4        2    1024  4.00 KiB  8.00 KiB",
                "text_encoder   own        2       5      20 B      40 B",
            ]
        );
    }
}
