//! Backup families: the metrics about backups that the router makes.
//!
//! **Not here:** backups made by the command line.

use std::fmt;

use prometheus_client::registry::Unit;

use super::{Families, Scrape};

/// State and counts of a router's backups since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BackupsNow {
    /// True if a backup is running.
    pub is_running: bool,
    /// Number of complete backups.
    pub done: u64,
    /// Number of failed backups.
    pub failed: u64,
    /// Number of cancelled backups.
    pub cancelled: u64,
    /// Time of the state that the latest complete backup contains, in seconds since 1970; `None` if
    /// there is no complete backup.
    pub last_success_s: Option<f64>,
}

impl Scrape {
    /// Writes the families of metrics. A router without a folder for backups writes none.
    pub(super) fn backups(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(backups) = &self.backups else { return Ok(()) };
        let running = f64::from(u8::from(backups.is_running));
        families.gauge("tessera_backup_running", "Whether a backup is running.", None, running)?;
        let ends =
            [("done", backups.done), ("failed", backups.failed), ("cancelled", backups.cancelled)];
        let ends = ends.into_iter().map(|(end, count)| ([("outcome", end)], count));
        families.counters("tessera_backups", "Backups that have ended.", ends)?;
        let Some(at) = backups.last_success_s else { return Ok(()) };
        let help = "Moment that the latest complete backup shows, since 1970 UTC.";
        families.gauge("tessera_backup_last_success_timestamp", help, Some(Unit::Seconds), at)
    }
}
