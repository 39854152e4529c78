//! Words of a command line, for commands that messages show.

/// A word as a shell takes it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    // The home folder is spelled out by the shell only outside quotes.
    let (home, rest) = match word.strip_prefix("~/") {
        Some(rest) => ("~/", rest),
        None => ("", word),
    };
    match rest.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("{home}'{}'", rest.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_shell_reads_the_same_word() {
        for (word, shown) in [
            ("a/b-1.yaml", "a/b-1.yaml"),
            ("", "''"),
            ("my model.safetensors", "'my model.safetensors'"),
            ("it's", r"'it'\''s'"),
            ("~/models/x", "~/models/x"),
            ("~/my models/x", "~/'my models/x'"),
            ("~", "'~'"),
            ("$(x)", "'$(x)'"),
        ] {
            assert_eq!(quote(word), shown);
        }
    }
}
