//! Read rights: restricts a read to what the client's rights permit (binds it), before anything is
//! derived from it.
//!
//! A row's column `shard_key` holds the key by which the row is routed, so a client whose rights
//! are limited to some keys can read only the rows of these keys. The restriction is the first
//! condition of the query. The cursor's fingerprint, the names of cache entries, the count, the
//! limit and the route are all derived from the bound query, so none of them depends on rows that
//! the client may not read.
//!
//! **Invariant:** one grant permits both all columns that a bound read returns and the keys of all
//! its rows.
//! **Not here:** the choice of the grant (`access::rights`), the route of the bound query
//! (`reads`).

use std::borrow::Cow;
use std::sync::Arc;

use access::grant::KeyBinding;
use access::operation::RowOperations;
use access::rights::{Allowed, RowRequest};
use model::cursor::CursorError;
use model::error::Error;
use model::keyspace::{KeyError, ShardKey};
use model::query::{Comparison, Condition, ReadQuery, Test};
use model::sabotage::{Mutation, is_on};
use model::shard_map::ShardMap;
use model::shard_map::partitions::hide_partition;
use model::table::Table;
use model::value::Value;

use super::Data;

/// Reason why a read cannot continue after a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeError {
    /// The string is not a cursor of this read.
    Cursor(CursorError),
    /// The client may not carry out the read at all.
    Refused(Error),
}

impl Data<'_> {
    /// Returns the read, restricted to what the client's rights permit. If the rights have no
    /// limits, the read is unchanged.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NoSuchTable`] or
    /// [`model::row_change::RowError::NoSuchColumn`] if no grant allows the read,
    /// [`Error::KeyRequired`] if it needs a shard key.
    #[inline]
    pub(super) fn bind<'q>(
        self,
        query: Cow<'q, ReadQuery>,
        key: Option<ShardKey<'_>>,
    ) -> Result<Cow<'q, ReadQuery>, Error> {
        if self.rights.is_all() {
            return Ok(query);
        }
        bind_to_grant(self, query.into_owned(), key).map(Cow::Owned)
    }
}

/// Returns the error of a read whose key has no slot, without anything that the client may not
/// know.
pub(super) fn error_without_slot(
    data: Data<'_>,
    table: &Arc<Table>,
    error: KeyError,
    map: &ShardMap,
) -> Error {
    match data.schema().usable_for(Arc::clone(table), RowOperations::READ) {
        Ok(view) => hide_partition(map, &view, error).into(),
        Err(refused) => refused,
    }
}

/// Binds a query to the first grant that allows all of its columns.
fn bind_to_grant(
    data: Data<'_>,
    mut query: ReadQuery,
    key: Option<ShardKey<'_>>,
) -> Result<ReadQuery, Error> {
    // Only this function sets the mark of a bound query, so that a client's own condition is never
    // mistaken for the restriction.
    query.is_bound = false;
    let table = Arc::clone(query.table.whole());
    query.table = Arc::clone(&table);
    let named = query.columns_named();
    let columns = named.iter().map(|column| table.column(*column).name.as_str());
    let request = RowRequest { operations: RowOperations::READ, table: table.name(), columns };
    let key = if is_on(Mutation::UnboundReads) { None } else { key };
    let allowed = match key {
        Some(key) => data.rights.allow_key(&request, key),
        None => data.rights.allow_bound(&request),
    };
    let allowed = allowed.map_err(|denied| data.schema().refusal(denied))?;
    if query.outputs.is_empty() {
        query.select_if(|column| allowed.columns.contains(column));
    }
    if query.outputs.is_empty() {
        return Err(Error::Forbidden {
            operations: RowOperations::READ.to_string(),
            table: table.name().to_owned(),
            lack: "its grant has no column that an answer has: name columns in select".to_owned(),
        });
    }
    if key.is_none() && !is_on(Mutation::UnboundReads) {
        bind_keys(&mut query, &allowed)?;
    }
    Ok(query)
}

/// Restricts a read to the keys of its grant, if the request names no shard key.
fn bind_keys(query: &mut ReadQuery, allowed: &Allowed<'_>) -> Result<(), Error> {
    let binding = allowed.binding;
    let keys: Vec<String> = match binding {
        KeyBinding::All => return Ok(()),
        KeyBinding::Keys(keys) => keys.iter().map(|key| String::from(&**key)).collect(),
        // Keys that begin with a prefix may be on any shard. If the filters name keys, the shards
        // of these keys are known.
        KeyBinding::Prefixes { tenants, separator } => match query.keys_named() {
            Some(named) => named.into_iter().filter(|key| binding.admits(key)).collect(),
            None if allowed.scatters => {
                query.bind(Condition::Any(ranges(tenants, separator)));
                return Ok(());
            }
            None => return Err(Error::KeyRequired { table: query.table.name().into() }),
        },
    };
    let mut keys: Vec<Value> = keys.into_iter().map(Value::Text).collect();
    let test = match (keys.pop(), keys.is_empty()) {
        (Some(only), true) => Test::Compare(Comparison::Equal, only),
        (last, _) => {
            keys.extend(last);
            Test::In(keys)
        }
    };
    query.bind(Condition::Column(Table::SHARD_KEY, test));
    Ok(())
}

/// Returns, for each tenant, the range of keys that begin with the tenant and the separator. Keys
/// are compared by bytes, so the range from `acme:` ends before `acme;`. A tenant that contains the
/// separator has no keys.
fn ranges(tenants: &[Box<str>], separator: char) -> Vec<Condition> {
    let next = char::from_u32(u32::from(separator) + 1).unwrap_or(char::MAX);
    let bound = |comparison, key: String| {
        Condition::Column(Table::SHARD_KEY, Test::Compare(comparison, Value::Text(key)))
    };
    let range = |tenant: &str| {
        let from = bound(Comparison::GreaterOrEqual, format!("{tenant}{separator}"));
        Condition::All(vec![from, bound(Comparison::Less, format!("{tenant}{next}"))])
    };
    let tenants = tenants.iter().map(|tenant| &**tenant);
    tenants.filter(|tenant| !tenant.contains(separator)).map(range).collect()
}
