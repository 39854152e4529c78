//! Values of arguments: what shells complete, and what is refused with the reason.
//!
//! clap completes the possible values of an argument and refuses all others. Here they are offered, and what is taken is
//! decided apart: some arguments take more than can be listed, of others the command knows better what was meant.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, Error};

/// The value of `--device`.
#[derive(Clone, Copy, Debug)]
pub struct Device;

impl TypedValueParser for Device {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        TypedValueParser::parse_ref(&device, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(["auto", "cpu", "cuda", "wgpu"].into_iter().map(PossibleValue::new)))
    }
}

fn device(text: &str) -> Result<String, &'static str> {
    let number =
        |rest: &str| rest.strip_prefix(':').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let gpu = |name: &str| text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || number(rest));
    match ["auto", "cpu"].contains(&text) || gpu("cuda") || gpu("wgpu") {
        true => Ok(text.to_owned()),
        false => Err("devices are auto, cpu, cuda and wgpu, the last two also with a number as in cuda:1"),
    }
}

/// The value of `--steps`.
pub fn steps(text: &str) -> Result<u64, &'static str> {
    text.parse().ok().filter(|steps| *steps > 0).ok_or("a whole number of 1 or more is needed")
}

/// Any text, with names worth completing.
#[derive(Clone, Debug)]
pub struct Open(pub fn() -> Vec<&'static str>);

impl TypedValueParser for Open {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        let any = |text: &str| -> Result<String, &'static str> { Ok(text.to_owned()) };
        TypedValueParser::parse_ref(&any, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter().map(PossibleValue::new)))
    }
}

/// Node types and their kinds.
pub fn types() -> Vec<&'static str> {
    let registry = pipe_nodes::registry();
    let mut names: Vec<&'static str> = registry.kinds().map(|kind| kind.about.type_name).collect();
    let kinds: Vec<&'static str> = names.iter().filter_map(|name| name.split('.').next()).collect();
    names.extend(kinds);
    names.sort_unstable();
    names.dedup();
    names
}

/// What `explain` explains, apart from single fields: types, kinds and codes.
pub fn topics() -> Vec<&'static str> {
    types().into_iter().chain(pipe_core::codes::all().map(|code| code.code)).collect()
}

/// Names of the templates.
pub fn templates() -> Vec<&'static str> {
    crate::templates::TEMPLATES.iter().map(|template| template.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_steps() {
        for good in ["auto", "cpu", "cuda", "wgpu:0", "cuda:12"] {
            assert_eq!(device(good).as_deref(), Ok(good));
        }
        for bad in ["foo", "cuda:", "cuda:x", "cpu:1", ""] {
            assert!(device(bad).is_err(), "{bad}");
        }
        assert_eq!(steps("12"), Ok(12));
        assert!(["0", "1.5", "-1", "x"].iter().all(|bad| steps(bad).is_err()));
    }
}
