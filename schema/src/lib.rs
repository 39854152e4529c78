//! The JSON Schema for editors and the reference pages, generated from the node registry.
//!
//! - [`json_schema`]: one draft-07 schema of whole documents, in the shape that YAML and TOML
//!   language servers serve best. It accepts exactly what the structural check accepts.
//! - [`reference`]: Markdown pages of all node types, settings and diagnostic codes.
//! - [`fields`] and [`field`]: the fields of a node type as a flat list, for the terminal.
//!
//! All three are made from the same reading of the registry's schemas. Pure functions: nothing
//! is written here, and equal registries give equal bytes.

mod editor;
mod fields;
mod reference;
mod shape;
mod words;

pub use editor::{SCHEMA_ID, json_schema};
pub use fields::{FieldDoc, PortDoc, field, fields, settings_fields};
pub use reference::reference;

/// Where the reference pages are, seen from the schema file.
pub const REFERENCE_FROM_SCHEMA: &str = "../docs/reference";

/// Where the reference pages are, seen from the root of the repository.
pub const REFERENCE: &str = "docs/reference";
