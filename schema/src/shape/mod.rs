//! What a field takes: the registry's schemas read into one small model.
//!
//! The registry gives JSON Schema in the normal form of `pipe_core::registry`; the structural
//! check interprets it directly. The editor schema, the reference pages and the field list are
//! all made from the [`Shape`] of a field, so that they cannot tell different stories. Does not
//! know any output format.

mod limits;
mod read;
mod union;

use serde_json::Value as Json;

pub(crate) use limits::Limits;
pub(crate) use read::table_of;

/// What a value may be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// The form itself.
    pub kind: Kind,
    /// Name of the config type it was declared as, such as `Warmup`.
    pub def: Option<String>,
    /// Text of that type, for places where the field has none.
    pub description: String,
}

/// Forms of values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Anything but null.
    Any,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number {
        /// Whole numbers alone.
        integer: bool,
        /// Least and largest.
        limits: Limits,
    },
    /// Text.
    Text(Text),
    /// One of fixed values, each with its text.
    Choice(Vec<(Json, String)>),
    /// A list.
    List(List),
    /// A table with known fields, or with values by name.
    Table(Table),
    /// A table whose `tag` field tells which fields it has.
    Tagged {
        /// The field's name.
        tag: String,
        /// What it may be.
        variants: Vec<Variant>,
    },
    /// One of several forms that differ by their JSON type, or that only trying can tell apart.
    OneOf(Vec<Shape>),
}

/// Text with its limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Text {
    pub min: Option<u64>,
    pub max: Option<u64>,
    pub pattern: Option<String>,
    /// The pattern in words, after "must be".
    pub form: Option<String>,
}

/// A list with its limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct List {
    /// Forms of the first items.
    pub prefix: Vec<Shape>,
    /// Form of the other items; `None`: unchecked.
    pub items: Option<Box<Shape>>,
    pub min: Option<u64>,
    pub max: Option<u64>,
    pub unique: bool,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub fields: Vec<Field>,
    /// Form of the values under names that are not fields; `None`: no such names.
    pub rest: Option<Box<Shape>>,
    /// Nothing is known of the content.
    pub open: bool,
    pub min: u64,
    /// At most one of each group.
    pub exclusive: Vec<Vec<String>>,
    /// Exactly one of each group.
    pub one_of: Vec<Vec<String>>,
}

/// A field of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub name: String,
    pub shape: Shape,
    pub description: String,
    pub required: bool,
    pub default: Option<Json>,
    pub port: Option<Port>,
}

/// What a port field takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Port {
    pub accepts: Vec<String>,
    pub rate: String,
    pub many: bool,
}

/// A variant of a tagged table; `table` is without the tag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variant {
    pub value: String,
    pub description: String,
    pub table: Table,
}

impl Shape {
    /// A form without a name or text of its own.
    pub fn plain(kind: Kind) -> Shape {
        Shape { kind, def: None, description: String::new() }
    }

    /// Whether tables are among the values: such forms are written once and referred to.
    pub fn has_tables(&self) -> bool {
        match &self.kind {
            Kind::Table(_) | Kind::Tagged { .. } => true,
            Kind::OneOf(parts) => parts.iter().any(Shape::has_tables),
            _ => false,
        }
    }
}

/// Rustdoc text in paragraphs: lines of a paragraph are joined.
pub(crate) fn paragraphs(text: &str) -> String {
    let mut out = String::new();
    let mut fenced = false;
    for line in text.trim().lines() {
        let fence = line.trim_start().starts_with("```");
        let item = ["- ", "* ", "| ", "1. "].iter().any(|mark| line.trim_start().starts_with(mark));
        let joins = !fenced && !fence && !item && !line.trim().is_empty() && !out.is_empty() && !out.ends_with('\n');
        if joins {
            out.push(' ');
            out.push_str(line.trim());
        } else {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(line.trim_end());
        }
        if fence {
            fenced = !fenced;
            if !fenced {
                out.push('\n');
            }
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::paragraphs;

    #[test]
    fn lines_of_a_paragraph_are_joined() {
        assert_eq!(paragraphs("One\ntwo.\n\nThree\nfour.\n- a\n- b"), "One two.\n\nThree four.\n- a\n- b");
        assert_eq!(paragraphs("See:\n```text\na\n b\n```\nEnd."), "See:\n```text\na\n b\n```\n\nEnd.");
    }
}
