//! Sample images: one preview node for each setting among the prompts.

use serde_json::{Map, Value as Json, json};

use super::prompts::{self, Prompt};
use super::{Job, off};
use crate::files::plain;
use crate::report::Kind;
use crate::script::Family;

/// The reference's samplers and ours.
const SAMPLERS: &[(&str, &str)] = &[
    ("ddim", "ddim"),
    ("euler", "euler"),
    ("k_euler", "euler"),
    ("euler_a", "euler_ancestral"),
    ("k_euler_a", "euler_ancestral"),
    ("dpmsolver++", "dpmpp2m"),
];

/// Width, height, steps and scale where a prompt does not say.
fn defaults(family: Family) -> (i64, i64, i64, f64) {
    match family {
        Family::Sd1 | Family::Sd2 | Family::Sdxl | Family::Sd3 => (512, 512, 30, 7.5),
        Family::Flux => (512, 512, 20, 1.0),
        Family::Lumina2 | Family::LuminaNext => (1024, 1024, 36, 3.5),
    }
}

impl Job<'_> {
    pub fn previews(&mut self) {
        let (epochs, steps) = (self.int("sample_every_n_epochs"), self.int("sample_every_n_steps"));
        let epochs = epochs.filter(|n| *n > 0);
        let steps = steps.filter(|n| *n > 0);
        let asked = epochs.is_some() || steps.is_some() || self.flag("sample_at_first");
        let options =
            ["sample_every_n_epochs", "sample_every_n_steps", "sample_at_first", "sample_sampler", "sample_prompts"];
        let Some(file) = self.text("sample_prompts").map(str::to_owned).filter(|_| asked) else {
            for name in options {
                if self.has(name) {
                    let note = match name {
                        "sample_prompts" => "no pictures are asked for: `--sample_every_n_epochs` is missing",
                        _ if asked => "no prompts are given: `--sample_prompts` is missing; sd-scripts crashes here",
                        _ => "off, so left out",
                    };
                    self.tell(name, Kind::Ignored, None, note);
                }
            }
            return;
        };
        let list = match self.files.read(&file).map_err(|e| plain(&e)).and_then(|text| prompts::read(&file, &text)) {
            Ok(list) if !list.is_empty() => list,
            Ok(_) => return self.no_prompts(&options, "it holds no prompt"),
            Err(why) if self.prompts_file(&file, &why) => Vec::new(),
            Err(why) => return self.no_prompts(&options, &why),
        };
        let names = if list.is_empty() { vec!["preview".to_owned()] } else { self.preview_nodes(&list) };
        let first = names.first().cloned().unwrap_or_default();
        self.tell("sample_prompts", Kind::Mapped, Some(&format!("nodes.{first}.prompts")), "");
        for name in &names {
            let every = format!("nodes.{name}.every");
            match (epochs, steps) {
                (Some(n), _) => {
                    self.write("sample_every_n_epochs", &format!("{every}.epochs"), json!(n), "");
                }
                (None, Some(n)) => {
                    self.write("sample_every_n_steps", &format!("{every}.steps"), json!(n), "");
                }
                (None, None) => {}
            }
        }
        if epochs.is_some() && steps.is_some() {
            self.tell("sample_every_n_steps", Kind::Ignored, None, "`--sample_every_n_epochs` counts");
        }
        for name in ["sample_every_n_epochs", "sample_every_n_steps"] {
            if self.has(name) && self.value(name).is_some_and(off) {
                self.tell(name, Kind::Mapped, None, "off, so left out");
            }
        }
        if self.flag("sample_at_first") {
            let note = "pictures are always drawn before the first step, and at the end";
            self.tell("sample_at_first", Kind::Mapped, Some(&format!("nodes.{first}")), note);
        }
    }

    fn no_prompts(&mut self, options: &[&'static str], why: &str) {
        for name in options {
            if self.has(name) {
                let note = match *name {
                    "sample_prompts" => format!("cannot be read: {why}; write the prompts on a `sampler.preview`"),
                    _ => "it belongs to the pictures, whose prompts could not be read".into(),
                };
                self.tell(name, Kind::Refused, None, &note);
            }
        }
    }

    fn preview_nodes(&mut self, list: &[Prompt]) -> Vec<String> {
        let sampler = self.effective_text("sample_sampler");
        let base = defaults(self.family);
        let of_prompts = self.draft.product().has_field("sampler.preview", "prompts.width");
        let usual = self.settings(&Prompt::default(), &sampler, base);
        let mut groups: Vec<(Map<String, Json>, Vec<Json>)> = Vec::new();
        for prompt in list {
            let mut settings = self.settings(prompt, &sampler, base);
            let mut one = self.prompt(prompt);
            if of_prompts {
                // What is not as usual stands on the prompt.
                let own = settings.into_iter().filter(|(key, value)| usual.get(key) != Some(value));
                one.extend(own.collect::<Vec<_>>());
                settings = usual.clone();
            }
            match groups.iter_mut().find(|(known, _)| *known == settings) {
                Some((_, prompts)) => prompts.push(Json::Object(one)),
                None => groups.push((settings, vec![Json::Object(one)])),
            }
        }
        let mut names = Vec::new();
        for (i, (settings, prompts)) in groups.into_iter().enumerate() {
            let name = if i == 0 { "preview".to_owned() } else { format!("preview_{}", i + 1) };
            self.preview_node(&name, settings);
            self.put_plain(&format!("nodes.{name}.prompts"), json!(prompts));
            names.push(name);
        }
        names
    }

    fn preview_node(&mut self, name: &str, settings: Map<String, Json>) {
        self.draft.node(name, "sampler.preview");
        let model = if self.script.adapter { "lora" } else { "full" };
        self.put_plain(&format!("nodes.{name}.model"), json!(model));
        self.put_plain(&format!("nodes.{name}.vae"), json!("vae"));
        let encoders = self.scope.encoders.clone();
        self.put_plain(&format!("nodes.{name}.text"), Self::names(&encoders));
        for (key, value) in settings {
            self.put_plain(&format!("nodes.{name}.{key}"), value);
        }
    }

    /// A file that cannot be read now is named, to be read by the run.
    fn prompts_file(&mut self, file: &str, why: &str) -> bool {
        if !self.draft.product().takes("sampler.preview", "prompts_file", &json!(file)) {
            return false;
        }
        let sampler = self.effective_text("sample_sampler");
        let settings = self.settings(&Prompt::default(), &sampler, defaults(self.family));
        self.preview_node("preview", settings);
        let note = format!("{why}; it is read when the run begins");
        self.write("sample_prompts", "nodes.preview.prompts_file", json!(file), &note);
        true
    }

    /// What holds for a whole node.
    fn settings(&mut self, prompt: &Prompt, sampler: &str, base: (i64, i64, i64, f64)) -> Map<String, Json> {
        let unit = if self.family == Family::Flux { 16 } else { 8 };
        let side = |given: Option<i64>, own: i64| (given.unwrap_or(own) / unit * unit).max(64);
        let mut out = Map::new();
        out.insert("width".into(), json!(side(prompt.width, base.0)));
        out.insert("height".into(), json!(side(prompt.height, base.1)));
        out.insert("steps".into(), json!(prompt.steps.unwrap_or(base.2).clamp(1, 1000)));
        out.insert("guidance_scale".into(), crate::python::number(prompt.scale.unwrap_or(base.3)));
        if self.family == Family::Flux {
            let schnell =
                self.text("pretrained_model_name_or_path").is_some_and(|f| f.to_lowercase().contains("schnell"));
            if !schnell {
                out.insert("embedded_guidance".into(), crate::python::number(prompt.guidance.unwrap_or(3.5)));
            }
        }
        if !self.family.flow() {
            let name = prompt.sampler.as_deref().unwrap_or(sampler).to_owned();
            match SAMPLERS.iter().find(|(known, _)| *known == name) {
                Some((_, own)) => {
                    out.insert("sampler".into(), json!(own));
                    if self.has("sample_sampler") && name == sampler {
                        self.tell("sample_sampler", Kind::Mapped, Some("nodes.preview.sampler"), "");
                    }
                }
                None => {
                    out.insert("sampler".into(), json!("ddim"));
                    let note = format!("not available yet: `{name}`; `ddim` draws in its place");
                    match prompt.sampler {
                        Some(_) => self.note("prompt --ss", &name, Kind::Refused, Some("nodes.preview.sampler"), &note),
                        None => self.tell("sample_sampler", Kind::Refused, Some("nodes.preview.sampler"), &note),
                    }
                }
            }
        }
        out
    }

    fn prompt(&mut self, prompt: &Prompt) -> Map<String, Json> {
        let mut out = Map::from_iter([("prompt".to_owned(), json!(prompt.text))]);
        if let Some(negative) = prompt.negative.as_ref().filter(|text| !text.is_empty()) {
            if self.family == Family::Flux && prompt.scale.unwrap_or(1.0) == 1.0 {
                let note = "a negative prompt has no effect without guidance (`--l` above 1)";
                self.note("prompt --n", negative, Kind::Ignored, None, note);
            } else {
                out.insert("negative_prompt".into(), json!(negative));
            }
        }
        if let Some(seed) = prompt.seed {
            match seed >= 0 {
                true => {
                    out.insert("seed".into(), json!(seed));
                }
                false => self.note("prompt --d", &seed.to_string(), Kind::Refused, None, "a seed is at least 0"),
            }
        }
        let lumina = matches!(self.family, Family::Lumina2 | Family::LuminaNext);
        for (name, value) in &prompt.other {
            let field = prompts::OPTIONS.iter().find(|(option, _)| option == name).map_or("", |(_, path)| *path);
            let field = field.strip_prefix("nodes.preview.prompts.").unwrap_or_default();
            let place = format!("prompts.{field}");
            let read = match field {
                "guidance_truncation" | "guidance_renorm" => lumina,
                "flow_shift" => lumina || self.family == Family::Sd3,
                _ => true,
            };
            if !read {
                let note = "without effect with this model, for which sd-scripts reads and ignores it";
                self.note(&format!("prompt --{name}"), value, Kind::Ignored, None, note);
                continue;
            }
            if !prompts::OPTIONS.iter().any(|(option, _)| option == name) {
                let note = "sd-scripts has no such option of a prompt and passes over it";
                self.note(&format!("prompt --{name}"), value, Kind::Ignored, None, note);
                continue;
            }
            match crate::python::float(value).filter(|_| !field.is_empty()) {
                Some(number) if self.draft.product().has_field("sampler.preview", &place) => {
                    out.insert(field.to_owned(), crate::python::number(number));
                }
                _ => {
                    let note = "not available yet for previews";
                    self.note(&format!("prompt --{name}"), value, Kind::Refused, None, note);
                }
            }
        }
        out
    }
}
