//! Ring: consistent hashing on 0..2^32 with virtual nodes.
//!
//! Source: Karger et al., "Consistent Hashing and Random Trees", 1997; virtual nodes as in Dynamo
//! (2007). A new shard takes slots from all others, and no slot moves between those; the slots of a
//! removed shard go to all others; a shard whose weight grows only takes slots. The distribution is
//! random: with v points, the number of slots of a shard differs from its share by about 1/√v of
//! that share (8 % with 160 points), while with `weighted` it differs by at most one slot.
//!
//! The ring hashes the names of shards, so a renamed shard gets other slots.
//!
//! **Invariant:** point `i` of a shard is the upper half of XXH3-64 of `name-i`; slot `s` is at the
//! place `s * 2^18`, and belongs to the shard whose point is the first one at or after that place.
//! Points at the same place are ordered by the names of their shards, so that the order of the
//! shards does not matter.
//! **Not here:** keys. The ring places slots, and a keyspace maps keys to slots.

use std::fmt::Write as _;

use serde::Deserialize;

use super::PlacementError;
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

/// Default number of points for each unit of weight: the number that Ketama uses for each server.
pub const VNODES_DEFAULT: u32 = 160;
/// Maximum number of points for each unit of weight.
pub const VNODES_MAX: u32 = 10_000;
/// Maximum number of points of a ring. Hashing and sorting this many takes about 100 ms.
pub const POINTS_MAX: u64 = 1 << 20;

/// Distance between two neighbouring slots on the ring, which has 2^32 places.
const PLACES_PER_SLOT: u32 = ((1_u64 << 32) / SLOT_COUNT as u64) as u32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    vnodes: u32,
}

pub(super) fn parse(text: Option<&str>) -> Result<u32, String> {
    let Some(text) = text else { return Ok(VNODES_DEFAULT) };
    text.parse()
        .map_err(|_| "the number of virtual nodes is not a number".to_owned())
        .and_then(check)
}

pub(super) fn restore(parameters: &str) -> Result<u32, String> {
    let read: Result<Parameters, _> = serde_json::from_str(parameters);
    read.map_err(|error| error.to_string()).and_then(|parameters| check(parameters.vnodes))
}

fn check(vnodes: u32) -> Result<u32, String> {
    let good = (1..=VNODES_MAX).contains(&vnodes);
    good.then_some(vnodes)
        .ok_or_else(|| format!("there may be 1 to {VNODES_MAX} virtual nodes, not {vnodes}"))
}

pub(super) fn assign(vnodes: u32, topology: &Topology) -> Result<Vec<ShardNumber>, PlacementError> {
    let points = points(vnodes, topology)?;
    let mut next = 0;
    let owners = (0..SLOT_COUNT).map(|slot| {
        let place = u32::from(slot) * PLACES_PER_SLOT;
        while points.get(next).is_some_and(|(point, _)| *point < place) {
            next += 1;
        }
        // After the last point the ring continues with the first.
        let (_, shard) = points.get(next).unwrap_or(&points[0]);
        *shard
    });
    Ok(owners.collect())
}

/// Returns the points on the ring and their shards, in the order of the ring.
///
/// # Errors
/// [`PlacementError::TooManyPoints`] if there would be more than [`POINTS_MAX`].
pub fn points(vnodes: u32, topology: &Topology) -> Result<Vec<(u32, ShardNumber)>, PlacementError> {
    let count = |weight: u32| u64::from(weight) * u64::from(vnodes);
    let weights = topology.share_weights();
    let total = weights.iter().map(|weight| count(*weight)).sum();
    if total > POINTS_MAX {
        return Err(PlacementError::TooManyPoints { points: total });
    }
    let mut by_name: Vec<ShardNumber> = topology.numbers().collect();
    by_name.sort_unstable_by_key(|&shard| topology.name(shard));
    // Each point is its place on the ring, with the rank of its shard in the order of names.
    let mut points: Vec<(u32, u16)> = Vec::with_capacity(total as usize);
    let mut text = String::new();
    for (rank, &shard) in (0..).zip(&by_name) {
        let name = topology.name(shard);
        for vnode in 0..count(weights[shard.index()]) {
            text.clear();
            write!(text, "{name}-{vnode}").expect("a string takes any text");
            points.push(((xxhash_rust::xxh3::xxh3_64(text.as_bytes()) >> 32) as u32, rank));
        }
    }
    points.sort_unstable();
    let shard = |(place, rank): (u32, u16)| (place, by_name[usize::from(rank)]);
    Ok(points.into_iter().map(shard).collect())
}
