//! What the YAML parser says, in words that help: tabs, open quotes and brackets, indentation.

use granit_parser::{ErrorKind, ScanError};

use crate::diagnostic::{Diagnostic, FileId, Span};
use crate::document::MAX_DEPTH;

/// `read` is the end of what was understood.
pub(super) fn syntax_error(text: &str, file: FileId, base: usize, error: &ScanError, read: usize) -> Diagnostic {
    let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
    let end = text[at..].chars().next().filter(|c| *c != '\n').map_or(at, |c| at + c.len_utf8());
    let span = Span::new(file, base + at, base + end);
    let from = text[..at].rfind('\n').map_or(0, |newline| newline);
    if let Some(tab) = indentation_tab(text, from) {
        let span = Span::new(file, base + tab.start, base + tab.end);
        return Diagnostic::error("P0005", span, "a tab in the indentation").help("indent with blanks only");
    }
    if let Some(range) = deeper_key(text, at)
        && *error.kind() == ErrorKind::MappingValueNotAllowed
    {
        let span = Span::new(file, base + range.start, base + range.end);
        let message =
            format!("`{}` is indented deeper than the key before it, which has a value already", &text[range]);
        return Diagnostic::error("P0003", span, message).help("keys of one table stand at the same indentation");
    }
    // Inside brackets that stay open over lines, whatever follows is out of place; the bracket is at fault.
    let out_of_place = !matches!(
        error.kind(),
        ErrorKind::UnknownAnchor | ErrorKind::RecursionLimitExceeded | ErrorKind::UnclosedQuotedScalar
    );
    if let Some(open) = open_bracket(text, at).filter(|open| out_of_place && text[*open..at].contains('\n')) {
        let bracket = Span::new(file, base + open, base + open + 1);
        let message = format!("the `{}` is never closed", &text[open..=open]);
        return Diagnostic::error("P0003", bracket, message).label(span, "what stands here does not go on with it");
    }
    let (code, message, help) = match error.kind() {
        ErrorKind::UnknownAnchor => {
            let name: String =
                text[at..].chars().skip(1).take_while(|c| !c.is_whitespace() && !",[]{}".contains(*c)).collect();
            let end = at + 1 + name.len();
            let span = Span::new(file, base + at, base + end.min(text.len()));
            return Diagnostic::error("P0010", span, format!("there is no anchor `&{name}` before this alias"))
                .help("text that begins with `*` needs quotes");
        }
        ErrorKind::RecursionLimitExceeded => {
            ("P0012", format!("tables and lists are nested more than {MAX_DEPTH} levels deep"), None)
        }
        ErrorKind::MappingValueNotAllowed => (
            "P0003",
            "a `:` is not allowed here".to_owned(),
            Some("put text that holds `: ` in quotes; if a new key is meant, check the indentation of this line"),
        ),
        ErrorKind::UnclosedFlowCollection { open } => ("P0003", format!("the `{open}` is never closed"), None),
        ErrorKind::ExpectedFlowMappingSeparator => {
            ("P0003", "a `,` or `}` is missing before this".to_owned(), Some("is an earlier `{` left open?"))
        }
        ErrorKind::ExpectedFlowSequenceSeparator => {
            ("P0003", "a `,` or `]` is missing before this".to_owned(), Some("is an earlier `[` left open?"))
        }
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => (
            "P0003",
            "a key is expected here".to_owned(),
            Some("keys of one table stand at the same indentation, each as `key: value`"),
        ),
        ErrorKind::ExpectedBlockSequenceEntry => (
            "P0003",
            "a `-` is expected here".to_owned(),
            Some("a list and a table cannot be mixed at one indentation"),
        ),
        ErrorKind::SimpleKeyExpected => {
            ("P0003", "a `:` is missing after this key".to_owned(), Some("a blank must follow the `:`"))
        }
        ErrorKind::UnclosedQuotedScalar | ErrorKind::InvalidQuotedScalarIndent => {
            let open = text.get(read..at).and_then(|rest| rest.find(['"', '\''])).map_or(at, |quote| read + quote);
            let span = Span::new(file, base + open, base + (open + 1).min(text.len()));
            return Diagnostic::error("P0003", span, "this quote is never closed");
        }
        _ => ("P0003", error.info().trim_end_matches('.').to_owned(), None),
    };
    let diagnostic = Diagnostic::error(code, span, message);
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// The innermost bracket before `at` that is not closed by then; quotes and comments hold none.
fn open_bracket(text: &str, at: usize) -> Option<usize> {
    let (mut open, mut before, mut quote) = (Vec::new(), '\n', None);
    for (place, c) in text[..at].char_indices() {
        let begins = before.is_whitespace() || "[{,:".contains(before);
        match (quote, c) {
            (Some('#'), '\n') => quote = None,
            (Some(mark), c) => quote = (mark != c || mark == '#').then_some(mark),
            (None, '#') if before.is_whitespace() => quote = Some('#'),
            (None, '"' | '\'') if begins => quote = Some(c),
            (None, '[' | '{') if begins => open.push(place),
            (None, ']' | '}') => drop(open.pop()),
            _ => {}
        }
        before = c;
    }
    open.pop()
}

/// The first tab that indents a line, at or after the line that holds `from`.
fn indentation_tab(text: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let mut offset = text[..from].rfind('\n').map_or(0, |newline| newline + 1);
    for line in text[offset..].split_inclusive('\n').take(4) {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line[..indent].find('\t')
            && !line.trim().is_empty()
        {
            let tabs = line[tab..].len() - line[tab..].trim_start_matches('\t').len();
            return Some(offset + tab..offset + tab + tabs);
        }
        offset += line.len();
    }
    None
}

/// The key before a `:` that cannot stand there, when its line is indented deeper than the line
/// before, which has a value: the two were read as one text.
fn deeper_key(text: &str, colon: usize) -> Option<std::ops::Range<usize>> {
    let start = text[..colon].rfind('\n')? + 1;
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let key = start + indent(&text[start..colon])..colon;
    let before = text[..start].lines().rev().find(|line| !line.trim().is_empty())?;
    let plain = text[key.clone()].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let valued = before.split_once(": ").is_some_and(|(_, value)| !value.trim().is_empty());
    (plain && !key.is_empty() && valued && indent(before) < key.start - start).then_some(key)
}
