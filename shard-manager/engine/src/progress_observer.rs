//! Progress observer: the progress of a backup or a restore, and its cancellation.
//!
//! **Not here:** the work (the engines), showing the progress (the command line).

use serde::{Deserialize, Serialize};

use super::save_error::SaveError;

/// Progress of a backup or a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A shard is being copied.
    Copying {
        /// Name of the shard.
        shard: String,
        /// Number of bytes written.
        bytes: u64,
        /// Expected number of bytes.
        of: u64,
    },
    /// The copies follow the logs.
    Following {
        /// Number of batches that the copies still lack.
        behind: u64,
    },
    /// All lanes (write queues) were paused, and have continued.
    Held {
        /// Time for which writes were paused, in microseconds.
        micros: u64,
    },
    /// A copy is being verified.
    Checking {
        /// Number of bytes read.
        bytes: u64,
        /// Total number of bytes.
        of: u64,
    },
    /// A data directory is being written.
    Writing {
        /// Number of bytes written.
        bytes: u64,
        /// Total number of bytes.
        of: u64,
    },
}

/// Functions of the code that runs a backup or a restore, which receives its progress and may
/// cancel it.
pub struct ProgressObserver<'w> {
    /// Function that receives each step; called often.
    pub step: &'w (dyn Fn(&Step) + Sync),
    /// Function that returns true once the work is to be cancelled.
    pub cancelled: &'w (dyn Fn() -> bool + Sync),
}

impl ProgressObserver<'_> {
    /// Reports a step.
    ///
    /// # Errors
    /// [`SaveError::Cancelled`] if the work was cancelled.
    pub fn report(&self, step: &Step) -> Result<(), SaveError> {
        self.check()?;
        (self.step)(step);
        Ok(())
    }

    /// Checks that the work was not cancelled.
    ///
    /// # Errors
    /// [`SaveError::Cancelled`] if the work was cancelled.
    pub fn check(&self) -> Result<(), SaveError> {
        if (self.cancelled)() { Err(SaveError::Cancelled) } else { Ok(()) }
    }
}
