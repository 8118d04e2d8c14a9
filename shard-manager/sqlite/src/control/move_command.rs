//! Move command: requests about moves of slots, as clients of the socket write them.
//!
//! **Not here:** the moves (`cluster`), the socket (`control`).

use engine::move_draft::{DraftSlots, MoveDraft, parse_slots};
use engine::move_record::{MoveOrder, parse_move_name};
use engine::operator_queue::MoveAction;
use serde::{Deserialize, Serialize};

/// Request about moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum MoveCommand {
    /// A move begins, of the slots or of the slot of the key.
    Begin {
        /// The slots, as ranges.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slots: Option<String>,
        /// The shard key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Table of the key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
        /// Partition of the key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partition: Option<String>,
        /// Name of the shard that owns them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Name of the shard that is to own them.
        to: String,
        /// Highest rate of the copy in MiB/s.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<u32>,
        /// Seconds for which the source is kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<u64>,
    },
    /// An order for a move.
    Order {
        /// Identity of the move.
        id: String,
        /// Name of the [`MoveOrder`].
        order: String,
    },
    /// A move that has ended begins again.
    Retry {
        /// Identity of the move.
        id: String,
    },
    /// A move is shown.
    Show {
        /// Identity of the move.
        id: String,
    },
    /// All moves are shown.
    List,
}

impl MoveCommand {
    /// Returns the request for the operator queue of a cluster with this number of slots.
    ///
    /// # Errors
    /// A sentence for the operator about slots, a key or an order that cannot be used.
    pub fn action(self, slot_count: usize) -> Result<MoveAction, String> {
        let identity = |id: &str| {
            parse_move_name(id).ok_or_else(|| "there is no such move (TSR331)".to_owned())
        };
        Ok(match self {
            Self::Begin { slots, key, table, partition, from, to, rate, keep } => {
                let slots = match (slots, key) {
                    (Some(_), None) if table.is_some() => {
                        return Err("table: it is given with a key only".to_owned());
                    }
                    (Some(_), None) if partition.is_some() => {
                        return Err("partition: it is given with a key only".to_owned());
                    }
                    (Some(slots), None) => {
                        let slots = parse_slots(&slots, slot_count);
                        DraftSlots::Set(slots.map_err(|error| format!("slots: {error}"))?)
                    }
                    (None, Some(key)) => DraftSlots::OfKey { key, table, partition },
                    (Some(_), Some(_)) | (None, None) => {
                        return Err("either slots or a key is given".to_owned());
                    }
                };
                MoveAction::Begin(MoveDraft { slots, from, to, rate, keep })
            }
            Self::Order { id, order } => {
                let order = MoveOrder::parse(&order);
                let order = order.ok_or_else(|| "there is no such order".to_owned())?;
                MoveAction::Order(identity(&id)?, order)
            }
            Self::Retry { id } => MoveAction::Retry(identity(&id)?),
            Self::Show { id } => MoveAction::Show(identity(&id)?),
            Self::List => MoveAction::List,
        })
    }
}
