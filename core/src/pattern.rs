//! Names of files with numbers in them, such as `cat-{epoch:06}`: whether two of them could be one name.

/// A piece of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Char(char),
    Digit,
    /// Any number of digits, also none.
    Digits,
}

impl Symbol {
    fn goes_with(self, other: Symbol) -> bool {
        match (self, other) {
            (Symbol::Char(a), Symbol::Char(b)) => a == b,
            (Symbol::Char(c), _) | (_, Symbol::Char(c)) => c.is_ascii_digit(),
            _ => true,
        }
    }
}

/// A name's symbols: `{epoch}` and `{step}` stand for a number, `{step:08}` for one of eight digits at least.
fn symbols(name: &str) -> Vec<Symbol> {
    let mut list = Vec::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let number = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).and_then(|(field, after)| {
            let (word, width) = field.split_once(':').unwrap_or((field, "1"));
            let width: usize = width.trim_end_matches('d').parse().ok().filter(|width| *width <= 100)?;
            ["epoch", "step"].contains(&word).then_some((width, after))
        });
        match number {
            Some((width, after)) => {
                list.extend(std::iter::repeat_n(Symbol::Digit, width.max(1)));
                list.push(Symbol::Digits);
                rest = after;
            }
            None => {
                list.push(Symbol::Char(c));
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    list
}

/// Whether a name could be of both patterns.
///
/// ```
/// use pipe_core::pattern::meet;
/// assert!(meet("cat-{epoch:06}", "cat-000003"));
/// assert!(!meet("cat-{epoch:06}", "cat-3"));
/// ```
pub fn meet(a: &str, b: &str) -> bool {
    let (a, b) = (symbols(a), symbols(b));
    let mut seen = vec![false; (a.len() + 1) * (b.len() + 1)];
    let mut stack = vec![(0, 0)];
    while let Some((i, j)) = stack.pop() {
        if std::mem::replace(&mut seen[i * (b.len() + 1) + j], true) {
            continue;
        }
        let (x, y) = (a.get(i).copied(), b.get(j).copied());
        if x.is_none() && y.is_none() {
            return true;
        }
        if x == Some(Symbol::Digits) {
            stack.push((i + 1, j));
        }
        if y == Some(Symbol::Digits) {
            stack.push((i, j + 1));
        }
        let (Some(x), Some(y)) = (x, y) else { continue };
        if x.goes_with(y) {
            let after = |symbol: Symbol, at: usize| if symbol == Symbol::Digits { at } else { at + 1 };
            stack.push((after(x, i), after(y, j)));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::meet;

    #[test]
    fn numbers_have_their_width() {
        for (a, b, expected) in [
            ("cat", "cat", true),
            ("cat", "dog", false),
            ("cat-{epoch:06}", "cat-step{step:08}", false),
            ("cat-{epoch:06}", "cat-000001", true),
            ("cat-{epoch:06}", "cat-1000001", true),
            ("cat-{epoch:06}", "cat-2", false),
            ("cat-{epoch:06}.safetensors", "cat-2-{epoch:06}.safetensors", false),
            ("cat-{epoch}", "cat-{step:08}", true),
            ("a{step}", "a1{epoch}", true),
            ("a{step}b", "a{step}c", false),
            ("a{step}", "a{", false),
            ("{other}", "{other}", true),
        ] {
            assert_eq!((meet(a, b), meet(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
