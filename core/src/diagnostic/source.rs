//! Places in source texts: byte spans, files and their lines and columns.

use std::path::{Path, PathBuf};

/// A file of [`SourceFiles`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A range of bytes in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// From byte offsets; texts are limited to far less than 4 GiB.
    pub fn new(file: FileId, start: usize, end: usize) -> Self {
        let start = u32::try_from(start).unwrap_or(u32::MAX);
        Span { file, start, end: u32::try_from(end).unwrap_or(u32::MAX).max(start) }
    }
    /// From the start of `self` to the end of `other`, in the same file.
    pub fn to(self, other: Span) -> Span {
        Span { end: self.end.max(other.end), ..self }
    }
}

/// A line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column in characters.
    pub column: usize,
}

/// A text with its name and the index of its lines.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// What is printed before the line number.
    pub path: PathBuf,
    /// The text.
    pub text: String,
    lines: Vec<usize>,
}

impl SourceFile {
    /// Indexes the lines of a text.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        SourceFile { path: path.into(), text, lines }
    }
    /// Number of the line, from 0, that holds a byte.
    pub fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset.min(self.text.len())) - 1
    }
    /// Byte range of a line, without its line break.
    pub fn line_range(&self, line: usize) -> std::ops::Range<usize> {
        let start = self.lines.get(line).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let end = if end > start && self.text.as_bytes()[end - 1] == b'\r' { end - 1 } else { end };
        start..end.max(start)
    }
    /// Text of a line, without its line break.
    pub fn line_text(&self, line: usize) -> &str {
        &self.text[self.line_range(line)]
    }
    /// Line and column of a byte.
    pub fn place(&self, offset: usize) -> Place {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.line_of(offset);
        let column = self.text[self.lines[line]..offset].chars().count() + 1;
        Place { line: line + 1, column }
    }
    /// The path as printed.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// The texts that diagnostics point into: the document, and one text for each `--set`.
#[derive(Clone, Debug, Default)]
pub struct SourceFiles(Vec<SourceFile>);

impl SourceFiles {
    /// No file yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a text.
    pub fn add(&mut self, path: impl AsRef<Path>, text: impl Into<String>) -> FileId {
        self.0.push(SourceFile::new(path.as_ref(), text));
        FileId(self.0.len() as u32 - 1)
    }
    /// The file of an id of this collection.
    pub fn get(&self, id: FileId) -> Option<&SourceFile> {
        self.0.get(id.0 as usize)
    }
    /// The text of a span, empty when out of range.
    pub fn text(&self, span: Span) -> &str {
        self.get(span.file).and_then(|file| file.text.get(span.start as usize..span.end as usize)).unwrap_or("")
    }
    /// Start and end place of a span.
    pub fn places(&self, span: Span) -> Option<(&SourceFile, Place, Place)> {
        let file = self.get(span.file)?;
        Some((file, file.place(span.start as usize), file.place(span.end as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let file = SourceFile::new("a", "é: ö\r\nnext\n");
        assert_eq!(file.place(0), Place { line: 1, column: 1 });
        assert_eq!(file.place("é: ".len()), Place { line: 1, column: 4 });
        assert_eq!(file.line_text(0), "é: ö");
        assert_eq!(file.place("é: ö\r\nne".len()), Place { line: 2, column: 3 });
        assert_eq!(file.place(1000), Place { line: 3, column: 1 });
    }
}
