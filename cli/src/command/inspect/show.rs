//! An inspection for people.

use std::fmt::{Display, Write as _};

use pipe_core::plan::{bytes_text, count_text};
use pipe_data::weights::shown;

use super::{Inspection, Part};
use crate::terminal::Paint;

/// Longest metadata text shown in full.
const LONGEST: usize = 100;

pub fn human(found: &Inspection, paint: Paint) -> String {
    let mut out = format!("{}\n", paint.bold(&found.path));
    for part in &found.parts {
        if !part.name.is_empty() {
            let _ = writeln!(out, "\n{}", paint.bold(&part.name));
        }
        out.push_str(&lines(part, paint));
    }
    if found.parts.len() > 1 {
        let parameters = found.parts.iter().map(|part| part.parameters).sum();
        let bytes = found.parts.iter().map(|part| part.bytes).sum();
        let _ = writeln!(out, "\ntogether {} parameters, {}", count_text(parameters), bytes_text(bytes));
    }
    out
}

fn lines(part: &Part, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "  {}  {text}", paint.cyan(&format!("{name:<12}")));
    };
    line("architecture", &part.architecture);
    part.layout.iter().for_each(|layout| line("layout", layout));
    if !part.contains.is_empty() {
        line("contains", &part.contains.join(", "));
    }
    let (tensors, parameters) = (part.tensors, count_text(part.parameters));
    line("tensors", &format!("{tensors} with {parameters} parameters, {}", bytes_text(part.bytes)));
    for (dtype, amount) in &part.dtypes {
        let (tensors, parameters) = (amount.tensors, count_text(amount.parameters));
        line("", &format!("{dtype}: {tensors} with {parameters} parameters, {}", bytes_text(amount.bytes)));
    }
    if part.files.len() > 1 {
        line("files", &part.files.len().to_string());
    }
    if let Some(adapter) = &part.adapter {
        line("layers", &adapter.modules.to_string());
        match (adapter.ranks.is_empty(), adapter.blocks.is_empty(), adapter.whole) {
            (true, false, _) => line("blocks", &span(&adapter.blocks)),
            (true, true, 1..) => line("rank", "none: its factors are whole"),
            (_, _, 0) => line("rank", &span(&adapter.ranks)),
            (_, _, whole) => line("rank", &format!("{}; {whole} layers have whole factors", span(&adapter.ranks))),
        }
        if !adapter.alphas.is_empty() || adapter.blocks.is_empty() {
            line("alpha", &span(&adapter.alphas));
        }
        adapter.base.iter().for_each(|base| line("base", base));
        adapter.training.iter().for_each(|(name, text)| line(name, &shorten(text)));
    }
    part.notes.iter().for_each(|note| line("note", note));
    // The adapter's lines have said what is worth reading of these.
    let told = |key: &str| part.adapter.is_some() && (key.starts_with("ss_") || key.starts_with("sshs_"));
    for (at, (key, text)) in part.metadata.iter().filter(|(key, _)| !told(key)).enumerate() {
        line(if at == 0 { "metadata" } else { "" }, &format!("{}: {}", shown(key), shorten(text)));
    }
    for tensor in part.tensor_list.iter().flatten() {
        let _ = writeln!(out, "  {} {} {:?}", shown(&tensor.name), paint.dim(tensor.dtype), tensor.shape);
    }
    out
}

/// `16`, or `4 to 32` of several.
fn span<T: Display>(values: &[T]) -> String {
    match values {
        [] => "not given".into(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first} to {last}"),
    }
}

/// One line without control characters: metadata come from strangers.
fn shorten(text: &str) -> String {
    let mut clean: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        clean.push_str(&format!("… ({} characters)", text.chars().count()));
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_write_to_the_terminal() {
        assert_eq!(shorten("a\u{1b}[31mb\n"), "a [31mb ");
        assert!(shorten(&"x".repeat(1000)).ends_with("x… (1000 characters)"));
        assert_eq!(span(&[4, 8, 16]), "4 to 16");
    }
}
