//! Exit codes, and the one error type of the commands.

use std::process::ExitCode;

/// How `pipe` ends. Scripts rely on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Errors were found, or the run failed.
    Failed,
    /// The command line cannot be understood.
    Usage,
    /// The plan does not fit.
    Misfit,
    /// Interrupted with nothing saved: before the first step, or at once on demand.
    Unsaved,
    /// Interrupted after a clean save.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Misfit => 3,
            Exit::Unsaved => 4,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command could not do its work.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The exit code it leads to.
    pub exit: Exit,
    /// Message without final period.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// Code that `pipe explain` explains.
    pub code: Option<&'static str>,
    /// The file to blame.
    pub place: Option<String>,
}

impl Failure {
    /// Something could not be done.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Failed, message: message.into(), help: None, code: None, place: None }
    }
    /// The command line asks for something that does not exist.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Usage, ..Self::new(message) }
    }
    /// With a fix.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<pipe_tools::ToolError> for Failure {
    fn from(error: pipe_tools::ToolError) -> Self {
        let place = error.place.map(|path| path.display().to_string());
        Failure { help: error.help, code: Some(error.code), place, ..Failure::new(error.message) }
    }
}

/// What every command returns.
pub type Outcome = Result<Exit, Failure>;
