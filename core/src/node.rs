//! The node contract: what every node type gives, and the contexts it is called with.
//!
//! A node type is one file in `nodes/`: a config struct (serde + schemars), a [`Node`] impl and a
//! line in the registry's list. Core turns it into the object-safe [`NodeType`] through
//! [`Typed`], derives the schema, the reference page and `explain` from it, checks documents
//! against it and calls it in the order of the graph. Core knows no tensor.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::plan::NodePlan;
use crate::port::{Input, Output};
use crate::run::{BuildCx, Built};
use crate::settings::Settings;

/// Constant description of a node type.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// `kind.name`, such as `adapter.lora`.
    pub type_name: &'static str,
    /// One line, shown beside the type name in editors and lists.
    pub summary: &'static str,
    /// Markdown for the reference page: what it does, formula, paper.
    pub details: &'static str,
    /// A complete YAML document fragment: the `nodes:` entry of this node, block style.
    pub example: &'static str,
}

/// Facts about an output, known from headers and metadata alone; downstream checks and plans
/// read them (`architecture`, `latent_channels`, `context_dim`, `images`, …).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(pub BTreeMap<&'static str, Json>);

impl Facts {
    /// No facts.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a fact.
    pub fn with(mut self, key: &'static str, value: impl Into<Json>) -> Self {
        self.0.insert(key, value.into());
        self
    }
    /// An unsigned fact.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.0.get(key).and_then(Json::as_u64)
    }
    /// A number fact.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.0.get(key).and_then(Json::as_f64)
    }
    /// A text fact.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Json::as_str)
    }
    /// Any fact.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.0.get(key)
    }
}

/// What a node's inputs are known to be. One entry an input port, in the document's order.
#[derive(Clone, Debug, Default)]
pub struct InputFacts(pub BTreeMap<&'static str, Vec<Source>>);

/// One node feeding an input.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name in the document.
    pub node: String,
    /// Its type name.
    pub type_name: &'static str,
    /// Name of the output taken.
    pub output: &'static str,
    /// Its facts: those of the node.
    pub facts: Facts,
}

impl InputFacts {
    /// Sources of a port, empty when unfilled.
    pub fn many(&self, port: &str) -> &[Source] {
        self.0.get(port).map_or(&[], Vec::as_slice)
    }
    /// The only source of a port, if filled.
    pub fn one(&self, port: &str) -> Option<&Source> {
        self.many(port).first()
    }
}

/// Context of [`Node::check`]. Headers and metadata only: no weight is read.
pub struct CheckCx<'a> {
    /// The node's name in the document.
    pub name: &'a str,
    /// Run-wide settings of the document (already checked).
    pub settings: &'a Settings,
    /// Folder that relative paths start from: the document's.
    pub base_dir: &'a Path,
    /// What is known of the inputs.
    pub inputs: &'a InputFacts,
    /// Files need not be there; see [`CheckCx::stands_in`].
    pub without_files: bool,
    /// The device and its types need not be those of this build: the document is planned, not run.
    pub any_device: bool,
    /// Problems found so far by this node; use [`CheckCx::error`] and [`CheckCx::warn`].
    pub problems: Vec<Problem>,
    /// Paths this node will write, for the two-writers check.
    pub writes: Vec<(String, PathBuf)>,
}

/// A problem of one node; core adds file, line and span.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Stable code, `P0301`.
    pub code: &'static str,
    /// Error or warning.
    pub severity: crate::diagnostic::Severity,
    /// Field path inside the node, such as `schedule.warmup.steps`, or an input port's name; empty for the node itself.
    /// With a leading `/` a path from the document's root, such as `/train.device`.
    pub field: String,
    /// Message without final period.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl CheckCx<'_> {
    /// Resolves a path of the document against its folder (`~` is the home folder).
    pub fn path(&self, text: &str) -> PathBuf {
        resolve(self.base_dir, text)
    }
    /// Whether to stand in for what is missing: the check is made without files, and nothing is at `path`. The node
    /// then gives the facts of what is usually there (the full size of its model family, a plausible data set) and
    /// reports no missing file, so that the document can be planned.
    pub fn stands_in(&self, path: &Path) -> bool {
        self.without_files && !path.exists()
    }
    /// Records an error at a field.
    pub fn error(&mut self, code: &'static str, field: &str, message: impl Into<String>, help: Option<String>) {
        self.problems.push(Problem {
            code,
            severity: crate::diagnostic::Severity::Error,
            field: field.into(),
            message: message.into(),
            help,
        });
    }
    /// Records a warning at a field.
    pub fn warn(&mut self, code: &'static str, field: &str, message: impl Into<String>, help: Option<String>) {
        self.problems.push(Problem {
            code,
            severity: crate::diagnostic::Severity::Warning,
            field: field.into(),
            message: message.into(),
            help,
        });
    }
    /// Declares that the node will write `path`; two writers of one path are an error. `{epoch}` and `{step}` in its
    /// name stand for numbers, as in [`crate::pattern`].
    pub fn will_write(&mut self, field: &str, path: PathBuf) {
        self.writes.push((field.into(), path));
    }
}

