//! Audit: checks that every row of a cluster is stored exactly once, on the shard that owns its
//! slot, and that replicas equal their primaries.
//!
//! Each shard is read in one snapshot, several shards at a time, with or without a running router;
//! rows are streamed and not kept. These checks prove that a row is in the cluster only once: its
//! slot is the slot of its key, its shard is the only owner of that slot (by the shard map and by
//! the shard's own table of slots), and the primary key of its table is unique within the shard.
//!
//! **Invariant:** an audit changes nothing; a report without findings means that every row was
//! checked.
//! **Not here:** repairs; the rules for a single row (`audit/rows`), the other contents of a file
//! (`audit/file_inventory`, `audit/moving_slots`), comparing replicas (`audit/replicas`).

mod file_inventory;
mod moving_slots;
mod replicas;
mod rows;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::audit_report::{AuditOptions, AuditReport, Discrepancy, ShardAudit};
use model::idempotency;
use model::table::{Registry, Table};
use model::topology::ShardNumber;

use super::OpenError;
use super::node_view::NodeView;
use super::offline_view::{DirView, Holder, NodeFile};
use file_inventory::FileInventory;
use moving_slots::MovingSlots;
use replicas::Replicas;
use rows::{RowRules, Scan};

/// Checks every row of a cluster. `progress` is called with numbers of rows as they are read.
/// Blocks.
///
/// # Errors
/// [`OpenError`] if the process that holds the directory is unknown. Files that cannot be read are
/// findings.
pub fn audit(
    view: &DirView,
    options: &AuditOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<AuditReport, OpenError> {
    let running = matches!(view.holder()?, Holder::Process { .. });
    let (deep, report, moving) = (options.deep, Mutex::default(), Mutex::default());
    let audit = Audit { view, deep, running, progress, report, moving };
    let shards: Vec<ShardNumber> = view.map.topology().numbers().collect();
    let (next, registries) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(&shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(tables) = audit.shard(shard) {
                let mut known = registries.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(shard, tables);
            }
        }
    };
    std::thread::scope(|scope| {
        // The calling thread takes part in the work.
        for _ in 1..options.threads.min(shards.len()) {
            scope.spawn(work);
        }
        work();
    });
    audit.compare_registries(registries.into_inner().unwrap_or_else(PoisonError::into_inner));
    audit.moving.lock().unwrap_or_else(PoisonError::into_inner).check(&audit);
    let mut report = audit.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.shards.sort_by_key(|shard| view.map.topology().find(&shard.shard));
    report.findings.sort_by_key(|finding| view.map.topology().find(&finding.shard));
    Ok(report)
}

/// A running audit.
struct Audit<'a> {
    view: &'a DirView,
    deep: bool,
    /// True if a router runs, so that lagging replicas will catch up.
    running: bool,
    progress: &'a (dyn Fn(u64) + Sync),
    report: Mutex<AuditReport>,
    moving: Mutex<MovingSlots>,
}

