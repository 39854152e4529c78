//! Ctrl-C: first a clean stop, then an immediate one. SIGTERM and SIGHUP count as Ctrl-C.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pipe_core::run::StopFlag;

use crate::exit::{Exit, Failure};
use crate::progress::Display;
use crate::text;

/// Signals so soon after the first are the same wish: `timeout` signals the process and then its group, a terminal and a
/// supervisor may both pass one on.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Sets the flag at the first signal and ends the process at a later one. `saves` is whether a stopped run keeps its state.
pub fn watch(stop: &StopFlag, display: &Arc<dyn Display>, saves: bool) -> Result<(), Failure> {
    let (stop, display, asked) = (stop.clone(), display.clone(), Mutex::new(None::<Instant>));
    let handler = move || {
        let mut asked = asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match *asked {
            None => {
                *asked = Some(Instant::now());
                stop.set();
                display.announce(if saves { text::STOPPING } else { text::STOPPING_UNSAVED });
            }
            Some(first) if first.elapsed() < SAME_WISH => {}
            Some(_) => {
                display.announce(text::STOPPED_AT_ONCE);
                display.close();
                std::process::exit(Exit::Unsaved.code().into());
            }
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::new(format!("Ctrl-C cannot be watched: {error}")))
}
