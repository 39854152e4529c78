//! End-to-end tests: the real `pipe`, with real files, judged by its output and exit code.
//!
//! [`documents`] tests the commands on documents, [`registry`] those on the node types and codes, [`start`] `init` and
//! what surrounds it, [`weights`] `inspect`, [`train`] whole runs. Only what a user can see is looked at.

mod documents;
mod registry;
mod start;
mod support;
mod train;
mod weights;
