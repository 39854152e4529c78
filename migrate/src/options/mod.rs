//! Every option of the reference in one table: name, type, default, scripts, and what becomes of it.
//!
//! A target that the product does not have yet stands here all the same; whether it exists is asked of
//! [`crate::Product`]. To move an option, change the path in its line.

mod captions;
mod data;
mod dataset;
mod flow;
mod logging;
mod machine;
mod memory;
mod model;
mod network;
mod network_args;
mod noise;
mod optimizer;
mod run;
mod sample;
mod saving;
mod schedule;

use crate::script::{ALL, Script, Scripts};

/// Where an option is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Command line, or the file of `--config_file`.
    Command,
    /// `--network_args name=value`.
    NetworkArgs,
    /// The file of `--dataset_config`.
    Dataset,
    /// `--lr_scheduler_args name=value`.
    SchedulerArgs,
}

/// Type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Given or not; in files `true` or `false`.
    Flag,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Steps, a part of the run below 1, or a percentage.
    Length,
    /// Any text.
    Text,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Several texts after one flag.
    Texts,
    /// Several numbers after one flag.
    Floats,
    /// One or two whole numbers.
    Size,
    /// A table.
    Table,
}

/// How a value is carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As it is.
    Same,
    /// Zero, a negative number or no text means off, which is a key left out.
    OffAtZero,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Written to this place of the document.
    Set(&'static str, How),
    /// Decided together with other options; where to look for the result.
    Part(&'static str),
    /// Cannot be had, for this reason.
    Refused(&'static str),
    /// Makes no difference to what is trained, for this reason.
    Ignored(&'static str),
}

/// An option of the reference.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Name without dashes.
    pub name: &'static str,
    /// Where it is written.
    pub place: Place,
    /// Type.
    pub kind: Type,
    /// The reference's default; empty for none.
    pub default: &'static str,
    /// Scripts that declare it.
    pub scripts: Scripts,
    /// Scripts in which the reference does something with it.
    pub works: Scripts,
    /// What becomes of it.
    pub fate: Fate,
    /// Whether the default is written out, because ours is another.
    pub always: bool,
    /// What to know about it.
    pub note: &'static str,
    /// Whether the note tells of another meaning than the reference's.
    pub changed: bool,
}

impl Opt {
    const fn new(name: &'static str, kind: Type, default: &'static str, scripts: Scripts, fate: Fate) -> Opt {
        Opt {
            name,
            place: Place::Command,
            kind,
            default,
            scripts,
            works: scripts,
            fate,
            always: false,
            note: "",
            changed: false,
        }
    }
    /// The others accept it and ignore it.
    const fn only(mut self, scripts: Scripts) -> Opt {
        self.works = self.scripts.and(scripts);
        self
    }
    /// Its default is written out.
    const fn always(mut self) -> Opt {
        self.always = true;
        self
    }
    const fn note(mut self, note: &'static str) -> Opt {
        self.note = note;
        self
    }
    /// It does what was meant, where the reference does something else.
    const fn changed(mut self, note: &'static str) -> Opt {
        self.note = note;
        self.changed = true;
        self
    }
    const fn at(mut self, place: Place) -> Opt {
        self.place = place;
        self
    }

    /// As it is written: `--name`, or `network_args name=`.
    pub fn label(&self) -> String {
        label(self.place, self.name)
    }
}

/// An option as it is written in its place.
pub fn label(place: Place, name: &str) -> String {
    match place {
        Place::Command => format!("--{name}"),
        Place::NetworkArgs => format!("--network_args {name}"),
        Place::Dataset => format!("dataset {name}"),
        Place::SchedulerArgs => format!("--lr_scheduler_args {name}"),
    }
}

const fn flag(name: &'static str, scripts: Scripts, fate: Fate) -> Opt {
    Opt::new(name, Type::Flag, "", scripts, fate)
}
const fn int(name: &'static str, default: &'static str, scripts: Scripts, fate: Fate) -> Opt {
    Opt::new(name, Type::Int, default, scripts, fate)
}
const fn float(name: &'static str, default: &'static str, scripts: Scripts, fate: Fate) -> Opt {
    Opt::new(name, Type::Float, default, scripts, fate)
}
const fn text(name: &'static str, scripts: Scripts, fate: Fate) -> Opt {
    Opt::new(name, Type::Text, "", scripts, fate)
}
const fn set(path: &'static str) -> Fate {
    Fate::Set(path, How::Same)
}
const fn unless_zero(path: &'static str) -> Fate {
    Fate::Set(path, How::OffAtZero)
}

/// The table, by topic.
const TOPICS: [(&str, &[Opt]); 16] = [
    ("Model", model::OPTIONS),
    ("Adapter", network::OPTIONS),
    ("`--network_args`", network_args::OPTIONS),
    ("Run", run::OPTIONS),
    ("Optimizer", optimizer::OPTIONS),
    ("Schedule", schedule::OPTIONS),
    ("Noise and loss", noise::OPTIONS),
    ("Flow matching", flow::OPTIONS),
    ("Memory and precision", memory::OPTIONS),
    ("Saving and resuming", saving::OPTIONS),
    ("Logging and validation", logging::OPTIONS),
    ("Sample images", sample::OPTIONS),
    ("Data", data::OPTIONS),
    ("Captions", captions::OPTIONS),
    ("Dataset file", dataset::OPTIONS),
    ("Machine", machine::OPTIONS),
];

/// Topics with their options.
pub fn topics() -> impl Iterator<Item = (&'static str, &'static [Opt])> {
    TOPICS.into_iter()
}

/// Every option.
pub fn all() -> impl Iterator<Item = &'static Opt> {
    TOPICS.into_iter().flat_map(|(_, options)| options)
}

/// The option as a script declares it; another script's where it does not.
pub fn find(place: Place, name: &str, script: Script) -> Option<&'static Opt> {
    let named = || all().filter(move |opt| opt.place == place && opt.name == name);
    named().find(|opt| opt.scripts.has(script)).or_else(|| named().next())
}

/// What a script declares at a place.
pub fn declared(place: Place, script: Script) -> impl Iterator<Item = &'static Opt> {
    all().filter(move |opt| opt.place == place && opt.scripts.has(script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_has_one_meaning_in_a_script() {
        let list: Vec<&Opt> = all().collect();
        for (i, a) in list.iter().enumerate() {
            for b in &list[i + 1..] {
                let same = a.name == b.name && a.place == b.place;
                assert!(!same || a.scripts.and(b.scripts) == Scripts(0), "{}", a.label());
            }
        }
    }

    #[test]
    fn defaults_fit_their_types() {
        for opt in all() {
            let fits = opt.default.is_empty() || crate::args::typed(opt.kind, opt.default).is_ok();
            assert!(fits, "{} {}", opt.label(), opt.default);
            assert!(!opt.always || !opt.default.is_empty(), "{}", opt.label());
        }
    }

    #[test]
    fn reasons_are_given() {
        for opt in all() {
            if let Fate::Refused(why) | Fate::Ignored(why) = opt.fate {
                assert!(why.len() > 10 && !why.ends_with('.'), "{}: {why}", opt.label());
            }
        }
    }
}
