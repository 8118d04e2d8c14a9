//! Index building: the task that builds and drops the indexes that the catalog lists.
//!
//! ```text
//!   each second, and when notified: lead? ──▶ list ──▶ one shard after the other ──▶ report
//! ```
//! The process that leads, which also carries out moves, does the work. Each step first inspects
//! the shard, so a process that takes over can repeat a step that another process has begun. When a
//! process begins to lead, or the list of shards changes, the process looks for every index on
//! every shard, because a file that was restored from an older copy may lack some indexes.
//!
//! If shards are files, writes wait while an index is built. An index is then given up if the
//! estimated wait exceeds the limit in its record, and a build ends when it reaches that limit. The
//! limit also holds for an index that another process has begun, and for a ready index that one
//! shard lacks. In each of these cases the index is dropped from all shards.
//!
//! **Invariant:** an index becomes `ready` only after every shard has it, and `failed` only after
//! no shard has it any more.
//! **Not here:** the requests of clients (`indexes`), SQL (the engines).

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::rights::Rights;
use engine::IndexChange;
use engine::index_catalog::IndexCatalog;
use engine::index_record::{IndexRecord, IndexState};
use model::error::Error;
use model::table_index::TableIndex;
use model::topology::ShardNumber;

use super::Manager;
use super::indexes::{IndexDraft, indexed_shards};
use crate::shard::Shard;

/// Interval at which the catalog is read for indexes.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait for a response of the catalog.
const CATALOG_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the lock of the tables, for the lock of a shard's indexes, and for a count of
/// rows.
const LOCK_MAX: Duration = Duration::from_secs(30);

/// Builds and drops indexes whenever this process leads, until the future is dropped. Each process
/// runs one such task.
pub(super) async fn carry_out(manager: &Manager) {
    let Some(catalog) = manager.backend.index_catalog() else { return };
    let mut building = IndexBuilding { manager, catalog, checked: Vec::new() };
    let mut news = manager.move_announcements.watch();
    loop {
        if let Err(error) = building.look().await {
            tracing::debug!(%error, "the indexes cannot be processed now");
        }
        news.rest(LOOK).await;
    }
}

/// Task that builds indexes.
struct IndexBuilding<'m> {
    manager: &'m Manager,
    catalog: &'m dyn IndexCatalog,
    /// Shards on which all indexes were inspected since this process began to lead.
    checked: Vec<ShardNumber>,
}

