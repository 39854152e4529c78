//! Mistakes: keys misspelt, lost or out of place, values of the wrong type or out of range.

use pipe_core::registry::Registry;
use serde_json::{Map, Value as Json, json};

use super::generate::{self, Dice};

/// Puts a number of mistakes into a document. Some of them leave it right.
pub fn document(registry: &Registry, document: &mut Json, count: u32, seed: u64) {
    let mut dice = Dice::new(seed);
    for _ in 0..count {
        let places = places(document);
        let place = dice.pick(&places).clone();
        let donor = generate::document(registry, dice.roll(1 << 20) as u64);
        match document.pointer_mut(&place) {
            // The document itself stays a table: anything else is a fault of reading.
            Some(Json::Object(map)) if place.is_empty() => table(map, &donor, &mut dice),
            Some(target) => mutate(target, &donor, &mut dice),
            None => {}
        }
    }
}

/// JSON pointers of all values.
fn places(value: &Json) -> Vec<String> {
    let mut out = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((path, value)) = open.pop() {
        match value {
            Json::Object(map) => open.extend(map.iter().map(|(key, value)| (format!("{path}/{key}"), value))),
            Json::Array(items) => {
                open.extend(items.iter().enumerate().map(|(index, value)| (format!("{path}/{index}"), value)));
            }
            _ => {}
        }
        out.push(path);
    }
    out
}

fn mutate(target: &mut Json, donor: &Json, dice: &mut Dice) {
    match target {
        Json::Object(map) if dice.roll(4) > 0 => table(map, donor, dice),
        Json::Array(items) if dice.roll(3) > 0 => list(items, donor, dice),
        other => *other = foreign(other, donor, dice),
    }
}

fn table(map: &mut Map<String, Json>, donor: &Json, dice: &mut Dice) {
    let keys: Vec<String> = map.keys().cloned().collect();
    match dice.roll(4) {
        0 if !keys.is_empty() => {
            map.remove(dice.pick(&keys));
        }
        1 if !keys.is_empty() => {
            let key = dice.pick(&keys).clone();
            let value = map.remove(&key).unwrap_or_default();
            map.insert(format!("{key}{}", dice.pick(&["s", "_", ".x"])), value);
        }
        2 => {
            // A key that is at home elsewhere, with its value.
            let places = places(donor);
            let place = dice.pick(&places);
            let key = place.rsplit('/').next().unwrap_or_default().to_owned();
            map.insert(key, donor.pointer(place).cloned().unwrap_or_default());
        }
        _ => {
            let keys = ["steps", "ratio", "type", "epochs", "weights", "zebra", "$schema", "min", "text"];
            map.insert((*dice.pick(&keys)).into(), scalar(dice));
        }
    }
}

fn list(items: &mut Vec<Json>, donor: &Json, dice: &mut Dice) {
    match dice.roll(3) {
        0 => {
            items.pop();
        }
        1 => items.push(items.last().cloned().unwrap_or_else(|| scalar(dice))),
        _ => {
            let value = foreign(&Json::Null, donor, dice);
            items.push(value);
        }
    }
}

/// Another value: near the old one, or from elsewhere.
fn foreign(old: &Json, donor: &Json, dice: &mut Dice) -> Json {
    match (dice.roll(4), old.as_f64()) {
        (0, _) => {
            let places = places(donor);
            let place: &String = dice.pick(&places);
            donor.pointer(place).cloned().unwrap_or_default()
        }
        (1, Some(number)) => {
            let number = number + dice.pick(&[1.0, -1.0, 0.5, -0.5]);
            if number.fract() == 0.0 { Json::from(number as i64) } else { Json::from(number) }
        }
        (1, None) => json!([old]),
        _ => scalar(dice),
    }
}

fn scalar(dice: &mut Dice) -> Json {
    let values = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(2.0),
        json!(0.5),
        json!(1.5),
        json!(64),
        json!(63),
        json!(255),
        json!(256),
        json!(-128),
        json!(-129),
        json!(4096),
        json!(4097),
        json!(65535),
        json!(65536),
        json!(4294967295u64),
        json!(4294967296u64),
        json!(u64::MAX),
        json!(1e20),
        json!(i64::MIN),
        json!(1e-4),
        json!(-1e300),
        json!(""),
        json!("a"),
        json!("auto"),
        json!("gpu"),
        json!("no"),
        json!("1"),
        json!("cosine"),
        json!("files"),
        json!("loader.images"),
        json!("test.exotic"),
        json!("é ü"),
        json!([]),
        json!({}),
        json!(["a"]),
        json!([1, 2]),
        json!({ "steps": 1 }),
        json!({ "ratio": 0.5 }),
        json!({ "type": "cosine" }),
        json!({ "steps": 1, "ratio": 0.5 }),
    ];
    dice.pick(&values).clone()
}
