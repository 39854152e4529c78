//! The migrator as its users see it.

mod common;
mod coverage;
mod pages;
mod robust;
mod rules;
