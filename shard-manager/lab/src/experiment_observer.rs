//! Experiment observer: receives the progress of an experiment, and may cancel it.
//!
//! **Not here:** progress bars in a terminal (`cli`).

use crate::lab_error::LabError;

/// Receiver of the progress of an experiment, such as a terminal.
pub trait ExperimentObserver: Sync {
    /// Receives a line of text that announces the next step or a result.
    fn report(&self, line: &str);

    /// Begins a progress bar with this name and number of steps.
    fn bar(&self, name: &str, total: u64) -> Box<dyn Bar>;

    /// Returns true once the experiment has been cancelled and must end early.
    fn is_cancelled(&self) -> bool;

    /// Returns an error once the experiment has been cancelled and must end early.
    ///
    /// # Errors
    /// Only [`LabError::Cancelled`].
    fn check_cancelled(&self) -> Result<(), LabError> {
        if self.is_cancelled() { Err(LabError::Cancelled) } else { Ok(()) }
    }
}

/// Progress of one part of an experiment. It ends when it is dropped.
pub trait Bar: Send + Sync {
    /// Adds this number of completed steps.
    fn add(&self, steps: u64);
}
