//! Regular expressions on the names of layers.

use pipe_data::lora_names::LoraTarget;
use regex::Regex;

use super::targeting::Fault;

/// Regular expressions of a field, and which of them found something.
pub(super) struct Expressions {
    field: &'static str,
    list: Vec<(usize, String, Option<Regex>, bool)>,
}

impl Expressions {
    /// Compiles them; what is none is a fault.
    pub(super) fn new<'t>(field: &'static str, texts: impl Iterator<Item = &'t str>, faults: &mut Vec<Fault>) -> Self {
        let list = texts
            .enumerate()
            .map(|(i, text)| {
                let made = Regex::new(text);
                if let Err(error) = &made {
                    let why = error.to_string();
                    let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    let message = format!("`{text}` is no regular expression: {why}");
                    let around = ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|p| text.contains(p));
                    let help = "name the layers by `include` and `exclude`, or by \
                                several expressions of which the first counts";
                    faults.push(Fault::wrong(&format!("{field}.{i}"), message, around.then(|| help.into())));
                }
                (i, text.to_owned(), made.ok(), false)
            })
            .collect();
        Expressions { field, list }
    }

    /// Whether there is one.
    pub(super) fn any(&self) -> bool {
        !self.list.is_empty()
    }

    /// Which of them find themselves in a layer's name or path.
    pub(super) fn hits(&mut self, layer: &LoraTarget) -> Vec<usize> {
        let mut hits = Vec::new();
        for (i, _, regex, used) in &mut self.list {
            if regex.as_ref().is_some_and(|r| r.is_match(&layer.name) || r.is_match(&layer.path)) {
                *used = true;
                hits.push(*i);
            }
        }
        hits
    }

    /// Whether this one found itself somewhere.
    pub(super) fn used(&self, i: usize) -> bool {
        self.list.iter().any(|(own, _, _, used)| *own == i && *used)
    }

    /// Reports those that found themselves nowhere. `of` says among which layers, as in "no layer that …".
    pub(super) fn unused(self, of: &str, faults: &mut Vec<Fault>) {
        for (i, text, _, _) in self.list.iter().filter(|(_, _, regex, used)| regex.is_some() && !used) {
            let message = format!("`{text}` matches no layer{of}");
            let help = "names are as in LoRA files, such as `lora_unet_mid_block_attentions_0_proj_in`";
            faults.push(Fault::wrong(&format!("{}.{i}", self.field), message, Some(help.into())));
        }
    }
}
