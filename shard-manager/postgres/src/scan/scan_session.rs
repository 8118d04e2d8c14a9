//! Scan session: the reads of one connection, each in one snapshot, with the slots that the node
//! owns in it.
//!
//! **Invariant:** rows whose slots the node does not own in their snapshot are not returned.
//! **Not here:** the pool and its deadlines (`scan`), the texts of reads (`engine::select`).

use std::sync::Arc;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use engine::select::keys;
use engine::{Scope, TableSize};
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::slot_refusal::SlotRefusal;
use model::slot_set::SlotSet;

use crate::dialect::Select;
use crate::json_rows::{push_object, value};
use crate::known_slots::{self, KnownSlots};
use crate::position_query::{self, PositionQuery};
use crate::sql;
use crate::statement::{Prepared, RowView, Statement, for_each_row, load, run};
use crate::term::Term;

/// Begins a transaction whose statements see one snapshot.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection and the statements prepared on it.
pub(in super::super) struct ScanSession {
    pub(super) connection: AsyncPgConnection,
    pub(super) term: Option<Term>,
    pub(super) prepared: Prepared,
    pub(super) known: Option<KnownSlots>,
}

/// Rows that a session has read.
pub(super) struct SessionRows {
    pub(super) rows: Rows,
    /// Bound of the changes that the rows show.
    pub(super) sequence: u64,
    /// Slots whose rows a scan covers.
    pub(super) owned: Option<Arc<SlotSet>>,
}

impl ScanSession {
    /// Reads rows of an engine that distributes them itself.
    pub(super) async fn read_all(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        position_query: PositionQuery,
    ) -> QueryResult<Result<SessionRows, SlotRefusal>> {
        let rows = self.rows_in_snapshot(query, scope, false).await?;
        let seen = Statement { sql: position_query.sql(), binds: &[], cached: true };
        let seen = load(&self.connection, seen).await?;
        let sequence = position_query::position(position_query, &seen)?;
        Ok(Ok(SessionRows { rows, sequence, owned: None }))
    }

    /// Reads rows whose slots the node owns in the snapshot of the rows.
    pub(super) async fn read_owned(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        position_query: PositionQuery,
    ) -> QueryResult<Result<SessionRows, SlotRefusal>> {
        let seen =
            || Statement { sql: position_query.sql_with_generation(), binds: &[], cached: true };
        let known = match self.known.take() {
            Some(known) => known,
            None => KnownSlots::load(&self.connection).await?,
        };
        if known.answer(scope) {
            let rows = self.rows_in_snapshot(query, scope, known.must_filter(scope)).await?;
            let seen = load(&self.connection, seen()).await?;
            if seen.first().and_then(|row| row.bigint(3)) == Some(known.generation) {
                let sequence = position_query::position(position_query, &seen)?;
                let owned = (!scope.is_keyed()).then(|| Arc::clone(&known.readable));
                self.known = Some(known);
                return Ok(Ok(SessionRows { rows, sequence, owned }));
            }
        }
        // The slots are not the known ones: they and the rows are read in one snapshot.
        run(&self.connection, SNAPSHOT).await?;
        let known = KnownSlots::load(&self.connection).await?;
        let (readable, filtered) = (Arc::clone(&known.readable), known.must_filter(scope));
        let slot = match scope {
            Scope::Key(slot, _) => Some(slot).filter(|_| !known.answer(scope)),
            Scope::Shard => None,
        };
        self.known = Some(known);
        if let Some(slot) = slot {
            let refusal = known_slots::refusal(&self.connection, slot).await?;
            run(&self.connection, "COMMIT").await?;
            return Ok(Err(refusal));
        }
        let rows = self.rows(query, scope, filtered).await?;
        run(&self.connection, "COMMIT").await?;
        let seen = load(&self.connection, seen()).await?;
        let sequence = position_query::position(position_query, &seen)?;
        let owned = (!scope.is_keyed()).then_some(readable);
        Ok(Ok(SessionRows { rows, sequence, owned }))
    }

    /// Reads a page, and the number of rows if the query needs it, in one snapshot. With
    /// `filtered`, rows whose slots the node does not own are left out.
    async fn rows_in_snapshot(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        filtered: bool,
    ) -> QueryResult<Rows> {
        if !query.counts {
            return self.page(query, scope, filtered).await;
        }
        run(&self.connection, SNAPSHOT).await?;
        let rows = self.rows(query, scope, filtered).await?;
        run(&self.connection, "COMMIT").await?;
        Ok(rows)
    }

