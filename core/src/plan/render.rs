//! The plan for people: a table of phases, then what the nodes say.

use std::fmt::Write as _;

use super::learning::{self, Curve};
use super::{Category, Plan};

impl Plan {
    /// A table of phases by purpose, the peak, files, and the nodes' notes.
    pub fn render(&self, color: bool) -> String {
        let bold = |text: &str| if color { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() };
        let faint = |text: &str| if color { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() };
        let mut out = String::new();
        if let Some(steps) = self.steps {
            let epochs = self.epochs.map(|epochs| format!(", {} epochs", trim(epochs))).unwrap_or_default();
            let on = self.assumed.device.as_ref().map(|device| format!(", on {device}")).unwrap_or_default();
            let precision = self.assumed.precision.as_ref().map(|ty| format!(" in {ty}")).unwrap_or_default();
            let _ = writeln!(out, "{} steps{epochs}{on}{precision}\n", grouped(steps));
        }
        let used: Vec<Category> = Category::ALL
            .into_iter()
            .filter(|category| self.phases.iter().any(|phase| phase.bytes.get(category).is_some_and(|b| *b > 0)))
            .collect();
        let timed = self.phases.iter().any(|phase| phase.seconds.is_some());
        let mut head = vec!["phase".to_owned(), "memory".to_owned()];
        head.extend(used.iter().map(|category| category.name().to_owned()));
        head.push("FLOPs".into());
        if timed {
            head.push("time".into());
        }
        let mut rows = vec![head];
        for phase in &self.phases {
            let times =
                if phase.count > 1 && phase.node.is_some() { format!(" ×{}", phase.count) } else { String::new() };
            let mut row = vec![format!("{}{times}", phase.name), bytes_text(phase.total)];
            row.extend(used.iter().map(|category| match phase.bytes.get(category) {
                Some(0) | None => "·".into(),
                Some(bytes) => bytes_text(*bytes),
            }));
            row.push(if phase.flops == 0 { "·".into() } else { count_text(phase.flops) });
            if timed {
                row.push(phase.seconds.map_or("·".into(), seconds_text));
            }
            rows.push(row);
        }
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for (number, row) in rows.iter().enumerate() {
            let mut line = format!("{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(line, "  {cell:>width$}");
            }
            let peak = number > 0 && self.phases[number - 1].name == self.peak_phase;
            let line = match (number, peak) {
                (0, _) => faint(&line),
                (_, true) => bold(&line),
                _ => line,
            };
            let _ = writeln!(out, "{line}");
        }
        let _ = writeln!(out, "\npeak     {} in `{}`", bold(&bytes_text(self.peak_bytes)), self.peak_phase);
        if self.host > 0 {
            let _ = writeln!(out, "host     {} in the host's memory, beside the device's", bytes_text(self.host));
        }
        if self.cache_disk > 0 {
            let _ = writeln!(out, "cache    {} on disk", bytes_text(self.cache_disk));
        }
        if self.disk > 0 {
            let passing = match self.disk_passing {
                0 => String::new(),
                more => format!(", {} more while a file is written", bytes_text(more)),
            };
            let _ = writeln!(out, "results  {} on disk{passing}", bytes_text(self.disk));
        }
        if let Some(total) = timed.then(|| self.phases.iter().filter_map(|phase| phase.seconds).sum::<f64>()) {
            let by = self.assumed.speed.as_ref().map(|by| format!(", {by}")).unwrap_or_default();
            let _ = writeln!(out, "time     about {}{by}", seconds_text(total));
        }
        for what in &self.assumed.not_counted {
            let _ = writeln!(out, "beside   {what}");
        }
        let mut first = true;
        for (name, node) in &self.nodes {
            for note in &node.plan.notes {
                if std::mem::take(&mut first) {
                    out.push('\n');
                }
                let _ = writeln!(out, "{name}: {note}");
            }
        }
        for (name, node) in &self.nodes {
            if !node.plan.groups.is_empty() {
                let _ = writeln!(out, "\n{name} trains");
                for (number, line) in learning::table(&node.plan.groups).iter().enumerate() {
                    let _ = writeln!(out, "  {}", if number == 0 { faint(line) } else { line.clone() });
                }
            }
            if let Some(curve) = &node.plan.schedule {
                let _ = writeln!(out, "\n{name}: {}", curve.name);
                for line in curve.draw(Curve::SAMPLES as usize) {
                    let _ = writeln!(out, "  {line}");
                }
                if curve.rough {
                    let _ =
                        writeln!(out, "  it turns faster than the drawing: a column is as high as its highest step");
                }
            }
        }
        out
    }
}

/// `9.3 GiB`, `512 MiB`, `0`.
pub fn bytes_text(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], " ")
}

/// `1.2 T`, `350 G`.
pub fn count_text(count: u64) -> String {
    scaled(count as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"], " ").trim_end().to_owned()
}

fn scaled(mut value: f64, base: f64, units: &[&str], gap: &str) -> String {
    let mut unit = 0;
    while value >= base * 0.9995 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{value:.0}{gap}{}", units[0]),
        (_, value) if value < 9.995 => format!("{value:.2}{gap}{}", units[unit]),
        (_, value) if value < 99.95 => format!("{value:.1}{gap}{}", units[unit]),
        _ => format!("{value:.0}{gap}{}", units[unit]),
    }
}

/// `2 h 05 min`, `3 min 20 s`, `12 s`.
pub fn seconds_text(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match (whole / 86400, whole % 86400 / 3600, whole % 3600 / 60, whole % 60) {
        (0, 0, 0, _) if seconds < 9.95 => format!("{seconds:.1} s"),
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s:02} s"),
        (0, h, m, _) => format!("{h} h {m:02} min"),
        (d, h, ..) => format!("{d} d {h:02} h"),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1600`, `859,520,964`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(1536), "1.50 KiB");
        assert_eq!(bytes_text(1024 * 1024 - 1), "1.00 MiB");
        assert_eq!(bytes_text(12 << 30), "12.0 GiB");
        assert_eq!(bytes_text(u64::MAX), "16.0 EiB");
        assert_eq!(count_text(1_234_000_000), "1.23 G");
        assert_eq!(seconds_text(7505.0), "2 h 05 min");
        assert_eq!(seconds_text(1.24), "1.2 s");
        assert_eq!(grouped(1600), "1600");
        assert_eq!(grouped(1234567), "1,234,567");
    }
}
