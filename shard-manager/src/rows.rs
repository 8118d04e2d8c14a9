//! Rows on their way out: JSON text, and the values they are merged by.
//!
//! Rows are never turned into structs: a shard's reader writes each as JSON into one buffer, and what
//! the router adds are commas.
//!
//! **Invariant:** each row is one JSON object; with keys, every row has the same number of them.
//! **Not here:** where rows come from (`store`).

use std::cmp::Ordering;

use crate::query::OrderBy;
use crate::value::Value;

/// The rows of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    json: Vec<u8>,
    /// Where each row's JSON ends; a comma stands between two.
    ends: Vec<usize>,
    keys: Vec<Value>,
    key_bytes: usize,
}

impl Rows {
    /// Most bytes of one answer, sort keys included: a thousand rows of a column that takes megabytes must
    /// not fill memory. A read of all shards holds as much of each until it has merged them.
    pub const BYTES_MAX: usize = 32 << 20;

    /// No rows, with room for this many bytes of them.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { json: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Whether the answer has passed [`Rows::BYTES_MAX`].
    pub fn is_too_large(&self) -> bool {
        self.bytes() > Self::BYTES_MAX
    }

    /// Bytes that the rows and their keys take.
    pub fn bytes(&self) -> usize {
        self.json.len() + self.key_bytes
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The rows as the inside of a JSON array.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The JSON of one row.
    pub fn row(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.json[start..self.ends[index]]
    }

    /// Adds a row that `write` appends to the buffer.
    ///
    /// # Errors
    /// Those of `write`; the buffer then holds half a row and must be thrown away.
    pub fn push<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        if !self.ends.is_empty() {
            self.json.push(b',');
        }
        write(&mut self.json)?;
        self.ends.push(self.json.len());
        Ok(())
    }

    fn push_row(&mut self, row: &[u8]) {
        let copied = self.push(|json| {
            json.extend_from_slice(row);
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(()) = copied;
    }

    /// Adds a sort key to the row that was pushed last.
    pub fn push_key(&mut self, key: Value) {
        self.key_bytes +=
            size_of::<Value>() + if let Value::Text(text) = &key { text.len() } else { 0 };
        self.keys.push(key);
    }

    /// The first key of the only row: of a read by key, its version. `None` if there is not exactly one row.
    pub fn only_key(&self) -> Option<&Value> {
        self.keys.first().filter(|_| self.len() == 1)
    }

    fn key(&self, row: usize, width: usize) -> &[Value] {
        &self.keys[row * width..(row + 1) * width]
    }

    /// Merges sorted answers of several shards into one of at most `limit` rows.
    ///
    /// Each part must be sorted by `order` and carry its values as keys. Parts are few, so the least
    /// head is found by looking at all of them.
    pub fn merge(parts: &[Self], order: &[OrderBy], limit: usize) -> Self {
        let width = order.len();
        let mut merged = Self::default();
        let mut heads = vec![0; parts.len()];
        while merged.len() < limit {
            let waiting = (0..parts.len()).filter(|&part| heads[part] < parts[part].len());
            let least = waiting.min_by(|&a, &b| {
                compare(parts[a].key(heads[a], width), parts[b].key(heads[b], width), order)
            });
            let Some(part) = least else { break };
            let row = parts[part].row(heads[part]);
            merged.push_row(row);
            heads[part] += 1;
        }
        merged
    }
}

/// Compares two rows by their keys as the databases do: null last when ascending, first when descending.
pub fn compare(a: &[Value], b: &[Value], order: &[OrderBy]) -> Ordering {
    for ((a, b), by) in a.iter().zip(b).zip(order) {
        let ascending = match (a, b) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Greater,
            (_, Value::Null) => Ordering::Less,
            (a, b) => a.compare(b),
        };
        let ordering = if by.descending { ascending.reverse() } else { ascending };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    Ordering::Equal
}
