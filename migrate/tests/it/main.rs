//! The migrator as its users see it.

mod commands;
mod common;
mod coverage;
mod files;
mod lycoris;
mod pages;
mod robust;
mod rules;
