//! Values into the document, stage by stage: each stage writes its nodes and says what became of its options.

mod block_lists;
mod block_ranges;
mod data;
mod flow;
mod idle;
mod loader;
mod logging;
mod lora;
mod loss;
mod lycoris;
mod model;
mod modules;
mod network_args;
mod optimizer;
pub(crate) mod optimizers;
mod presets;
mod prompts;
mod rates;
mod run;
mod sample;
mod saving;
mod schedule;
mod scope;

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use crate::args::{self, Given, shown};
use crate::dataset::Data;
use crate::draft::{Draft, Miss};
use crate::files::Files;
use crate::options::{self, Fate, How, Opt, Place};
use crate::report::{Entry, Kind};
use crate::script::{Family, Script};
use scope::Scope;

pub(crate) use modules::{list as module_list, names as modules};
pub(crate) use optimizers::OPTIMIZERS;
pub(crate) use prompts::OPTIONS as PROMPT_OPTIONS;
pub(crate) use schedule::SCHEDULES;

/// A migration under way.
pub(crate) struct Job<'a> {
    pub script: Script,
    pub family: Family,
    pub given: Given,
    /// Precision the launcher was told.
    pub launcher: Option<String>,
    pub data: Data,
    pub files: &'a dyn Files,
    pub draft: Draft,
    pub report: Vec<Entry>,
    told: HashSet<&'static str>,
    pub scope: Scope,
    /// The run's 16-bit type, if it has one.
    pub half: Option<&'static str>,
}

impl<'a> Job<'a> {
    pub fn new(script: Script, given: Given, data: Data, files: &'a dyn Files, draft: Draft) -> Job<'a> {
        let (launcher, told, report) = (None, HashSet::new(), Vec::new());
        let (family, scope) = (script.family, Scope::default());
        Job { script, family, given, launcher, data, files, draft, report, told, scope, half: None }
    }

    /// All stages, in the order of the document; [`Job::settle`] comes last.
    pub fn run(&mut self) {
        self.without_effect();
        self.family();
        self.scope = Scope::of(self);
        self.head();
        self.images();
        self.encoders();
        self.cache();
        self.model();
        self.adapter();
        self.loss();
        self.optimizer();
        self.saver();
        self.previews();
        self.loggers();
        self.rest();
    }

    /// Options that the script accepts and ignores.
    fn without_effect(&mut self) {
        for name in self.given.keys().copied().collect::<Vec<_>>() {
            if !self.opt(name).works.has(self.script) {
                let note = format!("without effect with `{}`, which accepts and ignores it", self.script.file());
                self.tell(name, Kind::Ignored, None, &note);
                self.given.shift_remove(name);
            }
        }
    }

    fn opt(&self, name: &str) -> &'static Opt {
        options::find(Place::Command, name, self.script).expect("a name of the table")
    }

