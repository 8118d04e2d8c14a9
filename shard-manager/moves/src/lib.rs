//! Moves: the state machine that takes slots from one shard to another while clients read and
//! write.
//!
//! Two shards take part in a move: the source owns the slots, the target receives them. Each stores
//! a record of the move ([`move_row::MoveRow`]) beside the states of its slots. Both halves of the
//! machine are pure functions: [`request::MoveRequest::apply`] is the conditional transaction that
//! a shard runs, and [`next_step::next`] is the decision of the mover (the task that carries out
//! the move) about the next transaction, from the metadata of both shards. The state of a move is
//! what the shards have stored, never what the catalog says. If a mover stops, any other one can
//! therefore continue its work. Requests that arrive late, twice or in another order are refused or
//! change nothing.
//!
//! **Invariant:** at most one current primary owns a slot, and a target that owns a slot has all
//! durable writes to it. The simulation checks this. It also shows, for each [`rules::MoveRule`],
//! the fault that appears without the rule.
//! **Not here:** databases, clocks and networks (the engines and the cluster); the owners of slots
//! as the catalog publishes them.
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
