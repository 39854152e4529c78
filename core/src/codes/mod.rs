//! Every diagnostic code with the explanation that `pipe explain CODE` prints.
//!
//! One table, in order. Ranges: `P00xx` reading and syntax, `P01xx` structure, `P02xx` graph,
//! `P03xx` files and weights, `P04xx` compatibility between nodes, `P05xx` plan, `P09xx` run.
//! A code is never reused for another meaning.

mod document;
mod files;
mod graph;
mod run;

/// A diagnostic code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `P0104`.
    pub code: &'static str,
    /// One line.
    pub title: &'static str,
    /// Markdown: what it means, why it is an error, how to mend it.
    pub text: &'static str,
}

const fn code(code: &'static str, title: &'static str, text: &'static str) -> Code {
    Code { code, title, text }
}

/// All codes, in order.
pub fn all() -> impl Iterator<Item = &'static Code> {
    [document::CODES, graph::CODES, files::CODES, run::CODES].into_iter().flatten()
}

/// The entry of a code; case does not matter.
pub fn find(name: &str) -> Option<&'static Code> {
    all().find(|entry| entry.code.eq_ignore_ascii_case(name))
}

/// Whether a code is of a fault that a schema can see: fields, types of nodes, names, unfilled ports. `P0199` is not: a
/// config that passes the check and cannot be read.
pub fn is_structural(code: &str) -> bool {
    (code.starts_with("P01") && code != "P0199") || ["P0018", "P0201", "P0207", "P0214", "P0215"].contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_ordered_and_well_formed() {
        let codes: Vec<&str> = all().map(|entry| entry.code).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
        for entry in all() {
            assert!(entry.code.len() == 5 && entry.code.starts_with('P'), "{}", entry.code);
            assert!(!entry.title.ends_with('.') && !entry.title.is_empty(), "{}", entry.code);
            assert!(entry.text.ends_with('.') || entry.text.ends_with("```"), "{}", entry.code);
        }
    }

    /// Every `"Pnnnn"` in the sources of this crate is in the table.
    #[test]
    fn every_code_used_is_explained() {
        let mut folders = vec![std::path::PathBuf::from("src")];
        let pattern = regex::Regex::new(r#""(P[0-9]{4})""#).unwrap();
        let mut used = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                for found in pattern.captures_iter(&text) {
                    used += 1;
                    assert!(find(&found[1]).is_some(), "{} in {} is not in the table", &found[1], path.display());
                }
            }
        }
        assert!(used > 50);
    }
}
