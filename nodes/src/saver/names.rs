//! Templates of file names, such as `{name}-{epoch:06}`: written with numbers, and read back to find a run's own files.

/// Longest file name, without extension.
const LONGEST: usize = 200;

/// A checked template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A number of at least so many digits.
    Number(Field, usize),
}

/// What a number in a file name counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Epochs done.
    Epoch,
    /// Optimizer steps done.
    Step,
}

impl Template {
    /// Reads a template; `name` stands for `{name}`. Says what is wrong with it otherwise.
    pub fn parse(text: &str, name: &str) -> Result<Template, String> {
        let mut template = Template { pieces: Vec::new() };
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(open);
            template.text_piece(before);
            let inner = from.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let Some((field, after)) = inner else {
                return Err(format!("`{text}` has a brace without its other half"));
            };
            template.field(field, name)?;
            rest = after;
        }
        template.text_piece(rest);
        template.sound(text)?;
        Ok(template)
    }

    fn field(&mut self, field: &str, name: &str) -> Result<(), String> {
        let (word, format) = field.split_once(':').unwrap_or((field, ""));
        let number = match word {
            "name" if format.is_empty() => {
                self.text_piece(name);
                return Ok(());
            }
            "epoch" => Field::Epoch,
            "step" => Field::Step,
            _ => return Err(format!("`{{{field}}}` is none of `{{name}}`, `{{epoch}}` and `{{step}}`")),
        };
        let digits = format.strip_suffix('d').unwrap_or(format);
        let width = match digits {
            "" => Some(1),
            digits => digits.strip_prefix('0').and_then(|n| n.parse().ok()).filter(|n| (1..=20).contains(n)),
        };
        let width = width.ok_or_else(|| format!("`{{{field}}}`: a width is written as in `{{{word}:06}}`"))?;
        if matches!(self.pieces.last(), Some(Piece::Number(..))) {
            return Err("two numbers stand side by side; put a `-` between them".to_owned());
        }
        self.pieces.push(Piece::Number(number, width));
        Ok(())
    }

    fn text_piece(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(before)) => before.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    /// Whether every name that it makes is a plain file name.
    fn sound(&self, text: &str) -> Result<(), String> {
        let sample = self.text(1, 1);
        let bad = |c: char| c.is_control() || r#"/\:*?"<>|"#.contains(c);
        if let Some(c) = sample.chars().find(|c| bad(*c)) {
            return Err(format!("`{text}` has `{}`, which no file name may have everywhere", c.escape_default()));
        }
        if sample.is_empty() || sample.starts_with(['.', ' ']) || sample.ends_with(['.', ' ']) {
            return Err(format!("`{text}` makes a name that is empty, or begins or ends with a dot or a space"));
        }
        if sample.contains(".tmp-") {
            return Err(format!("`{text}` has `.tmp-`, which stands for files that are not finished"));
        }
        if sample.len() > LONGEST {
            return Err(format!("`{text}` makes names of more than {LONGEST} bytes"));
        }
        Ok(())
    }

    /// Whether a number is in it.
    pub fn has(&self, wanted: Field) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Number(field, _) if *field == wanted))
    }

    /// The name at a point of the run.
    pub fn text(&self, epoch: u64, step: u64) -> String {
        let write = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Number(Field::Epoch, width) => format!("{epoch:0width$}"),
            Piece::Number(Field::Step, width) => format!("{step:0width$}"),
        };
        self.pieces.iter().map(write).collect()
    }

    /// The template as it was written, with the name in it.
    pub fn written(&self) -> String {
        let write = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Number(field, width) => {
                let word = if *field == Field::Epoch { "epoch" } else { "step" };
                if *width == 1 { format!("{{{word}}}") } else { format!("{{{word}:{width:02}}}") }
            }
        };
        self.pieces.iter().map(write).collect()
    }

    /// Epoch and step of a name that it made; 0 for what is not in it.
    pub fn read(&self, name: &str) -> Option<(u64, u64)> {
        self.read_from(&self.pieces, name, [None; 2]).map(|[e, s]| (e.unwrap_or(0), s.unwrap_or(0)))
    }

    fn read_from(&self, pieces: &[Piece], rest: &str, found: [Option<u64>; 2]) -> Option<[Option<u64>; 2]> {
        let Some((first, more)) = pieces.split_first() else { return rest.is_empty().then_some(found) };
        match first {
            Piece::Text(text) => self.read_from(more, rest.strip_prefix(text.as_str())?, found),
            Piece::Number(field, width) => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                (*width..=digits).rev().find_map(|n| {
                    let value: u64 = rest[..n].parse().ok()?;
                    let place = *field as usize;
                    let same = found[place].is_none_or(|other| other == value);
                    // No other number is written like this one.
                    let own = format!("{value:0width$}") == rest[..n];
                    let mut found = found;
                    found[place] = Some(value);
                    if same && own { self.read_from(more, &rest[n..], found) } else { None }
                })
            }
        }
    }

    /// Whether a name could be of both: then neither would know its own files.
    pub fn meets(&self, other: &Template) -> bool {
        pipe_core::pattern::meet(&self.written(), &other.written())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Template {
        Template::parse(text, "cat-1").unwrap()
    }

    #[test]
    fn written_and_read_back() {
        for (text, expected) in [
            ("{name}-{epoch:06}", "cat-1-000003"),
            ("{name}-step{step:08d}", "cat-1-step00000120"),
            ("{epoch}_{step}_{name}", "3_120_cat-1"),
            ("ep{epoch:02}.{step}", "ep03.120"),
            ("x{step}0{epoch}", "x12003"),
        ] {
            let template = of(text);
            assert_eq!(template.text(3, 120), expected);
            let (epoch, step) = template.read(expected).unwrap();
            assert!(!template.has(Field::Epoch) || epoch == 3, "{text}");
            assert!(!template.has(Field::Step) || step == 120, "{text}");
        }
        let epochs = of("{name}-{epoch:06}");
        for other in ["cat-1", "cat-1-00003", "cat-1-0000033x", "cat-1-step00000120", "cat-2-000003", "cat-1-0000003"] {
            assert_eq!(epochs.read(other), None, "{other}");
        }
        assert_eq!(epochs.read("cat-1-1000000"), Some((1_000_000, 0)), "longer than its width");
        assert_eq!(of("{step}-{step}").read("1-2"), None);
    }

    #[test]
    fn what_is_no_template() {
        for (text, part) in [
            ("{name", "brace"),
            ("name}", "brace"),
            ("{nam}", "is none of"),
            ("{name:3}", "is none of"),
            ("{epoch:6}", "as in `{epoch:06}`"),
            ("{epoch:0x}", "as in"),
            ("{epoch}{step}", "side by side"),
            ("a/{step}", "no file name"),
            ("..{step}", "dot"),
            ("", "empty"),
            ("a.tmp-{step}", "not finished"),
        ] {
            let error = Template::parse(text, "cat").unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Template::parse(&"a".repeat(300), "cat").is_err());
    }

    #[test]
    fn templates_that_a_name_could_be_of() {
        let meet = |a: &str, b: &str| of(a).meets(&of(b));
        assert!(!meet("{name}-{epoch:06}", "{name}-step{step:08}"));
        assert!(!meet("{name}", "{name}-{epoch}"));
        assert!(meet("{name}-{epoch}", "{name}-{step}"));
        assert!(meet("{name}-{epoch}", "{name}-{step:08}"));
        assert!(meet("{name}-1", "{name}-{step}"));
        assert!(meet("a{step}", "a1{epoch}"));
        assert!(!meet("a{step}b", "a{step}c"));
    }
}
