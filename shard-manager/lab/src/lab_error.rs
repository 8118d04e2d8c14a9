//! Lab error: the reasons why an experiment has no result.

/// Reason why an experiment has no result.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The settings cannot be used; nothing was started.
    #[error("{0}")]
    Impossible(String),
    /// The experiment failed. Its files and databases are removed.
    #[error("{0}")]
    Failed(String),
    /// The observer cancelled the experiment. Its files and databases are removed.
    #[error("cancelled; the files and databases of the experiment are removed")]
    Cancelled,
}

impl LabError {
    /// Returns the error of an experiment in which a step failed for this reason.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Returns the error of an experiment whose settings cannot be used for this reason.
    pub(crate) fn impossible(error: impl std::fmt::Display) -> Self {
        Self::Impossible(error.to_string())
    }
}
