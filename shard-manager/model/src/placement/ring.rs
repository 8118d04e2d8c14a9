//! Ring: consistent hashing on 0..2^32 with virtual nodes.
//!
//! Source: Karger et al., "Consistent Hashing and Random Trees", 1997; virtual nodes as in Dynamo
//! (2007). A new shard takes slots from all others and nothing else moves, a removed shard leaves
//! its slots to all others, and a weight that grows only takes slots. The distribution is random:
//! with v points a shard differs from its share by about 1/√v of it (8 % with 160), while with
//! `weighted` it differs by one slot.
//!
//! The ring hashes names: a renamed shard is a different shard.
//!
//! **Invariant:** point `i` of a shard is the upper half of XXH3-64 of `name-i`; slot `s` is the
//! point `s * 2^18`, and is owned by the next point at or after it. Points that coincide are
//! ordered by name, so that the order of shards does not matter.
//! **Not here:** the ring as a table of keys: keys have slots.

use std::fmt::Write as _;

use serde::Deserialize;

use super::PlacementError;
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

/// Default number of points for each unit of weight: as many as Ketama has for a server.
pub const VNODES_DEFAULT: u32 = 160;
/// Highest number of points for each unit of weight.
pub const VNODES_MAX: u32 = 10_000;
/// Highest number of points of a ring: they are hashed and sorted in about 100 ms.
pub const POINTS_MAX: u64 = 1 << 20;

/// Distance of two slots on the ring, which has 2^32 places.
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
/// [`PlacementError::TooManyPoints`].
pub fn points(vnodes: u32, topology: &Topology) -> Result<Vec<(u32, ShardNumber)>, PlacementError> {
    let count = |weight: u32| u64::from(weight) * u64::from(vnodes);
    let weights = topology.share_weights();
    let total = weights.iter().map(|weight| count(*weight)).sum();
    if total > POINTS_MAX {
        return Err(PlacementError::TooManyPoints { points: total });
    }
    let mut by_name: Vec<ShardNumber> = topology.numbers().collect();
    by_name.sort_unstable_by_key(|&shard| topology.name(shard));
    // Place on the ring, and rank of the name.
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