/// `text` against `base`; `~/` is the home folder.
pub fn resolve(base: &Path, text: &str) -> PathBuf {
    if let Some(rest) = text.strip_prefix("~/")
        && let Some(home) = std::env::var_os("HOME")
    {
        return PathBuf::from(home).join(rest);
    }
    // Without `./` in the middle: paths are shown to people.
    base.join(text).components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}

/// Help for a file that is not there: names like it in its folder, or where paths start.
pub fn missing_help(path: &Path) -> String {
    use crate::diagnostic::{did_you_mean, suggest};
    let near = || {
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        let entries = std::fs::read_dir(parent).ok()?.take(LOOKED_AT).filter_map(|entry| Some(entry.ok()?.path()));
        let others: Vec<PathBuf> = entries.filter(|other| other.extension() == path.extension()).collect();
        // Extensions are long and all alike; what is misspelt is what stands before them.
        let stems = others.iter().filter_map(|other| other.file_stem()?.to_str());
        let found = suggest(path.file_stem()?.to_str()?, stems);
        let named =
            others.iter().filter(|other| found.iter().any(|stem| other.file_stem().is_some_and(|s| s == *stem)));
        let mut names: Vec<&str> = named.filter_map(|other| other.file_name()?.to_str()).collect();
        names.sort_unstable();
        did_you_mean(&names)
    };
    if path.iter().any(|part| part == "https:" || part == "http:") {
        return "`pipe` downloads nothing: get the file, and give the path to it".into();
    }
    near().unwrap_or_else(|| "paths start at the document's folder".into())
}

/// As [`missing_help`], for weights: `owner/name` may be meant as the name of a model on a hub.
pub fn missing_weights_help(path: &Path) -> String {
    let numbered = |extension: &std::ffi::OsStr| extension.to_string_lossy().bytes().all(|b| b.is_ascii_digit());
    let nowhere = |parent: &Path| !parent.as_os_str().is_empty() && !parent.exists();
    match missing_help(path) {
        help if help.starts_with("paths start")
            && path.extension().is_none_or(numbered)
            && path.parent().is_some_and(nowhere) =>
        {
            format!("{help}; `pipe` downloads nothing: a model of a hub is given as a local file or folder")
        }
        help => help,
    }
}

/// Names of a folder that are looked at for a suggestion.
const LOOKED_AT: usize = 5000;

/// Context of [`Node::plan`].
pub struct PlanCx<'a> {
    /// The node's name in the document.
    pub name: &'a str,
    /// Run-wide settings.
    pub settings: &'a Settings,
    /// Folder that relative paths start from.
    pub base_dir: &'a Path,
    /// What is known of the inputs.
    pub inputs: &'a InputFacts,
    /// What this node's own check made known of its outputs.
    pub facts: &'a Facts,
    /// Optimizer steps of the run and of an epoch, where its driver knows them (`steps`, `steps_per_epoch`).
    pub length: Option<(u64, u64)>,
}

