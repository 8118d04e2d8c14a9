//! Move resources: the disk space and the connections that a move needs, and the number of rows
//! that it copies, all determined before the move is listed in the catalog.
//!
//! **Invariant:** a move is not refused because of a resource that is not known: the mover later
//! notices a shard that does not respond.
//! **Not here:** the owners of the slots and the states of both shards (`moves`), the space for all
//! moves of a plan (`rebalances::room`).

use std::time::{Duration, Instant};

use engine::ReplicaIsolation;
use engine::move_record::NewMove;
use futures_util::future::join;
use model::shard_map::ShardMap;
use model::stats::{MoverConnections, SizeEstimate};

use super::{Manager, MovesError};
use crate::shard::Shard;

/// Longest wait for the responses of both primaries.
const MEASURE_MAX: Duration = Duration::from_secs(2);

/// Resources of a move.
#[derive(Debug)]
pub(super) struct MoveResources {
    /// Size of the source; `None` if it is not known.
    size: Option<SizeEstimate>,
    /// Number of slots that move, and number of slots that the source owns.
    slots: (usize, usize),
    /// Free bytes of the target's disk; `None` if they are not known.
    free_bytes: Option<u64>,
    /// Number of nodes of the target that store the rows on this disk.
    nodes: usize,
    /// Names of the source and the target, and their connections as far as they are known.
    shards: [(String, Option<MoverConnections>); 2],
}

impl MoveResources {
    /// Measures the resources of a move between two shards of a map.
    pub(super) async fn measure(
        manager: &Manager,
        new: &NewMove,
        map: &ShardMap,
        deadline: Instant,
    ) -> Self {
        let name = |number| map.topology().name(number).to_owned();
        let slots = (new.slots.len(), map.slots_of(new.source).count());
        let shards = [(name(new.source), None), (name(new.target), None)];
        let unknown = Self { size: None, slots, free_bytes: None, nodes: 1, shards };
        let open = manager.shards();
        let Some((source, target)) = open.find(new.source).zip(open.find(new.target)) else {
            return unknown;
        };
        let soon = deadline.min(Instant::now() + MEASURE_MAX);
        let connections =
            async |shard: &Shard| shard.primary().moves()?.connections(soon).await.ok().flatten();
        let (at_source, at_target) = join(connections(&source), connections(&target)).await;
        // Read after the connections were counted, so that both reads of a primary use one
        // connection: a server without free connections accepts no second one.
        let size = async { source.primary().size_estimate(soon).await.ok() };
        let free_bytes = async { target.primary().moves()?.free_bytes(soon).await.ok().flatten() };
        let (size, free_bytes) = join(size, free_bytes).await;
        let [(from, _), (to, _)] = unknown.shards;
        Self {
            size,
            slots,
            free_bytes,
            nodes: nodes_of_disk(manager, &target),
            shards: [(from, at_source), (to, at_target)],
        }
    }

    /// Checks that both servers have enough free connections, and that the disk of the target has
    /// room for the rows of the slots on every node that stores them there. The size of the rows is
    /// estimated from the share of the source's slots that move.
    ///
    /// # Errors
    /// [`MovesError::NoConnections`], [`MovesError::NoRoom`].
    pub(super) fn check(&self) -> Result<(), MovesError> {
        for (shard, connections) in &self.shards {
            let Some(MoverConnections { needed, free, limit }) = *connections else { continue };
            if free < needed {
                let shard = shard.clone();
                return Err(MovesError::NoConnections { shard, needed, free, limit });
            }
        }
        let (Some(size), Some(free)) = (self.size, self.free_bytes) else { return Ok(()) };
        let needed = self.share_of(size.bytes, self.nodes);
        if needed > free {
            let [_, (shard, _)] = &self.shards;
            return Err(MovesError::NoRoom { shard: shard.clone(), needed, free });
        }
        Ok(())
    }

    /// Returns the number of rows that the move copies, estimated from the share of the source's
    /// slots that move; `None` if it is not known. An estimate of 0 rows counts as unknown, because
    /// a server without statistics reports it.
    pub(super) fn rows_expected(&self) -> Option<u64> {
        let size = self.size?;
        let rows = size.rows.filter(|rows| !size.is_estimate || *rows > 0)?;
        Some(self.share_of(rows, 1))
    }

