//! Experiment observer: sees the progress of an experiment, and may end it early.
//!
//! **Not here:** the bars of a terminal (`cli`).

use crate::lab_error::LabError;

/// Observer of an experiment.
pub trait ExperimentObserver: Sync {
    /// Reports a line that announces the next step.
    fn report(&self, line: &str);

    /// Begins a progress bar with this many steps.
    fn bar(&self, name: &str, total: u64) -> Box<dyn Bar>;

    /// Returns true once the experiment is to end early.
    fn is_cancelled(&self) -> bool;

    /// Fails once the experiment is to end early.
    ///
    /// # Errors
    /// Only [`LabError::Cancelled`].
    fn check_cancelled(&self) -> Result<(), LabError> {
        if self.is_cancelled() { Err(LabError::Cancelled) } else { Ok(()) }
    }
}

/// Progress of one part of an experiment. It ends when it is dropped.
pub trait Bar: Send + Sync {
    /// Adds steps that are done.
    fn add(&self, steps: u64);
}
