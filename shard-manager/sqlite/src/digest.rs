//! Digest: computes one hash over the rows of each table of a file, to compare a replica with its
//! primary.
//!
//! **Invariant:** two files have the same digests if and only if they have the same rows, but for
//! one case in 2^128.
//! **Not here:** the choice of the files to compare.

use std::path::Path;

use diesel::QueryResult;
use diesel::sqlite::SqliteConnection;
use model::idempotency;
use model::table::Table;
use model::value::Value;
use xxhash_rust::xxh3::Xxh3;

use super::connection::{OpenError, Statement, for_each_row, open, open_unchanging};
use super::row_json::value;
use super::{shard_file, sql, timeline};

/// Digests of a file at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Position of the file at that instant.
    pub position: u64,
    /// Name, number of rows and XXH3-128 hash of the rows of each table, including the table of
    /// idempotency keys.
    pub tables: Vec<(String, u64, u128)>,
}

/// Computes the digest of a file. Blocks, and reads the whole file.
///
/// # Errors
/// [`OpenError`] if the file cannot be read.
pub fn digest(path: &Path) -> Result<Digest, OpenError> {
    digest_of(open(path, "PRAGMA query_only=ON")?, path)
}

/// Computes the digest of a finished copy, which has no writer. Changes neither the file nor its
/// folder. Blocks, and reads the whole file.
///
/// # Errors
/// [`OpenError`] if the file cannot be read.
pub fn digest_copy(path: &Path) -> Result<Digest, OpenError> {
    digest_of(open_unchanging(path)?, path)
}

fn digest_of(mut connection: SqliteConnection, path: &Path) -> Result<Digest, OpenError> {
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

/// Hashes a value with its type and its length, so that different rows never have the same bytes.
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