    /// Reads a page, and the number of rows if the query needs it, in the open transaction.
    async fn rows(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        filtered: bool,
    ) -> QueryResult<Rows> {
        let mut rows = self.page(query, scope, filtered).await?;
        if query.counts {
            rows.total = Some(self.count(query, scope, filtered).await?);
        }
        Ok(rows)
    }

    /// Reads a page until no rows are left or it has too many bytes.
    async fn page(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        filtered: bool,
    ) -> QueryResult<Rows> {
        if query.limit == 0 {
            return Ok(Rows::default());
        }
        let keyed = scope.is_keyed();
        let mut select = Select::page(query, scope);
        if filtered {
            known_slots::leave_out_others(&mut select.sql, &query.table);
        }
        let (table, order) = (&query.table, query.sort_keys(keyed));
        debug_assert_eq!(keys(&order, table, keyed).count(), order.len() + usize::from(keyed));
        let page = query.limit as usize + if keyed { 0 } else { query.offset as usize };
        let outputs = query.outputs.len();
        let cached = self.prepared.admit(&select.sql);
        let statement = Statement { sql: &select.sql, binds: &select.binds, cached };
        let mut rows = Rows::with_capacity(1_024);
        let mut last = Vec::new();
        for_each_row(&self.connection, statement, |row| {
            if rows.len() == page {
                rows.more_after = Some(std::mem::take(&mut last));
                return Ok(());
            }
            if rows.is_too_large() {
                return Ok(());
            }
            rows.push(|out| {
                push_object(out, row, query, 0);
                Ok::<(), DieselError>(())
            })?;
            if keyed && rows.len() == 1 {
                rows.version = row.bigint(outputs);
            }
            let first_key = outputs + usize::from(keyed);
            let keys = (first_key..).zip(&order);
            let keys = keys.map(|(at, by)| value(row, at, table.column(by.column).kind));
            rows.keep_sort_keys(keys, (keyed, page), &mut last);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    async fn count(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        filtered: bool,
    ) -> QueryResult<u64> {
        let mut select = Select::count(query, scope);
        if filtered {
            known_slots::leave_out_others(&mut select.sql, &query.table);
        }
        let cached = self.prepared.admit(&select.sql);
        let statement = Statement { sql: &select.sql, binds: &select.binds, cached };
        let rows = load(&self.connection, statement).await?;
        Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
    }

    pub(super) async fn sizes(&mut self, is_citus: bool) -> QueryResult<Vec<TableSize>> {
        let names = "SELECT name FROM tessera_tables ORDER BY name";
        let names = load(&self.connection, Statement { sql: names, binds: &[], cached: true });
        let names: Vec<String> = names.await?.iter().filter_map(|row| row.text(0)).collect();
        let mut sizes = Vec::with_capacity(names.len());
        let size = if is_citus { "citus_total_relation_size" } else { "pg_total_relation_size" };
        for table in names {
            // Names of declared tables need no quoting.
            let sql = format!("SELECT count(*),{size}('public.{table}') FROM public.{table}");
            let rows =
                if is_citus { self.unprepared(&sql).await? } else { self.of_owned(&sql).await? };
            let number = |column| rows.first().and_then(|row| row.bigint(column)).unwrap_or(0);
            sizes.push(TableSize { rows: number(0), bytes: number(1), table });
        }
        Ok(sizes)
    }

    /// Runs a statement that ends with its table, on the rows whose slots the node owns.
    async fn of_owned(&mut self, sql: &str) -> QueryResult<Vec<RowView>> {
        let filtered = format!("{sql} WHERE {}", sql::IS_READABLE);
        let known = KnownSlots::load(&self.connection).await?;
        if known.has_leftover {
            return self.unprepared(&filtered).await;
        }
        let rows = self.unprepared(sql).await?;
        let now = KnownSlots::load(&self.connection).await?;
        if now.generation == known.generation { Ok(rows) } else { self.unprepared(&filtered).await }
    }

    async fn unprepared(&self, sql: &str) -> QueryResult<Vec<RowView>> {
        load(&self.connection, Statement { sql, binds: &[], cached: false }).await
    }
}
