//! Result rows: the rows of a read as JSON text, with the sort keys by which pages of several
//! shards are merged.
//!
//! Rows are never converted to structs: the reader of a shard writes each row as JSON into one
//! buffer, separated by commas, and the router sends these bytes.
//!
//! **Invariant:** each row is one JSON object. Either no row has sort keys, or all rows have the
//! same number of them. If more rows follow on the next page, the sort keys of the last row are
//! stored for the cursor.
//! **Not here:** reading the rows (`postgres`, `sqlite`).

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::query::OrderBy;
use crate::value::Value;

/// One page of rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    json: Vec<u8>,
    /// Position at which the JSON of each row ends. A comma separates two rows.
    ends: Vec<usize>,
    keys: Vec<Value>,
    key_bytes: usize,
    /// Version of the first row, if the read requests it.
    pub version: Option<i64>,
    /// Sort keys of the last row, if more rows follow it.
    pub more_after: Option<Vec<Value>>,
    /// Number of rows on all pages that meet the conditions, if they were counted.
    pub total: Option<u64>,
}

impl Rows {
    /// Maximum size of one response in bytes, including sort keys, so that a thousand rows of
    /// several megabytes each cannot fill the memory. A read of all shards may hold this much for
    /// each shard until it has merged the rows.
    pub const BYTES_MAX: usize = 32 << 20;

    /// Maximum total size in bytes of the rows that all running reads of several shards hold. A
    /// read may exceed it while no other read holds rows.
    pub const SCATTER_BYTES_MAX: usize = 256 << 20;

    /// Creates an empty result, with a buffer for this many bytes.
    #[inline]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { json: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Returns true if the rows exceed [`Rows::BYTES_MAX`].
    #[inline]
    pub fn is_too_large(&self) -> bool {
        self.bytes() > Self::BYTES_MAX
    }

    /// Returns the size of the rows and their sort keys in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.json.len() + self.key_bytes
    }

    /// Returns the number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns true if there are no rows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the rows as the elements of a JSON array, without its brackets.
    #[inline]
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Returns the position in the JSON at which each row ends.
    #[inline]
    pub fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// Creates rows from the elements of a JSON array and the position at which each row ends;
    /// `None` if the positions do not fit the JSON.
    pub fn from_parts(json: Vec<u8>, ends: Vec<usize>) -> Option<Self> {
        let ascending = ends.windows(2).all(|pair| pair[0] < pair[1]);
        let whole = ends.last().copied().unwrap_or(0) == json.len();
        (ascending && whole).then(|| Self { json, ends, ..Self::default() })
    }

    /// Returns the JSON of one row.
    pub fn row(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.json[start..self.ends[index]]
    }

    /// Adds a row, whose JSON the function `write` appends to the buffer.
    ///
    /// # Errors
    /// Errors of `write`; the buffer then contains an incomplete row and must be discarded.
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

    /// Stores the sort keys of the row that was pushed last. If the read is of one shard key, its
    /// rows need not be merged: then only the sort keys of the last row of a full page are stored,
    /// in `last`.
    #[inline]
    pub fn keep_sort_keys(
        &mut self,
        keys: impl Iterator<Item = Value>,
        (is_of_one_key, page): (bool, usize),
        last: &mut Vec<Value>,
    ) {
        if !is_of_one_key {
            keys.for_each(|key| self.push_key(key));
        } else if self.len() == page {
            *last = keys.collect();
        }
    }

    fn key(&self, row: usize, width: usize) -> &[Value] {
        &self.keys[row * width..(row + 1) * width]
    }

    /// Merges sorted pages of several shards into one page: skips the first `offset` rows and keeps
    /// the next `limit` rows.
    ///
    /// Each part must be sorted by `order`, have the values of the columns of `order` as sort keys,
    /// and contain the first `offset + limit` rows of its shard. Merging stops early if the
    /// response becomes too large.
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

/// Next row of one part during a merge. Rows of different shards never have equal sort keys; if
/// they did, the index of the part would decide.
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

/// Compares two rows by their sort keys as the databases do: nulls come last in ascending order,
/// and first in descending order.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn push(rows: &mut Rows) {
        let pushed = rows.push(|json| {
            json.extend_from_slice(b"{}");
            Ok::<(), ()>(())
        });
        assert_eq!(pushed, Ok(()));
    }

    #[test]
    fn sort_keys_are_kept_beside_each_row_or_for_the_last_row_of_one_shard_key() {
        let keys = |number| [Value::Int(number), Value::Null].into_iter();
        let (mut all, mut of_one_key) = (Rows::default(), Rows::default());
        let (mut unused, mut last) = (Vec::new(), Vec::new());
        for number in 1..=3 {
            push(&mut all);
            all.keep_sort_keys(keys(number), (false, 2), &mut unused);
            push(&mut of_one_key);
            of_one_key.keep_sort_keys(keys(number), (true, 2), &mut last);
        }
        assert_eq!(all.key(2, 2), [Value::Int(3), Value::Null]);
        assert_eq!((unused.len(), of_one_key.keys.len()), (0, 0));
        assert_eq!(last, [Value::Int(2), Value::Null], "the page has two rows");
    }
}
