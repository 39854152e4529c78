//! The schemas of schemars in the one form that the checker and the editors are given.
//!
//! - null goes: `Option<T>` is a field that may be left out, not a field that may be null;
//! - a `$ref` or an `allOf` of one beside `properties` (newtype variants of tagged enums,
//!   flattened structs) is merged into the table;
//! - every table with `properties` is closed.

use serde_json::{Map, Value as Json};

/// Brings a root schema with its `$defs` into normal form.
pub(super) fn normalize(mut schema: Json) -> Json {
    let defs = schema.get("$defs").cloned().unwrap_or(Json::Null);
    walk(&mut schema, &defs);
    schema
}

fn walk(schema: &mut Json, defs: &Json) {
    let Some(map) = schema.as_object_mut() else { return };
    for keyword in ["properties", "$defs"] {
        if let Some(children) = map.get_mut(keyword).and_then(Json::as_object_mut) {
            children.values_mut().for_each(|child| walk(child, defs));
        }
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(keyword) {
            walk(child, defs);
        }
    }
    for keyword in ["anyOf", "oneOf", "allOf", "prefixItems"] {
        if let Some(children) = map.get_mut(keyword).and_then(Json::as_array_mut) {
            children.iter_mut().for_each(|child| walk(child, defs));
        }
    }
    drop_null(map);
    merge(map, defs);
    if map.contains_key("properties") && !map.contains_key("additionalProperties") {
        map.insert("additionalProperties".into(), false.into());
    }
}

fn drop_null(map: &mut Map<String, Json>) {
    if let Some(Json::Array(types)) = map.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            map.insert("type".into(), one);
        }
    }
    if let Some(Json::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if map.get("default") == Some(&Json::Null) {
        map.remove("default");
    }
    for keyword in ["anyOf", "oneOf"] {
        let Some(Json::Array(branches)) = map.get_mut(keyword) else { continue };
        branches.retain(|branch| branch.get("type") != Some(&Json::from("null")));
        if branches.len() == 1
            && let Some(Json::Object(only)) = branches.pop()
        {
            map.remove(keyword);
            for (key, value) in only {
                map.entry(key).or_insert(value);
            }
        }
    }
}

/// Merges `$ref` and `allOf` into a table that has properties of its own.
fn merge(map: &mut Map<String, Json>, defs: &Json) {
    if let Some(Json::Array(parts)) = map.get("allOf")
        && parts.len() == 1
    {
        let Some(Json::Array(mut parts)) = map.remove("allOf") else { return };
        if let Some(Json::Object(only)) = parts.pop() {
            for (key, value) in only {
                map.entry(key).or_insert(value);
            }
        }
    }
    if !map.contains_key("properties") {
        return;
    }
    while let Some(Json::String(target)) = map.remove("$ref") {
        let Some(mut target) = target.strip_prefix("#/$defs/").and_then(|name| defs.get(name)).cloned() else { return };
        walk(&mut target, defs);
        let Json::Object(target) = target else { return };
        for (key, value) in target {
            match (map.get_mut(&key), value) {
                (Some(Json::Object(own)), Json::Object(more)) if key == "properties" => {
                    for (name, field) in more {
                        own.entry(name).or_insert(field);
                    }
                }
                (Some(Json::Array(own)), Json::Array(more)) if key == "required" => own.extend(more),
                (Some(_), _) => {}
                (None, value) => {
                    map.insert(key, value);
                }
            }
        }
    }
}
