//! Rows on their way out: JSON text, and the values they are merged by.
//!
//! Rows are never turned into structs: a shard's reader writes each as JSON into one buffer, and
//! what the router adds are commas.
//!
//! **Invariant:** each row is one JSON object; with keys, every row has the same number of them; if
//! there are more rows than these, the keys of the last one are known.
//! **Not here:** where rows come from (`store`).

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::query::OrderBy;
use crate::value::Value;

/// One page of rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    json: Vec<u8>,
    /// End of each row's JSON; a comma stands between two.
    ends: Vec<usize>,
    keys: Vec<Value>,
    key_bytes: usize,
    /// The version of the first row, if it was asked for.
    pub version: Option<i64>,
    /// The keys of the last row, if more rows follow it.
    pub more_after: Option<Vec<Value>>,
    /// Number of rows that meet the conditions, whatever the page, if they were counted.
    pub total: Option<u64>,
}

impl Rows {
    /// Most bytes of one answer, sort keys included: a thousand rows of a column that takes
    /// megabytes must not fill memory. A read of all shards holds as much of each until it has
    /// merged them.
    pub const BYTES_MAX: usize = 32 << 20;

    /// No rows, with room for this many bytes of them.
    #[inline]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { json: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// True if the answer has passed [`Rows::BYTES_MAX`].
    #[inline]
    pub fn is_too_large(&self) -> bool {
        self.bytes() > Self::BYTES_MAX
    }

    /// Bytes that the rows and their keys take.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.json.len() + self.key_bytes
    }

    /// Number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there are no rows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The rows as the inside of a JSON array.
    #[inline]
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// End of each row's JSON.
    #[inline]
    pub fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// Rows of this JSON, of which each ends there; `None` if that cannot be.
    pub fn from_parts(json: Vec<u8>, ends: Vec<usize>) -> Option<Self> {
        let ascending = ends.windows(2).all(|pair| pair[0] < pair[1]);
        let whole = ends.last().copied().unwrap_or(0) == json.len();
        (ascending && whole).then(|| Self { json, ends, ..Self::default() })
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

    fn key(&self, row: usize, width: usize) -> &[Value] {
        &self.keys[row * width..(row + 1) * width]
    }

    /// Merges sorted pages of several shards into one: passes over `offset` rows and keeps `limit`.
    ///
    /// Each part must be sorted by `order`, carry its values as keys, and hold the first `offset +
    /// limit` rows of its shard. It ends early when the answer is too large.
    pub fn merge(parts: &[Self], order: &[OrderBy], offset: usize, limit: usize) -> Self {
        let width = order.len();
        let mut merged = Self::default();
        let head = |part: usize, row: usize| {
            (row < parts[part].len())
                .then(|| Reverse(Head { keys: parts[part].key(row, width), order, part, row }))
        };
        let mut heads: BinaryHeap<_> = (0..parts.len()).filter_map(|part| head(part, 0)).collect();
        let (mut passed, mut last) = (0, None);
        while merged.len() < limit && !merged.is_too_large() {
            let Some(Reverse(least)) = heads.pop() else { break };
            if passed == offset {
                merged.push_row(parts[least.part].row(least.row));
                last = Some(least.keys);
            } else {
                passed += 1;
            }
            heads.extend(head(least.part, least.row + 1));
        }
        let more = !heads.is_empty() || parts.iter().any(|part| part.more_after.is_some());
        merged.more_after = last.filter(|_| more).map(<[Value]>::to_vec);
        merged.total = parts.iter().map(|part| part.total).sum();
        merged
    }
}

/// The next row of one part, while parts are merged: the part decides between equal keys, which no
/// two rows have.
struct Head<'m> {
    keys: &'m [Value],
    order: &'m [OrderBy],
    part: usize,
    row: usize,
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.keys, other.keys, self.order).then(self.part.cmp(&other.part))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head<'_> {}

/// Compares two rows by their keys as the databases do: null last when ascending, first when
/// descending.
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
