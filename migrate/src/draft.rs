//! The document while it is made: nodes in order, fields with comments, and its YAML.

use indexmap::IndexMap;
use pipe_core::document::scalar;
use serde_json::{Map, Value as Json, json};

use crate::product::{Fit, Product};

/// A document under construction.
#[derive(Clone, Debug)]
pub struct Draft {
    product: Product,
    head: Map<String, Json>,
    nodes: IndexMap<String, Map<String, Json>>,
    /// Comments by path, behind the line of their field.
    comments: IndexMap<String, String>,
    /// Lines in front of the document.
    pub intro: Vec<String>,
    /// What is put before relative paths: the way from the document's folder to the one they start from.
    pub base: String,
}

/// Fields of nodes that name files and folders.
const PATHS: [&str; 7] = ["path", "weights", "tokenizer", "masks", "folder", "prompts_file", "thumbnail"];

/// Puts `base` before the relative paths of a table and those inside it.
fn rebase(value: &mut Json, base: &str) {
    match value {
        Json::Object(map) => {
            for (key, value) in map.iter_mut() {
                match value {
                    Json::String(path) if PATHS.contains(&key.as_str()) && is_relative(path) => {
                        *path = format!("{}/{path}", base.trim_end_matches('/'));
                    }
                    _ => rebase(value, base),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| rebase(item, base)),
        _ => {}
    }
}

/// Neither from a root nor from the user's folder, on any system.
fn is_relative(path: &str) -> bool {
    !path.is_empty() && !path.starts_with(['/', '\\', '~', '$']) && path.as_bytes().get(1) != Some(&b':')
}

/// Why a place cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The document has no such node.
    NoNode(String),
    /// The product has no such field, or not for this value.
    NotYet(String),
    /// The product's field has a range, and the value is not in it.
    Outside(String),
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Miss::NoNode(node) => write!(f, "there is no `{node}` here to set it on"),
            Miss::NotYet(what) => write!(f, "not available yet: {what}"),
            Miss::Outside(what) => write!(f, "{what}"),
        }
    }
}

impl Draft {
    /// An empty one.
    pub fn new(product: Product) -> Draft {
        let head = Map::from_iter([("version".to_owned(), json!(1))]);
        Draft {
            product,
            head,
            nodes: IndexMap::new(),
            comments: IndexMap::new(),
            intro: Vec::new(),
            base: String::new(),
        }
    }

    /// What the product has.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// Adds a node.
    pub fn node(&mut self, name: &str, node_type: &str) {
        self.nodes.insert(name.into(), Map::from_iter([("type".to_owned(), json!(node_type))]));
    }