    /// Returns the part of a quantity of the source that belongs to the moving slots, multiplied by
    /// the number of nodes.
    fn share_of(&self, quantity: u64, nodes: usize) -> u64 {
        let (slots, owned) = self.slots;
        let share = u128::from(quantity) * slots as u128 / owned.max(1) as u128;
        u64::try_from(share * nodes as u128).unwrap_or(u64::MAX)
    }
}

/// Returns the number of nodes of a shard that store their rows on the disk of its primary. Each
/// server is assumed to have a disk of its own.
pub(super) fn nodes_of_disk(manager: &Manager, shard: &Shard) -> usize {
    match manager.backend.isolation() {
        ReplicaIsolation::SameMachine => 1 + shard.replication.timeline().replica_count(),
        ReplicaIsolation::OwnServers => 1,
    }
}

#[cfg(test)]
mod tests {
    use engine::refusal_code::RefusalCode;

    use super::*;

    fn resources(rows: Option<u64>, bytes: u64) -> MoveResources {
        MoveResources {
            size: Some(SizeEstimate { rows, is_estimate: false, bytes }),
            slots: (64, 640),
            free_bytes: None,
            nodes: 3,
            shards: [("shard1".to_owned(), None), ("shard2".to_owned(), None)],
        }
    }

    #[test]
    fn rows_need_the_share_of_their_slots_on_each_node() {
        let needed = |bytes, slots, nodes| {
            let resources = MoveResources { slots, ..resources(None, 0) };
            resources.share_of(bytes, nodes)
        };
        assert_eq!(needed(1_000, (64, 640), 3), 300);
        assert_eq!(needed(u64::MAX, (64, 64), 9), u64::MAX);
        assert_eq!(needed(0, (1, 0), 1), 0);
    }

    #[test]
    fn a_move_is_refused_if_the_disk_of_its_target_has_no_room_for_the_rows_on_all_nodes() {
        let with_free = |free| MoveResources { free_bytes: free, ..resources(None, 1_000) };
        let refused = MovesError::NoRoom { shard: "shard2".to_owned(), needed: 300, free: 299 };
        assert_eq!(refused.code(), Some(RefusalCode::ShardState));
        assert_eq!(with_free(Some(299)).check(), Err(refused));
        assert_eq!(with_free(Some(300)).check(), Ok(()));
        assert_eq!(with_free(None).check(), Ok(()), "an unknown disk refuses nothing");
        let unread = MoveResources { size: None, ..with_free(Some(0)) };
        assert_eq!(unread.check(), Ok(()), "an unknown size refuses nothing");
    }

    #[test]
    fn a_move_is_refused_if_one_of_both_servers_has_too_few_free_connections() {
        let connections =
            |free| Some(MoverConnections { needed: 4, free, limit: "max_connections" });
        for shard in 0..2 {
            let mut resources = resources(None, 1_000);
            resources.shards[shard].1 = connections(4);
            assert_eq!(resources.check(), Ok(()));
            resources.shards[shard].1 = connections(3);
            let refused = resources.check().expect_err("a connection is missing");
            assert_eq!(refused.code(), Some(RefusalCode::ShardState));
            let name = resources.shards[shard].0.clone();
            let sentence = format!(
                "{name} has 3 free connections, and the move takes up to 4 more: raise \
                 max_connections"
            );
            assert_eq!(refused.to_string(), sentence);
        }
    }

    #[test]
    fn the_expected_rows_are_the_share_of_the_slots_and_unknown_without_statistics() {
        assert_eq!(resources(Some(12_345), 0).rows_expected(), Some(1_234));
        assert_eq!(resources(Some(0), 0).rows_expected(), Some(0), "an exact count");
        assert_eq!(resources(None, 0).rows_expected(), None);
        let size = Some(SizeEstimate { rows: Some(0), is_estimate: true, bytes: 0 });
        let estimated = MoveResources { size, ..resources(None, 0) };
        assert_eq!(estimated.rows_expected(), None);
        let unread = MoveResources { size: None, ..resources(None, 0) };
        assert_eq!(unread.rows_expected(), None);
    }
}
