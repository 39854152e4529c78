//! Prompts files as sd-scripts reads them.
//!
//! A `.txt` file has a prompt a line, options behind ` --`: `a fox --n blurry --w 768 --h 512 --d 7 --s 30 --l 7.5`.
//! A `.toml` file has defaults in `[prompt]` and a `[[prompt.subset]]` for each picture; a `.json` file is a list of
//! lines or tables. Every fault of a file is told with its line.

use std::path::Path;

use pipe_core::document::{Document, Map, Syntax, Value};
use serde_json::Value as Json;

use super::prompts::{LINE, Prompt, set, set_entry};

/// Largest prompts file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A fault of a prompts file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Prompts of a file with their lines.
pub type Lines = Vec<(usize, Prompt)>;

/// Reads a prompts file. `Err` has all that is wrong with it.
pub fn read(path: &Path) -> Result<Lines, Vec<Fault>> {
    let whole = |message: String| vec![Fault { line: 0, message }];
    let about = std::fs::metadata(path).map_err(|e| whole(format!("it cannot be read: {e}")))?;
    if about.len() > MAX_BYTES {
        return Err(whole(format!("it has {} bytes, a prompts file at most {MAX_BYTES}", about.len())));
    }
    let bytes = std::fs::read(path).map_err(|e| whole(format!("it cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        vec![Fault { line, message: "it is not UTF-8 text".into() }]
    })?;
    let list = parse(path, text.trim_start_matches('\u{feff}'))?;
    if list.is_empty() { Err(whole("it holds no prompt".into())) } else { Ok(list) }
}

fn parse(path: &Path, text: &str) -> Result<Lines, Vec<Fault>> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (mut list, mut faults) = (Lines::new(), Vec::new());
    let mut take = |line: usize, read: Result<Prompt, String>| match read {
        Ok(prompt) => list.push((line, prompt)),
        Err(message) => faults.push(Fault { line, message }),
    };
    match extension.as_str() {
        "toml" => toml(path, text, &mut take),
        "json" => json(text, &mut take),
        _ => {
            let lines = text.lines().map(str::trim).enumerate();
            lines
                .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
                .for_each(|(i, line)| take(i + 1, of_line(line)));
        }
    }
    if faults.is_empty() { Ok(list) } else { Err(faults) }
}

/// A prompt with options behind ` --`.
fn of_line(line: &str) -> Result<Prompt, String> {
    let mut parts = line.split(" --");
    let mut prompt = Prompt { prompt: parts.next().unwrap_or_default().trim().to_owned(), ..Prompt::default() };
    if prompt.prompt.is_empty() || prompt.prompt.starts_with("--") {
        return Err("there is no prompt before the options".into());
    }
    for part in parts {
        let (name, value) = part.trim().split_once(char::is_whitespace).unwrap_or((part.trim(), ""));
        let option = LINE.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some((_, option)) = option else {
            let known: Vec<String> = LINE.iter().map(|(name, _)| format!("--{name}")).collect();
            return Err(format!("`--{name}` is none of the options {}", known.join(", ")));
        };
        let value = value.trim();
        if value.is_empty() {
            return Err(format!("`--{name}` needs a value"));
        }
        set(&mut prompt, *option, &Json::from(value)).map_err(|why| format!("`--{name}` {why}"))?;
    }
    Ok(prompt)
}

fn complete(prompt: Prompt) -> Result<Prompt, String> {
    if prompt.prompt.trim().is_empty() { Err("there is no `prompt`".into()) } else { Ok(prompt) }
}

/// `[prompt]` with defaults, and a `[[prompt.subset]]` for each picture.
fn toml(path: &Path, text: &str, take: &mut impl FnMut(usize, Result<Prompt, String>)) {
    let document = Document::parse(text, path, Syntax::Toml, &[]);
    let line = |span| document.files.places(span).map_or(0, |(_, from, _)| from.line);
    if let Some(fault) = document.diagnostics.first() {
        return take(line(fault.span), Err(fault.message.clone()));
    }
    let Some(root) = document.tree.as_ref().and_then(|tree| tree.as_map()) else { return };
    if let Some((key, entry)) = root.iter().find(|(key, _)| *key != "prompt") {
        return take(line(entry.key_span), Err(format!("`{key}` is not `prompt`, the only table here")));
    }
    let Some(shared) = root.get("prompt").and_then(|entry| entry.value.as_map()) else {
        return take(0, Err("it has no table `[prompt]`".into()));
    };
    let read = |prompt: &mut Prompt, map: &Map| -> Result<(), (usize, String)> {
        for (key, entry) in map.iter().filter(|(key, _)| *key != "subset") {
            set_entry(prompt, key, &entry.value.to_json()).map_err(|why| (line(entry.key_span), why))?;
        }
        Ok(())
    };
    let mut defaults = Prompt::default();
    if let Err((at, why)) = read(&mut defaults, shared) {
        return take(at, Err(why));
    }
    let Some(subsets) = shared.get("subset").and_then(|entry| entry.value.as_seq()) else {
        return take(0, Err("it has no `[[prompt.subset]]`, one for each picture".into()));
    };
    for subset in subsets {
        let at = line(subset.span);
        let Value::Map(map) = &subset.value else {
            take(at, Err(format!("a subset is a table, found {}", subset.describe())));
            continue;
        };
        let mut prompt = defaults.clone();
        match read(&mut prompt, map) {
            Ok(()) => take(at, complete(prompt)),
            Err((at, why)) => take(at, Err(why)),
        }
    }
}

