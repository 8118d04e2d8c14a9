//! Replicas: checks that the replicas of a shard have the rows that their primary had at their
//! position.
//!
//! While a router runs, both files change. So each replica is read first, and then the primary,
//! each in one snapshot. The primary's log contains the changes between the positions of the two
//! snapshots, and the rows of the changed keys are left out on both sides. All other rows must be
//! equal in both files. In a stopped cluster nothing is left out, unless a replica lags.
//!
//! **Invariant:** a replica is reported equal only if every row that was not left out was compared.
//! **Not here:** the rules for a row (`audit/rows`).

use std::collections::{BTreeMap, HashMap};

use model::position::Position;
use model::table::{Registry, Table};

use super::super::OpenError;
use super::super::log::{self, Line};
use super::super::node_view::NodeView;
use super::super::offline_view::NodeFile;
use super::super::row_hash::key_hash;
use super::super::{move_line, slot_line};
use super::file_inventory::FileInventory;
use super::rows::{LeftOut, Scan, SlotSum, slot_rows};
use super::{Audit, Discrepancy, is_declared};

/// Maximum number of keys that may change between two snapshots. With more, a replica lags too far
/// to be compared.
const LEFT_OUT_MAX: usize = 1 << 20;
/// Maximum number of rows that are named for one table of one replica.
const NAMED_MAX: usize = 10;

/// The replicas of a shard in an audit.
pub(super) struct Replicas<'a> {
    replicas: Vec<Replica<'a>>,
    /// Keys, by table, that changed since the first replica was read.
    left_out: HashMap<String, LeftOut>,
    nothing: LeftOut,
}

struct Replica<'a> {
    file: &'a NodeFile,
    node: NodeView,
    inventory: FileInventory,
    tables: Registry,
    comparable: bool,
    /// True if the replica lacks changes of the primary.
    behind: bool,
    equal: bool,
}

impl<'a> Replicas<'a> {
    /// Opens the files, and reports those that cannot be read.
    pub(super) fn look(audit: &Audit<'_>, files: &'a [NodeFile]) -> Self {
        let mut opened = Vec::new();
        for file in files {
            if file.bytes().is_none() {
                let being_made = || format!("{} is being made", file.node);
                audit.note(if audit.running { being_made() } else { file.unmade() });
                continue;
            }
            opened.extend(audit.open(file).map(|node| (file, node)));
        }
        let mut replicas = Vec::new();
        for (file, node) in opened {
            match Replica::look(file, node) {
                Ok(replica) => replicas.push(replica),
                Err(error) => {
                    audit.find(audit.about(file, error.to_string(), "a file that can be read"));
                }
            }
        }
        Self { replicas, left_out: HashMap::new(), nothing: LeftOut::new() }
    }

    /// Reads the changes between the replicas and the snapshot of their primary.
    pub(super) fn align(
        &mut self,
        audit: &Audit<'_>,
        primary: &mut NodeView,
        reached: Position,
    ) -> Result<(), OpenError> {
        let history = primary.history()?;
        let mut oldest = reached.sequence;
        for replica in &mut self.replicas {
            let position = replica.inventory.file_state.position;
            if !history.holds(position) || position.sequence > reached.sequence {
                let what = format!("it holds changes up to {}", position.sequence);
                let expected =
                    format!("nothing beyond its primary, which stands at {}", reached.sequence);
                audit.find(audit.about(replica.file, what, &expected));
                continue;
            }
            let lag = reached.sequence - position.sequence;
            if lag > 0 && !audit.running {
                audit.note(replica.file.behind(lag));
            }
            (replica.comparable, replica.behind) = (true, lag > 0);
            oldest = oldest.min(position.sequence);
        }
        if oldest < reached.sequence && !self.leave_out(primary, oldest, reached.sequence)? {
            for replica in &mut self.replicas {
                if replica.inventory.file_state.position.sequence < reached.sequence
                    && replica.comparable
                {
                    replica.comparable = false;
                    audit.note(format!("{} lags too far to be compared", replica.file.node));
                }
            }
            self.left_out.clear();
        }
        let keys: usize = self.left_out.values().map(LeftOut::len).sum();
        if keys > 0 {
            audit.note(format!(
                "{keys} keys changed while the replicas of {} were read, and were not compared",
                audit.view.map.topology().name(self.replicas[0].file.shard)
            ));
        }
        Ok(())
    }

