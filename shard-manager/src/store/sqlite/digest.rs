//! Digest: what a file holds, as one number a table, to compare a replica with its primary.
//!
//! **Invariant:** two files have the same digests exactly if they hold the same rows, but for one case in 2^128.
//! **Not here:** which files are compared.

use std::path::Path;

use diesel::QueryResult;
use diesel::sqlite::SqliteConnection;
use xxhash_rust::xxh3::Xxh3;

use super::connection::{OpenError, Statement, for_each_row, open};
use super::row_json::value;
use super::{shard_file, sql, timeline};
use crate::idempotency;
use crate::table::Table;
use crate::value::Value;

/// What a file holds at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The position at which it holds it.
    pub position: u64,
    /// Of each table, that of the idempotency keys included: its name, its rows, their XXH3-128.
    pub tables: Vec<(String, u64, u128)>,
}

/// The digest of a file. Blocks, and reads all of it.
///
/// # Errors
/// [`OpenError`] if the file cannot be read.
pub fn digest(path: &Path) -> Result<Digest, OpenError> {
    let mut connection = open(path, "PRAGMA query_only=ON")?;
    let tables = shard_file::read_tables(&mut connection, path)?;
    let digested = diesel::Connection::transaction(&mut connection, |connection| {
        let position = timeline::position(connection)?.sequence;
        let tables = tables.tables().chain([&*idempotency::TABLE]);
        let tables: QueryResult<_> = tables.map(|table| digest_table(connection, table)).collect();
        Ok::<_, diesel::result::Error>(Digest { position, tables: tables? })
    });
    digested.map_err(|error| OpenError::file(path, error))
}

fn digest_table(
    connection: &mut SqliteConnection,
    table: &Table,
) -> QueryResult<(String, u64, u128)> {
    let sql = sql::select_all(table);
    let (mut hash, mut rows) = (Xxh3::new(), 0);
    for_each_row(connection, Statement { sql: &sql, binds: &[], cached: false }, |row| {
        rows += 1;
        for (index, column) in table.columns().iter().enumerate() {
            update(&mut hash, &value(row, index, column.kind));
        }
        Ok(())
    })?;
    Ok((table.name().to_owned(), rows, hash.digest128()))
}

/// Each value with its kind and its length, so that no two rows run together into the same bytes.
fn update(hash: &mut Xxh3, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(truth) => hash.update(&[b'b', u8::from(*truth)]),
        Value::Int(number) => {
            hash.update(b"i");
            hash.update(&number.to_le_bytes());
        }
        Value::Double(number) => {
            hash.update(b"d");
            hash.update(&number.to_bits().to_le_bytes());
        }
        Value::Text(text) => {
            hash.update(b"t");
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
}
