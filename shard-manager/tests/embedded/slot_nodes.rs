//! Test harness: a primary and a replica as files without a cluster, whose slots change hands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;
use shard_manager::engine::slot_change::{SlotChange, SlotChangeError, SlotStep};
use shard_manager::engine::{NodeRows, Scope, WriteGroup, Writer};
use shard_manager::error::Error;
use shard_manager::keyspace::{Keyspace, ShardKey, Slot};
use shard_manager::query::ReadQuery;
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::{Operation, RowDone, RowWrite};
use shard_manager::slot_set::SlotSet;
use shard_manager::store::sqlite::applier::{Applier, ApplyError};
use shard_manager::store::sqlite::reader::{Housekeeping, ReaderPool, ReaderSource, VisibleBound};
use shard_manager::store::sqlite::shard_file::{self, FileIdentity};
use shard_manager::store::sqlite::snapshot;
use shard_manager::store::sqlite::writer::SqliteWriter;
use shard_manager::table::{Registry, Table};
use tempfile::TempDir;

use crate::cluster::deadline;
use crate::scratch;

const PATIENCE: Duration = Duration::from_secs(30);

/// The slot of a key.
pub(crate) fn slot(key: &str) -> Slot {
    Keyspace::Hash.slot_of(ShardKey::parse(key).expect("a key")).expect("a slot")
}

/// The slots of some keys.
pub(crate) fn slots(keys: &[&str]) -> SlotSet {
    keys.iter().map(|key| slot(key)).collect()
}

