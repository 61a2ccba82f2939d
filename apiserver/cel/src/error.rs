//! What can go wrong while an expression is evaluated.

/// Why an evaluation has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
    /// The expression failed, in upstream's words.
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    pub(crate) fn failed(text: impl Into<String>) -> EvalError {
        EvalError::Failed(text.into())
    }

    pub(crate) fn no_overload() -> EvalError {
        EvalError::failed("no such overload")
    }

    /// Whether the evaluation must end, so that no operator may swallow the error.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, EvalError::Failed(_))
    }
}
