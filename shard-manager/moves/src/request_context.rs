//! Request context: the facts of the shard's node in the transaction of a request, and the work on
//! rows that belongs to the same transaction.
//!
//! **Invariant:** all facts are read after the locks of the request were taken. If the request
//! takes the fence lock, they contain every write that was accepted before.

use std::fmt;

use model::keyspace::Slot;
use model::position::Position;

use crate::mark::Mark;
use crate::rules::MoveRules;

/// Facts of the node that runs a request.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    /// Timeline and insert position of the node.
    pub position: Position,
    /// Time of the node's clock, in milliseconds.
    pub now: u64,
    /// Returns true if a recorded change of the slots is not covered by the mark.
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
    /// The metadata have changed. The engine does this work in the same transaction.
    Changed(RowWork),
}

/// Work of the engine on rows and recorded changes of the move's slots.
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
    /// All recorded changes of the slots are deleted. None is recorded from now on.
    EndTraces,
    /// Changes of the slots are recorded from now on.
    BeginTraces,
    /// Recorded changes of the slots up to this mark are deleted.
    TrimTraces(Mark),
}