/// A list of lines or tables.
fn json(text: &str, take: &mut impl FnMut(usize, Result<Prompt, String>)) {
    let root: Json = match serde_json::from_str(text) {
        Ok(root) => root,
        Err(error) => return take(error.line(), Err(format!("it is no JSON: {error}"))),
    };
    let Json::Array(items) = root else {
        return take(1, Err("it is a list of prompts: texts or tables".into()));
    };
    for (item, line) in items.iter().zip(element_lines(text).into_iter().chain(std::iter::repeat(0))) {
        let read = match item {
            Json::String(text) => of_line(text.trim()),
            Json::Object(map) => {
                let mut prompt = Prompt::default();
                let set = map.iter().try_for_each(|(key, value)| set_entry(&mut prompt, key, value));
                set.and_then(|()| complete(prompt))
            }
            other => Err(format!("a prompt is a text or a table, found `{other}`")),
        };
        take(line, read);
    }
}

/// The line on which each element of the outermost list begins; the text is JSON.
fn element_lines(text: &str) -> Vec<usize> {
    let (mut lines, mut depth, mut line) = (Vec::new(), 0, 1);
    let (mut quoted, mut escaped, mut begun) = (false, false, false);
    for c in text.chars() {
        line += usize::from(c == '\n');
        if quoted {
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        if depth == 1 && !begun && !c.is_whitespace() && c != ']' {
            lines.push(line);
            begun = true;
        }
        match c {
            '"' => quoted = true,
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            ',' if depth == 1 => begun = false,
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use pipe_train::solve::Solver;

    use super::*;

    fn of(name: &str, text: &str) -> Result<Lines, Vec<Fault>> {
        parse(Path::new(name), text)
    }

    fn fox() -> Prompt {
        Prompt {
            prompt: "a fox, red".into(),
            negative_prompt: "blurry".into(),
            width: Some(768),
            height: Some(512),
            seed: Some(7),
            steps: Some(30),
            guidance_scale: Some(6.5),
            embedded_guidance: Some(3.0),
            sampler: Some(Solver::EulerAncestral),
            ..Prompt::default()
        }
    }

    #[test]
    fn three_forms_of_one_list() {
        let text =
            "# pictures\n\na fox, red --n blurry --W 768 --h 512 --d 7 --s 30 --l 6.5 --g 3 --ss euler_a\n  plain \n";
        assert_eq!(
            of("p.txt", text).unwrap(),
            [(3, fox()), (4, Prompt { prompt: "plain".into(), ..Prompt::default() })]
        );
        let toml = "[prompt]\nwidth = 768\nheight = 512\nscale = 6.5\nnegative_prompt = 'blurry'\n\n[[prompt.subset]]\n\
                    prompt = 'a fox, red'\nseed = 7\nsample_steps = 30\nguidance_scale = 3\nsample_sampler = 'k_euler_a'\n";
        let list = of("p.TOML", toml).unwrap();
        assert_eq!(list.iter().map(|(_, prompt)| prompt.clone()).collect::<Vec<_>>(), [fox()]);
        let json = "[\n  \"plain --s 5\",\n  {\"prompt\": \"a fox, red\", \"negative_prompt\": \"blurry\", \"width\": 768,\n   \
                    \"height\": 512, \"seed\": 7, \"sample_steps\": 30, \"scale\": 6.5, \"guidance_scale\": 3.0,\n   \
                    \"sample_sampler\": \"euler_a\"}\n]";
        let list = of("p.json", json).unwrap();
        assert_eq!((list[0].0, list[0].1.steps), (2, Some(5)));
        assert_eq!(list[1], (3, fox()));
        let lumina = of("p.txt", "x --ctr 0.5 --rcfg 2 --fs 4").unwrap().remove(0).1;
        let found = (lumina.guidance_truncation, lumina.guidance_renorm, lumina.flow_shift);
        assert_eq!(found, (Some(0.5), Some(2.0), Some(4.0)));
    }

    #[test]
    fn every_fault_has_its_line() {
        let faults = |name: &str, text: &str| -> Vec<(usize, String)> {
            of(name, text).unwrap_err().into_iter().map(|f| (f.line, f.message)).collect()
        };
        let found =
            faults("p.txt", "good\nbad --w big\n# no\n--n only\nc --x 1\nd --s 0\ne --w\nf --ss lms\ng --cn a.png\n");
        let expected = [
            (2, "`--w` needs a whole number, found `big`"),
            (4, "there is no prompt before the options"),
            (5, "`--x` is none of the options"),
            (6, "`--s` must be from 1 to 1000, found 0"),
            (7, "`--w` needs a value"),
            (8, "`--ss` is `lms`; the samplers here are"),
            (9, "`--cn` names a picture for a ControlNet"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((line, message), (at, part)) in found.iter().zip(expected) {
            assert!(*line == at && message.starts_with(part), "{line}: {message}");
        }
        for (name, text, line, part) in [
            ("p.toml", "[prompt]\nwidth = 'x'\n", 2, "`width` needs a whole number"),
            ("p.toml", "[prompt]\nwidth = 8\n", 0, "no `[[prompt.subset]]`"),
            ("p.toml", "[prompt]\n[[prompt.subset]]\nseed = 1\n", 2, "there is no `prompt`"),
            ("p.toml", "[other]\na = 1\n", 1, "`other` is not `prompt`"),
            ("p.toml", "[[prompt.subset]]\nprompt = 'a'\nheigth = 8\n", 3, "`heigth` is none of"),
            ("p.toml", "a = = 1", 1, ""),
            ("p.json", "{", 1, "no JSON"),
            ("p.json", "{}", 1, "a list of prompts"),
            ("p.json", "[\"a\",\n 5]", 2, "a text or a table"),
            ("p.json", "[{\"prompt\": \"a [\\\"] b\"},\n\n{\"width\": 8}]", 3, "there is no `prompt`"),
        ] {
            let found = faults(name, text);
            assert!(found[0].0 == line && found[0].1.contains(part), "{text}: {found:?}");
        }
    }
}
