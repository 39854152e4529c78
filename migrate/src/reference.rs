//! The page of all options for the reference.

use serde_json::json;

use crate::convert::{OPTIMIZERS, PROMPT_OPTIONS, SCHEDULES, module_list, modules};
use crate::options::{self, Fate, Opt, Type};
use crate::product::Product;

/// Every option and name that is known, one a line, as `options.txt` lists them.
pub fn names() -> Vec<String> {
    let mut list: Vec<String> = options::all().map(|opt| opt.label()).collect();
    list.extend(OPTIMIZERS.iter().map(|o| format!("--optimizer_type {}", o.name)));
    list.extend(SCHEDULES.iter().map(|s| format!("--lr_scheduler {}", s.name)));
    list.extend(OPTIMIZERS.iter().flat_map(|o| o.args).map(|(name, _)| format!("--optimizer_args {name}")));
    list.extend(PROMPT_OPTIONS.iter().map(|(name, _)| format!("prompt --{name}")));
    list.extend(modules().map(|module| format!("--network_module {module}")));
    list.sort();
    list.dedup();
    list
}

const HEAD: &str = "\
# Options of sd-scripts

Where each option of [sd-scripts](https://github.com/kohya-ss/sd-scripts) is in a document here. `pipe migrate sd-scripts`
writes the document and says what became of every option of a set-up. Defaults are those of sd-scripts. *Not available
yet* means that the place is planned: the option is refused until it is there.

";

/// The reference page: option of sd-scripts → where it is here. Links lead to the pages beside it.
pub fn reference_page(product: &Product) -> String {
    let mut out = HEAD.to_owned();
    for (title, list) in options::topics() {
        out += &format!("## {title}\n\n| option | type | default | in | becomes |\n|---|---|---|---|---|\n");
        for opt in list {
            let default = if opt.default.is_empty() { "–".into() } else { code(opt.default) };
            row(&mut out, &[code(opt.name), type_of(opt.kind), default, opt.scripts.describe(), fate(opt, product)]);
        }
        out += "\n";
    }
    out += "## `--network_module`\n\n| module | becomes |\n|---|---|\n";
    for (name, node, field, note) in module_list() {
        let place = match field {
            Some(field) => of(&[node], &format!("{field}: true"), field, product),
            None => of(&[node], "", "", product),
        };
        row(&mut out, &[code(&name), with(place, note)]);
    }
    out += "\n## `--optimizer_type` and `--optimizer_args`\n\n| type | becomes | arguments |\n|---|---|---|\n";
    for o in OPTIMIZERS {
        let has = |field: &str| product.has_field(o.node, field);
        let one = |(name, field): &(&str, &str)| {
            if name == field { code(name) } else { format!("{} ({})", code(name), code(field)) }
        };
        let args: Vec<String> = o.args.iter().filter(|(_, field)| has(field)).map(one).collect();
        row(&mut out, &[code(o.name), with(of(&[o.node], "", "", product), o.changed), args.join(", ")]);
    }
    out += "\n## `--lr_scheduler`\n\n| scheduler | becomes |\n|---|---|\n";
    for s in SCHEDULES {
        let cell = match s.own {
            "" => s.note.to_owned(),
            own => {
                let takes = product.takes("optimizer.adamw", "schedule.type", &json!(own));
                let yet = if takes { "" } else { YET };
                with(format!("`schedule: {{ type: {own} }}`{yet}"), s.note)
            }
        };
        row(&mut out, &[code(s.name), cell]);
    }
    out += "\n## Lines of a prompt file\n\n| option | becomes |\n|---|---|\n";
    for (name, path) in PROMPT_OPTIONS {
        let cell = if path.is_empty() { "not available".into() } else { place(path, product) };
        row(&mut out, &[code(&format!("--{name}")), cell]);
    }
    out
}

const YET: &str = ", not available yet";

fn row(out: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    *out += &format!("| {} |\n", cells.join(" | "));
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn with(cell: String, note: &str) -> String {
    if note.is_empty() { cell } else { format!("{cell}; {note}") }
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

/// Node types that a node of a migrated document may have.
fn types<'p>(node: &str, product: &'p Product) -> Vec<&'p str> {
    let known = |wanted: &dyn Fn(&str) -> bool| product.types().filter(|name| wanted(name)).collect();
    match node {
        "model" => known(&|name| name.starts_with("model.")),
        "cached" => known(&|name| name.starts_with("cacher.")),
        "lora" => known(&|name| name.starts_with("adapter.") && name != "adapter.full"),
        "optimizer" => known(&|name| name.starts_with("optimizer.")),
        "loss" => known(&|name| ["loss.diffusion", "loss.flow"].contains(&name)),
        "save" => known(&|name| name.starts_with("saver.")),
        "clip" => known(&|name| ["encoder.clip_l", "encoder.clip_h", "encoder.clip_g"].contains(&name)),
        "vae" => known(&|name| name == "encoder.vae"),
        "clip_l" => known(&|name| name == "encoder.clip_l"),
        "clip_g" => known(&|name| name == "encoder.clip_g"),
        "t5" => known(&|name| name == "encoder.t5xxl"),
        "gemma" => known(&|name| name == "encoder.gemma"),
        "images" => known(&|name| name == "loader.images"),
        "full" => known(&|name| name == "adapter.full"),
        "preview" => known(&|name| name == "sampler.preview"),
        logger => known(&|name| name.strip_prefix("logger.") == Some(logger)),
    }
}

/// A place of a document with links to the pages of its types.
fn place(path: &str, product: &Product) -> String {
    let Some(rest) = path.strip_prefix("nodes.") else {
        return match product.has_head(path) {
            _ if path.contains(' ') => path.to_owned(),
            true => format!("[{}](settings.md)", code(path)),
            false => format!("{}{YET}", code(path)),
        };
    };
    let (node, field) = rest.split_once('.').unwrap_or((rest, "type"));
    let field = if field == "type" { "" } else { field };
    let logger = format!("logger.{node}");
    match &types(node, product)[..] {
        [] => of(&[logger.as_str()], field, field, product),
        types => of(types, field, field, product),
    }
}

/// `shown` of those types that have a field.
fn of(types: &[&str], shown: &str, field: &str, product: &Product) -> String {
    let has = |name: &str| product.has_type(name) && (field.is_empty() || product.has_field(name, field));
    let having: Vec<&str> = types.iter().copied().filter(|name| has(name)).collect();
    let kind = types.first().and_then(|name| name.split_once('.')).map_or("", |(kind, _)| kind);
    let all = product.types().filter(|name| name.starts_with(&format!("{kind}."))).count();
    let link = |name: &&str| format!("[{}](nodes/{name}.md)", code(name));
    let list = match (having.len(), types) {
        (0, [only]) => code(only),
        (0, _) => code(&format!("{kind}.*")),
        (n, _) if n > 3 && n + 1 >= all => code(&format!("{kind}.*")),
        (n, _) if n > 3 => format!("{} and {} more", link(&having[0]), n - 1),
        _ => having.iter().map(link).collect::<Vec<_>>().join(", "),
    };
    let yet = if having.is_empty() { YET } else { "" };
    if shown.is_empty() { format!("{list}{yet}") } else { format!("{} of {list}{yet}", code(shown)) }
}

fn fate(opt: &Opt, product: &Product) -> String {
    let mut text = match opt.fate {
        Fate::Set(path, _) | Fate::Part(path) => place(path, product),
        Fate::Refused(why) => format!("refused: {why}"),
        Fate::Ignored(why) => format!("ignored: {why}"),
    };
    if opt.works != opt.scripts {
        let (on, off) = (opt.works.describe(), opt.scripts.but(opt.works).describe());
        text += &if on.len() < off.len() { format!("; only in {on}") } else { format!("; no effect in {off}") };
    }
    with(text, opt.note)
}
