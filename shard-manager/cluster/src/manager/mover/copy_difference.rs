//! Copy difference: the table, the slots and the first keys in which a copy differs from its
//! source. They are named in the error message of a move that fails for this reason.
//!
//! The digests of both sides show in which slots the rows differ. Afterwards, the first of these
//! slots is searched for the keys, page by page. Keys that clients have changed since the
//! comparison are left out.
//!
//! **Invariant:** a key is named only if its row differed when both sides were compared.
//! **Not here:** the digests (`move_round`), reading the rows (the engines).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use engine::copy_key::CopyKey;
use engine::row_hashes::{RowHashQuery, RowHashes};
use engine::slot_move::SlotDigest;
use model::keyspace::Slot;
use moves::applied::AppliedRows;
use moves::identity::MoveSide;
use moves::observation::MovePlan;

use super::move_sides::MoveSides;

/// Time limit for the search of the keys.
const SEARCH_MAX: Duration = Duration::from_mins(1);
/// Maximum number of slots that the description of a difference names.
const NAMED_SLOTS: usize = 3;
/// Maximum number of keys that the description of a difference names.
const NAMED_KEYS: usize = 3;
/// Maximum number of characters of a key in the description; the rest is cut off.
const KEY_CHARS_MAX: usize = 120;

/// Difference between a copy and its source in one table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CopyDifference {
    table: String,
    /// Numbers of the slots that differ, at least one.
    slots: BTreeSet<u16>,
}

/// Way in which the row of a key differs between the source and the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowFault {
    /// The copy has no such row.
    Missing,
    /// The source has no such row.
    Extra,
    /// Both have the row, with different values.
    Different,
}

impl CopyDifference {
    /// Returns the difference in the first table whose digests differ, `None` if there is none.
    pub(super) fn between(expected: &[SlotDigest], found: &[SlotDigest]) -> Option<Self> {
        let (expected, found): (BTreeSet<_>, BTreeSet<_>) =
            (expected.iter().collect(), found.iter().collect());
        let mut slots: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
        for digest in expected.symmetric_difference(&found) {
            slots.entry(&digest.table).or_default().insert(digest.slot);
        }
        let (table, slots) = slots.into_iter().next()?;
        Some(Self { table: table.to_owned(), slots })
    }

    /// Returns the difference as a sentence that names the first keys, if they can be found.
    /// `copy` is the side of the copy, and `applied` the state of its rows.
    pub(super) async fn describe(
        &self,
        sides: &MoveSides,
        plan: &MovePlan,
        (copy, applied): (MoveSide, &AppliedRows),
    ) -> String {
        let rows = self.find_rows(sides, plan, (copy, applied)).await.unwrap_or_else(|error| {
            tracing::warn!(error, "the keys in which a copy differs cannot be named");
            Vec::new()
        });
        self.sentence(&rows)
    }

    /// Finds the first keys of the first slot whose rows differ.
    async fn find_rows(
        &self,
        sides: &MoveSides,
        plan: &MovePlan,
        (copy, applied): (MoveSide, &AppliedRows),
    ) -> Result<Vec<(String, RowFault)>, String> {
        let Some(slot) = self.slots.first().and_then(|slot| Slot::new(*slot)) else {
            return Ok(Vec::new());
        };
        let (source, copy) = (sides.reader(copy.other())?, sides.reader(copy)?);
        let mut query = RowHashQuery {
            id: plan.id,
            table: self.table.clone(),
            slot,
            after: None,
            until: None,
            since: Some(applied.clone()),
        };
        let deadline = Instant::now() + SEARCH_MAX;
        loop {
            let page = source.row_hashes(&query, deadline).await;
            let page = page.map_err(|error| error.to_string())?;
            // A row that differs only because a client has changed it meanwhile must not be named.
            let Some(changed) = &page.changed else { return Ok(Vec::new()) };
            let last = page.rows.last().filter(|_| page.is_full).map(|row| row.key.clone());
            let range = RowHashQuery { until: last.clone(), since: None, ..query.clone() };
            let copied = copy.row_hashes(&range, deadline).await;
            let copied = copied.map_err(|error| error.to_string())?;
            let found = differing(&page, &copied, changed);
            if !found.is_empty() || last.is_none() {
                return Ok(found);
            }
            query.after = last;
        }
    }

    fn sentence(&self, rows: &[(String, RowFault)]) -> String {
        let Self { table, slots } = self;
        let named: Vec<String> = slots.iter().take(NAMED_SLOTS).map(u16::to_string).collect();
        let (named, unit) = (named.join(", "), if slots.len() == 1 { "slot" } else { "slots" });
        let mut sentence = format!(
            "the copy of {table} differs from its source in {} {unit}, such as {named}",
            slots.len()
        );
        let faults: Vec<String> = rows.iter().map(|(key, fault)| describe(key, *fault)).collect();
        if let (Some(slot), false) = (slots.first(), faults.is_empty()) {
            sentence.push_str(&format!("; in slot {slot}, {}", faults.join(", ")));
        }
        sentence
    }
}

