//! Backup view: backups as responses and commands show them, with times as text.
//!
//! **Not here:** making backups (`backup_maker`), running one at a time (`cluster`).

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::backup_summary::BackupSummary;

/// Name of the command that cancels a backup.
pub const CANCEL: &str = "cancel";

/// State of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    /// The backup is being made.
    Running,
    /// The folder of the backup is complete.
    Done,
    /// The backup has failed, and left no copy.
    Failed,
    /// The backup was cancelled, and left no copy.
    Cancelled,
}

/// Part of the work on a running backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStage {
    /// Shards are being copied.
    Copying,
    /// The copies are brought to the same moment.
    Following,
    /// The copies are being checked.
    Checking,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupView {
    /// Identity, and the name of its folder.
    pub id: String,
    /// State.
    pub state: BackupState,
    /// Current stage of the work; `None` unless the backup is running.
    pub stage: Option<BackupStage>,
    /// Time at which it began: RFC 3339.
    pub began_at: String,
    /// Time whose state the copy shows; `None` before it is complete.
    pub as_of: Option<String>,
    /// Time at which it ended; `None` before, and for a backup by another process.
    pub ended_at: Option<String>,
    /// Seconds from its beginning to its end, or until now; `None` for a backup by another process.
    pub seconds: Option<f64>,
    /// Number of rows of all tables and shards; `None` before the backup is complete.
    pub rows: Option<u64>,
    /// Size of its files in bytes; while the backup is running, the number of bytes written so far.
    pub bytes: u64,
    /// Estimated total number of bytes; `None` unless the backup is running.
    pub expected_bytes: Option<u64>,
    /// Time in milliseconds for which all writes waited; `None` before the copy is complete.
    pub writes_held_ms: Option<f64>,
    /// Reason why there is no copy; `None` if it is running or done.
    pub reason: Option<String>,
    /// Commands that it accepts now.
    pub actions: Vec<String>,
    /// Copies of the shards; `None` in a list of backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<Vec<CopiedShardView>>,
}

/// Copy of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedShardView {
    /// Name of the shard.
    pub shard: String,
    /// Number of rows of all tables; `None` before the backup is complete.
    pub rows: Option<u64>,
    /// Size of its files in bytes, or the number of bytes written so far.
    pub bytes: u64,
    /// Estimated total number of bytes; `None` unless the backup is running.
    pub expected_bytes: Option<u64>,
}

impl BackupView {
    /// Returns the view of a backup in this state, without any other facts.
    pub fn new(id: &BackupId, state: BackupState) -> Self {
        Self {
            id: id.to_string(),
            state,
            stage: None,
            began_at: text_of(id.time()),
            as_of: None,
            ended_at: None,
            seconds: None,
            rows: None,
            bytes: 0,
            expected_bytes: None,
            writes_held_ms: None,
            reason: None,
            actions: Vec::new(),
            shards: None,
        }
    }

    /// Returns the view of a complete backup.
    pub fn done(id: &BackupId, summary: &BackupSummary) -> Self {
        let shards = summary.sizes().map(|size| CopiedShardView {
            shard: size.shard,
            rows: Some(size.rows),
            bytes: size.bytes,
            expected_bytes: None,
        });
        Self {
            as_of: Some(summary.at.clone()),
            rows: Some(summary.rows()),
            bytes: summary.bytes(),
            writes_held_ms: Some(summary.held_us as f64 / 1_000.0),
            shards: Some(shards.collect()),
            ..Self::new(id, BackupState::Done)
        }
    }

    /// Adds the time at which the backup ended, and its duration.
    #[must_use]
    pub fn ended(mut self, began: DateTime<Utc>, ended: DateTime<Utc>) -> Self {
        self.ended_at = Some(text_of(ended));
        self.seconds = Some(seconds(began, ended));
        self
    }

    /// Returns the view without its shards, for a list.
    #[must_use]
    pub fn listed(mut self) -> Self {
        self.shards = None;
        self
    }
}

/// Formats a time for a view: RFC 3339 with milliseconds.
pub fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Returns the seconds between two times, to the millisecond; 0 if the clock was set back.
pub fn seconds(began: DateTime<Utc>, ended: DateTime<Utc>) -> f64 {
    (ended - began).num_milliseconds().max(0) as f64 / 1_000.0
}
