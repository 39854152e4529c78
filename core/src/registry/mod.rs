//! The registry: every node type of this build, with its ports and its schema.
//!
//! Owns the closed schema of each node (`type`, ports and config fields merged) and of the
//! settings. `schema/` turns these into the editors' JSON Schema, [`crate::structure`] checks
//! documents against them.

mod normal;

use std::collections::HashMap;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use crate::node::{About, NodeType};
use crate::port::{Arity, Input, Output, PortType, Rate};
use crate::settings::Settings;

/// Node types by name, in the order of the list they were made from.
pub struct Registry {
    kinds: IndexMap<&'static str, Kind>,
    settings: Json,
    /// Field name to the types that have it, for hints at unknown fields.
    fields: HashMap<String, Vec<&'static str>>,
}

/// A node type with what the checks ask for again and again.
pub struct Kind {
    /// The node type.
    pub node: Box<dyn NodeType>,
    /// Its description.
    pub about: About,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// Its outputs.
    pub outputs: Vec<Output>,
    /// Its closed schema: `type`, ports and config fields.
    pub schema: Json,
}

impl Kind {
    /// The input port of a name.
    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.name == name)
    }
    /// True for nodes that only act on events: savers, samplers, loggers.
    pub fn is_event(&self) -> bool {
        self.outputs.iter().all(|output| output.rate == Rate::Event)
    }
    /// True for the node that drives the run.
    pub fn is_driver(&self) -> bool {
        self.outputs.iter().any(|output| output.ty == PortType::Update)
    }
}

impl Registry {
    /// Takes the list of node types.
    ///
    /// # Panics
    /// When two types have one name, or a port and a field of a type have one name: both are
    /// mistakes in the list itself, found by any test.
    pub fn new(nodes: Vec<Box<dyn NodeType>>) -> Registry {
        let mut kinds = IndexMap::with_capacity(nodes.len());
        let mut fields: HashMap<String, Vec<&'static str>> = HashMap::new();
        for node in nodes {
            let about = node.about();
            let (inputs, outputs) = (node.inputs(), node.outputs());
            let schema = node_schema(&about, &inputs, node.config_schema());
            for name in schema["properties"].as_object().into_iter().flat_map(Map::keys) {
                fields.entry(name.clone()).or_default().push(about.type_name);
            }
            let kind = Kind { node, about, inputs, outputs, schema };
            assert!(kinds.insert(about.type_name, kind).is_none(), "two node types are called `{}`", about.type_name);
        }
        Registry { kinds, settings: settings_schema(), fields }
    }
    /// The node type of a name.
    pub fn get(&self, type_name: &str) -> Option<&dyn NodeType> {
        self.kinds.get(type_name).map(|kind| kind.node.as_ref())
    }
    /// All node types.
    pub fn iter(&self) -> impl Iterator<Item = &dyn NodeType> {
        self.kinds.values().map(|kind| kind.node.as_ref())
    }
    /// The node type of a name with its ports and schema.
    pub fn kind(&self, type_name: &str) -> Option<&Kind> {
        self.kinds.get(type_name)
    }
    /// All node types with their ports and schemas.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.values()
    }
    /// All type names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.keys().copied()
    }
    /// The closed schema of a node type: `type`, ports, config fields. Null for an unknown type.
    ///
    /// Ports carry `x-port: {accepts, rate, arity}`. No field accepts null, and every table is
    /// closed.
    pub fn node_schema(&self, type_name: &str) -> Json {
        self.kinds.get(type_name).map_or(Json::Null, |kind| kind.schema.clone())
    }
    /// The closed schema of everything outside `nodes`.
    pub fn settings_schema(&self) -> &Json {
        &self.settings
    }
    /// The types that have a field of this name.
    pub fn types_with(&self, field: &str) -> &[&'static str] {
        self.fields.get(field).map_or(&[], Vec::as_slice)
    }
}

fn node_schema(about: &About, inputs: &[Input], config: Json) -> Json {
    let mut config = normal::normalize(config);
    let mut properties = Map::new();
    let mut required = vec![Json::from("type")];
    properties
        .insert("type".into(), json!({ "type": "string", "const": about.type_name, "description": about.summary }));
    for input in inputs {
        properties.insert(input.name.into(), port_schema(input));
        if input.arity.required() {
            required.push(input.name.into());
        }
    }
    if let Some(fields) = config["properties"].take().as_object_mut() {
        for (name, field) in std::mem::take(fields) {
            let clash = properties.insert(name.clone(), field);
            assert!(clash.is_none(), "`{}` has a port and a field called `{name}`", about.type_name);
        }
    }
    if let Some(names) = config["required"].as_array() {
        required.extend(names.iter().cloned());
    }
    let mut schema = match config {
        Json::Object(map) => map,
        _ => Map::new(),
    };
    schema.retain(|key, _| key != "$schema");
    schema.insert("title".into(), about.type_name.into());
    schema.insert("description".into(), about.summary.into());
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), Json::Object(properties));
    schema.insert("required".into(), Json::Array(required));
    schema.insert("additionalProperties".into(), false.into());
    Json::Object(schema)
}

fn port_schema(input: &Input) -> Json {
    let accepts: Vec<&str> = input.accepts.iter().map(|ty| ty.name()).collect();
    let about = json!({ "accepts": accepts, "rate": input.rate.name(), "arity": input.arity });
    match input.arity {
        Arity::Many => json!({
            "description": input.doc, "type": ["string", "array"], "items": { "type": "string" }, "x-port": about,
        }),
        Arity::Several => json!({
            "description": input.doc, "type": ["string", "array"], "items": { "type": "string" }, "minItems": 1,
            "x-port": about,
        }),
        Arity::One | Arity::Optional => json!({ "description": input.doc, "type": "string", "x-port": about }),
    }
}

fn settings_schema() -> Json {
    let mut schema = normal::normalize(schemars::schema_for!(Settings).to_value());
    if let Some(map) = schema.as_object_mut() {
        map.retain(|key, _| key != "$schema");
        map.insert("additionalProperties".into(), false.into());
        if let Some(properties) = map.get_mut("properties").and_then(Json::as_object_mut) {
            let text = "Place of the JSON Schema, for editors; the run does not look at it.";
            properties.insert("$schema".into(), json!({ "type": "string", "description": text }));
        }
    }
    schema
}
