//! Right documents at random, from the registry's own schemas (not from the generated one).

use pipe_core::registry::Registry;
use serde_json::{Map, Value as Json, json};

/// A small generator: equal seeds give equal documents.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed ^ 0x9e37_79b9_7f4a_7c15)
    }
    /// From 0 to `below` - 1.
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 = self.0.max(1);
        ((self.0 >> 11) % below.max(1) as u64) as usize
    }
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.roll(items.len())]
    }
}

/// A document of one to four nodes; ports name nodes that need not exist.
pub fn document(registry: &Registry, seed: u64) -> Json {
    let mut dice = Dice::new(seed);
    let mut document = table(registry.settings_schema(), registry.settings_schema(), &mut dice);
    let names: Vec<&str> = registry.names().collect();
    let mut nodes = Map::new();
    for index in 0..1 + dice.roll(4) {
        let name: &&str = dice.pick(&names);
        let schema = registry.node_schema(name);
        nodes.insert(format!("node_{index}"), table(&schema, &schema, &mut dice));
    }
    document["nodes"] = nodes.into();
    document
}

/// A value of a schema.
pub fn value(schema: &Json, root: &Json, dice: &mut Dice) -> Json {
    if let Some(target) = schema["$ref"].as_str() {
        return value(&root["$defs"][target.trim_start_matches("#/$defs/")], root, dice);
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(values) = schema["enum"].as_array() {
        return dice.pick(values).clone();
    }
    if let Some(branches) = schema.get("oneOf").or(schema.get("anyOf")).and_then(Json::as_array) {
        return value(dice.pick(branches), root, dice);
    }
    let ty = match &schema["type"] {
        Json::Array(types) => dice.pick(types).as_str(),
        other => other.as_str(),
    };
    match ty {
        Some("boolean") => Json::Bool(dice.roll(2) == 0),
        Some("integer" | "number") => number(schema, dice),
        Some("string") => text(schema, dice),
        Some("array") => list(schema, root, dice),
        Some("object") => table(schema, root, dice),
        _ => json!({ "any": [1, "x", null] }),
    }
}

fn number(schema: &Json, dice: &mut Dice) -> Json {
    let integer = schema["type"] == "integer" || schema["type"].is_array();
    let limit = |keyword: &str| schema[keyword].as_f64();
    let low = limit("minimum").or(limit("exclusiveMinimum").map(|low| low + if integer { 1.0 } else { 0.001 }));
    let high = limit("maximum").or(limit("exclusiveMaximum").map(|high| high - if integer { 1.0 } else { 0.001 }));
    let low = low.unwrap_or(0.0);
    let high = high.unwrap_or(low + 100.0).min(low + 1000.0);
    let part = [0.0, 1.0, 0.5, 0.25][dice.roll(4)];
    let exact = low + (high - low) * part;
    if integer { Json::from(exact.floor() as i64) } else { Json::from(exact) }
}

fn text(schema: &Json, dice: &mut Dice) -> Json {
    let least = schema["minLength"].as_u64().unwrap_or(0) as usize;
    let most = schema["maxLength"].as_u64().unwrap_or(20) as usize;
    let pattern = schema["pattern"].as_str().map(|pattern| regex::Regex::new(pattern).unwrap());
    let words =
        ["a", "node_0", "x y", "é", "cpu", "cuda:1", "auto", "ab", "weights.safetensors", "1e-4", "no", "${env:KEY}"];
    let fits = |word: &&&str| {
        let count = word.chars().count();
        count >= least && count <= most && pattern.as_ref().is_none_or(|pattern| pattern.is_match(word))
    };
    let fitting: Vec<&&str> = words.iter().filter(fits).collect();
    Json::from(**dice.pick(&fitting))
}

fn list(schema: &Json, root: &Json, dice: &mut Dice) -> Json {
    let prefix = schema["prefixItems"].as_array().map_or(&[][..], Vec::as_slice);
    let least = schema["minItems"].as_u64().unwrap_or(0) as usize;
    let most = schema["maxItems"].as_u64().unwrap_or(3) as usize;
    let count = least + dice.roll(most - least + 1);
    let mut items: Vec<Json> = Vec::new();
    for index in 0..count {
        let item = prefix.get(index).or(schema.get("items")).cloned().unwrap_or(json!({ "type": "string" }));
        items.push(value(&item, root, dice));
    }
    if schema["uniqueItems"] == true {
        let mut seen = Vec::new();
        items.retain(|item| {
            if seen.contains(item) {
                false
            } else {
                seen.push(item.clone());
                true
            }
        });
    }
    items.into()
}

fn table(schema: &Json, root: &Json, dice: &mut Dice) -> Json {
    let mut out = Map::new();
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let groups = |keyword: &str| -> Vec<Vec<Json>> {
        match schema[keyword].as_array() {
            None => Vec::new(),
            Some(items) if items.iter().all(Json::is_string) => vec![items.clone()],
            Some(items) => items.iter().filter_map(Json::as_array).cloned().collect(),
        }
    };
    let grouped: Vec<Vec<Json>> = [groups("x-exclusive"), groups("x-one-of")].concat();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let in_group = grouped.iter().flatten().any(|other| other == name);
        if required.iter().any(|other| other == name) || (!in_group && dice.roll(3) > 0) {
            out.insert(name.clone(), value(field, root, dice));
        }
    }
    for (index, group) in grouped.iter().enumerate() {
        if index >= groups("x-exclusive").len() || dice.roll(2) == 0 {
            let name = dice.pick(group).as_str().unwrap();
            out.insert(name.to_owned(), value(&schema["properties"][name], root, dice));
        }
    }
    if schema["additionalProperties"].is_object() {
        for index in 0..dice.roll(3) {
            out.insert(format!("key{index}"), value(&schema["additionalProperties"], root, dice));
        }
    }
    let least = schema["minProperties"].as_u64().unwrap_or(0) as usize;
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if out.len() < least {
            out.insert(name.clone(), value(field, root, dice));
        }
    }
    out.into()
}
