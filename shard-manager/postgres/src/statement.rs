//! Statement: SQL whose text is known only at run time, its values in PostgreSQL's binary form, and
//! pipelines of several statements in one round trip.
//!
//! **Invariant:** values of clients are always bound; the text of a [`Statement`] consists only of
//! constants, numbers, and names from the registry, or comes from `engine::select` or
//! `engine::access_store`.
//! **Not here:** the texts themselves; the binary form of a value (`binary_value`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::task::Poll;

use diesel::QueryResult;
use diesel::pg::{Pg, PgTypeMetadata};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::row::{Field, Row};
use diesel::serialize::{IsNull, Output, ToSql};
use diesel::sql_types::{
    Array, BigInt, Bool, Double, HasSqlType, Integer, Json, Nullable, Text, Timestamptz, Untyped,
    Uuid,
};
use diesel_async::{AsyncConnectionCore, AsyncPgConnection, SimpleAsyncConnection};
use futures_util::TryStreamExt;
use model::value::{ColumnType, Value};

use super::binary_value;

/// A statement and its values.
#[derive(Debug)]
pub(super) struct Statement<'s> {
    pub(super) sql: &'s str,
    pub(super) binds: &'s [Bind],
    /// True if it stays prepared.
    pub(super) cached: bool,
}

/// Text of a statement, owned or borrowed, and its values.
pub(super) type Work<'w> = (Cow<'w, str>, Vec<Bind>);

/// A value to bind, encoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bind {
    kind: Kind,
    bytes: Encoded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Integers,
    One(ColumnType),
    Many(ColumnType),
    Rows,
}

/// SQL type of an array of rows of a table. The server infers it from the statement.
struct Rows;

impl HasSqlType<Rows> for Pg {
    fn metadata(_lookup: &mut Self::MetadataLookup) -> PgTypeMetadata {
        PgTypeMetadata::new(0, 0)
    }
}

/// Bytes of a parameter; `None` is null.
#[derive(Clone, Debug, PartialEq)]
struct Encoded(Option<Vec<u8>>);

impl<ST> ToSql<ST, Pg> for Encoded {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> diesel::serialize::Result {
        let Some(bytes) = &self.0 else { return Ok(IsNull::Yes) };
        out.write_all(bytes)?;
        Ok(IsNull::No)
    }
}

impl Bind {
    /// Encodes a whole number of 32 bits.
    pub(super) fn integer(number: i32) -> Self {
        Self { kind: Kind::Integer, bytes: Encoded(Some(number.to_be_bytes().to_vec())) }
    }

    /// Encodes an array of whole numbers of 32 bits.
    pub(super) fn integers(numbers: impl ExactSizeIterator<Item = i32>) -> Self {
        let mut array = binary_value::Array::of_integers(numbers.len());
        numbers.for_each(|number| array.push(|out| out.extend_from_slice(&number.to_be_bytes())));
        Self { kind: Kind::Integers, bytes: Encoded(Some(array.finish())) }
    }

    /// Creates a parameter from an array in its binary form; without a type, its elements are whole
    /// numbers of 32 bits.
    pub(super) fn array(kind: Option<ColumnType>, array: Vec<u8>) -> Self {
        let kind = kind.map_or(Kind::Integers, Kind::Many);
        Self { kind, bytes: Encoded(Some(array)) }
    }

    /// Creates a parameter from an array of rows of a table in its binary form.
    pub(super) fn rows(array: Vec<u8>) -> Self {
        Self { kind: Kind::Rows, bytes: Encoded(Some(array)) }
    }

    /// Encodes a whole number of 64 bits.
    pub(super) fn bigint(number: i64) -> Self {
        Self::value(ColumnType::Bigint, &Value::Int(number))
    }

    /// Encodes a text.
    pub(super) fn text(text: &str) -> Self {
        let bytes = Encoded(Some(text.as_bytes().to_vec()));
        Self { kind: Kind::One(ColumnType::Text), bytes }
    }

    /// Encodes a value of a column of this type.
    pub(super) fn value(kind: ColumnType, value: &Value) -> Self {
        let bytes = (*value != Value::Null).then(|| {
            let mut bytes = Vec::new();
            binary_value::encode(&mut bytes, kind, value);
            bytes
        });
        Self { kind: Kind::One(kind), bytes: Encoded(bytes) }
    }

