//! Background work on the files of open shards: backups, the comparison of copies, and the watch
//! over the files.
//!
//! **Invariant:** after a shard was removed, background work on it ends no later than with the
//! current round.
//! **Not here:** opening files (`shard_opening`), the work itself (`backup`, `comparison_loop`,
//! `file_watch`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use model::sabotage::{Mutation, is_on};
use model::table::Registry;
use model::topology::ShardNumber;

use super::backup::{BackupSource, Original, SavedShard};
use super::comparison_loop::{ComparedShard, ComparisonLoop};
use super::file_watch::FileChecks;
use super::open_file_check::OpenFileCheck;
use super::shard_opening::{FileShard, ShardOpener};

/// Background work on the files of all open shards.
pub(super) struct Background {
    source: Arc<BackupSource>,
    file_checks: Arc<FileChecks>,
    /// `None` if copies are not compared.
    comparison: Option<ComparisonLoop>,
    /// Check of each shard's file, which identifies the work to end when the shard is removed.
    shards: Mutex<BTreeMap<ShardNumber, Arc<OpenFileCheck>>>,
}

impl Background {
    /// Creates the work without shards.
    pub(super) fn new(
        source: &Arc<BackupSource>,
        file_checks: &Arc<FileChecks>,
        registry: &Arc<ArcSwap<Registry>>,
    ) -> Self {
        // In a test that damages replicas on purpose, the replicas must not be repaired.
        let comparison = (!is_on(Mutation::Resurrect)).then(|| ComparisonLoop::new(registry));
        let (source, file_checks) = (Arc::clone(source), Arc::clone(file_checks));
        Self { source, file_checks, comparison, shards: Mutex::default() }
    }

    /// Includes a shard that was opened.
    pub(super) fn add(&self, number: ShardNumber, shard: &FileShard, opener: &ShardOpener) {
        self.remove(number);
        let FileShard { opened, file_check, .. } = shard;
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.insert(number, Arc::clone(file_check));
        self.file_checks.add(file_check);
        let (name, primary) = (opened.name.clone(), opener.primary(&opened.name));
        self.source.add_shard(SavedShard {
            original: Original { shard: name, primary },
            file_check: Some(Arc::clone(file_check)),
            pause_barrier: Arc::clone(&opened.controls.pause_barrier),
            replication: Arc::clone(&opened.replication),
        });
        let Some(comparison) = &self.comparison else { return };
        if let Err(error) = comparison.add(compared(shard, opener)) {
            tracing::error!(%error, "the copies of a shard cannot be compared");
        }
    }

    /// Excludes a shard from the work.
    pub(super) fn remove(&self, number: ShardNumber) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file_check) = shards.remove(&number) else { return };
        self.comparison.iter().for_each(|comparison| comparison.remove(&file_check));
        self.source.remove_shard(&file_check);
        self.file_checks.remove(&file_check);
    }

    /// Ends the comparison of copies. Blocks for some milliseconds.
    pub(super) fn stop(&self) {
        self.comparison.iter().for_each(ComparisonLoop::stop);
    }
}

fn compared(shard: &FileShard, opener: &ShardOpener) -> ComparedShard {
    let FileShard { opened, file_check, replicas } = shard;
    let numbered = replicas.iter().map(Arc::clone).enumerate();
    let of_replicas = opened.replicas.iter().map(|replica| &replica.findings);
    ComparedShard {
        name: opened.name.clone(),
        copy_faults: Arc::clone(&opened.copy_faults),
        record: Arc::clone(&opener.record),
        replication: Arc::clone(&opened.replication),
        findings: std::iter::once(&opened.findings).chain(of_replicas).map(Arc::clone).collect(),
        primary: opener.primary(&opened.name),
        file_check: Some(Arc::clone(file_check)),
        replicas: numbered
            .map(|(index, replica)| (replica, opener.replica(&opened.name, index)))
            .collect(),
    }
}