/// Returns true if there may be more to apply; `None` if the log was trimmed, so that the replica
/// must be rebuilt.
pub(crate) fn unless_trimmed(applied: Result<bool, ApplyError>) -> Option<bool> {
    match applied {
        Ok(more) => Some(more),
        Err(ApplyError::LogTrimmed) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// An open file and its readers.
pub(crate) struct Open<W> {
    pub(crate) changes: W,
    pub(crate) readers: ReaderPool,
}

/// A primary and a replica, connected by the test itself.
pub(crate) struct Nodes {
    _dir: TempDir,
    pub(crate) primary_file: PathBuf,
    pub(crate) replica_file: PathBuf,
    tables: Registry,
    pub(crate) replication: Arc<ReplicationState>,
    keeper: Housekeeping,
    primary: Option<Open<SqliteWriter>>,
    replica: Option<Open<Applier>>,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let all: Vec<u16> = (0..16_384).collect();
        Self::owning(&all)
    }

    /// A shard that owns these slots.
    pub(crate) fn owning(slots: &[u16]) -> Self {
        let dir = scratch::folder();
        let (primary_file, replica_file) = (dir.path().join("p.db"), dir.path().join("r.db"));
        let identity = FileIdentity { cluster_id: "c", shard: "shard1", slots, table_groups: &[] };
        let prepared = shard_file::prepare(&primary_file, &identity, true).expect("a new file");
        let history = shard_file::begin_timeline(&primary_file, None).expect("a timeline");
        let replication = ReplicationState::new(history, prepared.position, 1);
        let mut nodes = Self {
            _dir: dir,
            primary_file,
            replica_file,
            tables: prepared.tables,
            replication: Arc::new(replication),
            keeper: Housekeeping::start(),
            primary: None,
            replica: None,
        };
        nodes.rebuild();
        nodes
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(self.tables.find("kv").expect("it is there"))
    }

    pub(crate) fn primary(&mut self) -> &mut Open<SqliteWriter> {
        let Self { primary_file, replication, keeper, primary, .. } = self;
        primary.get_or_insert_with(|| {
            let writer = SqliteWriter::open("shard1", primary_file, replication).expect("it opens");
            let source = ReaderSource {
                file_check: Some(Arc::clone(writer.file_check())),
                ownership: Arc::clone(&writer.slots().ownership),
            };
            let (place, bound) = (("shard1", &**primary_file), VisibleBound::primary(replication));
            let readers = ReaderPool::open_on(source, place, bound, keeper).expect("a pool");
            Open { changes: writer, readers }
        })
    }

    pub(crate) fn replica(&mut self) -> &mut Open<Applier> {
        let Self { primary_file, replica_file, replication, keeper, replica, .. } = self;
        replica.get_or_insert_with(|| {
            let current = replication.timeline().history().current();
            let applier = Applier::open(primary_file, replica_file, current).expect("it opens");
            replication.replicas().reset_to(0, applier.position());
            let source =
                ReaderSource { file_check: None, ownership: Arc::clone(applier.slot_ownership()) };
            let bound = VisibleBound::replica(replication, 0);
            let place = ("shard1", &**replica_file);
            let readers = ReaderPool::open_on(source, place, bound, keeper).expect("a pool");
            Open { changes: applier, readers }
        })
    }

    /// Ends the primary's process between two transactions.
    pub(crate) fn primary_dies(&mut self) {
        self.primary = None;
    }

    /// Ends the replica's process between two transactions.
    pub(crate) fn replica_dies(&mut self) {
        self.replica = None;
    }

    /// The primary's file is lost, and that of the replica takes its place.
    pub(crate) fn promote_replica(&mut self) {
        (self.primary, self.replica) = (None, None);
        for suffix in ["", "-wal", "-shm"] {
            let file = |path: &PathBuf| format!("{}{suffix}", path.display());
            // A file that was closed in order has no WAL.
            let _ = std::fs::remove_file(file(&self.primary_file));
            let _ = std::fs::rename(file(&self.replica_file), file(&self.primary_file));
        }
        self.rebuild();
    }

    /// Rebuilds the replica from a snapshot of the primary.
    pub(crate) fn rebuild(&mut self) {
        self.replica = None;
        snapshot::make(&self.primary_file, &self.replica_file).expect("a snapshot");
        self.replica();
    }

    /// Applies one transaction on the replica; returns true if there may be more.
    pub(crate) fn apply(&mut self) -> bool {
        let applied = self.replica().changes.step(true, None, |_| {});
        let Some(more) = unless_trimmed(applied) else {
            self.rebuild();
            return true;
        };
        let position = self.replica().changes.position();
        self.replication.replicas().record_applied(0, position, None);
        more
    }

    pub(crate) fn catch_up(&mut self) {
        while self.apply() {}
    }

    /// Brings the replica up to date, and records that its file is on disk.
    pub(crate) fn catch_up_on_disk(&mut self) {
        self.catch_up();
        let position = self.replica().changes.position();
        self.replication.replicas().record_durable(0, position);
    }

    pub(crate) fn change(
        &mut self,
        slots: &SlotSet,
        step: SlotStep,
    ) -> Result<u64, SlotChangeError> {
        let change = SlotChange { slots: slots.clone(), step };
        self.primary().changes.change_slots(&change)
    }

    pub(crate) fn row(&self, operation: Operation, key: &str, value: i64) -> RowWrite {
        Self::row_of(&self.table(), operation, key, value)
    }

    /// A change of a row of any table with a column `value`.
    pub(crate) fn row_of(
        table: &Arc<Table>,
        operation: Operation,
        key: &str,
        value: i64,
    ) -> RowWrite {
        let fields = match operation {
            Operation::Delete => json!({}),
            Operation::Upsert | Operation::Insert | Operation::Update => json!({"value": value}),
        };
        let members: std::collections::BTreeMap<String, Box<RawValue>> =
            serde_json::from_value(fields).expect("an object");
        let fields: Vec<_> =
            members.iter().map(|(name, json)| (name.as_str().into(), &**json)).collect();
        let place = (ShardKey::parse(key).expect("a key"), slot(key));
        RowWrite::parse(table, operation, place, &fields).expect("a row")
    }

    pub(crate) fn write(
        &mut self,
        operation: Operation,
        key: &str,
        value: i64,
    ) -> Result<RowDone, Error> {
        let row = self.row(operation, key, value);
        self.apply_row(row)
    }

    pub(crate) fn apply_row(&mut self, row: RowWrite) -> Result<RowDone, Error> {
        let rows = [row];
        let group = WriteGroup { rows: &rows, atomic_rows: None };
        let done = self.primary().changes.apply(&[group]).expect("the batch is committed");
        done.rows.into_iter().next().expect("one row")
    }

    pub(crate) fn put(&mut self, key: &str, value: i64) {
        self.write(Operation::Upsert, key, value).expect("stored");
    }

    pub(crate) fn scan_query(&self) -> ReadQuery {
        ReadQuery { counts: true, limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&self.table()) }
    }
}

/// Reads the rows of a key.
pub(crate) fn read_key(
    readers: &ReaderPool,
    query: &ReadQuery,
    key: &str,
) -> Result<NodeRows, Error> {
    readers.read(query, Scope::Key(slot(key), key), (PATIENCE, deadline()))
}

/// Reads the rows of all keys, or of those that the query names.
pub(crate) fn scan(readers: &ReaderPool, query: &ReadQuery) -> Result<NodeRows, Error> {
    readers.read(query, Scope::Shard, (PATIENCE, deadline()))
}

/// The keys of the rows that a scan returned, and its total.
pub(crate) fn keys_of(read: &NodeRows) -> (Vec<String>, Option<u64>) {
    let json = format!("[{}]", std::str::from_utf8(read.rows.json()).expect("UTF-8"));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).expect("rows");
    let mut keys: Vec<String> =
        rows.iter().map(|row| row["key"].as_str().expect("a key").to_owned()).collect();
    keys.sort_unstable();
    (keys, read.rows.total)
}