    /// Encodes an array of values of a column of this type.
    pub(super) fn values<'v>(
        kind: ColumnType,
        values: impl ExactSizeIterator<Item = &'v Value>,
    ) -> Self {
        let mut array = binary_value::Array::of(kind, values.len());
        for value in values {
            if *value == Value::Null {
                array.push_null();
            } else {
                array.push(|out| binary_value::encode(out, kind, value));
            }
        }
        Self { kind: Kind::Many(kind), bytes: Encoded(Some(array.finish())) }
    }

    /// Encodes an array of texts.
    pub(super) fn texts<'v>(texts: impl ExactSizeIterator<Item = &'v str>) -> Self {
        let mut array = binary_value::Array::of(ColumnType::Text, texts.len());
        texts.for_each(|text| array.push(|out| out.extend_from_slice(text.as_bytes())));
        Self { kind: Kind::Many(ColumnType::Text), bytes: Encoded(Some(array.finish())) }
    }
}

impl QueryFragment<Pg> for Statement<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        if !self.cached {
            out.unsafe_to_cache_prepared();
        }
        out.push_sql(self.sql);
        for Bind { kind, bytes } in self.binds {
            push_bind(&mut out, *kind, bytes)?;
        }
        Ok(())
    }
}

fn push_bind<'b>(out: &mut AstPass<'_, 'b, Pg>, kind: Kind, bytes: &'b Encoded) -> QueryResult<()> {
    match kind {
        Kind::Integer => out.push_bind_param_value_only::<Integer, _>(bytes),
        Kind::Integers => out.push_bind_param_value_only::<Array<Integer>, _>(bytes),
        Kind::One(kind) => match kind {
            ColumnType::Text => out.push_bind_param_value_only::<Nullable<Text>, _>(bytes),
            ColumnType::Bigint => out.push_bind_param_value_only::<Nullable<BigInt>, _>(bytes),
            ColumnType::Double => out.push_bind_param_value_only::<Nullable<Double>, _>(bytes),
            ColumnType::Boolean => out.push_bind_param_value_only::<Nullable<Bool>, _>(bytes),
            ColumnType::Timestamp => {
                out.push_bind_param_value_only::<Nullable<Timestamptz>, _>(bytes)
            }
            ColumnType::Json => out.push_bind_param_value_only::<Nullable<Json>, _>(bytes),
            ColumnType::Uuid => out.push_bind_param_value_only::<Nullable<Uuid>, _>(bytes),
        },
        Kind::Many(kind) => match kind {
            ColumnType::Text => out.push_bind_param_value_only::<Array<Text>, _>(bytes),
            ColumnType::Bigint => out.push_bind_param_value_only::<Array<BigInt>, _>(bytes),
            ColumnType::Double => out.push_bind_param_value_only::<Array<Double>, _>(bytes),
            ColumnType::Boolean => out.push_bind_param_value_only::<Array<Bool>, _>(bytes),
            ColumnType::Timestamp => out.push_bind_param_value_only::<Array<Timestamptz>, _>(bytes),
            ColumnType::Json => out.push_bind_param_value_only::<Array<Json>, _>(bytes),
            ColumnType::Uuid => out.push_bind_param_value_only::<Array<Uuid>, _>(bytes),
        },
        Kind::Rows => out.push_bind_param_value_only::<Rows, _>(bytes),
    }
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement<'_> {
    type SqlType = Untyped;
}

/// A row as received.
pub(super) struct RowView(<AsyncPgConnection as AsyncConnectionCore>::Row<'static, 'static>);

impl RowView {
    /// Hands the bytes of a column to `read`; `None` if it is null.
    pub(super) fn cell<T>(&self, column: usize, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let field = self.0.get(column)?;
        let value = field.value()?;
        Some(read(value.as_bytes()))
    }

    /// Returns a whole number of 64 bits; `None` if it is null.
    pub(super) fn bigint(&self, column: usize) -> Option<i64> {
        self.cell(column, binary_value::bigint)
    }

    /// Returns a boolean; `None` if it is null.
    pub(super) fn boolean(&self, column: usize) -> Option<bool> {
        self.cell(column, |bytes| bytes == [1])
    }

