//! A failure that a user can act on: what is wrong, and the command that mends it.

/// Exit code of a failed preflight check.
pub const EXIT_PREFLIGHT: u8 = 2;
/// Exit code when the cluster is not running or not healthy.
pub const EXIT_UNHEALTHY: u8 = 3;

/// What is wrong and how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// One sentence, lower case.
    pub what: String,
    /// A command, or the place to look.
    pub mend: String,
    /// The process's exit code.
    pub exit_code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: mend.into(),
            exit_code: 1,
        }
    }

    /// The same with another exit code.
    pub fn exit(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }
}
