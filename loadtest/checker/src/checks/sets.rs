//! C7, sets: a table holds exactly the rows that were written to it, each once.
//!
//! At the end of a run, an iteration by cursor (a walk) returns the rows of a table. Walks over
//! rows that never change also take place during the run. A row is lost if its write was
//! acknowledged, it was not deleted, and the walk did not return it. A row is unexpected if the
//! walk returned it although it was never written or its last change was a delete. A row is a
//! duplicate if the walk returned it twice, for example because two shards own it.
//!
//! **Invariant:** a row is reported as lost, or as deleted but returned, only if no change with an
//! unknown outcome can explain the result.
//! **Not here:** the version that a row has at the end (`lost_writes`).
//!
//! Not detected: lost rows if the walk was not completed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::findings::Findings;
use crate::history::{Key, Kind, Operation, OperationHistory, Outcome, Page};
use crate::row::Row;
use crate::version_bound::OperationIndex;
use crate::violation::{Check, Evidence, Violation};

/// One walk over one table.
struct Walk {
    start: u64,
    /// Last page of the walk, if it was completed.
    complete: Option<u32>,
    /// First page that returned each key.
    met: HashMap<Key, u32>,
}

/// All walks of a history, by their tables.
pub(crate) struct Walks<'a>(HashMap<&'a str, Vec<Walk>>);

impl<'a> Walks<'a> {
    /// Combines pages into walks, and adds a violation for each row that one walk returned twice.
    pub(crate) fn new(history: &'a OperationHistory, found: &mut Findings) -> Self {
        let mut order: Vec<u32> = (0..history.pages.len() as u32).collect();
        order.sort_by_key(|&page| history.pages[page as usize].start);
        let mut tables: HashMap<&str, Vec<Walk>> = HashMap::new();
        // Several walks may be in progress at once. A walk ends with a page that is marked
        // complete.
        let mut open: HashMap<(&str, u32), usize> = HashMap::new();
        for index in order {
            let page = &history.pages[index as usize];
            let of = (page.table.as_str(), page.session);
            let walks = tables.entry(&page.table).or_default();
            let number = *open.entry(of).or_insert(walks.len());
            if number == walks.len() {
                walks.push(Walk { start: page.start, complete: None, met: HashMap::new() });
            }
            walks[number].turn(page, index, found);
            if page.complete {
                open.remove(&of);
            }
        }
        Self(tables)
    }

    /// Returns true if a complete walk over the row's table did not return the row.
    pub(crate) fn has_missed(&self, row: &Row<'_>) -> bool {
        let missed = |walk: &Walk| walk.complete.is_some() && !walk.met.contains_key(&row.key);
        self.over(row).any(missed)
    }

    /// Returns the walks over the table of a row.
    fn over(&self, row: &Row<'_>) -> impl Iterator<Item = &Walk> {
        let name = row.history.keys.name(row.key);
        let tables = name.match_indices('/').map(|(end, _)| &name[..end]);
        tables.filter_map(|table| self.0.get(table)).flatten()
    }
}

impl Walk {
    fn turn(&mut self, page: &Page, index: u32, found: &mut Findings) {
        for &key in &page.keys {
            let first = match self.met.entry(key) {
                Entry::Vacant(place) => {
                    place.insert(index);
                    continue;
                }
                Entry::Occupied(met) => *met.get(),
            };
            found.add(Check::Sets, page.start, || {
                let promise = "a walk over a table meets every row once";
                let what = "the row was met twice".to_owned();
                let mut evidence = vec![Evidence::Page(first), Evidence::Page(index)];
                evidence.dedup();
                Violation { promise, what, key: Some(key), ..Violation::of(evidence) }
            });
        }
        if page.complete {
            self.complete = Some(index);
        }
    }
}

pub(crate) fn check(row: &Row<'_>, walks: &Walks<'_>, found: &mut Findings) {
    let mut walked = false;
    for walk in walks.over(row) {
        if let Some(&met) = walk.met.get(&row.key) {
            unexpected(row, walk.start, met, found);
        } else if let Some(last) = walk.complete {
            walked = true;
            if let Some(write) = surely_present(row, walk.start) {
                lost(row, write, Evidence::Page(last), walk.start, found);
            }
        }
    }
    if walked || !row.deletes.is_empty() {
        return;
    }
    // If there was no walk, the reads at the end of the run reveal lost rows. C6 checks rows that
    // were deleted.
    let gone = row.operations().find(|(_, one)| one.last && one.is_absent_read());
    if let Some((place, read)) = gone
        && let Some(write) = surely_present(row, read.start)
    {
        let index = row.indices[place as usize];
        lost(row, write, Evidence::Operation(index), read.start, found);
    }
}

fn lost(row: &Row<'_>, write: OperationIndex, gone: Evidence, at: u64, found: &mut Findings) {
    found.add(Check::Sets, at, || {
        let promise = "a row that was acknowledged is there until it is deleted";
        let what = "an acknowledged row is not there".to_owned();
        let mut lost = Violation::of_row(row, row.evidence([write]));
        lost.evidence.push(gone);
        Violation { promise, what, ..lost }
    });
}

/// Checks a row that a walk returned: it must have been written, and its last change must not be a
/// delete.
fn unexpected(row: &Row<'_>, start: u64, page: u32, found: &mut Findings) {
    let may_be_there =
        |one: &Operation| one.kind == Kind::Write && one.outcome != Outcome::Rejected;
    let written = row.operations().any(|(_, one)| may_be_there(one));
    let (promise, what, place) = if !written {
        let refused = row.operations().find(|(_, one)| one.kind == Kind::Write);
        let what = "the row is there although it was never written, or every write was refused";
        ("only rows that were written are there", what, refused.map(|(place, _)| place))
    } else if let Some(delete) = surely_deleted(row, start) {
        let what = "the row is there although it was deleted last";
        ("a deleted row stays away until it is written again", what, Some(delete))
    } else {
        return;
    };
    found.add(Check::Sets, start, || {
        let mut unexpected = Violation::of_row(row, row.evidence(place));
        unexpected.evidence.push(Evidence::Page(page));
        Violation { promise, what: what.to_owned(), ..unexpected }
    });
}

/// Returns a write acknowledged before `moment` that no delete can have followed.
fn surely_present(row: &Row<'_>, moment: u64) -> Option<OperationIndex> {
    if row.deletes.any_free() {
        return None;
    }
    let deleted = row.deletes.newest().map_or(0, |(version, _)| version);
    // Without any delete, the version of the write does not matter.
    let after =
        |place: OperationIndex| deleted == 0 || row.version(place).is_some_and(|one| one > deleted);
    let mut writes = row.operations().filter(|(_, one)| one.kind == Kind::Write);
    let stays = |place: OperationIndex, one: &Operation| {
        one.is_acknowledged() && one.end < moment && after(place)
    };
    writes.find(|&(place, one)| stays(place, one)).map(|(place, _)| place)
}

/// Returns the delete acknowledged before `moment` that no write can have followed.
fn surely_deleted(row: &Row<'_>, moment: u64) -> Option<OperationIndex> {
    let (version, delete) = row.deletes.newest()?;
    if !row.at(delete).is_acknowledged() || row.at(delete).end >= moment {
        return None;
    }
    let may_be_after = |place: OperationIndex, one: &Operation| {
        one.kind == Kind::Write
            && one.outcome != Outcome::Rejected
            && row.version(place).is_none_or(|written| written > version)
    };
    let open = row.operations().any(|(place, one)| may_be_after(place, one));
    (!open).then_some(delete)
}
