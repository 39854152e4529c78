//! Lines of JSON for a process, written by a thread: who sends them never waits for it.

use std::io::Write;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use serde_json::Value as Json;

/// Lines that may wait for a process that takes no more.
const WAITING: usize = 4096;

/// A process and the lines on their way to it.
pub struct Feed {
    /// The process.
    pub child: Child,
    lines: SyncSender<Json>,
    full: bool,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// Too many wait already.
    LeftOut {
        /// It is the first that is left out.
        first: bool,
    },
    /// The process reads no more.
    Gone,
}

/// Writes a line.
pub fn write_line(to: &mut impl Write, line: &Json) -> std::io::Result<()> {
    to.write_all(format!("{line}\n").as_bytes())
}

/// Hands lines on until there are no more, or the process is gone.
fn hand_on(mut to: ChildStdin, lines: Receiver<Json>) {
    let _ = lines.into_iter().try_for_each(|line| write_line(&mut to, &line));
}

impl Feed {
    /// Feeds a process through its standard input.
    pub fn new(child: Child, to: ChildStdin) -> std::io::Result<Feed> {
        let (lines, waiting) = sync_channel(WAITING);
        std::thread::Builder::new().name("feed".into()).spawn(move || hand_on(to, waiting))?;
        Ok(Feed { child, lines, full: false })
    }

    /// Sends a line.
    pub fn send(&mut self, line: Json) -> Sent {
        match self.lines.try_send(line) {
            Ok(()) => Sent::Yes,
            Err(TrySendError::Full(_)) => Sent::LeftOut { first: !std::mem::replace(&mut self.full, true) },
            Err(TrySendError::Disconnected(_)) => Sent::Gone,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_takes_no_more_is_not_waited_for() {
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::piped()).spawn().unwrap();
        let to = child.stdin.take().unwrap();
        let mut feed = Feed::new(child, to).unwrap();
        // More than the pipe and the lines that wait hold.
        let line = Json::from("x".repeat(200));
        let sent: Vec<Sent> = (0..2 * WAITING).map(|_| feed.send(line.clone())).collect();
        let count = |of: Sent| sent.iter().filter(|sent| **sent == of).count();
        assert_eq!((sent[0], count(Sent::LeftOut { first: true })), (Sent::Yes, 1));
        // The thread fills the pipe beside, which makes room for some more lines, whenever it is its turn.
        assert!(
            count(Sent::Yes) >= WAITING && count(Sent::LeftOut { first: false }) > WAITING / 2,
            "{:?}",
            &sent[sent.len() - 9..]
        );
        feed.child.kill().unwrap();
        feed.child.wait().unwrap();
    }
}