    /// Collects the keys that changed after a position; `false` if the log does not contain them
    /// all, or they are too many.
    fn leave_out(
        &mut self,
        primary: &mut NodeView,
        mut after: u64,
        until: u64,
    ) -> Result<bool, OpenError> {
        let mut keys = 0;
        while after < until {
            let entries = primary.log_after(after)?;
            if entries.first().is_none_or(|first| first.position != after + 1) {
                return Ok(false);
            }
            for entry in &entries {
                after = entry.position;
                // A change of slots changes no row.
                if matches!(slot_line::logged(&entry.changes), Ok(Some(_))) {
                    continue;
                }
                for line in log::lines(move_line::row_lines(&entry.changes)) {
                    let Ok(Line { table, key, .. }) = Line::parse(line) else { return Ok(false) };
                    let of_table = match self.left_out.get_mut(&*table) {
                        Some(of_table) => of_table,
                        None => self.left_out.entry(table.into_owned()).or_default(),
                    };
                    keys += usize::from(of_table.insert(key_hash(&key)));
                }
            }
            if keys > LEFT_OUT_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the keys of a table that are not compared; `None` if nothing is compared.
    pub(super) fn left_out(&self, table: &Table) -> Option<&LeftOut> {
        let compares = self.replicas.iter().any(|replica| replica.comparable);
        compares.then(|| self.left_out.get(table.name()).unwrap_or(&self.nothing))
    }

    /// Compares the inventories of those files that are at the position of their primary.
    pub(super) fn compare_inventories(
        &mut self,
        audit: &Audit<'_>,
        primary: &FileInventory,
        tables: &Registry,
    ) {
        let level = |replica: &&mut Replica<'_>| replica.comparable && !replica.behind;
        for replica in self.replicas.iter_mut().filter(level) {
            replica.equal &= replica.inventory.compare(audit, replica.file, primary);
            // Missing tables are reported when their rows are compared.
            for table in replica.tables.tables() {
                if tables.find(table.name()).is_none() {
                    let what = "it declares the table, and its primary does not";
                    let found = audit.about(replica.file, what, "the same tables");
                    let table = Some(table.name().to_owned());
                    audit.find(Discrepancy { table, ..found });
                    replica.equal = false;
                }
            }
        }
    }

    /// Compares a table with the snapshot of the primary.
    pub(super) fn compare(
        &mut self,
        audit: &Audit<'_>,
        table: &Table,
        expected: &Scan,
        primary: &mut NodeView,
    ) {
        let left_out = self.left_out.get(table.name()).unwrap_or(&self.nothing);
        for replica in self.replicas.iter_mut().filter(|replica| replica.comparable) {
            match replica.compare(audit, table, (expected, left_out), primary) {
                Ok(equal) => replica.equal &= equal,
                Err(error) => {
                    replica.equal = false;
                    let found =
                        audit.about(replica.file, error.to_string(), "a file that can be read");
                    audit.find(found);
                }
            }
        }
    }

    /// Returns the replicas that equal their primary.
    pub(super) fn equal(&self) -> Vec<String> {
        let equal = self.replicas.iter().filter(|replica| replica.comparable && replica.equal);
        equal.map(|replica| replica.file.node.clone()).collect()
    }
}

impl<'a> Replica<'a> {
    fn look(file: &'a NodeFile, mut node: NodeView) -> Result<Self, OpenError> {
        node.begin()?;
        let inventory = FileInventory::read(&mut node)?;
        let tables = node.tables()?;
        Ok(Self { file, node, inventory, tables, comparable: false, behind: false, equal: true })
    }

    fn compare(
        &mut self,
        audit: &Audit<'_>,
        table: &Table,
        (expected, left_out): (&Scan, &LeftOut),
        primary: &mut NodeView,
    ) -> Result<bool, OpenError> {
        let known = self.tables.find(table.name());
        if is_declared(table) && known.is_none() && self.behind {
            audit.note(format!("{} does not know the table {} yet", self.file.node, table.name()));
            return Ok(false);
        }
        if is_declared(table) && known.is_none_or(|known| **known != *table) {
            let what = "it does not declare the table as its primary does";
            let found = audit.about(self.file, what, "the same tables");
            audit.find(Discrepancy { table: Some(table.name().to_owned()), ..found });
            return Ok(false);
        }
        let place = (&mut self.node, &self.inventory, table);
        let scan = Scan::run(audit, place, Some(left_out), |_| ())?;
        let counted = self.inventory.check_count(audit, self.file, (table, &scan));
        if scan.slots == expected.slots {
            return Ok(counted);
        }
        let mut named = 0;
        for slot in differing(&expected.slots, &scan.slots) {
            if named >= NAMED_MAX {
                break;
            }
            let theirs = slot_rows(primary, table, slot, left_out)?;
            let own = slot_rows(&mut self.node, table, slot, left_out)?;
            named += self.name_rows(audit, table, theirs, own);
        }
        Ok(false)
    }

    /// Reports the rows of a slot that differ.
    fn name_rows(
        &self,
        audit: &Audit<'_>,
        table: &Table,
        theirs: Vec<(String, String, u128)>,
        own: Vec<(String, String, u128)>,
    ) -> usize {
        let mut rows: BTreeMap<(String, String), (Option<u128>, Option<u128>)> = BTreeMap::new();
        for (key, id, hash) in theirs {
            rows.entry((key, id)).or_default().0 = Some(hash);
        }
        for (key, id, hash) in own {
            rows.entry((key, id)).or_default().1 = Some(hash);
        }
        rows.retain(|_, (theirs, own)| theirs != own);
        let named = rows.len();
        for ((key, id), (theirs, own)) in rows.into_iter().take(NAMED_MAX) {
            let (what, expected) = match (theirs, own) {
                (Some(_), None) => ("the row is missing on the replica", "the primary's row"),
                (None, _) => ("the row is on the replica alone", "no such row, as on the primary"),
                (Some(_), Some(_)) => ("the row differs from the primary's", "the primary's row"),
            };
            let found = audit.about(self.file, what, expected);
            let table = Some(table.name().to_owned());
            audit.find(Discrepancy { table, key: Some(key), id: Some(id), ..found });
        }
        named
    }
}

/// Returns the slots whose sums differ, in order.
fn differing(a: &[SlotSum], b: &[SlotSum]) -> Vec<i64> {
    let sums = |slots: &[SlotSum]| -> BTreeMap<i64, SlotSum> {
        slots.iter().map(|sum| (sum.slot, *sum)).collect()
    };
    let (a, b) = (sums(a), sums(b));
    let mut slots: Vec<i64> = a.keys().chain(b.keys()).copied().collect();
    slots.sort_unstable();
    slots.dedup();
    slots.retain(|slot| a.get(slot) != b.get(slot));
    slots
}
