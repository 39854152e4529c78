//! Which blocks of a transformer get an adapter: `train_blocks` and the lists of block numbers.

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use super::Job;
use super::network_args::Arg;
use crate::python;
use crate::report::Kind;
use crate::script::Family;

impl Job<'_> {
    pub(super) fn block_ranges(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        let large = self.text("pretrained_model_name_or_path").is_some_and(|f| f.to_lowercase().contains("large"));
        let numbered = [
            ("train_double_block_indices", "double", 19),
            ("train_single_block_indices", "single", 38),
            ("train_block_indices", "joint", if large { 38 } else { 24 }),
        ];
        let mut off: Map<String, Json> = Map::new();
        let mut carried: Vec<(&Arg, &str)> = Vec::new();
        for (name, section, blocks) in numbered {
            let Some(arg) = list.iter().find(|arg| arg.opt.name == name) else { continue };
            done.insert(name);
            match unselected(&arg.text, blocks) {
                Ok(list) if list.is_empty() => self.tell_arg(arg, Kind::Mapped, None, "all, as without it"),
                Ok(list) => {
                    let key =
                        if list.len() == blocks { section.into() } else { format!("{section}.{}", ranges(&list)) };
                    off.insert(key, json!(false));
                    let note = if section == "joint" { "counted for a model of this name" } else { "" };
                    carried.push((arg, note));
                }
                Err(note) => self.tell_arg(arg, Kind::Refused, None, &format!("{note}; sd-scripts stops here")),
            }
        }
        let mut whole = false;
        if let Some(arg) = list.iter().find(|arg| arg.opt.name == "train_blocks") {
            done.insert("train_blocks");
            let lumina = self.family != Family::Flux;
            let left: Option<&[&str]> = match (arg.text.as_str(), lumina) {
                ("all", _) => Some(&[]),
                ("double", false) => Some(&["single"]),
                ("single", false) => Some(&["double"]),
                ("transformer", true) => Some(&["noise_refiner", "context_refiner"]),
                ("refiners", true) => Some(&["layers"]),
                ("noise_refiner", true) => Some(&["layers", "context_refiner"]),
                ("context_refiner", true) => Some(&["layers", "noise_refiner"]),
                _ => None,
            };
            match left {
                None => self.tell_arg(arg, Kind::Refused, None, "no such part; sd-scripts stops here"),
                Some([]) => self.tell_arg(arg, Kind::Mapped, None, "all, as without it"),
                Some(left) => {
                    for section in left {
                        off.retain(|key, _| !key.starts_with(section));
                        off.insert((*section).to_owned(), json!(false));
                    }
                    whole = lumina;
                    carried.push((arg, ""));
                }
            }
        }
        if let Some(arg) = list.iter().find(|arg| arg.opt.name == "refiner_dim") {
            done.insert("refiner_dim");
            for section in ["noise_refiner", "context_refiner"] {
                let rank = if super::off(&arg.value) { json!(false) } else { arg.value.clone() };
                off.entry(section.to_owned()).or_insert(rank);
            }
            carried.push((arg, ""));
            self.refiners(list);
        }
        if carried.is_empty() {
            return;
        }
        let path = "nodes.lora.blocks";
        let put = self.draft.put(path, Json::Object(off));
        for (arg, note) in carried {
            match &put {
                Ok(()) => self.tell_arg(arg, Kind::Mapped, Some(path), note),
                Err(miss) => self.tell_arg(arg, Kind::Refused, None, &miss.to_string()),
            }
        }
        if whole && put.is_ok() {
            // Lumina's last layer belongs to `all` only.
            self.put_plain("nodes.lora.exclude", json!(["final_layer"]));
        }
    }
}

impl Job<'_> {
    /// Ranks by type come before that of the refiners in sd-scripts; here a block counts more than a type.
    fn refiners(&mut self, list: &[Arg]) {
        let types = [("attn_dim", "_attention_"), ("mod_dim", "_adaLN_modulation")];
        let rules: Vec<Json> = types
            .into_iter()
            .filter_map(|(name, part)| Some((list.iter().find(|arg| arg.opt.name == name)?, part)))
            .map(|(arg, part)| {
                let rank = if super::off(&arg.value) { json!(false) } else { arg.value.clone() };
                json!({ "match": format!("refiner_[0-9]+{part}"), "rank": rank })
            })
            .collect();
        if !rules.is_empty() {
            self.put_plain("nodes.lora.patterns", json!(rules));
        }
    }
}

/// Blocks that a list such as `0,3-5` leaves out. `all` leaves none out, `none` and nothing all.
fn unselected(text: &str, blocks: usize) -> Result<Vec<usize>, String> {
    let text = text.trim();
    let mut chosen = vec![text == "all"; blocks];
    if !["all", "none", ""].contains(&text) {
        for item in text.split(',') {
            let (from, to) = item.split_once('-').unwrap_or((item, item));
            let number = |text: &str| python::int(text).and_then(|n| usize::try_from(n).ok());
            match (number(from), number(to)) {
                (Some(from), Some(to)) if from <= to && to < blocks => chosen[from..=to].fill(true),
                (Some(_), Some(_)) => return Err(format!("`{item}` is no range of the {blocks} blocks")),
                _ => return Err(format!("`{item}` is neither a number nor a range as `3-5`")),
            }
        }
    }
    Ok((0..blocks).filter(|i| !chosen[*i]).collect())
}

/// `[0, 1, 2, 5]` as `0-2,5`.
fn ranges(list: &[usize]) -> String {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for n in list {
        match out.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => out.push((*n, *n)),
        }
    }
    let one = |(from, to): &(usize, usize)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    out.iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complements() {
        for (text, left) in [
            ("all", Ok("")),
            ("none", Ok("0-5")),
            ("", Ok("0-5")),
            ("0", Ok("1-5")),
            ("1-2, 4", Ok("0,3,5")),
            ("6", Err(())),
            ("3-1", Err(())),
            ("x", Err(())),
            ("-1", Err(())),
        ] {
            let found = unselected(text, 6).map(|list| ranges(&list)).map_err(|_| ());
            assert_eq!(found, left.map(str::to_owned), "{text}");
        }
    }
}
