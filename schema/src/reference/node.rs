//! The page of a node type.

use pipe_core::registry::{Kind, Registry};

use super::table;
use crate::fields::{FieldDoc, fields};

pub(super) fn page(registry: &Registry, kind: &Kind) -> String {
    let about = kind.about;
    let fields: Vec<FieldDoc> = fields(registry, about.type_name);
    let mut page = format!("# `{}`\n\n{}\n", about.type_name, about.summary.trim());
    let details = about.details.trim();
    if !details.is_empty() {
        page.push_str(&format!("\n{details}\n"));
    }
    page.push_str(&format!("\n## Example\n\n```yaml\n{}```\n", example(about.example)));
    if !kind.inputs.is_empty() {
        page.push_str(&format!("\n## Inputs\n\n{}", table::inputs(&kind.inputs)));
    }
    if !kind.outputs.is_empty() {
        page.push_str(&format!("\n## Outputs\n\n{}", table::outputs(&kind.outputs)));
    }
    if fields.iter().any(|field| field.port.is_none()) {
        page.push_str(&format!("\n## Fields\n\n{}", table::fields(&fields)));
    }
    page
}

/// The entry of `nodes`, in its place.
fn example(entry: &str) -> String {
    let indent = |line: &str| if line.trim().is_empty() { "\n".to_owned() } else { format!("  {line}\n") };
    let lines: String = entry.trim().lines().map(indent).collect();
    format!("nodes:\n{lines}")
}
