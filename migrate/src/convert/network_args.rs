//! `--network_args`: each `name=value` by the table, and those that belong together.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::{Job, off};
use crate::args;
use crate::options::{self, Fate, How, Opt, Place, Type};
use crate::python;
use crate::report::Kind;
use crate::script::Family;

/// One argument on its way.
pub(super) struct Arg {
    pub opt: &'static Opt,
    pub text: String,
    pub value: Json,
}

/// A word that means true to LyCORIS.
pub(super) fn yes(text: &str) -> bool {
    ["true", "1", "yes", "y"].contains(&text.to_lowercase().as_str())
}

/// Why an argument has no effect beside ranks of a file.
const OF_FILE: &str = "sd-scripts drops it with `--dim_from_weights`";

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
            self.tell_value("network_args", "", Kind::Mapped, Some("nodes.lora"), "each has an entry of its own");
        }
        let mut done: HashSet<&str> = HashSet::new();
        self.conv(&list, &mut done);
        self.block_lists(&list, &mut done);
        self.block_ranges(&list, &mut done);
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
        // Names of earlier versions of LyCORIS, which it takes as it did.
        let name = match name {
            "use_conv_cp" | "use_cp" | "disable_conv_cp" if self.is_module("lycoris") => "use_tucker",
            "constrain" if self.is_module("lycoris") => "constraint",
            name => name,
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
            Err(_) if text == "None" => {
                self.note(&label(name), text, Kind::Mapped, None, "none, so left out");
                None
            }
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
                let kind = if arg.opt.changed { Kind::Changed } else { Kind::Mapped };
                self.tell_arg(arg, kind, Some(path), arg.opt.note);
                true
            }
            Err(miss) => {
                self.tell_arg(arg, Kind::Refused, None, &miss.to_string());
                false
            }
        }
    }

    fn one_arg(&mut self, arg: &Arg) {
        let dropouts = ["rank_dropout", "module_dropout"];
        if self.lycoris_arg(arg) {
            return;
        }
        match (arg.opt.name, arg.opt.fate) {
            ("dropout", _) if self.is_module("lycoris") => self.dropout_of_lycoris(arg),
            ("dropout", _) => self.tell_arg(arg, Kind::Ignored, None, "the modules read `--network_dropout` only"),
            (name, _) if dropouts.contains(&name) && self.ranks_of_file() => {
                self.tell_arg(arg, Kind::Ignored, None, OF_FILE);
            }
            (name, _) if dropouts.contains(&name) && self.is_module("dylora") => {
                self.tell_arg(arg, Kind::Ignored, None, "`networks.dylora` ignores it");
            }
            ("split_qkv", _) if self.script.family == Family::Lumina2 && self.is_true(arg) => {
                let note = "layers of Lumina are not split; sd-scripts accepts it and fails at the first save";
                self.tell_arg(arg, Kind::Refused, None, note);
            }
            ("decompose_both", _) if self.is_module("lycoris") && !self.is_true(arg) && !arg.text.is_empty() => {
                let note = "off, as it says; LyCORIS switches it on with any text";
                self.tell_arg(arg, Kind::Changed, None, note);
            }
            ("decompose_both", _) if self.is_true(arg) && self.draft.get("nodes.lora.full_matrix").is_some() => {
                self.tell_arg(arg, Kind::Ignored, None, "both factors are whole");
            }
            ("algo", _) => self.tell_arg(arg, Kind::Mapped, Some("nodes.lora.type"), ""),
            ("dora_wd", _) => self.weight_decomposition(arg),
            ("preset", _) if self.is_module("lycoris") => self.tell_preset(arg),
            ("preset", _) => self.tell_arg(arg, Kind::Ignored, None, "only `lycoris.kohya` reads it"),
            ("train_t5xxl", _) if arg.text == "True" => {
                let learns = self.scope.trains("t5");
                let (kind, note) = if learns { (Kind::Mapped, "") } else { (Kind::Ignored, "no text encoder learns") };
                self.tell_arg(arg, kind, Some("nodes.lora.text"), note);
            }
            ("enable_all_linear" | "enable_conv", Fate::Part(path)) => self.oft_layers(arg, path),
            ("network_reg_dims" | "network_reg_lrs", _) => self.patterns(arg),
            // Flags among the arguments.
            (_, Fate::Part(path)) if arg.opt.kind == Type::Text => match self.is_true(arg) {
                true => {
                    self.put_arg(arg, path, json!(true));
                }
                false => self.tell_arg(arg, Kind::Mapped, None, "off, so left out"),
            },
            // No rank is `false` here.
            (_, Fate::Set(path, _)) if path.starts_with("nodes.lora.ranks.") => {
                let value = if off(&arg.value) { json!(false) } else { arg.value.clone() };
                self.put_arg(arg, path, value);
            }
            (_, Fate::Set(_, How::OffAtZero)) if off(&arg.value) => {
                self.tell_arg(arg, Kind::Mapped, None, "off, so left out");
            }
            (_, Fate::Set(path, _)) if arg.text == arg.opt.default && self.draft.takes(path, &arg.value).is_err() => {
                self.tell_arg(arg, Kind::Mapped, None, "the default");
            }
            (_, Fate::Set(path, _) | Fate::Part(path)) => {
                self.put_arg(arg, path, arg.value.clone());
            }
            (_, Fate::Ignored(why)) => self.tell_arg(arg, Kind::Ignored, None, why),
            (_, Fate::Refused(why)) => self.tell_arg(arg, Kind::Refused, None, why),
        }
    }

    /// LyCORIS reads words; the reference's modules know `True` only.
    fn is_true(&self, arg: &Arg) -> bool {
        if self.is_module("lycoris") { yes(&arg.text) } else { arg.text == "True" }
    }

    /// OFT takes any text for true, `False` too; what was meant counts.
    fn oft_layers(&mut self, arg: &Arg, path: &str) {
        if !self.is_module("oft") {
            self.tell_arg(arg, Kind::Ignored, None, "only the OFT modules read it");
        } else if !yes(&arg.text) {
            let note = "off, as it says; sd-scripts switches it on with any text";
            self.tell_arg(arg, Kind::Changed, None, note);
        } else if arg.opt.name == "enable_conv" || self.draft.get(path).is_none() {
            let value = if arg.opt.name == "enable_conv" { "all" } else { "linear" };
            self.put_arg(arg, path, json!(value));
        } else {
            self.tell_arg(arg, Kind::Mapped, Some(path), "`enable_conv` includes it");
        }
    }

    fn conv(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        let of = |name: &str| list.iter().find(|arg| arg.opt.name == name);
        let (dim, alpha) = (of("conv_dim"), of("conv_alpha"));
        done.extend(["conv_dim", "conv_alpha"]);
        let (rank_path, path) = ("nodes.lora.conv.rank", "nodes.lora.conv.alpha");
        if self.conv_without_rank(dim, alpha) {
            return;
        }
        let lycoris = self.is_module("lycoris") && !self.family.flow();
        if self.ranks_of_file() {
            for arg in dim.into_iter().chain(alpha) {
                self.tell_arg(arg, Kind::Ignored, None, OF_FILE);
            }
            return;
        }
        if lycoris && !self.preset().large_convolutions() {
            self.conv_of_lycoris(None);
            for arg in dim.into_iter().chain(alpha) {
                self.tell_arg(arg, Kind::Ignored, None, "the preset adapts no 3×3 convolution");
            }
            return;
        }
        let Some(dim) = dim else {
            match alpha {
                Some(alpha) if lycoris => self.conv_of_lycoris(Some(alpha)),
                None if lycoris => self.conv_of_lycoris(None),
                // The lists of blocks tell of it.
                Some(_) if of("conv_block_dims").is_some() => {}
                Some(alpha) => self.tell_arg(alpha, Kind::Ignored, None, "without effect without `conv_dim`"),
                None => {}
            }
            return;
        };
        if off(&dim.value) && lycoris {
            self.conv_of_lycoris(None);
            let note = "no 3×3 convolution; LyCORIS adapts the other layers of residual blocks all the same";
            self.tell_arg(dim, Kind::Mapped, Some("nodes.lora.conv.blocks"), note);
            if let Some(alpha) = alpha {
                self.tell_arg(alpha, Kind::Ignored, None, "no 3×3 convolution is adapted");
            }
            return;
        }
        if off(&dim.value) {
            self.tell_arg(dim, Kind::Mapped, None, "no rank, so left out");
            return;
        }
        if self.draft.get("nodes.lora.full_matrix").is_some() {
            // Both factors are whole: the field only says that convolutions are adapted.
            self.put_plain(rank_path, json!(1));
            self.tell_arg(dim, Kind::Mapped, Some(rank_path), "both factors are whole, so there is no rank");
            if let Some(alpha) = alpha {
                self.tell_arg(alpha, Kind::Ignored, None, "both factors are whole, so the scale is 1");
            }
            return;
        }
        if !self.put_arg(dim, rank_path, dim.value.clone()) {
            if let Some(alpha) = alpha {
                self.tell_arg(alpha, Kind::Refused, None, "its rank could not be carried over");
            }
            return;
        }
        let kept = self.has("network_weights");
        let default = if self.is_module("lycoris") || self.is_module("dylora") { "nodes.lora.alpha" } else { "" };
        match alpha {
            Some(alpha) if kept => {
                self.tell_arg(alpha, Kind::Changed, Some("nodes.lora.weights"), "the file's α is kept");
            }
            Some(alpha) if self.is_module("dylora") => {
                self.tell_arg(alpha, Kind::Ignored, None, "`networks.dylora` takes `--network_alpha`");
            }
            Some(alpha) if off(&alpha.value) => self.tell_arg(alpha, Kind::Mapped, None, "α is the rank, as here"),
            Some(alpha) => {
                self.put_arg(alpha, path, alpha.value.clone());
                return;
            }
            None => {}
        }
        if kept || alpha.is_some_and(|alpha| off(&alpha.value)) {
            return;
        }
        let value = self.draft.get(default).cloned().unwrap_or(json!(1));
        if self.draft.put(path, value.clone()).is_ok() {
            self.draft.comment(path, "default of sd-scripts");
            let text = crate::report::Entry::show(&value);
            self.note("--network_args conv_alpha (not given)", &text, Kind::Defaulted, Some(path), "");
        }
    }

    /// Ranks of the layers outside the blocks, in a fixed order.
    fn embedders(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        const LAYERS: [(&str, &[&str]); 3] = [
            ("in_dims", &["img_in", "time_in", "vector_in", "guidance_in", "txt_in"]),
            ("emb_dims", &["context_embedder", "t_embedder", "x_embedder", "y_embedder", "final_mod", "final_linear"]),
            ("embedder_dims", &["x_embedder", "t_embedder", "cap_embedder"]),
        ];
        for (name, layers) in LAYERS {
            let Some(arg) = list.iter().find(|arg| arg.opt.name == name) else { continue };
            done.insert(name);
            let ranks: Option<Vec<i64>> = arg.text.trim_matches(['[', ']', ' ']).split(',').map(python::int).collect();
            let Some(ranks) = ranks.filter(|ranks| ranks.len() == layers.len()) else {
                let note = format!("it is a list of {} ranks; sd-scripts stops here", layers.len());
                self.tell_arg(arg, Kind::Refused, None, &note);
                continue;
            };
            let rank = self.draft.get("nodes.lora.rank").and_then(Json::as_i64);
            if ranks.iter().all(|r| *r == 0) {
                self.tell_arg(arg, Kind::Mapped, None, "no ranks, so left out");
                continue;
            }
            let own: Vec<(String, Json)> = ranks
                .iter()
                .zip(layers)
                .filter(|(r, _)| Some(**r) != rank)
                .map(|(r, layer)| (format!("nodes.lora.ranks.{layer}"), if *r == 0 { json!(false) } else { json!(r) }))
                .collect();
            let miss = own.iter().find_map(|(path, value)| self.draft.takes(path, value).err());
            if let Some(miss) = miss {
                self.tell_arg(arg, Kind::Refused, None, &miss.to_string());
                continue;
            }
            if self.put_arg(arg, "nodes.lora.embedders", json!(true)) {
                own.into_iter().for_each(|(path, value)| self.put_plain(&path, value));
            }
        }
    }

    /// LoRA+ ratios: one for all, or one for each part. 0 stands for none.
    fn lora_plus(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        let given: Vec<&Arg> = list.iter().filter(|arg| arg.opt.name.starts_with("loraplus_")).collect();
        done.extend(given.iter().map(|arg| arg.opt.name));
        let of = |name: &str| given.iter().find(|arg| arg.opt.name == name && !off(&arg.value)).map(|arg| &arg.value);
        let all = of("loraplus_lr_ratio");
        let model = of("loraplus_unet_lr_ratio").or(all).cloned();
        let text = of("loraplus_text_encoder_lr_ratio").or(all).cloned().filter(|_| !self.scope.trained.is_empty());
        let path = "nodes.lora.lora_plus";
        let refusal = if self.ranks_of_file() {
            Some((Kind::Ignored, OF_FILE))
        } else if self.is_module("lora_fa") || self.is_module("oft") {
            Some((Kind::Ignored, "this module does not read it"))
        } else if self.estimates_one_rate() {
            let note = "an optimizer that finds its own rate has one for all; sd-scripts fails in the first step";
            Some((Kind::Refused, note))
        } else {
            None
        };
        let put = match (&refusal, &model, &text) {
            (Some(_), ..) | (None, None, None) => Ok(()),
            (None, Some(a), b) if b.as_ref().is_none_or(|b| a == b) => self.draft.put(path, a.clone()),
            (None, a, b) => {
                let parts =
                    [("model", a), ("text", b)].into_iter().filter_map(|(k, v)| Some((k.to_owned(), v.clone()?)));
                self.draft.put(path, Json::Object(parts.collect()))
            }
        };
        for arg in given {
            match (&refusal, &put) {
                _ if off(&arg.value) => self.tell_arg(arg, Kind::Mapped, None, "off, so left out"),
                (Some((kind, why)), _) => self.tell_arg(arg, *kind, None, why),
                (None, Err(miss)) => self.tell_arg(arg, Kind::Refused, None, &miss.to_string()),
                (None, Ok(())) if arg.opt.name.contains("text") && text.is_none() => {
                    self.tell_arg(arg, Kind::Ignored, None, "no text encoder learns");
                }
                (None, Ok(())) => self.tell_arg(arg, Kind::Mapped, Some(path), ""),
            }
        }
    }

    /// `pattern=value,…`: split at commas and the first `=`, as the reference does.
    fn patterns(&mut self, arg: &Arg) {
        let ranks = arg.opt.name == "network_reg_dims";
        let read = |pair: &str| -> Option<Json> {
            let (pattern, value) = pair.split_once('=')?;
            Some(match (ranks, python::int(value), python::float(value)) {
                (true, Some(0), _) => json!({ "match": pattern.trim(), "rank": false }),
                (true, Some(rank), _) => json!({ "match": pattern.trim(), "rank": rank }),
                (false, _, Some(rate)) => json!({ "match": pattern.trim(), "learning_rate": python::number(rate) }),
                _ => return None,
            })
        };
        let rules: Option<Vec<Json>> = arg.text.split(',').map(read).collect();
        let Some(rules) = rules else {
            self.tell_arg(arg, Kind::Refused, None, "it is a list of `pattern=value`; sd-scripts stops here");
            return;
        };
        let path = "nodes.lora.patterns";
        let mut all = self.draft.get(path).and_then(Json::as_array).cloned().unwrap_or_default();
        all.extend(rules);
        self.put_arg(arg, path, json!(all));
    }
}
