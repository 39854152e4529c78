//! What is said when `pipe` itself is at fault: an apology and what to report, never a backtrace.

use std::io::Write;
use std::panic::{self, PanicHookInfo};

use crate::text;

/// Replaces the default report of a panic.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        // Standard error may be closed; a second panic in here would abort without a word.
        let _ = std::io::stderr().lock().write_all(report(info).as_bytes());
    }));
}

fn report(info: &PanicHookInfo) -> String {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let place = info.location().map(|at| format!("{}:{}", short(at.file()), at.line()));
    text::apology(message.unwrap_or("no message"), place.as_deref().unwrap_or("an unknown place"))
}

/// A source path from the name of its crate on; where the sources were on the builder's disk tells nobody anything.
fn short(file: &str) -> &str {
    let file = file.strip_prefix("/rustc/").map_or(file, |rest| rest.split_once('/').map_or(rest, |(_, rest)| rest));
    match file.split_once("/registry/src/") {
        Some((_, rest)) => rest.split_once('/').map_or(rest, |(_, rest)| rest),
        None => file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_crate() {
        assert_eq!(short("core/src/check/mod.rs"), "core/src/check/mod.rs");
        assert_eq!(short("/home/x/.cargo/registry/src/index-1/half-2.7.0/src/lib.rs"), "half-2.7.0/src/lib.rs");
        assert_eq!(short("/rustc/abcdef/library/core/src/option.rs"), "library/core/src/option.rs");
    }

    #[test]
    fn a_panic_becomes_an_apology() {
        let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let (inner, before) = (said.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| *inner.lock().unwrap() = report(info)));
        let caught = panic::catch_unwind(|| panic!("the answer is {}", 42));
        panic::set_hook(before);
        assert!(caught.is_err());
        let said = said.lock().unwrap();
        assert!(said.contains("the answer is 42") && said.contains("fault.rs"), "{said}");
        assert!(said.contains("--resume") && !said.contains("RUST_BACKTRACE"), "{said}");
    }
}
