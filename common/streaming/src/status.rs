//! How a remote command came out, as the error stream says it: a `v1.Status`, or plain text for the oldest clients.

use serde_json::{Value, json};

/// The outcome of a remote command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with exit code 0, or the session was simply over.
    Success,
    /// It ended with another exit code.
    Exit(i32),
    /// It could not be run, or broke.
    Failure(String),
}

impl Outcome {
    /// From an exit code.
    pub fn of_code(code: i32) -> Self {
        if code == 0 {
            Self::Success
        } else {
            Self::Exit(code)
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Exit(code) => format!(
                "command terminated with non-zero exit code: command terminated with exit code {code}"
            ),
            Self::Failure(message) => message.clone(),
        }
    }

    /// As a `v1.Status` (v4 and later).
    pub fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        }
    }

    /// As plain text (before v4); nothing on success.
    pub fn text(&self) -> String {
        self.message()
    }
}
