//! Inventory: the contents of a database other than rows: its counter of versions, the bits that it
//! derives from its slots, indexes and constraints, and what moves have left behind.
//!
//! **Not here:** the rows (`audit/rows`), the tables' declarations (`declarations`), the owners of
//! slots (`audit/owners`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use model::keyspace::Slot;
use model::slot_set::SlotSet;

use super::Audit;
use super::owners::ShardSlots;
use crate::slot_moves::NEEDLESSLY_RECORDED;
use crate::statement::{Statement, load};

/// Reads the highest version that a row may have, the bits of the owned slots and of the readable
/// slots, and the number of recorded changes that no move follows. The sequence yields the first
/// version of a block of 4096.
const FACTS: &str = "SELECT (SELECT last_value+4095 FROM tessera_version),\
    (SELECT bits FROM tessera_owned WHERE id=1),(SELECT bits FROM tessera_readable WHERE id=1),\
    (SELECT count(*) FROM tessera_changes WHERE NOT EXISTS (\
    SELECT FROM tessera_slot_moves WHERE traced_after IS NOT NULL))";
/// Indexes and constraints that do not hold for all rows: kind, name, table.
const INVALID: &str = "WITH ours AS (SELECT c.oid,c.relname FROM pg_class c \
    JOIN pg_namespace n ON n.oid=c.relnamespace WHERE n.nspname IN ('tessera','public')) \
    SELECT 'index',i.relname::text,ours.relname::text FROM pg_index x \
    JOIN ours ON ours.oid=x.indrelid JOIN pg_class i ON i.oid=x.indexrelid \
    WHERE NOT (x.indisvalid AND x.indisready) \
    UNION ALL SELECT 'constraint',o.conname::text,ours.relname::text FROM pg_constraint o \
    JOIN ours ON ours.oid=o.conrelid WHERE NOT o.convalidated ORDER BY 1,2,3";

/// Contents of one database other than its rows.
pub(super) struct Inventory {
    /// Highest version that a row may have.
    pub(super) version_max: i64,
    owned: Option<SlotSet>,
    readable: Option<SlotSet>,
    /// Indexes and constraints that do not hold, each as kind, name and table.
    invalid: Vec<[String; 3]>,
    /// Tables whose triggers still record changes although no move follows them.
    recorded: Vec<String>,
    /// Number of recorded changes that no move follows.
    left_changes: i64,
}

impl Inventory {
    /// Reads the contents in the snapshot of a session.
    pub(super) async fn read(connection: &AsyncPgConnection) -> QueryResult<Self> {
        let statement = |sql| Statement { sql, binds: &[], cached: false };
        let facts = load(connection, statement(FACTS)).await?;
        let facts = facts.first();
        let bits = |column| facts.and_then(|row| row.cell(column, SlotSet::from_bytes)).flatten();
        let number = |column| facts.and_then(|row| row.bigint(column)).unwrap_or(0);
        let invalid = load(connection, statement(INVALID)).await?;
        let recorded = load(connection, statement(NEEDLESSLY_RECORDED)).await?;
        let texts = |row: &crate::statement::RowView| {
            [0, 1, 2].map(|column| row.text(column).unwrap_or_default())
        };
        Ok(Self {
            version_max: number(0),
            owned: bits(1),
            readable: bits(2),
            invalid: invalid.iter().map(texts).collect(),
            recorded: recorded.iter().filter_map(|row| row.text(0)).collect(),
            left_changes: number(3),
        })
    }

    /// Reports what is wrong, and notes what a router will tidy up.
    pub(super) fn check(&self, audit: &mut Audit<'_>) {
        let states = |is_set: &dyn Fn(&ShardSlots, u16) -> bool| -> SlotSet {
            let slots = (0..=u16::MAX).filter(|slot| is_set(audit.slots, *slot));
            slots.filter_map(Slot::new).collect()
        };
        let owned =
            states(&|slots, slot| slots.states.get(&slot).is_some_and(|state| state == "owned"));
        let readable = states(&|slots, slot| slots.owns(slot));
        for (table, found, expected) in
            [("tessera_owned", &self.owned, owned), ("tessera_readable", &self.readable, readable)]
        {
            if found.as_ref() != Some(&expected) {
                let what = format!("the bits in {table} are not those of the slots");
                audit.find(what, "a bit for each slot in tessera_slots");
            }
        }
        for [kind, name, table] in &self.invalid {
            let what = format!("the {kind} {name} of {table} is not valid");
            audit.find(what, format!("one that holds for all rows, or no such {kind}"));
        }
        self.note(audit);
    }

    fn note(&self, audit: &mut Audit<'_>) {
        let shard = &audit.shard.name;
        if !self.recorded.is_empty() {
            let tables = self.recorded.join(", ");
            let note = format!(
                "{shard} records changes of {tables}, and no move follows them; a router ends that within half a minute"
            );
            audit.report.notes.push(note);
        }
        if self.left_changes > 0 {
            let note = format!(
                "{shard} has {} recorded changes that no move follows; a router deletes them within ten minutes",
                self.left_changes
            );
            audit.report.notes.push(note);
        }
    }
}
