//! Request context: the facts about the node that runs a request, and the work on table rows that
//! the engine does in the same transaction.
//!
//! **Invariant:** all facts are read after the locks of the request were taken. If the request
//! takes the fence lock, they include every write that was accepted before it.

use std::fmt;

use model::keyspace::Slot;
use model::position::Position;

use crate::mark::Mark;
use crate::rules::MoveRules;

/// Facts about the node that runs a request.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    /// Timeline of the node and insert position of its log.
    pub position: Position,
    /// Present time by the node's clock, in milliseconds.
    pub now: u64,
    /// Returns true if the node has recorded a change of the slots that the mark does not cover.
    pub has_change_beyond: &'a dyn Fn(&[Slot], &Mark) -> bool,
    /// Rules that are in force.
    pub rules: MoveRules,
}

impl fmt::Debug for RequestContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext").field("position", &self.position).finish_non_exhaustive()
    }
}

/// Effect of a request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveEffect {
    /// The shard was in the resulting state already. Nothing has changed.
    Repeated,
    /// The metadata have changed, and the engine does this work in the same transaction.
    Changed(RowWork),
}

/// Work that the engine does on the rows and the recorded changes of the move's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowWork {
    /// No work.
    None,
    /// All rows of the slots are deleted.
    DeleteRows,
    /// Some rows of the slots are deleted, at most this many.
    DeleteBatch(usize),
    /// The rows of the round are stored.
    StoreRows,
    /// All recorded changes of the slots are deleted, and no more are recorded.
    EndTraces,
    /// Changes of the slots are recorded from now on.
    BeginTraces,
    /// The recorded changes of the slots that this mark covers are deleted.
    TrimTraces(Mark),
}
