//! End-to-end tests: the real `pipe`, with real files, judged by its output and exit code.
//!
//! [`documents`] tests the commands on documents, [`registry`] those on the node types and codes, [`start`] `init` and
//! what surrounds it, [`first_use`] what goes wrong for newcomers, [`migrate`] and [`migrated`] the set-ups of other trainers, [`weights`] `inspect`,
//! [`weights_tools`], [`weights_ranks`] and [`weights_refused`] the commands that write weight files, [`train`] whole
//! runs, [`stop`] those that are stopped and continued, [`plans`] what they took, [`disk`] runs without room, [`schema`] the schema against the checker. Only what a
//! user can see is looked at.

#[path = "../../migrate/tests/it/commands.rs"]
mod commands;
#[cfg(target_os = "linux")]
mod disk;
mod documents;
mod first_use;
#[allow(dead_code)]
#[path = "../../schema/tests/common/generate.rs"]
mod generate;
mod migrate;
mod migrated;
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
mod weights_limits;
mod weights_ranks;
mod weights_refused;
mod weights_spellings;
mod weights_tools;
