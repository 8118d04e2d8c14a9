//! Slot desk: commands of an operator for the slots of a running cluster, on their way from the
//! process's control socket to the part that carries them out.
//!
//! **Not here:** the socket (`sqlite`), the change of slots (`cluster`).

use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::slot_set::SlotSet;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Longest time from a command to its outcome, as its sender waits.
const PATIENCE: Duration = Duration::from_secs(15);
/// Highest number of commands that wait.
const COMMANDS_MAX: usize = 4;

/// Change that an operator requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAction {
    /// The writes of the slots wait, for this time at most.
    Fence {
        /// The time.
        hold: Duration,
    },
    /// The writes of the slots go on.
    Release,
}

/// Command for some slots.
#[derive(Debug)]
pub struct SlotCommand {
    /// The slots, of any shards.
    pub slots: SlotSet,
    /// Change of each.
    pub action: SlotAction,
    answer: std::sync::mpsc::SyncSender<Result<(), String>>,
}

impl SlotCommand {
    /// Reports the outcome; an error is a sentence for the operator.
    pub fn answer(self, outcome: Result<(), String>) {
        // The sender may have stopped waiting.
        let _ = self.answer.try_send(outcome);
    }
}

/// Queue of commands.
#[derive(Debug)]
pub struct SlotDesk {
    commands: Sender<SlotCommand>,
    /// The receiver, until commands are carried out.
    waiting: Mutex<Option<Receiver<SlotCommand>>>,
}

impl Default for SlotDesk {
    fn default() -> Self {
        let (commands, waiting) = channel(COMMANDS_MAX);
        Self { commands, waiting: Mutex::new(Some(waiting)) }
    }
}

impl SlotDesk {
    /// Returns the receiver of commands; `None` if it was taken before.
    pub fn open(&self) -> Option<Receiver<SlotCommand>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has a command carried out. Blocks.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn command(&self, slots: SlotSet, action: SlotAction) -> Result<(), String> {
        let is_closed = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_closed {
            let closed = "the process that holds the data directory serves no requests, so no writes can wait";
            return Err(closed.to_owned());
        }
        let (answer, outcome) = sync_channel(1);
        let sent = self.commands.try_send(SlotCommand { slots, action, answer });
        sent.map_err(|_| "other changes of slots are being carried out: try again".to_owned())?;
        let late = "the change of slots was not carried out in time: its outcome is unknown";
        outcome.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(late.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_answered_by_the_part_that_opened_the_desk() {
        let desk = SlotDesk::default();
        assert!(desk.command(SlotSet::full(), SlotAction::Release).is_err(), "it is closed");
        let mut commands = desk.open().expect("the receiver");
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| desk.command(SlotSet::full(), SlotAction::Release));
            let command = commands.blocking_recv().expect("a command");
            assert!(command.slots.is_full() && command.action == SlotAction::Release);
            command.answer(Err("not now".to_owned()));
            assert_eq!(sent.join().expect("no panic"), Err("not now".to_owned()));
        });
    }
}
