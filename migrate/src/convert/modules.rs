//! `--network_module`: the modules of the reference and of LyCORIS, and the node types that stand for them.

use serde_json::json;

use super::Job;
use crate::report::Kind;

/// A module.
pub(super) struct Module {
    name: &'static str,
    node: &'static str,
    /// A field that makes the node this module.
    field: Option<&'static str>,
    note: &'static str,
}

const fn of(name: &'static str, node: &'static str) -> Module {
    Module { name, node, field: None, note: "" }
}

/// Modules of the reference.
const MODULES: &[Module] = &[
    of("networks.lora", "adapter.lora"),
    of("networks.lora_flux", "adapter.lora"),
    of("networks.lora_sd3", "adapter.lora"),
    of("networks.lora_lumina", "adapter.lora"),
    Module {
        name: "networks.dylora",
        node: "adapter.dylora",
        field: None,
        note: "the published algorithm, which cuts the higher ranks off; sd-scripts lets them act (`algorithm: sd_scripts`)",
    },
    Module {
        name: "networks.lora_fa",
        node: "adapter.lora",
        field: Some("frozen_down"),
        note: "only what learns is clipped; in sd-scripts the gradients of the frozen factors pile up and shrink every step",
    },
    of("networks.oft", "adapter.oft"),
    of("networks.oft_flux", "adapter.oft"),
];

/// Algorithms of `lycoris.kohya`.
const ALGORITHMS: &[Module] = &[
    of("lora", "adapter.lora"),
    of("locon", "adapter.lora"),
    of("loha", "adapter.loha"),
    of("lokr", "adapter.lokr"),
    of("dora", "adapter.dora"),
    Module {
        name: "dylora",
        node: "adapter.dylora",
        field: None,
        note: "the published algorithm: α is divided by the ranks that act; LyCORIS divides by its slices",
    },
    of("diag-oft", "adapter.diag_oft"),
    of("boft", "adapter.boft"),
    of("ia3", "adapter.ia3"),
    of("glora", "adapter.glora"),
    Module {
        name: "full",
        node: "adapter.diff",
        field: None,
        note: "weight decay pulls towards the base model; in LyCORIS it pulls whole weights towards zero",
    },
];

/// Every module the reference has, and the algorithms of LyCORIS.
pub(crate) fn names() -> impl Iterator<Item = String> {
    let own = MODULES.iter().map(|module| module.name.to_owned());
    own.chain(ALGORITHMS.iter().map(|algo| format!("lycoris.kohya algo={}", algo.name)))
}

/// Every module with its node type, the field that makes the node this module, and what to know.
pub(crate) fn list() -> impl Iterator<Item = (String, &'static str, Option<&'static str>, &'static str)> {
    names().zip(MODULES.iter().chain(ALGORITHMS)).map(|(name, module)| (name, module.node, module.field, module.note))
}

impl Job<'_> {
    pub(super) fn is_module(&self, part: &str) -> bool {
        self.text("network_module").unwrap_or_default().contains(part)
    }

    fn known_module(&self) -> Option<&'static Module> {
        let name = self.text("network_module").unwrap_or("networks.lora");
        if !name.starts_with("lycoris") {
            return MODULES.iter().find(|module| module.name == name);
        }
        let dora = self.network_arg("dora_wd").is_some_and(super::network_args::yes);
        let algo = self.network_arg("algo").unwrap_or("lora").to_lowercase();
        let plain = ["lora", "locon"].contains(&algo.as_str());
        let algo = if dora && plain { "dora" } else { algo.as_str() };
        ALGORITHMS.iter().find(|module| module.name == algo)
    }

    /// Makes the adapter's node.
    pub(super) fn module(&mut self) {
        let path = "nodes.lora.type";
        let module = self.known_module();
        let exists = module.is_some_and(|module| self.draft.product().has_type(module.node));
        let node = module.filter(|_| exists).map_or("adapter.lora", |module| module.node);
        self.draft.node("lora", node);
        let field = module.and_then(|module| module.field);
        let miss = field.and_then(|field| self.draft.put(&format!("nodes.lora.{field}"), json!(true)).err());
        match (module, miss) {
            (None, _) => {
                let note = "a module written in Python cannot run here; `adapter.lora` stands in its place";
                self.tell("network_module", Kind::Refused, Some(path), note);
            }
            (Some(module), _) if !exists => {
                let note = format!("not available yet: `{}`; `adapter.lora` stands in its place", module.node);
                self.tell("network_module", Kind::Refused, Some(path), &note);
            }
            (Some(_), Some(miss)) => {
                let note = format!("{miss}; an ordinary LoRA stands in its place");
                self.tell("network_module", Kind::Refused, Some(path), &note);
            }
            (Some(module), None) if self.has("network_module") => {
                let kind = if module.note.is_empty() { Kind::Mapped } else { Kind::Changed };
                self.tell("network_module", kind, Some(path), module.note);
            }
            _ => {}
        }
    }
}
