//! Ctrl-C: first a clean stop, then an immediate one. SIGTERM and SIGHUP count as Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pipe_core::run::StopFlag;

use crate::exit::{Exit, Failure};
use crate::progress::Display;
use crate::text;

/// Sets the flag at the first signal and ends the process at the second.
pub fn watch(stop: &StopFlag, display: &Arc<dyn Display>) -> Result<(), Failure> {
    let (stop, display, asked) = (stop.clone(), display.clone(), AtomicBool::new(false));
    let handler = move || {
        if asked.swap(true, Ordering::SeqCst) {
            display.announce(text::STOPPED_AT_ONCE);
            display.close();
            std::process::exit(Exit::Interrupted.code().into());
        }
        stop.set();
        display.announce(text::STOPPING);
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::new(format!("Ctrl-C cannot be watched: {error}")))
}
