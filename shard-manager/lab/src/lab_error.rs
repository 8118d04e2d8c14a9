//! Lab error: reasons why an experiment was not begun, or has no result.

/// Reason why an experiment has no result.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The settings are impossible; nothing was begun.
    #[error("{0}")]
    Impossible(String),
    /// The experiment failed, and what it made is removed.
    #[error("{0}")]
    Failed(String),
    /// The watcher ended the experiment, and what it made is removed.
    #[error("cancelled; what the experiment made is removed")]
    Cancelled,
}

impl LabError {
    /// Returns the error for a step that failed.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Returns the error for settings that no experiment can have.
    pub(crate) fn impossible(error: impl std::fmt::Display) -> Self {
        Self::Impossible(error.to_string())
    }
}