/// A node type, as its file writes it.
pub trait Node: Send + Sync + 'static {
    /// Its fields in the document, ports excluded. `deny_unknown_fields` is implied.
    type Config: DeserializeOwned + JsonSchema + Send + Sync;

    /// Description.
    const ABOUT: About;

    /// Inputs, in the order of the reference page.
    fn inputs() -> Vec<Input>;

    /// Outputs; empty for event nodes such as savers.
    fn outputs() -> Vec<Output>;

    /// Checks the node with headers and metadata only and says what is known of its outputs.
    fn check(config: &Self::Config, cx: &mut CheckCx) -> Facts;

    /// Bytes and FLOPs by phase.
    fn plan(config: &Self::Config, cx: &PlanCx) -> NodePlan;

    /// Work with the inputs that are marked [`Input::early`], as soon as those are there: the other inputs are not. What it
    /// gives is handed to `build` ([`BuildCx::prepared`]). So that a text encoder can be freed before the model is loaded.
    fn prepare(_config: &Self::Config, _cx: &mut BuildCx) -> Result<Option<SharedValue>, crate::run::RunError> {
        Ok(None)
    }

    /// Makes the node's values; heavy work (loading, caching) happens here.
    fn build(config: Self::Config, cx: &mut BuildCx) -> Result<Built, crate::run::RunError>;
}

/// A node type behind a pointer: what the registry holds.
pub trait NodeType: Send + Sync {
    /// Description.
    fn about(&self) -> About;
    /// JSON Schema of the config struct as schemars gives it (no `type`, no ports).
    fn config_schema(&self) -> Json;
    /// Inputs.
    fn inputs(&self) -> Vec<Input>;
    /// Outputs.
    fn outputs(&self) -> Vec<Output>;
    /// Deserializes the structurally checked fields and runs [`Node::check`].
    fn check(&self, config: &Json, cx: &mut CheckCx) -> Facts;
    /// [`Node::plan`].
    fn plan(&self, config: &Json, cx: &PlanCx) -> NodePlan;
    /// [`Node::prepare`].
    fn prepare(&self, config: &Json, cx: &mut BuildCx) -> Result<Option<SharedValue>, crate::run::RunError>;
    /// [`Node::build`].
    fn build(&self, config: &Json, cx: &mut BuildCx) -> Result<Built, crate::run::RunError>;
}

/// A value on an edge during a run. Nodes downcast it to the type their port stands for.
pub trait Value: Any + Send + Sync {
    /// Frees what can be loaded again (weights). Called by the schedule when no consumer of the
    /// current phase needs the value any more; the next use loads it again.
    fn unload(&self) {}
    /// For downcasting.
    fn as_any(&self) -> &dyn Any;
}

/// A shared value.
pub type SharedValue = Arc<dyn Value>;

/// Turns a [`Node`] into a [`NodeType`].
pub struct Typed<N>(std::marker::PhantomData<fn() -> N>);

impl<N: Node> Typed<N> {
    /// Boxed, for the registry's list.
    pub fn boxed() -> Box<dyn NodeType> {
        Box::new(Typed::<N>(std::marker::PhantomData))
    }
}

impl<N: Node> NodeType for Typed<N> {
    fn about(&self) -> About {
        N::ABOUT
    }
    fn config_schema(&self) -> Json {
        schemars::schema_for!(N::Config).to_value()
    }
    fn inputs(&self) -> Vec<Input> {
        N::inputs()
    }
    fn outputs(&self) -> Vec<Output> {
        N::outputs()
    }
    fn check(&self, config: &Json, cx: &mut CheckCx) -> Facts {
        match serde_json::from_value::<N::Config>(config.clone()) {
            Ok(config) => N::check(&config, cx),
            Err(error) => {
                cx.error("P0199", "", format!("the fields of this node could not be read: {error}"), None);
                Facts::new()
            }
        }
    }
    fn plan(&self, config: &Json, cx: &PlanCx) -> NodePlan {
        match serde_json::from_value::<N::Config>(config.clone()) {
            Ok(config) => N::plan(&config, cx),
            Err(_) => NodePlan::default(),
        }
    }
    fn prepare(&self, config: &Json, cx: &mut BuildCx) -> Result<Option<SharedValue>, crate::run::RunError> {
        N::prepare(&read_config::<N>(config)?, cx)
    }
    fn build(&self, config: &Json, cx: &mut BuildCx) -> Result<Built, crate::run::RunError> {
        N::build(read_config::<N>(config)?, cx)
    }
}

fn read_config<N: Node>(config: &Json) -> Result<N::Config, crate::run::RunError> {
    serde_json::from_value::<N::Config>(config.clone()).map_err(|error| {
        crate::run::RunError::new("P0199", format!("the fields of this node could not be read: {error}"))
    })
}