    /// Whether there is a node.
    pub fn has(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// Type of a node.
    pub fn type_of(&self, name: &str) -> Option<&str> {
        self.nodes.get(name)?.get("type")?.as_str()
    }

    /// Resolutions of the loaders, as sides of squares of their areas.
    pub fn resolutions(&self) -> Vec<u64> {
        let side = |value: &Json| match value {
            Json::Array(sides) => Some(sides.iter().map(Json::as_f64).product::<Option<f64>>()?.sqrt().round() as u64),
            value => value.as_u64(),
        };
        let loaders = self.nodes.values().filter(|node| node.get("type").is_some_and(|ty| ty == "loader.images"));
        let mut sides: Vec<u64> = loaders.filter_map(|node| side(node.get("resolution")?)).collect();
        sides.sort_unstable();
        sides.dedup();
        sides
    }

    /// Whether a place would take a value.
    pub fn takes(&self, path: &str, value: &Json) -> Result<(), Miss> {
        let place = |what: &str| match value {
            Json::String(text) => format!("`{what}: {text}`"),
            Json::Bool(_) => format!("`{what}: {value}`"),
            _ => format!("`{what}`"),
        };
        let (fit, what) = match path.strip_prefix("nodes.") {
            None => (self.product.head_fit(path, value), place(path)),
            Some(rest) => {
                let (node, field) = rest.split_once('.').unwrap_or((rest, "type"));
                let Some(node_type) = self.type_of(node) else { return Err(Miss::NoNode(node.into())) };
                (self.product.fit(node_type, field, value), format!("{} of `{node_type}`", place(field)))
            }
        };
        match fit {
            Fit::Yes => Ok(()),
            Fit::Absent => Err(Miss::NotYet(what)),
            Fit::Outside(range) => Err(Miss::Outside(format!("{what} is {range}"))),
        }
    }

    /// Writes a field: `train.steps`, `nodes.loss.huber.c`.
    pub fn put(&mut self, path: &str, value: Json) -> Result<(), Miss> {
        self.takes(path, &value)?;
        self.insert(path, value)
    }

    /// Writes a field with a value that the check may refuse.
    pub fn put_anyway(&mut self, path: &str, value: Json) {
        // Without its node there is nothing that could run.
        let _ = self.insert(path, value);
    }

    fn insert(&mut self, path: &str, value: Json) -> Result<(), Miss> {
        let (map, field) = match path.strip_prefix("nodes.").and_then(|rest| rest.split_once('.')) {
            Some((node, field)) => match self.nodes.get_mut(node) {
                Some(map) => (map, field),
                None => return Err(Miss::NoNode(node.into())),
            },
            None => (&mut self.head, path),
        };
        let mut map = map;
        let mut parts: Vec<&str> = field.split('.').collect();
        let Some(last) = parts.pop() else { return Ok(()) };
        for part in parts {
            let inner = map.entry(part).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            match inner {
                Json::Object(inner) => map = inner,
                _ => return Ok(()),
            }
        }
        map.insert(last.into(), value);
        Ok(())
    }

    /// Takes a value out again: the node's name first, then keys and places in lists. What is empty without it goes too,
    /// and a pattern that says nothing more of the layers it matches.
    pub fn remove(&mut self, way: &[String]) {
        fn take(value: &mut Json, way: &[String]) {
            let Some((first, rest)) = way.split_first() else { return };
            let empty = |value: &Json| match value {
                Json::Object(map) => map.keys().all(|key| key == "match"),
                Json::Array(items) => items.is_empty(),
                _ => false,
            };
            match value {
                Json::Object(map) => {
                    let Some(inner) = map.get_mut(first) else { return };
                    take(inner, rest);
                    if rest.is_empty() || empty(inner) {
                        map.shift_remove(first);
                    }
                }
                Json::Array(items) => {
                    let Some((i, inner)) = first.parse().ok().and_then(|i: usize| Some((i, items.get_mut(i)?))) else {
                        return;
                    };
                    take(inner, rest);
                    if rest.is_empty() || empty(inner) {
                        items.remove(i);
                    }
                }
                _ => {}
            }
        }
        let Some((node, rest)) = way.split_first() else { return };
        if let Some(map) = self.nodes.get_mut(node) {
            let mut value = Json::Object(std::mem::take(map));
            take(&mut value, rest);
            if let Json::Object(left) = value {
                *map = left;
            }
        }
    }

    /// The document as it is where the set-up's paths start.
    pub fn where_it_was_read(&self) -> Draft {
        Draft { base: String::new(), ..self.clone() }
    }

    /// The value at a place.
    pub fn get(&self, path: &str) -> Option<&Json> {
        let mut parts = path.split('.');
        let mut here = match path.strip_prefix("nodes.") {
            Some(_) => {
                parts.next();
                self.nodes.get(parts.next()?)?.get(parts.next()?)?
            }
            None => self.head.get(parts.next()?)?,
        };
        for part in parts {
            here = here.get(part)?;
        }
        Some(here)
    }

    /// A comment behind a field's line.
    pub fn comment(&mut self, path: &str, text: impl Into<String>) {
        self.comments.insert(path.into(), text.into().replace('\n', " "));
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Json {
        let mut root = self.head.clone();
        let nodes = self.nodes.iter().map(|(name, map)| (name.clone(), Json::Object(map.clone())));
        let mut nodes = Json::Object(nodes.collect());
        if !self.base.is_empty() {
            rebase(&mut nodes, &self.base);
        }
        root.insert("nodes".into(), nodes);
        Json::Object(root)
    }

    /// The document as YAML.
    pub fn to_yaml(&self) -> String {
        let mut out: String = self.intro.iter().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect();
        if let Json::Object(root) = self.to_json() {
            self.table(&mut out, &root, 0, "");
        }
        out
    }

    fn table(&self, out: &mut String, map: &Map<String, Json>, indent: usize, path: &str) {
        for (key, value) in map {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let comment = self.comments.get(&path).map_or("", String::as_str);
            let comment = self.beside_or_above(out, comment, indent);
            *out += &format!("{:indent$}{}:", "", text(key));
            match value {
                Json::Object(inner) if !inner.is_empty() => {
                    *out += &format!("{comment}\n");
                    self.table(out, inner, indent + 2, &path);
                }
                Json::Array(items) if items.iter().any(Json::is_object) => {
                    *out += &format!("{comment}\n");
                    for (i, item) in items.iter().enumerate() {
                        self.item(out, item, indent + 2, &format!("{path}.{i}"));
                    }
                }
                _ => *out += &format!(" {}{comment}\n", flow(value)),
            }
        }
    }

    /// A comment for behind a line; a long one is written above it.
    fn beside_or_above(&self, out: &mut String, comment: &str, indent: usize) -> String {
        match comment.chars().count() {
            0 => String::new(),
            n if n <= SHORT + 10 => format!("  # {comment}"),
            _ => {
                let mut line = String::new();
                for word in comment.split(' ') {
                    if !line.is_empty() && indent + 3 + line.chars().count() + word.chars().count() > WIDTH {
                        *out += &format!("{:indent$}# {line}\n", "");
                        line.clear();
                    }
                    line += if line.is_empty() { "" } else { " " };
                    line += word;
                }
                *out += &format!("{:indent$}# {line}\n", "");
                String::new()
            }
        }
    }

    /// An item of a list: on one line where it is short.
    fn item(&self, out: &mut String, item: &Json, indent: usize, path: &str) {
        let line = flow(item);
        match item {
            Json::Object(map) if line.chars().count() > SHORT => {
                let mut body = String::new();
                self.table(&mut body, map, indent + 2, path);
                *out += &format!("{:indent$}- {}", "", body.trim_start());
            }
            _ => {
                let comment = self.comments.get(path).map(|text| format!("  # {text}")).unwrap_or_default();
                *out += &format!("{:indent$}- {line}{comment}\n", "");
            }
        }
    }
}

/// Longest table that is written on one line of a list.
const SHORT: usize = 60;

/// Where comments above a line end.
const WIDTH: usize = 100;

/// A value on one line.
fn flow(value: &Json) -> String {
    match value {
        Json::String(one) => text(one),
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(map) if map.is_empty() => "{}".into(),
        Json::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(k, v)| format!("{}: {}", text(k), flow(v))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => number(other),
    }
}

/// Small numbers as people write them: `1e-5`.
pub(crate) fn number(value: &Json) -> String {
    match value.as_f64() {
        Some(f) if value.is_f64() && f != 0.0 && f.abs() < 1e-3 => format!("{f:e}"),
        _ => value.to_string(),
    }
}

/// Text as a plain scalar where that is safe, else in double quotes.
fn text(one: &str) -> String {
    let safe_start = one.chars().next().is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '/' | '_' | '~'));
    let safe =
        one.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '.' | '/' | '_' | '-' | '+' | '(' | ')' | '\''));
    if safe && safe_start && !one.ends_with(' ') && !scalar::needs_quotes(one) {
        return one.to_owned();
    }
    // JSON's escapes are YAML's.
    json!(one).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipe_core::document::{Document, Syntax};

    #[test]
    fn yaml_reads_back() {
        let mut draft = Draft::new(Product::everything());
        draft.intro.push("Hello".into());
        draft.put("name", json!("no")).unwrap();
        draft.put("train.steps", json!(1600)).unwrap();
        draft.node("a", "loader.images");
        for (path, value) in [
            ("path", json!("C:\\photos # 1")),
            ("empty", json!("")),
            ("number", json!("1e-4")),
            ("rate", json!(2e-6)),
            ("deep.er.value", json!([0.9, 0.999])),
            ("prompts", json!([{ "prompt": "a: b, \"c\"\n", "seed": 1 }, { "prompt": "é" }])),
            ("tilde", json!("~")),
            ("dash", json!("- x")),
            ("list", json!(["a, b", "{c}"])),
        ] {
            draft.put(&format!("nodes.a.{path}"), value).unwrap();
        }
        draft.comment("nodes.a.rate", "default of\nsd-scripts");
        let yaml = draft.to_yaml();
        assert!(yaml.contains("rate: 2e-6  # default of sd-scripts"), "{yaml}");
        let read = Document::parse(&yaml, "a.yaml", Syntax::Yaml, &[]);
        assert!(read.diagnostics.is_empty(), "{:?}\n{yaml}", read.diagnostics);
        assert_eq!(read.tree.unwrap().to_json(), draft.to_json());
    }

    #[test]
    fn paths_start_from_the_document() {
        let mut draft = Draft::new(Product::everything());
        draft.node("a", "t");
        draft.base = "../..".into();
        let paths = [("weights", "m/x.ckpt"), ("path", "/data"), ("tokenizer", r"C:\t"), ("masks", "~/m")];
        for (field, path) in paths {
            draft.put(&format!("nodes.a.{field}"), json!(path)).unwrap();
        }
        draft.put("nodes.a.base_weights", json!([{ "path": "l.safetensors" }])).unwrap();
        draft.put("output", json!("out")).unwrap();
        let json = draft.to_json();
        assert_eq!(json["output"], "out");
        assert_eq!(json["nodes"]["a"]["weights"], "../../m/x.ckpt");
        assert_eq!(json["nodes"]["a"]["base_weights"][0]["path"], "../../l.safetensors");
        for (field, path) in &paths[1..] {
            assert_eq!(json["nodes"]["a"][*field], *path);
        }
    }

    #[test]
    fn short_tables_of_a_list_are_lines() {
        let mut draft = Draft::new(Product::everything());
        draft.node("a", "t");
        let long = "a".repeat(70);
        draft.put("nodes.a.list", json!([{ "rank": 2 }, { "prompt": long }])).unwrap();
        draft.comment("nodes.a.list.0", "down.0");
        let yaml = draft.to_yaml();
        assert!(yaml.contains("      - { rank: 2 }  # down.0\n"), "{yaml}");
        assert!(yaml.contains(&format!("      - prompt: {long}\n")), "{yaml}");
    }

    #[test]
    fn what_is_taken_out_leaves_nothing_empty() {
        let mut draft = Draft::new(Product::everything());
        draft.node("a", "t");
        for (path, value) in [
            ("x", json!({ "double.4,6-18": false, "y": 1 })),
            ("p", json!([{ "match": "m", "rank": 2 }, { "match": "n", "rate": 1, "rank": 3 }])),
            ("deep", json!({ "er": { "value": 1 } })),
        ] {
            draft.put(&format!("nodes.a.{path}"), value).unwrap();
        }
        let mut remove = |way: &str| draft.remove(&way.split('/').map(str::to_owned).collect::<Vec<_>>());
        ["a/x/double.4,6-18", "a/p/1/rate", "a/p/0/rank", "a/deep/er/value", "a/none/0", "b/x", "a"]
            .into_iter()
            .for_each(&mut remove);
        let left = json!({ "type": "t", "x": { "y": 1 }, "p": [{ "match": "n", "rank": 3 }] });
        assert_eq!(draft.to_json()["nodes"]["a"], left);
    }

    #[test]
    fn places_are_asked_for() {
        let schema = json!({ "definitions": { "x.y": { "properties": { "a": { "type": "integer" } } } } });
        let mut draft = Draft::new(Product::from_schema(schema));
        draft.node("n", "x.y");
        assert_eq!(draft.put("nodes.n.a", json!(1)), Ok(()));
        assert_eq!(draft.put("nodes.n.b", json!(1)), Err(Miss::NotYet("`b` of `x.y`".into())));
        assert_eq!(draft.put("nodes.m.a", json!(1)), Err(Miss::NoNode("m".into())));
        assert_eq!(draft.get("nodes.n.a"), Some(&json!(1)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_reads_back(one in "\\PC{0,20}|[ -~\n\t]{0,20}") {
            let mut draft = Draft::new(Product::everything());
            draft.node("a", "t");
            draft.put("nodes.a.text", json!(one)).unwrap();
            draft.put("nodes.a.list", json!([one])).unwrap();
            let read = Document::parse(&draft.to_yaml(), "a.yaml", Syntax::Yaml, &[]);
            proptest::prop_assert!(read.diagnostics.is_empty(), "{}", draft.to_yaml());
            proptest::prop_assert_eq!(read.tree.unwrap().to_json(), draft.to_json());
        }
    }
}
