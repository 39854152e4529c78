//! End-to-end tests: the real `pipe`, with real files, judged by its output and exit code.
//!
//! [`documents`] tests the commands on documents, [`registry`] those on the node types and codes, [`start`] `init` and
//! what surrounds it, [`first_use`] what goes wrong for newcomers, [`weights`] `inspect`, [`train`] whole runs, [`stop`] those that are stopped and continued, [`plans`] what they took, [`disk`] runs without room, [`schema`] the schema
//! against the checker. Only what a user can see is looked at.

#[cfg(target_os = "linux")]
mod disk;
mod documents;
mod first_use;
#[allow(dead_code)]
#[path = "../../schema/tests/common/generate.rs"]
mod generate;
#[allow(dead_code)]
#[path = "../../schema/tests/common/mutate.rs"]
mod mutate;
mod plans;
mod registry;
mod schema;
mod start;
mod stop;
mod support;
mod train;
mod weights;
