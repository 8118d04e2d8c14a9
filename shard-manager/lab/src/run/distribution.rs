//! Distribution: copies all rows of the single database to the shards that own their slots.
//!
//! Each shard owns ranges of slots. For each range, the database is read page by page in the order
//! of its primary key. A chunk, the unit in which rows are stored, has pages from every range, so
//! that all shards store rows at the same time.
//!
//! **Invariant:** the memory contains at most one chunk, and the rows that the shards are storing.
//! **Not here:** storing the chunks (`import`).

use std::borrow::Cow;
use std::sync::Arc;

use access::rights::Rights;
use cluster::manager::{BulkRow, Data};
use import::RowChunk;
use model::json_members::Members;
use model::keyspace::ShardKey;
use model::query::{Comparison, Condition, Output, ReadQuery, Test};
use model::row_change::{Operation, RowWrite};
use model::shard_map::ShardMap;
use model::table::Table;
use model::value::Value;

use super::Sides;
use crate::dataset::{complete, store_rows_while};
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, block_on, failure, options};
use crate::lab_error::LabError;

/// Number of pages in a chunk for each table and each range of slots.
const PAGES: usize = 3;

/// Copies all rows, and returns the number of rows that each shard has stored.
pub(super) fn distribute(
    sides: &Sides,
    rows: u64,
    observer: &dyn ExperimentObserver,
) -> Result<Vec<u64>, LabError> {
    let map = sides.shards.manager().map();
    let total = observer.bar("total", rows);
    let share = rows / sides.shards.names().len().max(1) as u64;
    let bars: Vec<_> =
        sides.shards.names().iter().map(|shard| observer.bar(shard, share)).collect();
    let mut readers = Vec::new();
    for range in map.ranges() {
        for table in ["users", "orders"] {
            readers.push(RangeReader::new(sides.one.table(table)?, (range.first, range.last))?);
        }
    }
    let mut index = 0;
    let next = || {
        let mut chunk = RowChunk::default();
        for reader in readers.iter_mut().filter(|reader| !reader.is_at_end) {
            for _ in 0..PAGES {
                reader.read(&sides.one, |row| {
                    chunk.rows.push(reader_row(&map, row, index)?);
                    index += 1;
                    Ok(())
                })?;
            }
        }
        Ok(Some(chunk).filter(|chunk| !chunk.rows.is_empty()))
    };
    let progress = |shard: usize, rows| {
        total.add(rows);
        bars.get(shard).into_iter().for_each(|bar| bar.add(rows));
    };
    let filled = store_rows_while(&sides.shards, next, progress, observer)?;
    complete(&filled, rows)?;
    Ok(filled.stored)
}

/// Reader of the rows of one table whose slots are in one range.
struct RangeReader {
    query: ReadQuery,
    routing: usize,
    is_at_end: bool,
}

impl RangeReader {
    fn new(table: Arc<Table>, (first, last): (u16, u16)) -> Result<Self, LabError> {
        let routing = table.routing();
        let routing = routing.ok_or_else(|| LabError::failed("the table has no routing column"))?;
        let bound = |comparison, slot: u16| {
            Condition::Column(Table::SLOT, Test::Compare(comparison, Value::Int(slot.into())))
        };
        let outputs = table.own().map(|column| Output { column, alias: None }).collect();
        let conditions =
            vec![bound(Comparison::GreaterOrEqual, first), bound(Comparison::LessOrEqual, last)];
        let limit = ReadQuery::LIMIT_MAX;
        let query = ReadQuery { outputs, conditions, limit, ..ReadQuery::unselected(&table) };
        Ok(Self { query, routing, is_at_end: false })
    }

    /// Reads the next page and passes each row to `take`; does nothing after the last page.
    fn read(
        &mut self,
        one: &LabCluster,
        mut take: impl FnMut((&Arc<Table>, &str, &[u8])) -> Result<(), LabError>,
    ) -> Result<(), LabError> {
        if self.is_at_end {
            return Ok(());
        }
        let options = options();
        let done = block_on(one.read(self.query.clone(), None, &options)).map_err(failure)?;
        let routing = &self.query.table.column(self.routing).name;
        for index in 0..done.rows.len() {
            let row = done.rows.row(index);
            let key = text_member(row, routing)?;
            take((&self.query.table, &key, row))?;
        }
        self.is_at_end = done.next_cursor.is_none();
        if let Some(cursor) = done.next_cursor {
            let resumed = one.manager().data(Rights::ALL).resume(&self.query, None, &cursor);
            self.query.after =
                Some(resumed.map_err(|_| LabError::failed("a cursor was not accepted"))?);
        }
        Ok(())
    }
}

/// Converts a row of the single database to a write of the shard that owns its slot.
fn reader_row(
    map: &ShardMap,
    (table, key, row): (&Arc<Table>, &str, &[u8]),
    index: usize,
) -> Result<BulkRow, LabError> {
    let Members(members) = serde_json::from_slice(row).map_err(LabError::failed)?;
    let key = ShardKey::parse(key).map_err(LabError::failed)?;
    let (place, row) =
        Data::prepare(map, table, Operation::Upsert, key, &members).map_err(LabError::failed)?;
    Ok(BulkRow { index, place, row: RowWrite { wants_row: false, ..row } })
}

/// Returns the string value of a member of a row in JSON.
fn text_member(row: &[u8], name: &str) -> Result<String, LabError> {
    let Members(members) = serde_json::from_slice(row).map_err(LabError::failed)?;
    let found = members.iter().find(|(member, _)| member == name);
    let (_, value) = found.ok_or_else(|| LabError::failed("a row has no shard key"))?;
    let text: Cow<'_, str> = serde_json::from_str(value.get()).map_err(LabError::failed)?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::dataset;
    use crate::experiment_observer::Bar;

    /// Observer that counts the steps of each progress bar.
    #[derive(Default)]
    struct CountedBars(Mutex<Vec<(String, Arc<AtomicU64>)>>);

    struct CountedBar(Arc<AtomicU64>);

    impl ExperimentObserver for CountedBars {
        fn report(&self, _: &str) {}

        fn bar(&self, name: &str, _: u64) -> Box<dyn Bar> {
            let steps = Arc::<AtomicU64>::default();
            let mut bars = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            bars.push((name.to_owned(), Arc::clone(&steps)));
            Box::new(CountedBar(steps))
        }

        fn is_cancelled(&self) -> bool {
            false
        }
    }

    impl Bar for CountedBar {
        fn add(&self, steps: u64) {
            self.0.fetch_add(steps, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_bar_counts_all_rows_and_one_of_each_shard_those_that_it_stores() {
        let parent = tempfile::tempdir().expect("a folder");
        let open = |name: &str, shards| {
            LabCluster::embedded(parent.path().join(name), shards, 0).expect("a cluster")
        };
        let sides = Sides { one: open("one", 1), shards: open("shards", 2) };
        let plan = dataset::plan(100, 1).expect("a plan");
        dataset::generate(&sides.one, &plan, &CountedBars::default()).expect("rows");
        let bars = CountedBars::default();
        let stored = distribute(&sides, plan.rows(), &bars).expect("rows");
        let bars = bars.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let counts: Vec<(&str, u64)> =
            bars.iter().map(|(name, steps)| (&**name, steps.load(Ordering::Relaxed))).collect();
        assert_eq!(counts, [("total", 200), ("shard1", stored[0]), ("shard2", stored[1])]);
    }
}