impl IndexBuilding<'_> {
    /// Processes every index as far as possible.
    async fn look(&mut self) -> Result<(), Error> {
        let records = in_time(self.catalog.list_indexes()).await?;
        self.manager.index_status.store(Arc::new(records.clone()));
        if !self.manager.move_announcements.leads() {
            self.checked.clear();
            return Ok(());
        }
        let shards: Vec<ShardNumber> =
            indexed_shards(self.manager).into_iter().map(|(number, _)| number).collect();
        let is_checked = self.checked == shards;
        // An index that waits for a shard does not delay the others.
        let mut waits = None;
        for record in records {
            let advanced = match record.state {
                IndexState::Ready if is_checked => Ok(()),
                IndexState::Failed => Ok(()),
                IndexState::Building | IndexState::Ready => self.build(record).await,
                IndexState::Undoing | IndexState::Dropping => self.take_down(record).await,
            };
            waits = waits.or(advanced.err());
        }
        match waits {
            Some(error) => Err(error),
            None => {
                self.checked = shards;
                Ok(())
            }
        }
    }

    /// Builds an index on the shards that lack it.
    async fn build(&self, mut record: IndexRecord) -> Result<(), Error> {
        let (index, shards) = self.prepare(&record).await?;
        let pause_max = Duration::from_millis(record.pause_max_ms);
        let change = IndexChange::MakeWithin(index, pause_max);
        let is_new = record.state == IndexState::Building;
        for (place, (_, shard)) in shards.iter().enumerate() {
            if is_new
                && place >= record.built
                && let Some(reason) = self.too_long(&record, shard).await?
            {
                return self.give_up(record, reason).await;
            }
            let Some(made) = self.change(&record, shard, &change).await? else { return Ok(()) };
            match made {
                Ok(pause) if is_new => {
                    record.built = place + 1;
                    record.reason = None;
                    let pause = pause.map(|pause| pause.as_millis() as u64);
                    record.pause_ms = record.pause_ms.max(pause);
                    if !self.report(&record, record.state).await? {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(error) => match permanent_reason(&error, &record) {
                    Some(reason) => {
                        let reason = format!("{}: {reason}", shard.name());
                        return self.give_up(record, reason).await;
                    }
                    None => return self.wait(record, shard, error).await,
                },
            }
        }
        if !is_new {
            return Ok(());
        }
        let ready = IndexRecord { state: IndexState::Ready, ..record };
        if self.report(&ready, IndexState::Building).await? {
            tracing::info!(table = ready.table, index = ready.name, "an index is ready");
        }
        Ok(())
    }

    /// Drops an index from the shards that have it.
    async fn take_down(&self, record: IndexRecord) -> Result<(), Error> {
        let (index, shards) = self.prepare(&record).await?;
        let change = IndexChange::Drop(index);
        for (_, shard) in &shards {
            match self.change(&record, shard, &change).await? {
                None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
        if record.state == IndexState::Dropping {
            in_time(self.catalog.remove_index(&record)).await?;
            self.manager.move_announcements.announce();
            tracing::info!(table = record.table, index = record.name, "an index was dropped");
            return Ok(());
        }
        let failed = IndexRecord { state: IndexState::Failed, built: 0, ..record };
        self.report(&failed, IndexState::Undoing).await.map(drop)
    }

    /// Returns the index of a record, and the shards, including those that have just joined.
    async fn prepare(
        &self,
        record: &IndexRecord,
    ) -> Result<(Arc<TableIndex>, Vec<(ShardNumber, Arc<Shard>)>), Error> {
        let schema = self.manager.schema(Rights::ALL);
        drop(schema.lock_schema(Instant::now() + LOCK_MAX).await?);
        let index = record.index(&self.manager.registry.load()).ok_or_else(|| {
            let (table, index) = (&record.table, &record.name);
            tracing::error!(table, index, "the table lacks columns of a listed index");
            Error::Internal
        })?;
        Ok((index, indexed_shards(self.manager)))
    }

    /// Changes one shard. Returns `None`, and changes nothing, if the catalog has another state for
    /// the index than the record.
    async fn change(
        &self,
        record: &IndexRecord,
        shard: &Shard,
        change: &IndexChange,
    ) -> Result<Option<Result<Option<Duration>, Error>>, Error> {
        let session = match shard.indexes().lock(Instant::now() + LOCK_MAX).await {
            Ok(session) => session,
            Err(error) => return Ok(Some(Err(error))),
        };
        // Another process may lead by now, and may have changed the record. It needs the same lock
        // to change the shard.
        if !self.is_current(record).await? {
            self.manager.move_announcements.announce();
            return Ok(None);
        }
        let changed = match change {
            IndexChange::Make(_) | IndexChange::MakeWithin(..) => {
                session.change(change, self.superseded(record)).await
            }
            IndexChange::Drop(_) => session.change(change, std::future::pending()).await,
        };
        Ok(Some(changed))
    }

    /// Returns true if the catalog lists an index in the same state as the record.
    async fn is_current(&self, record: &IndexRecord) -> Result<bool, Error> {
        let listed = in_time(self.catalog.list_indexes()).await?;
        Ok(listed.iter().any(|listed| {
            listed.is_named(&record.table, &record.name) && listed.state == record.state
        }))
    }

    /// Waits until the catalog no longer lists an index in the state of the record. The index is
    /// then to be dropped, so building it is pointless.
    async fn superseded(&self, record: &IndexRecord) {
        let mut news = self.manager.move_announcements.watch();
        loop {
            news.rest(LOOK).await;
            // While the catalog does not respond, the build continues.
            if let Ok(false) = self.is_current(record).await {
                return;
            }
        }
    }

    /// Returns a reason to give up if writes of a shard would wait too long for the index;
    /// otherwise `None`.
    async fn too_long(&self, record: &IndexRecord, shard: &Shard) -> Result<Option<String>, Error> {
        let estimate =
            shard.indexes().estimate_pause(&record.table, Instant::now() + LOCK_MAX).await?;
        let pause_ms = estimate.map_or(0, |(_, pause)| pause.as_millis() as u64);
        let most = record.pause_max_ms;
        let is_long = pause_ms > most;
        Ok(is_long.then(|| {
            let shard = shard.name();
            format!(
                "{shard}: writes would wait about {pause_ms} ms, longer than pause_max_ms = {most}"
            )
        }))
    }

    /// Records that an index cannot be built, so that it is dropped from the shards that have it
    /// already.
    async fn give_up(&self, record: IndexRecord, reason: String) -> Result<(), Error> {
        tracing::warn!(
            table = record.table,
            index = record.name,
            reason,
            "an index cannot be built"
        );
        let expected = record.state;
        let undoing = IndexRecord { state: IndexState::Undoing, reason: Some(reason), ..record };
        self.report(&undoing, expected).await.map(drop)
    }

    /// Records the reason why an index waits.
    async fn wait(&self, record: IndexRecord, shard: &Shard, error: Error) -> Result<(), Error> {
        let reason = Some(format!("waits for {}: {error}", shard.name()));
        if record.reason != reason {
            let expected = record.state;
            self.report(&IndexRecord { reason, ..record }, expected).await?;
        }
        Err(error)
    }

    /// Stores a record, unless the index is no longer in the expected state; returns false in that
    /// case.
    async fn report(&self, record: &IndexRecord, expected: IndexState) -> Result<bool, Error> {
        let is_stored = in_time(self.catalog.change_index(record, expected)).await?;
        if record.state != expected || !is_stored {
            self.manager.move_announcements.announce();
        }
        Ok(is_stored)
    }
}

/// Returns the reason why an index cannot be built, if another attempt would have the same result:
/// the rows do not permit it, the disk is full, or the build took as long as writes may wait.
fn permanent_reason(error: &Error, record: &IndexRecord) -> Option<String> {
    if matches!(error, Error::IndexPauseExceeded { .. }) {
        let most = IndexDraft::PAUSE_MAX.as_millis();
        return Some(format!(
            "{error}; request the index again with a higher pause_max_ms (at most {most}), or move \
             slots to more shards first"
        ));
    }
    let columns = record.columns.join(", ");
    if matches!(error, Error::NotUnique { .. }) {
        return Some(format!("two rows of one shard key have the same values in {columns}"));
    }
    if matches!(error, Error::IndexEntryTooLong { .. }) {
        return Some(format!("the text of a row in {columns} is too long for an index"));
    }
    let is_permanent = matches!(error, Error::Constraint { .. } | Error::StorageFull { .. });
    is_permanent.then(|| error.to_string())
}

/// Waits for a response of the catalog, at most for `CATALOG_MAX`.
async fn in_time<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let done = tokio::time::timeout(CATALOG_MAX, work).await;
    done.unwrap_or(Err(Error::DeadlinePassed))
}
