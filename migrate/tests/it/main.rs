//! The migrator as its users see it.

mod commands;
mod common;
mod coverage;
mod files;
mod pages;
mod robust;
mod rules;
