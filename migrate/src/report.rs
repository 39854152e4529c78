//! What became of every option.

use serde_json::{Value as Json, json};

/// What became of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// In the document, with the same meaning.
    Mapped,
    /// Not given; the reference's default is written out, because ours is another.
    Defaulted,
    /// In the document with another meaning, or another value.
    Changed,
    /// Not carried over, and it matters.
    Refused,
    /// Not carried over, and the trained weights are the same.
    Ignored,
}

impl Kind {
    /// Every kind; the ones to look at come last, where a terminal shows them.
    pub const ALL: [Kind; 5] = [Kind::Mapped, Kind::Ignored, Kind::Defaulted, Kind::Changed, Kind::Refused];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mapped => "mapped",
            Kind::Defaulted => "defaulted",
            Kind::Changed => "changed",
            Kind::Refused => "refused",
            Kind::Ignored => "ignored",
        }
    }

    /// What it means, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Mapped => "carried over as they are",
            Kind::Defaulted => "defaults of sd-scripts, written out",
            Kind::Changed => "changed on the way",
            Kind::Refused => "not carried over",
            Kind::Ignored => "without effect on the result",
        }
    }
}

/// One option of the set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it was written: `--min_snr_gamma`, `datasets[0].resolution`.
    pub option: String,
    /// Its value; secrets are `***`.
    pub value: String,
    /// What became of it.
    pub kind: Kind,
    /// Where it is in the document: `nodes.loss.min_snr_gamma`.
    pub target: Option<String>,
    /// Why, where that is not plain.
    pub note: String,
}

impl Entry {
    pub(crate) fn new(option: &str, value: &str, kind: Kind, target: Option<&str>, note: &str) -> Entry {
        Entry { option: option.into(), value: value.into(), kind, target: target.map(Into::into), note: note.into() }
    }
    pub(crate) fn wrong(option: &str, value: &str, note: &str) -> Entry {
        Entry::new(option, value, Kind::Refused, None, note)
    }

    /// A value in words.
    pub(crate) fn show(value: &Json) -> String {
        match value {
            Json::Null => "none".into(),
            Json::String(text) => text.clone(),
            Json::Array(items) => items.iter().map(Entry::show).collect::<Vec<_>>().join(" "),
            Json::Object(map) => match (map.get("steps"), map.get("ratio")) {
                (Some(steps), None) => steps.to_string(),
                (None, Some(ratio)) => crate::draft::number(ratio),
                _ => value.to_string(),
            },
            other => crate::draft::number(other),
        }
    }
}

/// Result of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// File name of the script it was read for.
    pub script: String,
    /// Name of the run.
    pub name: String,
    /// The document, as YAML with comments.
    pub document: String,
    /// What became of every option that was given, and of defaults that differ.
    pub report: Vec<Entry>,
}

impl Outcome {
    /// Entries of a kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.report.iter().filter(move |entry| entry.kind == kind)
    }

    /// The report for programs: a list of `{ option, value, kind, target, note }`.
    pub fn to_json(&self) -> Json {
        let one = |e: &Entry| json!({ "option": e.option, "value": e.value, "kind": e.kind.name(), "target": e.target, "note": e.note });
        Json::Array(self.report.iter().map(one).collect())
    }

    /// The report for reading in a terminal; `paint` may colour the title of a kind.
    ///
    /// ```text
    /// carried over as they are: 1
    ///   --network_dim 32 → nodes.lora.rank
    /// not carried over: 1
    ///   --fp8_base
    ///       not available yet: `storage: fp8` of `model.flux`
    /// ```
    pub fn render(&self, paint: impl Fn(Kind, &str) -> String) -> String {
        let mut out = String::new();
        for kind in Kind::ALL {
            let list: Vec<&Entry> = self.of(kind).collect();
            if list.is_empty() {
                continue;
            }
            out += &format!("{}\n", paint(kind, &format!("{}: {}", kind.title(), list.len())));
            for entry in list {
                let value = if entry.value.is_empty() { String::new() } else { format!(" {}", entry.value) };
                let target = entry.target.as_ref().map(|target| format!(" → {target}")).unwrap_or_default();
                out += &format!("  {}{value}{target}\n", entry.option);
                if !entry.note.is_empty() {
                    out += &format!("      {}\n", entry.note);
                }
            }
        }
        out
    }
}