/// Returns the first keys whose rows differ, without those in `changed`.
///
/// `source` has all rows of a range of keys. `copy` has all rows of that range as well, unless its
/// page is full. A full page has at least as many rows as `source`, and shows every extra row up to
/// its own last row.
fn differing(
    source: &RowHashes,
    copy: &RowHashes,
    changed: &BTreeSet<String>,
) -> Vec<(String, RowFault)> {
    let (expected, copied) = (hashes(source), hashes(copy));
    let mut found = Vec::new();
    let mut left = copy.rows.iter().map(|row| &row.key).peekable();
    for row in &source.rows {
        while let Some(key) = left.next_if(|key| !expected.contains_key(key.as_str())) {
            found.push((key, RowFault::Extra));
        }
        match copied.get(row.key.as_str()) {
            None if copy.is_full => {}
            None => found.push((&row.key, RowFault::Missing)),
            Some(hash) => {
                left.next();
                if *hash != row.hash {
                    found.push((&row.key, RowFault::Different));
                }
            }
        }
    }
    let extra = left.filter(|key| !expected.contains_key(key.as_str()));
    found.extend(extra.map(|key| (key, RowFault::Extra)));
    let found = found.into_iter().filter(|(key, _)| !changed.contains(*key));
    found.take(NAMED_KEYS).map(|(key, fault)| (key.clone(), fault)).collect()
}

/// Returns the hashes of a page, by key.
fn hashes(page: &RowHashes) -> HashMap<&str, &str> {
    page.rows.iter().map(|row| (row.key.as_str(), row.hash.as_str())).collect()
}

/// Returns the part of the sentence that describes one row that differs.
fn describe(key: &str, fault: RowFault) -> String {
    let shown = CopyKey::parse(key).map_or_else(|_damaged| key.to_owned(), |key| key.to_string());
    let mut named: String = shown.chars().take(KEY_CHARS_MAX).collect();
    if named.len() < shown.len() {
        named.push('…');
    }
    let fault = match fault {
        RowFault::Missing => "is missing on the target",
        RowFault::Extra => "is on the target only",
        RowFault::Different => "has other values on the target",
    };
    format!("the row of key {named} {fault}")
}

#[cfg(test)]
mod tests {
    use engine::copy_key::format_key;
    use model::value::Value;

    use super::*;

    fn digest(table: &str, slot: u16, rows: u64) -> SlotDigest {
        SlotDigest { table: table.to_owned(), slot, rows, sum: "s".to_owned() }
    }

    fn page(rows: &[(&str, &str)]) -> RowHashes {
        let mut page = RowHashes::default();
        for (key, hash) in rows {
            assert!(page.push((*key).to_owned(), (*hash).to_owned()));
        }
        page
    }

    /// Compares two pages, without changed keys.
    fn between(source: &RowHashes, copy: &RowHashes) -> Vec<(String, RowFault)> {
        differing(source, copy, &BTreeSet::new())
    }

    fn named(found: &[(&str, RowFault)]) -> Vec<(String, RowFault)> {
        found.iter().map(|(key, fault)| ((*key).to_owned(), *fault)).collect()
    }

    #[test]
    fn a_difference_names_the_table_and_the_first_slots() {
        let source: Vec<_> = (0..5).map(|slot| digest("kv", slot, 2)).collect();
        assert_eq!(CopyDifference::between(&source, &source), None);
        let found: Vec<_> = (1..5).map(|slot| digest("kv", slot, u64::from(slot))).collect();
        let difference = CopyDifference::between(&source, &found).expect("they differ");
        assert_eq!(
            difference.sentence(&[]),
            "the copy of kv differs from its source in 4 slots, such as 0, 1, 3"
        );
    }

    #[test]
    fn a_difference_names_the_first_keys_and_the_way_in_which_they_differ() {
        let difference = CopyDifference { table: "kv".to_owned(), slots: BTreeSet::from([7]) };
        let key = |key: &str| format_key(("kv", 7, key), &[Value::Text(key.to_owned())]);
        let rows = [(key("a"), RowFault::Missing), (key("b"), RowFault::Extra)];
        assert_eq!(
            difference.sentence(&rows),
            "the copy of kv differs from its source in 1 slot, such as 7; in slot 7, the row of \
             key \"a\" with id [\"a\"] is missing on the target, the row of key \"b\" with id \
             [\"b\"] is on the target only"
        );
        let long = describe(&key(&"x".repeat(200)), RowFault::Different);
        assert!(long.ends_with("x… has other values on the target"), "{long}");
    }

    #[test]
    fn rows_that_are_missing_extra_or_different_are_found_in_the_order_of_their_keys() {
        let source = page(&[("b", "1"), ("c", "1"), ("d", "1"), ("f", "1")]);
        assert!(between(&source, &source).is_empty());
        let copy = page(&[("a", "1"), ("b", "2"), ("c", "1"), ("f", "1")]);
        let found = [("a", RowFault::Extra), ("b", RowFault::Different), ("d", RowFault::Missing)];
        assert_eq!(between(&source, &copy), named(&found));
        let copy = page(&[("b", "1"), ("c", "1"), ("d", "1"), ("f", "1"), ("g", "1")]);
        assert_eq!(between(&source, &copy), named(&[("g", RowFault::Extra)]));
        let found = [("b", RowFault::Missing), ("c", RowFault::Missing), ("d", RowFault::Missing)];
        assert_eq!(between(&source, &page(&[])), named(&found), "the first keys only");
    }

    #[test]
    fn a_row_that_a_client_has_changed_meanwhile_is_not_named() {
        let source = page(&[("a", "1"), ("b", "1")]);
        let copy = page(&[("a", "2"), ("b", "2"), ("c", "1")]);
        let changed = BTreeSet::from(["a".to_owned(), "c".to_owned()]);
        let found = differing(&source, &copy, &changed);
        assert_eq!(found, named(&[("b", RowFault::Different)]));
    }

    #[test]
    fn a_row_beyond_a_full_page_of_the_copy_is_not_named_as_missing() {
        let source = page(&[("z", "1")]);
        let mut copy = page(&[("a", "1"), ("b", "1")]);
        copy.is_full = true;
        let found = [("a", RowFault::Extra), ("b", RowFault::Extra)];
        assert_eq!(between(&source, &copy), named(&found));
    }
}