    /// What the table says about an option.
    pub fn note_of(&self, name: &str) -> &'static str {
        self.opt(name).note
    }
    /// Whether it was given.
    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }
    pub fn value(&self, name: &str) -> Option<&Json> {
        self.given.get(name).map(|setting| &setting.value)
    }
    pub fn flag(&self, name: &str) -> bool {
        self.value(name) == Some(&json!(true))
    }
    pub fn float(&self, name: &str) -> Option<f64> {
        self.value(name)?.as_f64()
    }
    pub fn int(&self, name: &str) -> Option<i64> {
        self.value(name)?.as_i64()
    }
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str().filter(|text| !text.is_empty())
    }
    /// The value, or the reference's default; null for none.
    pub fn effective(&self, name: &str) -> Json {
        let opt = self.opt(name);
        let default = || match opt.default {
            "" => Json::Null,
            default => args::typed(opt.kind, default).unwrap_or(Json::Null),
        };
        self.value(name).cloned().unwrap_or_else(default)
    }

    /// Says what became of an option. Once is enough.
    pub fn tell(&mut self, name: &'static str, kind: Kind, target: Option<&str>, note: &str) {
        let value = match self.value(name) {
            Some(Json::Bool(true)) => String::new(),
            Some(value) => Entry::show(value),
            None => self.opt(name).default.to_owned(),
        };
        self.tell_value(name, &value, kind, target, note);
    }

    /// As [`Job::tell`], with a value that is not the option's.
    pub fn tell_value(&mut self, name: &'static str, value: &str, kind: Kind, target: Option<&str>, note: &str) {
        if !self.told.insert(name) {
            return;
        }
        let label = match kind {
            Kind::Defaulted => format!("--{name} (not given)"),
            _ => format!("--{name}"),
        };
        self.report.push(Entry::new(&label, &shown(name, value), kind, target, note));
    }

    /// Writes an option's value, says so, or says why not. Whether it is in the document now.
    pub fn write(&mut self, name: &'static str, path: &str, value: Json, note: &str) -> bool {
        let kind = if self.has(name) { Kind::Mapped } else { Kind::Defaulted };
        self.write_as(name, kind, path, value, note)
    }

    /// Writes a value with another meaning than the option's.
    pub fn change(&mut self, name: &'static str, path: &str, value: Json, note: &str) -> bool {
        self.write_as(name, Kind::Changed, path, value, note)
    }

    fn write_as(&mut self, name: &'static str, kind: Kind, path: &str, value: Json, note: &str) -> bool {
        match self.draft.put(path, value) {
            Ok(()) => {
                match kind {
                    Kind::Defaulted if note.is_empty() => self.draft.comment(path, "default of sd-scripts"),
                    Kind::Defaulted | Kind::Changed => self.draft.comment(path, note),
                    _ => {}
                }
                self.tell(name, kind, Some(path), note);
                true
            }
            Err(miss) => {
                self.missing(name, &miss);
                false
            }
        }
    }

    /// An option whose place does not exist.
    pub fn missing(&mut self, name: &'static str, miss: &Miss) {
        let given = self.has(name);
        match miss {
            Miss::NotYet(_) | Miss::Outside(_) => self.tell(name, Kind::Refused, None, &miss.to_string()),
            Miss::NoNode(_) if given => self.tell(name, Kind::Ignored, None, &miss.to_string()),
            Miss::NoNode(_) => {}
        }
    }

    /// An entry of its own, about something that is no option of the table.
    pub fn note(&mut self, option: &str, value: &str, kind: Kind, target: Option<&str>, note: &str) {
        self.report.push(Entry::new(option, value, kind, target, note));
    }

    /// What no stage has spoken of: the table alone says where it goes.
    fn rest(&mut self) {
        for opt in options::declared(Place::Command, self.script) {
            if self.told.contains(opt.name) || !(self.has(opt.name) || opt.always) {
                continue;
            }
            match opt.fate {
                Fate::Set(path, how) => {
                    let value = self.effective(opt.name);
                    match how {
                        How::OffAtZero if off(&value) => self.tell(opt.name, Kind::Mapped, None, "off, so left out"),
                        _ if opt.changed && self.has(opt.name) => match self.draft.put(path, value) {
                            Ok(()) => self.tell(opt.name, Kind::Changed, Some(path), opt.note),
                            Err(miss) => self.missing(opt.name, &miss),
                        },
                        _ => {
                            self.write(opt.name, path, value, opt.note);
                        }
                    }
                }
                Fate::Refused(why) => self.tell(opt.name, Kind::Refused, None, why),
                Fate::Ignored(why) => self.tell(opt.name, Kind::Ignored, None, why),
                Fate::Part(_) if off(&self.effective(opt.name)) => {
                    self.tell(opt.name, Kind::Mapped, None, "off, so left out");
                }
                Fate::Part(_) => {
                    // A test holds that this is never reached.
                    self.tell(opt.name, Kind::Refused, None, "not carried over: there is no rule for it here");
                }
            }
        }
    }

    /// Orders the report: what was given first, in its order. Names in the intro what could not be carried over.
    pub fn settle(&mut self) {
        let lost: Vec<String> =
            self.report.iter().filter(|e| e.kind == Kind::Refused).map(|e| e.option.clone()).collect();
        self.report.sort_by_key(|entry| entry.kind == Kind::Defaulted);
        self.draft.intro.insert(0, format!("Migrated from `{}` of sd-scripts.", self.script.file()));
        if !lost.is_empty() {
            self.draft.intro.push("Not carried over, see the report:".into());
            self.draft.intro.extend(lost.iter().map(|option| format!("  {}", option.replace('\n', " "))));
        }
    }
}

/// Zero, a negative number, nothing: the reference's ways to say off.
pub(crate) fn off(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Number(n) => n.as_f64().is_some_and(|f| f <= 0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        _ => false,
    }
}
