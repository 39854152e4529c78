//! A pasted command line into words, as a POSIX shell would split it.
//!
//! Knows quotes, backslashes, comments and continued lines (also `^` of cmd and a backtick of PowerShell at a line's
//! end). Variables and patterns are not expanded: a word keeps its `$HOME` or `*`.

use crate::Error;

/// Words of a command line. Errors when a quote is never closed.
pub fn split(text: &str) -> Result<Vec<String>, Error> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            '\\' | '^' | '`' if at_line_end(&chars) => {
                while chars.next().is_some_and(|c| c != '\n') {}
                line += 1;
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '\'' | '"' => {
                let opened = line;
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(Error::Quote { line: opened, quote: c }),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some('\n') => line += 1,
                            Some(e @ ('"' | '\\' | '$' | '`')) => word.push(e),
                            Some(other) => word.extend(['\\', other]),
                            None => return Err(Error::Quote { line: opened, quote: c }),
                        },
                        Some(other) => {
                            line += usize::from(other == '\n');
                            word.push(other);
                        }
                    }
                }
            }
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            c if c.is_whitespace() => {
                line += usize::from(c == '\n');
                words.extend(word.take());
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Whether only blanks come before the end of the line; the end of the text is none.
fn at_line_end(rest: &std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    rest.clone().find(|c| !matches!(c, ' ' | '\t' | '\r')) == Some('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, expected) in [
            ("a  b\tc\n", vec!["a", "b", "c"]),
            ("--a=\"x y\" 'it''s' \"\"", vec!["--a=x y", "its", ""]),
            ("a \\\n  b \\ \r\n c ^\n d `\n e", vec!["a", "b", "c", "d", "e"]),
            (r#"C:\\x "a\"b" "c:\d" e\ f"#, vec![r"C:\x", "a\"b", r"c:\d", "e f"]),
            ("a # a comment\nb c#d", vec!["a", "b", "c#d"]),
            ("$HOME/*.txt '$x'", vec!["$HOME/*.txt", "$x"]),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn open_quotes_are_named() {
        assert_eq!(split("a\n b 'c\nd").unwrap_err(), Error::Quote { line: 2, quote: '\'' });
        assert_eq!(split("\"x\\").unwrap_err(), Error::Quote { line: 1, quote: '"' });
    }
}
