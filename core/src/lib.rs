//! The document, the node contract, the graph, the checks, the plan and the run's life cycle.
//!
//! Stages, in the order a command goes through them:
//!
//! 1. [`document`]: text (YAML or TOML) and `--set` overrides into one spanned tree;
//! 2. [`structure`]: the tree against the schemas of the node types in the [`registry`];
//! 3. [`graph`]: ports filled by names become edges; types, rates, cycles;
//! 4. [`check`]: all of the above and each node's own check, every error collected;
//! 5. [`schedule`]: the order of building and when each value is freed;
//! 6. [`plan`]: the predicted bytes, FLOPs, steps and files;
//! 7. [`execute`]: the run itself.
//!
//! Core knows no tensor, no image and no tokenizer: those live in `nodes/`.

pub mod check;
pub mod codes;
pub mod diagnostic;
pub mod document;
pub mod execute;
pub mod folder;
pub mod graph;
pub mod graph_export;
pub mod identity;
pub mod node;
pub mod pattern;
pub mod plan;
pub mod port;
pub mod registry;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod structure;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
