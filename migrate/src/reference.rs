//! The table of all options for the reference pages.

use crate::convert::{OPTIMIZERS, SCHEDULES};
use crate::options::{self, Fate, Opt, Type};
use crate::product::Product;

/// Every option and name that is known, one a line, as `options.txt` lists them.
pub fn names() -> Vec<String> {
    let mut list: Vec<String> = options::all().map(|opt| opt.label()).collect();
    list.extend(OPTIMIZERS.iter().map(|o| format!("--optimizer_type {}", o.name)));
    list.extend(SCHEDULES.iter().map(|s| format!("--lr_scheduler {}", s.name)));
    list.extend(OPTIMIZERS.iter().flat_map(|o| o.args).map(|(name, _)| format!("--optimizer_args {name}")));
    list.extend(crate::convert::PROMPT_OPTIONS.iter().map(|name| format!("prompt --{name}")));
    list.extend(crate::convert::modules().map(|module| format!("--network_module {module}")));
    list.sort();
    list.dedup();
    list
}

/// Markdown: option of the reference → where it is here.
pub fn reference_table(product: &Product) -> String {
    let mut out = String::new();
    for (title, list) in options::topics() {
        out += &format!("## {title}\n\n| option | type | default | in | becomes |\n|---|---|---|---|---|\n");
        for opt in list {
            let default = if opt.default.is_empty() { "–".into() } else { format!("`{}`", opt.default) };
            let cells = [code(opt.name), type_of(opt.kind), default, opt.scripts.describe(), fate(opt, product)];
            out += &format!("| {} |\n", cells.join(" | "));
        }
        out += "\n";
    }
    out += "## `--optimizer_type`\n\n| type | becomes |\n|---|---|\n";
    for o in OPTIMIZERS {
        let note = [yet(product.has_type(o.node)), o.changed].into_iter().filter(|s| !s.is_empty());
        let words: Vec<String> = [code(o.node)].into_iter().chain(note.map(str::to_owned)).collect();
        out += &format!("| {} | {} |\n", code(o.name), words.join("; "));
    }
    out += "\n## `--lr_scheduler`\n\n| scheduler | becomes |\n|---|---|\n";
    for s in SCHEDULES {
        let cell = match s.own {
            "" => s.note.to_owned(),
            own => {
                let takes = product.takes("optimizer.adamw", "schedule.type", &serde_json::json!(own));
                let words = [format!("`schedule: {{ type: {own} }}`"), yet(takes).to_owned()];
                words.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ")
            }
        };
        out += &format!("| {} | {cell} |\n", code(s.name));
    }
    out
}

fn yet(exists: bool) -> &'static str {
    if exists { "" } else { "not available yet" }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn type_of(kind: Type) -> String {
    match kind {
        Type::Flag => "flag".into(),
        Type::Int => "whole number".into(),
        Type::Float => "number".into(),
        Type::Length => "steps or part".into(),
        Type::Text => "text".into(),
        Type::Choice(of) => of.iter().map(|one| code(one)).collect::<Vec<_>>().join(", "),
        Type::Texts => "texts".into(),
        Type::Floats => "numbers".into(),
        Type::Size => "size".into(),
        Type::Table => "table".into(),
    }
}

/// Node types that may hold a field of a table's path.
fn types(node: &str) -> &'static [&'static str] {
    match node {
        "model" => {
            &["model.sd1", "model.sd2", "model.sdxl", "model.sd3", "model.flux", "model.lumina2", "model.lumina_next"]
        }
        "vae" => &["encoder.vae"],
        "clip" => &["encoder.clip_l", "encoder.clip_h"],
        "clip_l" => &["encoder.clip_l"],
        "clip_g" => &["encoder.clip_g"],
        "t5" => &["encoder.t5xxl"],
        "gemma" => &["encoder.gemma"],
        "images" => &["loader.images"],
        "cached" => &["cacher.disk", "cacher.memory"],
        "lora" => &["adapter.lora", "adapter.dylora", "adapter.lokr", "adapter.loha", "adapter.oft"],
        "full" => &["adapter.full"],
        "loss" => &["loss.diffusion", "loss.flow"],
        "optimizer" => &["optimizer.adamw", "optimizer.adafactor"],
        "save" => &["saver.adapter", "saver.checkpoint"],
        "preview" => &["sampler.preview"],
        "validation" => &["logger.validation"],
        "tensorboard" => &["logger.tensorboard"],
        "wandb" => &["logger.wandb"],
        _ => &[],
    }
}

fn exists(path: &str, product: &Product) -> bool {
    let Some(rest) = path.strip_prefix("nodes.") else { return true };
    match rest.split_once('.') {
        None => true,
        Some((_, "type")) => true,
        Some((node, field)) => types(node).iter().any(|name| product.has_field(name, field)),
    }
}

fn fate(opt: &Opt, product: &Product) -> String {
    let place = |path: &str| match exists(path, product) {
        true => code(path),
        false => format!("{}, not available yet", code(path)),
    };
    let mut text = match opt.fate {
        Fate::Set(path, _) | Fate::Part(path) => place(path),
        Fate::Refused(why) => format!("refused: {why}"),
        Fate::Ignored(why) => format!("ignored: {why}"),
    };
    if opt.works != opt.scripts {
        text += &format!("; no effect in {}", opt.scripts.but(opt.works).describe());
    }
    if !opt.note.is_empty() {
        text += &format!("; {}", opt.note);
    }
    text
}
