//! Backup desk: the state of the running backup of this process, and of its backups that have
//! ended.
//!
//! **Invariant:** there is at most one running backup; none begins after [`BackupDesk::close`].
//! **Not here:** the copies (`backups`).

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::backup_id::BackupId;
use engine::backup_summary::BackupSummary;
use engine::backup_view::{BackupStage, BackupState, BackupView, CANCEL, CopiedShardView, seconds};
use engine::progress_observer::Step;

use super::BackupsError;

/// Maximum number of ended backups that are kept in memory.
const ENDED_MAX: usize = 100;
/// Longest wait for a cancelled backup when the process ends.
const END_MAX: Duration = Duration::from_secs(10);

/// The backups that only this process knows.
#[derive(Debug, Default)]
pub(super) struct BackupDesk {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: Option<RunningBackup>,
    /// The backups that have ended most recently, the latest last.
    ended: VecDeque<EndedBackup>,
    /// Latest id that was given, so that the next one is later.
    latest: Option<BackupId>,
    is_closed: bool,
    totals: BackupTotals,
}

/// Counts of backups since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BackupTotals {
    /// True if a backup is running.
    pub is_running: bool,
    /// Number of complete backups.
    pub done: u64,
    /// Number of failed backups.
    pub failed: u64,
    /// Number of cancelled backups.
    pub cancelled: u64,
    /// Time of the latest complete backup, including those of earlier processes, in seconds since
    /// 1970; `None` if there is none.
    pub last_success_s: Option<f64>,
}

#[derive(Debug)]
struct RunningBackup {
    id: BackupId,
    is_cancelled: bool,
    stage: BackupStage,
    shards: Vec<CopiedShardView>,
}

/// Backup that has ended in this process, or that another process has left unfinished.
#[derive(Clone, Debug)]
pub(super) struct EndedBackup {
    id: BackupId,
    state: BackupState,
    reason: Option<String>,
    /// Time of its end; `None` if it is not known.
    at: Option<DateTime<Utc>>,
}

impl EndedBackup {
    /// Returns a backup that another process has left unfinished.
    pub(super) fn left_over(id: BackupId, reason: &str) -> Self {
        Self { id, state: BackupState::Failed, reason: Some(reason.to_owned()), at: None }
    }

    fn view(&self) -> BackupView {
        let view = BackupView::new(&self.id, self.state);
        let view = BackupView { reason: self.reason.clone(), ..view };
        match self.at {
            Some(at) => view.ended(self.id.time(), at),
            None => view,
        }
    }
}

impl RunningBackup {
    fn view(&self) -> BackupView {
        BackupView {
            stage: Some(self.stage),
            seconds: Some(seconds(self.id.time(), Utc::now())),
            bytes: self.shards.iter().map(|shard| shard.bytes).sum(),
            expected_bytes: Some(self.shards.iter().filter_map(|shard| shard.expected_bytes).sum()),
            actions: if self.is_cancelled { Vec::new() } else { vec![CANCEL.to_owned()] },
            shards: Some(self.shards.clone()),
            ..BackupView::new(&self.id, BackupState::Running)
        }
    }

    fn copied(&mut self, name: &str, bytes: u64, of: u64) {
        self.stage = BackupStage::Copying;
        let index = self.shards.iter().position(|shard| shard.shard == name);
        let index = index.unwrap_or_else(|| {
            let shard = name.to_owned();
            self.shards.push(CopiedShardView { shard, ..CopiedShardView::default() });
            self.shards.len() - 1
        });
        let shard = &mut self.shards[index];
        (shard.bytes, shard.expected_bytes) = (bytes, Some(of.max(bytes)));
    }
}

impl BackupDesk {
    /// Locks the state, even if a holder has panicked: a panic leaves no inconsistent state behind.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a backup, and returns its identity and its view.
    pub(super) fn begin(&self) -> Result<(BackupId, BackupView), BackupsError> {
        let mut state = self.locked();
        if state.is_closed {
            return Err(BackupsError::Closing);
        }
        if let Some(running) = &state.running {
            return Err(BackupsError::Runs(running.id.clone()));
        }
        // The clock may show the same time again, or be set back.
        let now = BackupId::at(Utc::now());
        let id = match &state.latest {
            Some(latest) if *latest >= now => latest.next(),
            Some(_) | None => now,
        };
        state.latest = Some(id.clone());
        let (stage, shards) = (BackupStage::Copying, Vec::new());
        let running = RunningBackup { id: id.clone(), is_cancelled: false, stage, shards };
        let view = running.view();
        state.running = Some(running);
        Ok((id, view))
    }

    /// Records the progress of the running backup.
    pub(super) fn note(&self, step: &Step) {
        let mut state = self.locked();
        let Some(running) = &mut state.running else { return };
        match step {
            Step::Copying { shard, bytes, of } => running.copied(shard, *bytes, *of),
            Step::Following { .. } | Step::Held { .. } => running.stage = BackupStage::Following,
            Step::Checking { .. } | Step::Writing { .. } => running.stage = BackupStage::Checking,
        }
    }

