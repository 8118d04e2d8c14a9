//! Test harness: an embedded cluster in a temporary folder, and direct access to its files.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::sqlite::SqliteConnection;
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::backup::BackupSource;
use shard_manager::engine::audit_report::AuditOptions;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::open_error::OpenError;
use shard_manager::error::Failure;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{
    BulkRow, BulkRowDone, Data, Manager, ReadDone, RequestOptions, WriteReceipt,
};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::{Operation, RowWrite};
use shard_manager::shard_map::KeyLocation;
use shard_manager::store::sqlite::audit::audit;
use shard_manager::store::sqlite::offline_view::DirView;
use tempfile::TempDir;

use crate::scratch;

/// A running cluster. Its folder is removed with it.
pub(crate) struct Cluster {
    pub(crate) manager: Manager,
    /// Source of backups, if the test needs one.
    pub(crate) source: Option<Arc<BackupSource>>,
    pub(crate) dir: TempDir,
}

/// Deadline of requests. Generous: a test that reaches it has found a defect.
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) fn options() -> RequestOptions {
    RequestOptions::by(deadline())
}

/// Shards without replicas: every read is answered by the primary.
pub(crate) fn shards(count: usize) -> ClusterSpec {
    with_replicas(count, 0)
}

pub(crate) fn with_replicas(shards: usize, replicas: usize) -> ClusterSpec {
    ClusterSpec { shards: Some(shards), replicas: Some(replicas), ..ClusterSpec::default() }
}

pub(crate) fn open(dir: &Path, wanted: ClusterSpec) -> Result<Manager, OpenError> {
    assembly::open(&EmbeddedCluster { data_dir: dir.to_owned(), wanted })
}

/// Opens a cluster, and returns the source for its backups.
pub(crate) fn open_with_source(
    dir: &Path,
    wanted: ClusterSpec,
) -> Result<(Manager, Arc<BackupSource>), OpenError> {
    assembly::open_with_source(&EmbeddedCluster { data_dir: dir.to_owned(), wanted })
}

/// The sentence with which a start is refused.
pub(crate) fn refusal(dir: &Path, wanted: ClusterSpec) -> String {
    match open(dir, wanted) {
        Ok(_) => panic!("the start was not refused"),
        Err(error) => error.to_string(),
    }
}

impl Cluster {
    pub(crate) fn with_shards(count: usize) -> Self {
        Self::with(shards(count))
    }

    pub(crate) fn with(wanted: ClusterSpec) -> Self {
        let dir = scratch::folder();
        let (manager, source) = open_with_source(dir.path(), wanted).expect("a new cluster starts");
        Self { manager, source: Some(source), dir }
    }

    /// Stops the cluster cleanly and starts it again, with its files modified in between.
    pub(crate) fn restart_after(self, meddle: impl FnOnce(&Path)) -> Self {
        let dir = self.stop();
        meddle(dir.path());
        let opened = open_with_source(dir.path(), ClusterSpec::default());
        let (manager, source) = opened.expect("the cluster starts again");
        Self { manager, source: Some(source), dir }
    }

    pub(crate) fn stop(self) -> TempDir {
        self.manager.close();
        drop((self.manager, self.source));
        self.dir
    }

    pub(crate) fn file(&self, shard: usize) -> PathBuf {
        shard_file(self.dir.path(), shard)
    }

    /// Checks and routes a change of the row spelt by a JSON object.
    pub(crate) fn prepare(
        &self,
        table: &str,
        operation: Operation,
        key: &str,
        json: &str,
    ) -> (KeyLocation, RowWrite) {
        let table = self.manager.schema(Rights::ALL).table(table).expect("the table is there");
        let key = ShardKey::parse(key).expect("a good key");
        let members: std::collections::BTreeMap<String, &RawValue> =
            serde_json::from_str(json).expect("an object");
        let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
        Data::prepare(&self.manager.map(), &table, operation, key, &fields)
            .expect("a row of the table")
    }

    pub(crate) async fn write(
        &self,
        table: &str,
        operation: Operation,
        key: &str,
        json: &str,
    ) -> Result<WriteReceipt, Failure> {
        let (place, row) = self.prepare(table, operation, key, json);
        self.manager.data(Rights::ALL).write(place, row, &options()).await
    }

