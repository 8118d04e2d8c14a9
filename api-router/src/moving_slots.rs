//! Moving slots: the slots of the moves in progress, as the catalog listed them a moment ago.
//!
//! **Invariant:** the catalog is queried at most once a second, however many requests there are. A
//! catalog that does not respond delays only the request that queries it, by at most half a second.
//! **Not here:** the moves (`shard_manager::manager`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shard_manager::engine::move_record::MoveRecord;
use shard_manager::keyspace::Slot;
use shard_manager::manager::Manager;
use shard_manager::slot_set::SlotSet;
use tokio::time::timeout;

/// Age of the list at which it is read from the catalog again.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Maximum time for which a request waits for the catalog.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// List of the slots that are being moved.
#[derive(Debug, Default)]
pub struct MovingSlots {
    seen: Mutex<SeenMoves>,
}

#[derive(Clone, Debug, Default)]
struct SeenMoves {
    /// Time of the last query to the catalog.
    asked: Option<Instant>,
    /// Slots and id of each move in progress.
    moves: Arc<[(SlotSet, String)]>,
}

impl MovingSlots {
    /// Returns the id of the move in progress that includes a slot, if the list contains one.
    pub async fn move_of(&self, manager: &Manager, slot: Slot) -> Option<String> {
        if self.takes_turn() {
            // If the catalog is unreachable, the list stays as it is.
            if let Ok(Ok(records)) = timeout(ANSWER_MAX, manager.moves().list()).await {
                self.store(&records);
            }
        }
        let moves = Arc::clone(&self.seen.lock().unwrap_or_else(PoisonError::into_inner).moves);
        let found = moves.iter().find(|(slots, _)| slots.contains(slot));
        found.map(|(_, name)| name.clone())
    }

    /// Returns true if this request has to query the catalog.
    fn takes_turn(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = seen.asked.is_none_or(|asked| asked.elapsed() >= AGE_MAX);
        if is_old {
            seen.asked = Some(Instant::now());
        }
        is_old
    }

    fn store(&self, records: &[MoveRecord]) {
        let open = records.iter().filter(|record| !record.phase.has_ended());
        let moves = open.map(|record| (record.new.slots.clone(), record.name())).collect();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).moves = moves;
    }
}
