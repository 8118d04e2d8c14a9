//! Owners: checks that each slot has one owner, the one of the shard map.
//!
//! The map names the old owner of a slot that moves until the new one has taken it. So the slot
//! states that both shards store decide about such a slot: one of them owns it, or the old owner
//! has given it away and the new one still imports it.
//!
//! **Invariant:** a slot with two owners or none is reported.
//! **Not here:** the bits that databases derive from their slots (`audit/inventory`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use model::keyspace::Slot;
use model::shard_map::ShardMap;
use model::topology::ShardNumber;

use super::insert_position;
use crate::cluster_sessions::ShardSession;
use crate::statement::{RowView, Statement, load};

const STATES: &str = "SELECT slot::bigint,state FROM tessera_slots";
/// Slots of moves, with the id of the move.
const MOVING: &str = "SELECT number::bigint,id FROM tessera_slot_moves,\
    json_array_elements_text(slots::json) AS number";

/// Slots of a shard, as its database has them.
#[derive(Clone, Debug)]
pub(super) struct ShardSlots {
    /// Name of the shard.
    pub(super) name: String,
    /// Number of the shard.
    pub(super) number: ShardNumber,
    /// State of each slot that has one.
    pub(super) states: BTreeMap<u16, String>,
    /// Move of each slot that is in one.
    pub(super) moving: BTreeMap<u16, String>,
    /// Position of the shard, at or after the snapshot.
    pub(super) position: u64,
}

impl ShardSlots {
    /// Reads the slots in the snapshot of a session.
    pub(super) async fn read(shard: &ShardSession) -> QueryResult<Self> {
        let statement = |sql| Statement { sql, binds: &[], cached: false };
        let states = load(shard.connection(), statement(STATES)).await?;
        let moving = load(shard.connection(), statement(MOVING)).await?;
        let numbered = |row: &RowView| Some((u16::try_from(row.bigint(0)?).ok()?, row.text(1)?));
        Ok(Self {
            name: shard.name.clone(),
            number: shard.number,
            states: states.iter().filter_map(numbered).collect(),
            moving: moving.iter().filter_map(numbered).collect(),
            position: insert_position(shard).await?,
        })
    }

    /// Returns true if the shard owns a slot.
    pub(super) fn owns(&self, slot: u16) -> bool {
        self.state(slot).is_some_and(|state| state == "owned" || state == "fenced")
    }

    /// Returns true if rows of a slot are foreign: it has moved away, or is being copied here.
    pub(super) fn is_foreign(&self, slot: u16) -> bool {
        self.state(slot).is_some_and(|state| state == "moved" || state == "importing")
    }

    fn state(&self, slot: u16) -> Option<&str> {
        self.states.get(&slot).map(String::as_str)
    }

    fn describe(&self, slot: u16) -> String {
        let state = self.state(slot).unwrap_or("missing");
        format!("slot {slot} is {state} in the shard's tessera_slots")
    }
}

/// Finding about a shard: its index in the list, what was found, and what was expected.
pub(super) type OwnerFault = (usize, String, String);

/// Returns findings about the slots whose owner is not the one of the map.
pub(super) fn check(map: &ShardMap, shards: &[ShardSlots]) -> Vec<OwnerFault> {
    let mut faults = Vec::new();
    for slot in map.owners().filter_map(|owner| Slot::new(owner.slot)) {
        if shards.iter().any(|shard| shard.moving.contains_key(&slot.number())) {
            check_moving(slot.number(), shards, &mut faults);
        } else {
            check_settled(slot.number(), (map, map.owner(slot)), shards, &mut faults);
        }
    }
    faults
}

fn check_settled(
    slot: u16,
    (map, owner): (&ShardMap, ShardNumber),
    shards: &[ShardSlots],
    faults: &mut Vec<OwnerFault>,
) {
    let mut is_known = false;
    for (index, shard) in shards.iter().enumerate() {
        is_known |= shard.number == owner;
        if shard.owns(slot) == (shard.number == owner) {
            continue;
        }
        let expected = match shard.number == owner {
            true => "owned, as the map says".to_owned(),
            false => format!("owned by {}, as the map says", map.topology().name(owner)),
        };
        faults.push((index, shard.describe(slot), expected));
    }
    if !is_known && !shards.is_empty() {
        let what = format!("slot {slot} belongs to {} by the map", map.topology().name(owner));
        faults.push((0, what, "a shard that serves".to_owned()));
    }
}

fn check_moving(slot: u16, shards: &[ShardSlots], faults: &mut Vec<OwnerFault>) {
    let owners = shards.iter().filter(|shard| shard.owns(slot)).count();
    let in_transit = |gives: &ShardSlots| {
        let takes = |takes: &ShardSlots| {
            takes.moving.get(&slot) == gives.moving.get(&slot)
                && takes.state(slot) == Some("importing")
        };
        gives.state(slot) == Some("moved") && shards.iter().any(takes)
    };
    if owners == 1 || owners == 0 && shards.iter().any(in_transit) {
        return;
    }
    let sides = shards.iter().enumerate();
    for (index, shard) in sides.filter(|(_, shard)| shard.states.contains_key(&slot)) {
        let expected = "one owner, as the slot is in a move".to_owned();
        faults.push((index, shard.describe(slot), expected));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: u16, states: &[(u16, &str)], moving: &[u16]) -> ShardSlots {
        ShardSlots {
            name: format!("shard{}", number + 1),
            number: ShardNumber(number),
            states: states.iter().map(|(slot, state)| (*slot, (*state).to_owned())).collect(),
            moving: moving.iter().map(|slot| (*slot, "m".to_owned())).collect(),
            position: 0,
        }
    }

    fn moving(sides: [ShardSlots; 2]) -> usize {
        let mut faults = Vec::new();
        check_moving(7, &sides, &mut faults);
        faults.len()
    }

    #[test]
    fn a_slot_in_a_move_has_one_owner_or_is_between_two() {
        let one = [shard(0, &[(7, "fenced")], &[7]), shard(1, &[(7, "importing")], &[7])];
        assert_eq!(moving(one), 0);
        let between = [shard(0, &[(7, "moved")], &[7]), shard(1, &[(7, "importing")], &[7])];
        assert_eq!(moving(between), 0);
        let both = [shard(0, &[(7, "owned")], &[7]), shard(1, &[(7, "owned")], &[7])];
        assert_eq!(moving(both), 2);
        let none = [shard(0, &[(7, "moved")], &[7]), shard(1, &[], &[])];
        assert_eq!(moving(none), 1);
    }
}