impl Audit<'_> {
    fn find(&self, finding: Discrepancy) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.add(finding);
    }

    fn note(&self, note: String) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).notes.push(note);
    }

    fn passed(&self, rows: u64) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).rows += rows;
        (self.progress)(rows);
    }

    /// Creates a finding about a node as a whole.
    fn about(&self, file: &NodeFile, what: impl Into<String>, expected: &str) -> Discrepancy {
        Discrepancy {
            shard: self.view.map.topology().name(file.shard).to_owned(),
            node: file.node.clone(),
            what: what.into(),
            expected: expected.to_owned(),
            ..Discrepancy::default()
        }
    }

    /// Opens the file of a node, and checks its structure on request.
    fn open(&self, file: &NodeFile) -> Option<NodeView> {
        let opened = self.view.node(file).and_then(|mut node| {
            let defect = if self.deep { node.defect()? } else { None };
            Ok((node, defect))
        });
        match opened {
            Ok((node, None)) => Some(node),
            Ok((node, Some(defect))) => {
                self.find(self.about(file, defect, "a file as SQLite writes it"));
                Some(node)
            }
            Err(error) => {
                self.find(self.about(file, error.to_string(), "the file of this node"));
                None
            }
        }
    }

    /// Checks a shard, and returns its tables.
    fn shard(&self, shard: ShardNumber) -> Option<Registry> {
        let mut files = self.view.nodes(shard);
        let replicas = files.split_off(1);
        let file = &files[0];
        if self.view.is_joining(shard) {
            let name = self.view.map.topology().name(shard);
            self.note(format!("{name} is joining, and has no rows yet"));
            return None;
        }
        if !self.view.is_made(shard) && file.bytes().is_none() {
            self.note(format!("{} has not been created yet", file.node));
            return None;
        }
        // Slow checks come first. After them, the replicas are read before their primary, so that
        // they have no row that the primary does not have.
        let primary = self.open(file);
        let mut replicas = Replicas::look(self, &replicas);
        let mut primary = primary?;
        match self.primary(file, &mut primary, &mut replicas) {
            Ok(tables) => Some(tables),
            Err(error) => {
                self.find(self.about(file, error.to_string(), "a file that can be read"));
                None
            }
        }
    }

    fn primary(
        &self,
        file: &NodeFile,
        primary: &mut NodeView,
        replicas: &mut Replicas<'_>,
    ) -> Result<Registry, OpenError> {
        primary.begin()?;
        let inventory = FileInventory::read(primary)?;
        let moving = inventory.moving();
        let moving =
            moving.map_err(|error| OpenError::foreign(Path::new(&file.node), error.to_string()))?;
        inventory.check(self, file, &moving);
        self.moving.lock().unwrap_or_else(PoisonError::into_inner).add(file, &moving);
        let (tables, file_state) = (primary.tables()?, &inventory.file_state);
        replicas.align(self, primary, file_state.position)?;
        replicas.compare_inventories(self, &inventory, &tables);
        let mut audited = ShardAudit {
            shard: self.view.map.topology().name(file.shard).to_owned(),
            position: file_state.position.sequence,
            tables: BTreeMap::new(),
            replicas: Vec::new(),
        };
        let mut left_rows = 0;
        for table in tables.tables().chain([&*idempotency::TABLE]) {
            let rules = RowRules::of(self, file, table, (file_state.version, &moving));
            let left_out = replicas.left_out(table);
            let place = (&mut *primary, &inventory, &**table);
            let scan = Scan::run(self, place, left_out, |row| rules.check(row))?;
            inventory.check_count(self, file, (table, &scan));
            audited.tables.insert(table.name().to_owned(), scan.rows);
            let is_left =
                |slot: i64| u16::try_from(slot).is_ok_and(|slot| !moving.contains_key(&slot));
            let left = scan.foreign_slots.iter().filter(|(slot, _)| is_left(**slot));
            left_rows += left.map(|(_, rows)| rows).sum::<u64>();
            replicas.compare(self, table, &scan, primary);
        }
        if left_rows > 0 {
            let shard = &audited.shard;
            self.note(format!(
                "{shard} has {left_rows} rows of slots that have moved away, and no move deletes them"
            ));
        }
        audited.replicas = replicas.equal();
        primary.end()?;
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.shards.push(audited);
        Ok(tables)
    }

    /// Checks that every shard has the same tables. They differ for a moment while a router creates
    /// a table.
    fn compare_registries(&self, mut registries: BTreeMap<ShardNumber, Registry>) {
        for _ in 0..if self.running { TABLE_TRIES } else { 0 } {
            let mut all = registries.values();
            let first = all.next();
            if all.all(|tables| Some(tables) == first) {
                return;
            }
            std::thread::sleep(TABLE_PAUSE);
            for (&shard, tables) in &mut registries {
                let node = self.view.node(&self.view.nodes(shard)[0]);
                if let Ok(now) = node.and_then(|mut node| node.tables()) {
                    *tables = now;
                }
            }
        }
        let Some((first, expected)) = registries.first_key_value() else { return };
        for (&shard, tables) in &registries {
            if tables != expected {
                let file = &self.view.nodes(shard)[0];
                let expected = format!("the tables of {}", self.view.map.topology().name(*first));
                self.find(self.about(file, "the shard declares other tables", &expected));
            }
        }
    }
}

/// Returns true if clients see a table: the records of idempotency keys are in every file, in no
/// registry, and not counted.
fn is_declared(table: &Table) -> bool {
    table.name() != idempotency::TABLE.name()
}

/// Maximum number of attempts to compare the tables while they differ; a pause follows each
/// attempt.
const TABLE_TRIES: usize = 20;
const TABLE_PAUSE: Duration = Duration::from_millis(100);
