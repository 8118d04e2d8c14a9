//! Hand-overs: moves slots with their rows between shards repeatedly, in a build for tests.
//!
//! There are pauses between the steps of a hand-over, so that requests encounter each of its
//! states: a fence, no owner at all, an owner that the map does not name yet.
//!
//! **Not here:** the rows of the slots, which the new owner copies (`sqlite`).

use std::time::{Duration, Instant};

use model::keyspace::{SLOT_COUNT, Slot};
use model::map_change::MapChange;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;

use super::slots::{Slots, change};
use engine::slot_change::{SlotChange, SlotStep};

/// Number of slots in a group, which is handed over as a whole.
const SLOTS: u16 = 1_024;
/// Distance from one group of slots to the one that is handed over next, in groups. It is more than
/// 1, so that neighbouring groups do not follow each other.
const STRIDE: u16 = 5;
/// Pause between two steps.
const PAUSE: Duration = Duration::from_millis(15);
/// Pause in which the slots have no owner. It is long enough that some reads of all shards, of
/// which there are few, encounter it.
const NO_OWNER: Duration = Duration::from_millis(30);
/// Time limit of the changes of one hand-over before the map is changed, and duration of its fence.
const STEP_MAX: Duration = Duration::from_secs(10);

impl Slots<'_> {
    /// Repeatedly hands a group of slots, with their rows, from one shard to another, until a step
    /// fails or the future is dropped.
    pub async fn keep_handing_over(self) {
        let groups = SLOT_COUNT / SLOTS;
        for turn in 0.. {
            let first = (turn * usize::from(STRIDE) % usize::from(groups)) as u16 * SLOTS;
            let slots: SlotSet = (first..first + SLOTS).filter_map(Slot::new).collect();
            if let Err(error) = self.hand_over_with_rows(&slots, first).await {
                tracing::error!(error, "slots no longer change hands");
                return;
            }
        }
    }

    async fn hand_over_with_rows(self, slots: &SlotSet, first: u16) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let map = self.0.map();
        let from = map.owner(Slot::new(first).ok_or("no such slot")?);
        let mut others = map.topology().numbers().filter(|number| *number != from);
        let to: ShardNumber = others.next().ok_or("there is one shard")?;
        let source = self.0.shards().find(from).ok_or("the shard is not open")?;
        let target = self.0.shards().find(to).ok_or("the shard is not open")?;
        let deadline = Instant::now() + STEP_MAX;
        self.fence(slots, STEP_MAX, deadline).await.map_err(|error| failed(&error))?;
        tokio::time::sleep(PAUSE).await;
        let step = |step| SlotChange { slots: slots.clone(), step };
        let given = change(&source, step(SlotStep::HandOver { to }), deadline).await;
        given.map_err(|error| failed(&error))?;
        tokio::time::sleep(NO_OWNER).await;
        loop {
            // The change fails while a table of the source is still being created on the target.
            match change(&target, step(SlotStep::TakeOver), deadline).await {
                Err(error) if Instant::now() >= deadline => return Err(failed(&error)),
                Err(_) => tokio::time::sleep(PAUSE).await,
                Ok(()) => break,
            }
        }
        tokio::time::sleep(PAUSE).await;
        let owners = MapChange::Owners { slots: slots.clone(), from, to, floor: None };
        let changed = self.0.shards().change_map(owners, map.epoch()).await;
        changed.map_err(|error| failed(&error))?;
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
