//! What messages may mention beyond the node they are about: other types, tables and nodes.

use crate::diagnostic::suggest::or_list;
use crate::document::Tree;
use crate::graph::{Givers, Graph};
use crate::registry::Registry;
use crate::structure::{self, Subject};

pub(super) struct Hints<'a> {
    registry: &'a Registry,
    tree: &'a Tree,
    givers: Option<Givers>,
}

impl<'a> Hints<'a> {
    pub(super) fn new(registry: &'a Registry, tree: &'a Tree, graph: Option<&Graph>) -> Self {
        Hints { registry, tree, givers: graph.map(|graph| Givers::new(registry, graph)) }
    }

    fn types(&self, field: &str, own: Option<&str>) -> Option<String> {
        let types: Vec<&str> = self.registry.types_with(field).iter().copied().filter(|ty| Some(*ty) != own).collect();
        match types.as_slice() {
            [] => None,
            few if few.len() <= 3 => Some(format!("`{field}` is a field of {}", or_list(few))),
            many => Some(format!("`{field}` is a field of {} and {} other types", or_list(&many[..2]), many.len() - 2)),
        }
    }
}

impl structure::Hints for Hints<'_> {
    fn elsewhere(&self, field: &str, subject: Subject) -> Option<String> {
        match subject {
            Subject::Document if self.tree.get(field).is_some_and(|value| value.get("type").is_some()) => {
                Some(format!("nodes stand under `nodes`: `nodes.{field}`"))
            }
            Subject::Document => self.types(field, None),
            Subject::Node(_, ty) => self.types(field, Some(ty)).or_else(|| {
                let settings = self.registry.settings_schema();
                let top = settings["properties"].get(field).is_some();
                let train = settings["$defs"]["Train"]["properties"].get(field).is_some();
                match (top, train) {
                    (true, _) => Some(format!("`{field}` stands at the top of the document")),
                    (_, true) => Some(format!("`{field}` stands in `train`, for the whole run")),
                    _ => None,
                }
            }),
        }
    }

    fn foreign(&self, field: &str, subject: Subject, has: &dyn Fn(&str) -> bool) -> Option<String> {
        super::foreign::named(field, subject, has)
    }

    fn candidates(&self, port: &str, subject: Subject) -> Option<String> {
        let Subject::Node(name, ty) = subject else { return None };
        let input = self.registry.kind(ty)?.input(port)?;
        self.givers.as_ref()?.fitting(input.accepts, name)
    }
}
