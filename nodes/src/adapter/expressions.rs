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
                    faults.push(Fault::wrong(&format!("{field}.{i}"), message, None));
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

    /// Reports those that found themselves nowhere.
    pub(super) fn unused(self, faults: &mut Vec<Fault>) {
        for (i, text, _, _) in self.list.iter().filter(|(_, _, regex, used)| regex.is_some() && !used) {
            let message = format!("`{text}` matches no layer");
            let help = "names are as in LoRA files, such as `lora_unet_mid_block_attentions_0_proj_in`";
            faults.push(Fault::wrong(&format!("{}.{i}", self.field), message, Some(help.into())));
        }
    }
}