    /// Ends the running backup.
    pub(super) fn end(&self, outcome: BackupState, reason: Option<String>) {
        let mut state = self.locked();
        let Some(RunningBackup { id, .. }) = state.running.take() else { return };
        let count = match outcome {
            BackupState::Done => &mut state.totals.done,
            BackupState::Cancelled => &mut state.totals.cancelled,
            BackupState::Failed | BackupState::Running => &mut state.totals.failed,
        };
        *count += 1;
        remember(
            &mut state.ended,
            EndedBackup { id, state: outcome, reason, at: Some(Utc::now()) },
        );
        self.ended.notify_all();
    }

    /// Records a backup that has ended.
    pub(super) fn add(&self, ended: EndedBackup) {
        remember(&mut self.locked().ended, ended);
    }

    /// Records the latest complete backup.
    pub(super) fn note_success(&self, summary: Option<&BackupSummary>) {
        let at = summary.and_then(|summary| DateTime::parse_from_rfc3339(&summary.at).ok());
        if let Some(at) = at {
            self.locked().totals.last_success_s = Some(at.timestamp_millis() as f64 / 1_000.0);
        }
    }

    /// Cancels the running backup, if it is this one, and returns it.
    pub(super) fn cancel(&self, id: &BackupId) -> Option<BackupView> {
        let mut state = self.locked();
        let running = state.running.as_mut().filter(|running| running.id == *id)?;
        running.is_cancelled = true;
        Some(running.view())
    }

    /// Returns true if the running backup must end early: it was cancelled, or the desk is closed.
    pub(super) fn is_cancelled(&self) -> bool {
        let state = self.locked();
        state.is_closed || state.running.as_ref().is_none_or(|running| running.is_cancelled)
    }

    /// Returns true if a backup is running.
    pub(super) fn is_running(&self) -> bool {
        self.locked().running.is_some()
    }

    /// Returns the running backup, and the ended ones that left no copy because they failed or were
    /// cancelled.
    pub(super) fn without_copy(&self) -> Vec<BackupView> {
        let state = self.locked();
        let ended = state.ended.iter().filter(|ended| ended.state != BackupState::Done);
        state.running.iter().map(RunningBackup::view).chain(ended.map(EndedBackup::view)).collect()
    }

    /// Returns a backup, running or ended.
    pub(super) fn find(&self, id: &BackupId) -> Option<BackupView> {
        let state = self.locked();
        let running = state.running.as_ref().filter(|running| running.id == *id);
        let ended = || state.ended.iter().find(|ended| ended.id == *id).map(EndedBackup::view);
        running.map(RunningBackup::view).or_else(ended)
    }

    /// Returns the times at which this process has begun and ended a backup; `None` if they are not
    /// known.
    pub(super) fn times_of(&self, id: &BackupId) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let state = self.locked();
        let ended = state.ended.iter().find(|ended| ended.id == *id)?;
        Some((ended.id.time(), ended.at?))
    }

    /// Returns the counts.
    pub(super) fn totals(&self) -> BackupTotals {
        let state = self.locked();
        BackupTotals { is_running: state.running.is_some(), ..state.totals }
    }

    /// Refuses further backups, and cancels the running one.
    pub(super) fn close(&self) {
        self.locked().is_closed = true;
    }

    /// Waits until no backup is running, up to a time limit. Blocks.
    pub(super) fn wait_for_end(&self) {
        let is_running = |state: &mut State| state.running.is_some();
        drop(self.ended.wait_timeout_while(self.locked(), END_MAX, is_running));
    }
}

fn remember(ended: &mut VecDeque<EndedBackup>, backup: EndedBackup) {
    if ended.len() == ENDED_MAX {
        ended.pop_front();
    }
    ended.push_back(backup);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_backup_runs_at_a_time_and_none_after_the_close() {
        let desk = BackupDesk::default();
        let (first, _) = desk.begin().expect("none runs");
        assert!(matches!(desk.begin(), Err(BackupsError::Runs(id)) if id == first));
        desk.end(BackupState::Done, None);
        let (second, _) = desk.begin().expect("none runs");
        assert!(second > first, "ids are in the order of time");
        assert!(!desk.is_cancelled());
        desk.close();
        assert!(desk.is_cancelled());
        desk.end(BackupState::Cancelled, None);
        desk.wait_for_end();
        assert!(matches!(desk.begin(), Err(BackupsError::Closing)));
        let totals = desk.totals();
        assert_eq!((totals.is_running, totals.done, totals.cancelled), (false, 1, 1));
    }

    #[test]
    fn progress_is_the_sum_of_the_shards() {
        let desk = BackupDesk::default();
        let (id, _) = desk.begin().expect("none runs");
        for (shard, bytes, of) in [("a", 0, 10), ("b", 0, 20), ("a", 12, 10), ("b", 5, 20)] {
            desk.note(&Step::Copying { shard: shard.to_owned(), bytes, of });
        }
        let view = desk.find(&id).expect("it runs");
        assert_eq!((view.bytes, view.expected_bytes), (17, Some(32)));
        assert_eq!(view.actions, [CANCEL]);
        desk.note(&Step::Following { behind: 3 });
        let view = desk.cancel(&id).expect("it runs");
        assert_eq!((view.stage, view.actions.len()), (Some(BackupStage::Following), 0));
        assert_eq!(view.shards.map(|shards| shards.len()), Some(2));
    }
}
