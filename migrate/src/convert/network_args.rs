//! `--network_args`: each `name=value` by the table, and those that belong together.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::{Job, off};
use crate::args;
use crate::options::{self, Fate, How, Opt, Place, Type};
use crate::python;
use crate::report::Kind;

/// One argument on its way.
pub(super) struct Arg {
    pub opt: &'static Opt,
    pub text: String,
    pub value: Json,
}

impl Job<'_> {
    pub fn network_args(&mut self) {
        let words: Vec<String> = match self.value("network_args").and_then(Json::as_array) {
            Some(list) => list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect(),
            None => Vec::new(),
        };
        let mut list: Vec<Arg> = Vec::new();
        for word in &words {
            if let Some(arg) = self.read_arg(word) {
                list.retain(|known| known.opt.name != arg.opt.name);
                list.push(arg);
            }
        }
        if self.has("network_args") {
            self.tell("network_args", Kind::Mapped, Some("nodes.lora"), "each has an entry of its own");
        }
        let mut done: HashSet<&str> = HashSet::new();
        self.conv(&list, &mut done);
        self.block_lists(&list, &mut done);
        self.lora_plus(&list, &mut done);
        self.embedders(&list, &mut done);
        for arg in list.iter().filter(|arg| !done.contains(arg.opt.name)) {
            self.one_arg(arg);
        }
    }

    fn read_arg(&mut self, word: &str) -> Option<Arg> {
        let label = |name: &str| format!("--network_args {name}");
        let Some((name, text)) = word.split_once('=') else {
            self.note(&label(word), "", Kind::Refused, None, "an argument is `name=value`; sd-scripts stops here");
            return None;
        };
        let Some(opt) = options::find(Place::NetworkArgs, name, self.script) else {
            let names = options::declared(Place::NetworkArgs, self.script).map(|opt| opt.name);
            let near = pipe_core::diagnostic::suggest(name, names);
            let hint = near.first().map(|name| format!("; did you mean `{name}`")).unwrap_or_default();
            let note = format!("no module of sd-scripts takes it, which it passes over in silence{hint}");
            self.note(&label(name), text, Kind::Refused, None, &note);
            return None;
        };
        if !opt.works.has(self.script) {
            let note = format!("without effect with `{}`, which accepts and ignores it", self.script.file());
            self.note(&label(name), text, Kind::Ignored, None, &note);
            return None;
        }
        match args::typed(opt.kind, text) {
            Ok(value) => Some(Arg { opt, text: text.to_owned(), value }),
            Err(_) if text == "None" => None,
            Err(note) => {
                self.note(&label(name), text, Kind::Refused, None, &format!("{note}; sd-scripts stops here"));
                None
            }
        }
    }

    /// Says what became of an argument.
    pub(super) fn tell_arg(&mut self, arg: &Arg, kind: Kind, target: Option<&str>, note: &str) {
        self.note(&format!("--network_args {}", arg.opt.name), &arg.text, kind, target, note);
    }

    /// Writes an argument or says why not.
    pub(super) fn put_arg(&mut self, arg: &Arg, path: &str, value: Json) -> bool {
        match self.draft.put(path, value) {
            Ok(()) => {
                self.tell_arg(arg, Kind::Mapped, Some(path), arg.opt.note);
                true
            }
            Err(miss) => {
                self.tell_arg(arg, Kind::Refused, None, &miss.to_string());
                false
            }
        }
    }

    fn one_arg(&mut self, arg: &Arg) {
        match (arg.opt.name, arg.opt.fate) {
            ("dropout", _) => {
                let note = "the modules read `--network_dropout` only";
                self.tell_arg(arg, Kind::Ignored, None, note);
            }
            ("algo", _) => self.tell_arg(arg, Kind::Mapped, Some("nodes.lora.type"), ""),
            ("train_t5xxl", _) if arg.text == "True" => {
                let kind = if self.scope.trains("t5") { Kind::Mapped } else { Kind::Ignored };
                let note = if kind == Kind::Ignored { "no text encoder learns" } else { "" };
                self.tell_arg(arg, kind, Some("nodes.lora.text"), note);
            }
            ("network_reg_dims" | "network_reg_lrs", _) => self.patterns(arg),
            // Flags among the arguments: only the exact word `True` is one.
            (_, Fate::Part(path)) if arg.opt.kind == Type::Text => match self.is_true(arg) {
                true => {
                    self.put_arg(arg, path, json!(true));
                }
                false => self.tell_arg(arg, Kind::Mapped, None, "off, so left out"),
            },
            (_, Fate::Set(path, how)) => match how {
                How::OffAtZero if off(&arg.value) => self.tell_arg(arg, Kind::Mapped, None, "off, so left out"),
                _ => {
                    let default = arg.text == arg.opt.default;
                    match (default, self.draft.takes(path, &arg.value)) {
                        (true, Err(_)) => self.tell_arg(arg, Kind::Mapped, None, "the default"),
                        _ => {
                            self.put_arg(arg, path, arg.value.clone());
                        }
                    }
                }
            },
            (_, Fate::Part(path)) => {
                self.put_arg(arg, path, arg.value.clone());
            }
            (_, Fate::Ignored(why)) => self.tell_arg(arg, Kind::Ignored, None, why),
            (_, Fate::Refused(why)) => self.tell_arg(arg, Kind::Refused, None, why),
        }
    }

    /// OFT takes any text for true, `False` too; LyCORIS reads words; the others know `True` only.
    fn is_true(&self, arg: &Arg) -> bool {
        match self.text("network_module").unwrap_or_default() {
            module if module.contains("oft") => !arg.text.is_empty(),
            module if module.contains("lycoris") => ["true", "1", "yes"].contains(&arg.text.to_lowercase().as_str()),
            _ => arg.text == "True",
        }
    }

    fn conv(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        let of = |name: &str| list.iter().find(|arg| arg.opt.name == name);
        let (dim, alpha) = (of("conv_dim"), of("conv_alpha"));
        done.extend(["conv_dim", "conv_alpha"]);
        let Some(dim) = dim else {
            if let Some(alpha) = alpha {
                self.tell_arg(alpha, Kind::Ignored, None, "without effect without `conv_dim`");
            }
            return;
        };
        if off(&dim.value) {
            self.tell_arg(dim, Kind::Mapped, None, "no rank, so left out");
            return;
        }
        if !self.put_arg(dim, "nodes.lora.conv.rank", dim.value.clone()) {
            if let Some(alpha) = alpha {
                self.tell_arg(alpha, Kind::Refused, None, "its rank could not be carried over");
            }
            return;
        }
        let path = "nodes.lora.conv.alpha";
        let weights = self.has("network_weights");
        match alpha {
            Some(alpha) if weights => {
                self.tell_arg(alpha, Kind::Changed, Some("nodes.lora.weights"), "the file's α is kept")
            }
            Some(alpha) if off(&alpha.value) => self.tell_arg(alpha, Kind::Mapped, None, "α is the rank, as here"),
            Some(alpha) => {
                self.put_arg(alpha, path, alpha.value.clone());
            }
            None if weights => {}
            None => {
                if self.draft.put(path, json!(1)).is_ok() {
                    self.draft.comment(path, "default of sd-scripts");
                    self.note("--network_args conv_alpha (not given)", "1", Kind::Defaulted, Some(path), "");
                }
            }
        }
    }

    /// Ranks of embedders: one for each layer. The product has one switch for all, with the adapter's rank.
    fn embedders(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        for arg in list.iter().filter(|arg| ["in_dims", "emb_dims", "embedder_dims"].contains(&arg.opt.name)) {
            done.insert(arg.opt.name);
            let ranks: Option<Vec<i64>> = arg.text.trim_matches(['[', ']', ' ']).split(',').map(python::int).collect();
            let Some(ranks) = ranks else {
                self.tell_arg(arg, Kind::Refused, None, "it is a list of ranks as `4,4,4`");
                continue;
            };
            let rank = self.draft.get("nodes.lora.rank").and_then(Json::as_i64);
            if ranks.iter().all(|r| *r == 0) {
                self.tell_arg(arg, Kind::Mapped, None, "no ranks, so left out");
            } else if ranks.iter().all(|r| Some(*r) == rank) {
                self.put_arg(arg, "nodes.lora.embedders", json!(true));
            } else {
                self.put_arg(arg, "nodes.lora.ranks.embedders", json!(ranks));
            }
        }
    }

    /// LoRA+ ratios. 0 stands for none.
    fn lora_plus(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        let plus = list.iter().filter(|arg| arg.opt.name.starts_with("loraplus_")).collect::<Vec<_>>();
        done.extend(plus.iter().map(|arg| arg.opt.name));
        let lost = self.flag("dim_from_weights");
        for arg in plus {
            let Fate::Part(path) = arg.opt.fate else { continue };
            if off(&arg.value) {
                self.tell_arg(arg, Kind::Mapped, None, "off, so left out");
            } else if self.estimates_one_rate() {
                let note = "an optimizer that finds its own rate has one for all; sd-scripts fails in the first step";
                self.tell_arg(arg, Kind::Refused, None, note);
            } else {
                // Written with the optimizer, whose node comes later.
                let note = if lost { "sd-scripts drops it with `--dim_from_weights`" } else { "" };
                self.later.push((arg.opt.name, arg.text.clone(), path, arg.value.clone(), note));
            }
        }
    }

    /// `pattern=value,…`: split at commas and the first `=`, as the reference does.
    fn patterns(&mut self, arg: &Arg) {
        let field = if arg.opt.name == "network_reg_dims" { "rank" } else { "learning_rate" };
        let pairs: Option<Vec<(String, f64)>> = arg
            .text
            .split(',')
            .map(|pair| {
                let (pattern, value) = pair.split_once('=')?;
                Some((pattern.trim().to_owned(), python::float(value)?))
            })
            .collect();
        let Some(pairs) = pairs else {
            self.tell_arg(arg, Kind::Refused, None, "it is a list of `pattern=value`; sd-scripts stops here");
            return;
        };
        let old = self.draft.get("nodes.lora.patterns").and_then(Json::as_array).cloned().unwrap_or_default();
        let mut rules = old;
        rules.extend(
            pairs.into_iter().map(|(pattern, value)| json!({ "match": pattern, field: python::number(value) })),
        );
        self.put_arg(arg, "nodes.lora.patterns", json!(rules));
    }
}