    pub(crate) async fn write_all(&self, rows: Vec<(KeyLocation, RowWrite)>) -> Vec<BulkRowDone> {
        self.write_all_by(rows, &options()).await
    }

    /// Writes rows; returns their outcomes in the order given, shard by shard.
    pub(crate) async fn write_all_by(
        &self,
        rows: Vec<(KeyLocation, RowWrite)>,
        options: &RequestOptions,
    ) -> Vec<BulkRowDone> {
        let numbered = rows.into_iter().enumerate();
        let rows = numbered.map(|(index, (place, row))| BulkRow { index, place, row }).collect();
        let mut rows = self.manager.data(Rights::ALL).write_bulk(rows, options).await.rows;
        rows.sort_by_key(|row| (row.place.shard, row.index));
        rows
    }

    pub(crate) async fn read(&self, query: ReadQuery, key: Option<&str>) -> Vec<serde_json::Value> {
        let read = self.try_read(query, key).await.expect("the read is answered");
        let json = format!("[{}]", std::str::from_utf8(read.rows.json()).expect("UTF-8"));
        serde_json::from_str(&json).expect("rows are the inside of a JSON array")
    }

    pub(crate) async fn try_read(
        &self,
        query: ReadQuery,
        key: Option<&str>,
    ) -> Result<ReadDone, Failure> {
        let key = key.map(|key| ShardKey::parse(key).expect("a good key"));
        self.manager.data(Rights::ALL).read(query, key, &options()).await
    }

    /// The rows of a table, up to a thousand of them.
    pub(crate) async fn rows(&self, table: &str, key: Option<&str>) -> Vec<serde_json::Value> {
        let table = self.manager.schema(Rights::ALL).table(table).expect("the table is there");
        let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table) };
        self.read(query, key).await
    }
}

pub(crate) fn shard_file(dir: &Path, shard: usize) -> PathBuf {
    dir.join(format!("shard{shard}-primary.db"))
}

/// A connection that knows nothing of Tessera, as an operator with a shell would have.
pub(crate) fn connect(path: &Path) -> SqliteConnection {
    let mut connection =
        SqliteConnection::establish(&path.to_string_lossy()).expect("the file opens");
    connection.batch_execute("PRAGMA busy_timeout=5000").expect("a pragma");
    connection
}

pub(crate) fn execute(path: &Path, sql: &str) {
    connect(path).batch_execute(sql).expect("the statement runs");
}

#[derive(QueryableByName)]
struct TextRow {
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(QueryableByName)]
struct IntRow {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(QueryableByName)]
struct LogRow {
    #[diesel(sql_type = BigInt)]
    position: i64,
    #[diesel(sql_type = Binary)]
    changes: Vec<u8>,
}

/// The column `value` of a query, as text.
pub(crate) fn texts(path: &Path, sql: &str) -> Vec<String> {
    let rows: Vec<TextRow> = diesel::sql_query(sql).load(&mut connect(path)).expect("a query");
    rows.into_iter().map(|row| row.value).collect()
}

/// The column `value` of a query, as a number.
pub(crate) fn ints(path: &Path, sql: &str) -> Vec<i64> {
    let rows: Vec<IntRow> = diesel::sql_query(sql).load(&mut connect(path)).expect("a query");
    rows.into_iter().map(|row| row.value).collect()
}

/// Findings of a check of all files.
pub(crate) fn findings(dir: &Path) -> Vec<String> {
    let view = DirView::open(dir).expect("readable");
    let options = AuditOptions { deep: true, threads: 2 };
    let report = audit(&view, &options, &|_| ()).expect("a report");
    report.findings.iter().map(|found| format!("{found:?}")).collect()
}

/// The change log: position, and the lines of that transaction.
pub(crate) fn log(path: &Path) -> Vec<(i64, Vec<serde_json::Value>)> {
    let sql = "SELECT position, changes FROM tessera_log ORDER BY position";
    let rows: Vec<LogRow> = diesel::sql_query(sql).load(&mut connect(path)).expect("a query");
    let lines = |changes: &[u8]| {
        let text = std::str::from_utf8(changes).expect("UTF-8").to_owned();
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    };
    rows.iter().map(|row| (row.position, lines(&row.changes))).collect()
}
