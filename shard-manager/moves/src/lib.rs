//! Moves: the state machine that takes slots from one shard to another while clients read and
//! write.
//!
//! Two shards take part in a move: the source owns the slots, the target receives them. Each keeps
//! a row of metadata about the move, next to the states of its slots. Both halves of the machine
//! are pure functions: [`request::MoveRequest::apply`] is the conditional transaction that a shard
//! runs, and [`next_step::next`] is the decision of the mover about the next one, from the metadata
//! of both shards. The shards decide, never the catalog: any other mover can continue the work of
//! one that stops, and requests that arrive late, twice or in another order are refused or change
//! nothing.
//!
//! **Invariant:** of the current primaries, at most one owns a slot; a target that owns a slot has
//! every durable write of it. The simulation checks this, and shows the fault that appears without
//! each [`rules::MoveRule`].
//! **Not here:** databases, clocks, networks (the engines and the cluster), owners in the catalog.
#![forbid(unsafe_code)]

pub mod applied;
pub mod beginning;
pub mod cutover;
pub mod identity;
pub mod limits;
pub mod mark;
pub mod move_row;
pub mod next_step;
pub mod observation;
pub mod refusal;
pub mod request;
pub mod request_context;
pub mod round;
pub mod rules;
pub mod shard_metadata;
pub mod slot_state;
pub mod step;

mod cleaning;
mod direction;
mod ending;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
