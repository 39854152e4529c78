//! One fault told once: the same file missing or damaged at several places of a document is one diagnostic with all of
//! its places.

use crate::diagnostic::Diagnostic;

/// What a file of the document is at fault with, wherever it is named.
const FILES: [&str; 5] = ["P0301", "P0302", "P0303", "P0304", "P0305"];

/// Joins diagnostics of one text about files; the first place leads, the others are its further places.
pub(super) fn gather(all: &mut Vec<Diagnostic>) {
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(all.len());
    for one in all.drain(..) {
        let same = |other: &&mut Diagnostic| {
            FILES.contains(&one.code)
                && (other.code, other.severity, &other.message, &other.help)
                    == (one.code, one.severity, &one.message, &one.help)
        };
        match kept.iter_mut().find(same) {
            Some(first) => first.also.push(one.span),
            None => kept.push(one),
        }
    }
    *all = kept;
}
