//! Operator queue: carries an operator's commands for the shards, slots, moves and rebalances of a
//! running cluster from the control socket of the process to the code that carries them out.
//!
//! **Not here:** the socket (`sqlite`), the changes (`cluster`).

use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::slot_set::SlotSet;
use moves::identity::MoveId;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::move_draft::MoveDraft;
use super::move_record::MoveOrder;
use super::move_view::MoveView;
use super::new_shard::NewShard;
use super::rebalance_draft::RebalanceDraft;
use super::rebalance_record::{RebalanceId, RebalanceOrder};
use super::rebalance_view::{PlanView, RebalanceView};

/// Maximum time for a change of slots.
const SLOTS_MAX: Duration = Duration::from_secs(10);
/// Maximum time for a change of the shards, which includes creating the files of a new shard.
const SHARDS_MAX: Duration = Duration::from_secs(60);
/// Maximum time for a request about moves, which reads or changes the catalog.
const MOVES_MAX: Duration = Duration::from_secs(10);
/// Maximum time for a request about rebalances, for which the shards report their sizes.
const REBALANCES_MAX: Duration = Duration::from_secs(20);
/// Time beyond these limits for which the sender of a command waits for its outcome.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum number of commands that wait, and of commands that are carried out at the same time.
pub const COMMANDS_MAX: usize = 4;

/// Change of slots that an operator requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAction {
    /// Writes to the slots wait, at most for this time.
    Fence {
        /// The time.
        hold: Duration,
    },
    /// Writes to the slots continue.
    Release,
}

/// Change of the shards that an operator requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardAction {
    /// A shard joins, without slots.
    Join(NewShard),
    /// A shard gets another weight.
    Weight {
        /// Name of the shard.
        name: String,
        /// The weight.
        weight: u32,
    },
    /// A shard without slots retires.
    Remove {
        /// Name of the shard.
        name: String,
    },
}

/// Request of an operator about moves of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveAction {
    /// A move begins.
    Begin(MoveDraft),
    /// An order for a move.
    Order(MoveId, MoveOrder),
    /// A move that has ended begins again, as a new one.
    Retry(MoveId),
    /// A move is shown.
    Show(MoveId),
    /// All moves are shown.
    List,
}

/// Request of an operator about rebalances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebalanceAction {
    /// A rebalance is planned. If an epoch is given, the shard map must have this epoch.
    Plan(RebalanceDraft, Option<u64>),
    /// A rebalance begins. If an epoch is given, the shard map must have this epoch.
    Begin(RebalanceDraft, Option<u64>),
    /// An order for a rebalance.
    Order(RebalanceId, RebalanceOrder),
    /// A rebalance is shown.
    Show(RebalanceId),
    /// All rebalances are shown.
    List,
}

/// Request of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorRequest {
    /// Slots are changed, on whichever shards own them.
    Slots(SlotSet, SlotAction),
    /// The shards are changed.
    Shards(ShardAction),
    /// Moves are changed or shown.
    Moves(MoveAction),
    /// Rebalances are planned, changed or shown.
    Rebalances(RebalanceAction),
}

/// Outcome of a request that was carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum OperatorResponse {
    /// The change was made.
    Changed,
    /// The moves that the request is about.
    Moves(Vec<MoveView>),
    /// A plan, which is empty if nothing has to move.
    Plan(Box<PlanView>),
    /// The rebalances that the request is about.
    Rebalances(Vec<RebalanceView>),
}

impl OperatorRequest {
    /// Returns the longest time that the change may take.
    pub fn time_max(&self) -> Duration {
        match self {
            Self::Slots(..) => SLOTS_MAX,
            Self::Shards(_) => SHARDS_MAX,
            Self::Moves(_) => MOVES_MAX,
            Self::Rebalances(_) => REBALANCES_MAX,
        }
    }
}

/// Request in the queue, with the channel for its outcome.
#[derive(Debug)]
pub struct OperatorCommand {
    /// The request.
    pub request: OperatorRequest,
    answer: std::sync::mpsc::SyncSender<Result<OperatorResponse, String>>,
}

impl OperatorCommand {
    /// Sends the outcome to the sender of the command; an error is a sentence for the operator.
    pub fn answer(self, outcome: Result<OperatorResponse, String>) {
        // The sender may have stopped waiting.
        let _ = self.answer.try_send(outcome);
    }
}

/// Queue of commands.
#[derive(Debug)]
pub struct OperatorQueue {
    commands: Sender<OperatorCommand>,
    /// Receiver of the commands, until [`OperatorQueue::open`] takes it.
    waiting: Mutex<Option<Receiver<OperatorCommand>>>,
}

impl Default for OperatorQueue {
    fn default() -> Self {
        let (commands, waiting) = channel(COMMANDS_MAX);
        Self { commands, waiting: Mutex::new(Some(waiting)) }
    }
}

impl OperatorQueue {
    /// Returns the receiver of commands; `None` if it was taken before.
    pub fn open(&self) -> Option<Receiver<OperatorCommand>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Queues a request and waits for its outcome. Blocks.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn command(&self, request: OperatorRequest) -> Result<OperatorResponse, String> {
        let is_closed = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_closed {
            return Err(closed(&request).to_owned());
        }
        let patience = request.time_max() + PATIENCE;
        let (answer, outcome) = sync_channel(1);
        let sent = self.commands.try_send(OperatorCommand { request, answer });
        sent.map_err(|_| "other changes are being carried out: try again".to_owned())?;
        let late = "the change was not carried out in time: its outcome is unknown";
        outcome.recv_timeout(patience).unwrap_or_else(|_| Err(late.to_owned()))
    }
}

fn closed(request: &OperatorRequest) -> &'static str {
    match request {
        OperatorRequest::Slots(..) => {
            "the process that holds the data directory serves no requests, so no writes can wait"
        }
        OperatorRequest::Shards(_) | OperatorRequest::Moves(_) | OperatorRequest::Rebalances(_) => {
            "the process that holds the data directory serves no requests: try again when it has ended"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_answered_by_the_part_that_opened_the_queue() {
        let queue = OperatorQueue::default();
        let release = || OperatorRequest::Slots(SlotSet::full(), SlotAction::Release);
        assert!(queue.command(release()).is_err(), "it is closed");
        let mut commands = queue.open().expect("the receiver");
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| queue.command(release()));
            let command = commands.blocking_recv().expect("a command");
            assert_eq!(command.request, release());
            command.answer(Err("not now".to_owned()));
            assert_eq!(sent.join().expect("no panic"), Err("not now".to_owned()));
        });
    }
}
