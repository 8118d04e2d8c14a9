//! Row hash: a row, or some of its columns, as one number, to compare it with the same row of another file.
//!
//! **Invariant:** two rows of one table have the same hash exactly if they are equal, but for one case in 2^128.
//! **Not here:** which rows are compared (`audit`, `compare`).

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::connection::RowView;
use crate::table::Table;
use crate::value::ColumnType;

/// The hash of a shard key, by which the rows of a key are told apart from others.
pub(super) fn key_hash(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

/// The hash of a row. Leaves what was hashed in `bytes`.
pub(super) fn row_hash(bytes: &mut Vec<u8>, row: &RowView<'_, '_>, table: &Table) -> u128 {
    hash_columns(bytes, row, table, 0..table.columns().len())
}

/// The hash of some columns: each value with its kind and its length, so that no two rows are the same bytes.
///
/// Texts are taken as they lie: a damaged one may be no UTF-8.
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
