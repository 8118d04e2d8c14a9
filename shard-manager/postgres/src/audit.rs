//! Audit: checks that every row of a cluster is stored where it belongs, exactly once, and that
//! replicas equal primaries.
//!
//! Each shard is read in one snapshot of its primary, several shards at a time, beside running
//! routers; rows are streamed and not kept. These checks prove that a row is in the cluster only
//! once: its slot is the slot of its key, its shard is the only owner of that slot (by the shard
//! map and by the shard's own table of slots), and the primary key of its table is unique within
//! the shard.
//!
//! **Invariant:** an audit changes nothing; a report without findings means that every row was
//! checked.
//! **Not here:** repairs; the rules for a single row (`audit/rows`), the owners of slots
//! (`audit/owners`), the other contents of a database (`audit/inventory`), comparing replicas
//! (`audit/replicas`).

mod inventory;
mod owners;
mod replicas;
mod rows;

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::QueryResult;
use engine::audit_report::{AuditOptions, AuditReport, Discrepancy, ShardAudit};
use engine::open_error::OpenError;
use futures_util::stream::{self, StreamExt};
use model::idempotency;
use model::shard_map::ShardMap;
use model::table::Registry;

use self::inventory::Inventory;
use self::owners::ShardSlots;
use self::replicas::Replicas;
use self::rows::RowRules;
use super::cluster_sessions::{ClusterSessions, ShardSession};
use super::declarations;
use super::node_address::ClusterAddress;
use super::sql;
use super::statement::{Statement, load, run};

/// Attempts to read slots and tables that contradict each other because they change meanwhile, and
/// the pause after each attempt.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Checks every row of a cluster; `progress` receives numbers of rows as they are read.
///
/// # Errors
/// [`OpenError`] if the catalog or a shard has no primary, or cannot be read.
pub async fn audit(
    address: &ClusterAddress,
    options: &AuditOptions,
    progress: &dyn Fn(u64),
) -> Result<AuditReport, OpenError> {
    let sessions = ClusterSessions::open(address).await?;
    let (map, slots) = settled_slots(&sessions).await?;
    let mut report = AuditReport::default();
    for (shard, what, expected) in owners::check(&map, &slots) {
        report.add(about(&slots[shard].name, what, expected));
    }
    let moving = slots.iter().flat_map(|shard| shard.moving.keys());
    let moving = moving.collect::<std::collections::BTreeSet<_>>().len();
    if moving > 0 {
        report.notes.push(format!("{moving} slots are in a move between two shards"));
    }
    if options.deep {
        let note = "the pages of servers were not checked: pg_amcheck and pg_checksums do that";
        report.notes.push(note.to_owned());
    }
    let audits = sessions.shards.iter().zip(&slots).map(|(shard, slots)| {
        Audit { shard, slots, map: &map, progress, report: AuditReport::default() }.run()
    });
    // The results keep the order of the shards.
    let mut audits = stream::iter(audits).buffered(options.threads.max(1));
    let mut registries = Vec::new();
    while let Some(audited) = audits.next().await {
        let (part, tables) = audited?;
        registries.push(tables);
        report.unite(part);
    }
    compare_registries(&sessions, registries, &mut report).await?;
    Ok(report)
}

/// Takes a snapshot of each shard, and reads the map and the slots of all shards. This is repeated,
/// up to [`TRIES`] times, while they contradict each other, because slots may change owners between
/// two of these reads.
async fn settled_slots(
    sessions: &ClusterSessions,
) -> Result<(ShardMap, Vec<ShardSlots>), OpenError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let map = sessions.map().await?;
        let mut slots = Vec::with_capacity(sessions.shards.len());
        for shard in &sessions.shards {
            shard.begin().await?;
            slots.push(ShardSlots::read(shard).await.map_err(|error| shard.failed(error))?);
        }
        if owners::check(&map, &slots).is_empty() || tried == TRIES {
            return Ok((map, slots));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Creates a finding about the primary of a shard.
fn about(shard: &str, what: impl Into<String>, expected: impl Into<String>) -> Discrepancy {
    Discrepancy {
        shard: shard.to_owned(),
        node: format!("{shard}-primary"),
        what: what.into(),
        expected: expected.into(),
        ..Discrepancy::default()
    }
}

/// Audit of one shard.
struct Audit<'a> {
    shard: &'a ShardSession,
    slots: &'a ShardSlots,
    map: &'a ShardMap,
    progress: &'a dyn Fn(u64),
    report: AuditReport,
}

impl Audit<'_> {
    /// Checks the shard in the snapshot that its session has, and returns its tables.
    async fn run(mut self) -> Result<(AuditReport, Registry), OpenError> {
        let audited = self.check().await;
        let tables = audited.map_err(|error| self.shard.failed(error))?;
        Ok((self.report, tables))
    }

    fn find(&mut self, what: impl Into<String>, expected: impl Into<String>) {
        self.report.add(about(&self.shard.name, what, expected));
    }

    async fn check(&mut self) -> QueryResult<Registry> {
        let connection = self.shard.connection();
        // Rows are read in the order in which they are stored.
        run(connection, "SET LOCAL enable_seqscan=on").await?;
        let (tables, _) = declarations::load(connection).await?;
        let tables = Registry::new(tables);
        if let Some(difference) = declarations::drift(connection, &tables).await? {
            self.find(difference, "the declared columns and primary key");
            return Ok(tables);
        }
        let inventory = Inventory::read(connection).await?;
        inventory.check(self);
        let mut audited = ShardAudit {
            shard: self.shard.name.clone(),
            position: self.slots.position,
            tables: BTreeMap::new(),
            replicas: Vec::new(),
        };
        let mut replicas = Replicas::open(self).await;
        let mut left_rows = 0;
        for table in tables.tables().chain([&*idempotency::TABLE]) {
            let mut rules = RowRules::new(self, table, inventory.version_max);
            rules.check_all().await?;
            left_rows += rules.left_rows;
            let rows = rules.rows;
            audited.tables.insert(table.name().to_owned(), rows);
            replicas.compare(self, table).await?;
        }
        if left_rows > 0 {
            let shard = &self.shard.name;
            self.report.notes.push(format!(
                "{shard} has {left_rows} rows of slots that have moved away, and no move deletes them"
            ));
        }
        // The snapshot is not needed any more.
        run(connection, "ROLLBACK").await?;
        audited.replicas = replicas.prove(self).await?;
        self.report.shards.push(audited);
        Ok(tables)
    }
}

/// Checks that every shard has the same tables. While a router creates one, they differ for a
/// moment.
async fn compare_registries(
    sessions: &ClusterSessions,
    mut registries: Vec<Registry>,
    report: &mut AuditReport,
) -> Result<(), OpenError> {
    for _ in 0..TRIES {
        if registries.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        for (shard, tables) in sessions.shards.iter().zip(&mut registries) {
            let now = declarations::load(shard.connection()).await;
            *tables = Registry::new(now.map_err(|error| shard.failed(error))?.0);
        }
    }
    let Some(first) = registries.first() else { return Ok(()) };
    for (shard, tables) in sessions.shards.iter().zip(&registries) {
        if tables != first {
            let expected = format!("the tables of {}", sessions.shards[0].name);
            report.add(about(&shard.name, "the shard declares other tables", expected));
        }
    }
    Ok(())
}

/// Reads the position up to which a primary has written its log.
async fn insert_position(shard: &ShardSession) -> QueryResult<u64> {
    let statement = Statement { sql: sql::INSERT_POSITION, binds: &[], cached: false };
    let rows = load(shard.connection(), statement).await?;
    Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
}