    /// Returns a text; `None` if it is null.
    pub(super) fn text(&self, column: usize) -> Option<String> {
        self.cell(column, |bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// A statement that locks rows and returns those that exist.
pub(super) struct Locking<'w> {
    pub(super) sql: Cow<'w, str>,
    pub(super) binds: Vec<Bind>,
    /// Indexes of the rows in the batch.
    pub(super) rows: Vec<usize>,
}

impl Locking<'_> {
    /// Returns the index in the batch of a returned row.
    pub(super) fn place(&self, row: &RowView) -> Option<usize> {
        let number = row.bigint(0).unwrap_or(0) as usize;
        number.checked_sub(1).and_then(|index| self.rows.get(index)).copied()
    }
}

/// Runs a statement and hands each row to `each`.
pub(super) async fn for_each_row(
    mut connection: &AsyncPgConnection,
    statement: Statement<'_>,
    mut each: impl FnMut(&RowView) -> QueryResult<()>,
) -> QueryResult<()> {
    let rows = AsyncConnectionCore::load(&mut connection, statement);
    let mut rows = rows.await?;
    while let Some(row) = rows.try_next().await? {
        each(&RowView(row))?;
    }
    Ok(())
}

/// Runs a statement and returns its rows.
pub(super) async fn load(
    connection: &AsyncPgConnection,
    statement: Statement<'_>,
) -> QueryResult<Vec<RowView>> {
    let mut rows = Vec::new();
    let mut connection = connection;
    let loading = AsyncConnectionCore::load(&mut connection, statement);
    let mut loaded = loading.await?;
    while let Some(row) = loaded.try_next().await? {
        rows.push(RowView(row));
    }
    Ok(rows)
}

/// Runs a statement that has neither parameters nor rows, such as `COMMIT`.
pub(super) async fn run(mut connection: &AsyncPgConnection, sql: &str) -> QueryResult<()> {
    connection.batch_execute(sql).await
}

/// One of the statements of a pipeline.
pub(super) struct PipelineStep<'s> {
    /// Text of the statement to prepare; `None` if nothing is prepared.
    sql: Option<&'s str>,
    work: Pin<Box<dyn Future<Output = QueryResult<Vec<RowView>>> + Send + 's>>,
}

/// Creates a step that loads rows.
pub(super) fn step<'s>(
    connection: &'s AsyncPgConnection,
    statement: Statement<'s>,
) -> PipelineStep<'s> {
    PipelineStep { sql: Some(statement.sql), work: Box::pin(load(connection, statement)) }
}

/// Creates a step that returns no rows.
pub(super) fn plain<'s>(connection: &'s AsyncPgConnection, sql: &'s str) -> PipelineStep<'s> {
    let work = Box::pin(async move { run(connection, sql).await.map(|()| Vec::new()) });
    PipelineStep { sql: None, work }
}

/// Executes steps in one round trip, in their order. If one of their statements is not prepared
/// yet, each step waits for the one before it.
///
/// Steps are sent in the order in which they are polled: nothing delays a step between its first
/// poll and its message, because its statement is already prepared, its locks are free (no other
/// task uses the connection), and the runtime's cooperative budget, which could make a free lock
/// look taken, is disabled. Otherwise a `COMMIT` could overtake the statements that it commits.
///
/// Returns the results of all steps, in order. After a failed step, the later steps of its
/// transaction fail as well.
pub(super) async fn pipeline(
    prepared: &mut Prepared,
    mut steps: Vec<PipelineStep<'_>>,
) -> Vec<QueryResult<Vec<RowView>>> {
    if !steps.iter().all(|step| step.sql.is_none_or(|sql| prepared.has(sql))) {
        let mut results = Vec::with_capacity(steps.len());
        for PipelineStep { sql, work } in steps {
            let result = work.await;
            if let (Ok(_), Some(sql)) = (&result, sql) {
                prepared.add(sql);
            }
            results.push(result);
        }
        return results;
    }
    let mut results: Vec<Option<_>> = steps.iter().map(|_| None).collect();
    let all = std::future::poll_fn(|context| {
        let mut open = false;
        for (step, result) in steps.iter_mut().zip(&mut results) {
            if result.is_none() {
                match step.work.as_mut().poll(context) {
                    Poll::Ready(ended) => *result = Some(ended),
                    Poll::Pending => open = true,
                }
            }
        }
        if open { Poll::Pending } else { Poll::Ready(()) }
    });
    tokio::task::unconstrained(all).await;
    results.into_iter().flatten().collect()
}

/// Hashes of the statements that one connection has prepared.
#[derive(Debug, Default)]
pub(super) struct Prepared(HashSet<u64>);

impl Prepared {
    /// Maximum number of prepared statements of one connection; each takes some kilobytes here and
    /// on the server.
    const MAX: usize = 512;

    /// Returns true if a statement was prepared.
    pub(super) fn has(&self, sql: &str) -> bool {
        self.0.contains(&xxhash_rust::xxh3::xxh3_64(sql.as_bytes()))
    }

    /// Returns true if so many statements are prepared that the connection should be replaced.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= Self::MAX
    }

    /// Records that a statement was prepared.
    pub(super) fn add(&mut self, sql: &str) {
        self.0.insert(xxhash_rust::xxh3::xxh3_64(sql.as_bytes()));
    }

    /// Returns true if a statement may be kept prepared. Clients can produce many different texts;
    /// beyond [`Self::MAX`], new ones run unprepared instead of filling memory.
    pub(super) fn admit(&mut self, sql: &str) -> bool {
        let hash = xxhash_rust::xxh3::xxh3_64(sql.as_bytes());
        self.0.contains(&hash) || (self.0.len() < Self::MAX && self.0.insert(hash))
    }
}
