//! The reference pages: Markdown, one page a node type, and pages of settings and codes.

mod codes;
mod node;
mod settings;
mod table;

use pipe_core::registry::{Kind, Registry};

use crate::REFERENCE;

/// Kinds in the order of a run, with what they are; others follow as they come.
const KINDS: &[(&str, &str)] = &[
    ("loader", "Where images and captions come from."),
    ("cacher", "Encodes each image once and keeps the result."),
    ("encoder", "Image autoencoders and text encoders."),
    ("model", "The networks that are trained."),
    ("adapter", "What of a network learns."),
    ("loss", "What is made smaller."),
    ("optimizer", "How the weights change; drives the run."),
    ("saver", "Writes weights."),
    ("sampler", "Draws pictures while training."),
    ("logger", "Writes numbers."),
];

/// All pages: path from the root of the repository, and content. Equal registries give equal
/// pages, in equal order.
pub fn reference(registry: &Registry) -> Vec<(String, String)> {
    let mut pages = vec![(format!("{REFERENCE}/README.md"), index(registry))];
    for kind in registry.kinds() {
        pages.push((format!("{REFERENCE}/nodes/{}.md", kind.about.type_name), node::page(registry, kind)));
    }
    pages.push((format!("{REFERENCE}/settings.md"), settings::page(registry)));
    pages.push((format!("{REFERENCE}/codes.md"), codes::page()));
    pages
}

fn index(registry: &Registry) -> String {
    let mut page = String::from(
        "# Reference\n\n\
         Generated from the node registry by `pipe generate`; the texts are in the sources of the nodes.\n\n\
         - [Settings](settings.md): everything outside `nodes`\n\
         - [Commands](cli.md)\n\
         - [Options of sd-scripts](sd-scripts.md): where each of them is here\n\
         - [Diagnostic codes](codes.md)\n\n\
         ## Nodes\n",
    );
    for (name, about) in groups(registry) {
        page.push_str(&format!("\n### {name}\n\n"));
        if !about.is_empty() {
            page.push_str(&format!("{about}\n\n"));
        }
        page.push_str("| type | |\n|---|---|\n");
        for kind in registry.kinds().filter(|kind| group_of(kind) == name) {
            let name = kind.about.type_name;
            page.push_str(&format!("| [`{name}`](nodes/{name}.md) | {} |\n", table::cell(kind.about.summary)));
        }
    }
    page
}

/// The kinds that have nodes, with their texts.
fn groups(registry: &Registry) -> Vec<(&str, &'static str)> {
    let mut names: Vec<&str> = Vec::new();
    for name in registry.kinds().map(group_of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let place = |name: &str| KINDS.iter().position(|(known, _)| *known == name);
    names.sort_by_key(|name| place(name).unwrap_or(KINDS.len()));
    names.into_iter().map(|name| (name, place(name).map_or("", |place| KINDS[place].1))).collect()
}

fn group_of(kind: &Kind) -> &'static str {
    kind.about.type_name.split('.').next().unwrap_or_default()
}
