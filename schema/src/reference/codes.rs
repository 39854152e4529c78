//! The page of diagnostic codes.

use pipe_core::codes;

/// First two digits of the codes of a stage, and what it is.
const STAGES: &[(&str, &str)] = &[
    ("P00", "Reading and syntax"),
    ("P01", "Fields"),
    ("P02", "Nodes and ports"),
    ("P03", "Files and weights"),
    ("P04", "Nodes that go together"),
    ("P05", "Plan"),
    ("P09", "Run"),
];

pub(super) fn page() -> String {
    let mut page =
        String::from("# Diagnostic codes\n\nWhat `pipe explain CODE` prints. A code keeps its meaning for good.\n");
    let mut stage = "";
    for entry in codes::all() {
        let prefix = &entry.code[..3];
        if prefix != stage {
            stage = prefix;
            let title = STAGES.iter().find(|(known, _)| *known == prefix).map_or(prefix, |(_, title)| title);
            page.push_str(&format!("\n## {title}\n"));
        }
        page.push_str(&format!("\n### {}: {}\n\n{}\n", entry.code, entry.title, entry.text.trim()));
    }
    page
}
