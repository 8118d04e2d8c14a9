//! Lab error: reasons why an experiment was not started, or has no result.

/// Reason why an experiment has no result.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The settings are impossible; nothing was started.
    #[error("{0}")]
    Impossible(String),
    /// The experiment failed, and its files and databases are removed.
    #[error("{0}")]
    Failed(String),
    /// The observer cancelled the experiment, and its files and databases are removed.
    #[error("cancelled; the files and databases of the experiment are removed")]
    Cancelled,
}

impl LabError {
    /// Returns the error for a step that failed.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Returns the error for settings that no experiment can use.
    pub(crate) fn impossible(error: impl std::fmt::Display) -> Self {
        Self::Impossible(error.to_string())
    }
}
