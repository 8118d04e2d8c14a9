//! Row hash: computes the hash of a row, or of some of its columns, to compare it with the same row
//! in another file.
//!
//! **Invariant:** two rows of one table have the same hash if and only if they are equal, except
//! for one case in 2^128.
//! **Not here:** the choice of rows (`audit`, `compare`).

use model::table::Table;
use model::value::ColumnType;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::connection::RowView;

/// Hash of a shard key, which distinguishes the rows of a key from others.
pub(super) fn key_hash(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

/// Hash of a row. `bytes` is a scratch buffer for the hashed bytes.
pub(super) fn row_hash(bytes: &mut Vec<u8>, row: &RowView<'_, '_>, table: &Table) -> u128 {
    hash_columns(bytes, row, table, 0..table.columns().len())
}

/// Hash of some columns: each value with its kind and its length, so that different rows never have
/// the same bytes.
///
/// Strings are hashed as stored, because a string in a damaged file may not be valid UTF-8.
pub(super) fn hash_columns(
    bytes: &mut Vec<u8>,
    row: &RowView<'_, '_>,
    table: &Table,
    columns: impl Iterator<Item = usize>,
) -> u128 {
    bytes.clear();
    for index in columns {
        let pushed = match table.column(index).kind {
            ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid | ColumnType::Json => row
                .blob(index, |text| {
                    bytes.push(b't');
                    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                    bytes.extend_from_slice(text);
                }),
            ColumnType::Bigint | ColumnType::Boolean => row.int(index).map(|number| {
                bytes.push(b'i');
                bytes.extend_from_slice(&number.to_le_bytes());
            }),
            ColumnType::Double => row.double(index).map(|number| {
                bytes.push(b'd');
                bytes.extend_from_slice(&number.to_bits().to_le_bytes());
            }),
        };
        if pushed.is_none() {
            bytes.push(b'n');
        }
    }
    xxh3_128(bytes)
}
