//! Members: the nodes of a Citus cluster as its coordinator lists them, and the parts that they
//! hold. A part is a Citus shard together with the co-located shards that move with it.
//!
//! The name of a node is formed from its group: `worker3`, or `coordinator`. Clients see no
//! addresses.
//!
//! **Invariant:** only primaries are members; a secondary follows the primary of its group.
//! **Not here:** the sizes of tables for status reports (`citus::nodes`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::node_distributor::MemberState;

use crate::statement::{RowView, Statement, load};

/// Reads the nodes.
const MEMBERS: &str =
    "SELECT nodeid::bigint, groupid::bigint, nodename, nodeport::bigint, isactive, shouldhaveshards
    FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid";

/// Reads the parts of each group, with the shard that names the part and its size, which is missing
/// if a node does not report it. Reference tables and tables of one node never move.
const PARTS: &str = "SELECT p.groupid::bigint, min(s.shardid)::bigint, sum(z.size)::bigint
    FROM pg_dist_placement AS p
    JOIN pg_dist_shard AS s USING (shardid)
    JOIN pg_dist_partition AS t USING (logicalrelid)
    LEFT JOIN (SELECT shard_id, max(size) AS size FROM citus_shard_sizes() GROUP BY shard_id) AS z
        ON z.shard_id = s.shardid
    WHERE t.repmodel <> 't' AND t.colocationid <> 0
    GROUP BY p.groupid, t.colocationid, s.shardminvalue";

/// Group of the coordinator.
const COORDINATOR: i64 = 0;

/// Node of a Citus cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Number of the node.
    pub(crate) id: i64,
    /// Group of nodes that it leads.
    pub(crate) group: i64,
    pub(crate) host: String,
    pub(crate) port: i64,
    /// True if Citus sends queries to the node.
    pub(crate) is_active: bool,
    /// True if it receives rows.
    pub(crate) gets_rows: bool,
}

impl Member {
    /// Returns the name of the node.
    pub(crate) fn name(&self) -> String {
        name_of(self.group)
    }

    /// Returns true if it is the coordinator.
    pub(crate) fn coordinates(&self) -> bool {
        self.group == COORDINATOR
    }

    /// Returns the state of the node.
    pub(crate) fn state(&self) -> MemberState {
        if self.gets_rows { MemberState::Serving } else { MemberState::Draining }
    }
}

/// Returns the name of the node that leads a group.
pub(crate) fn name_of(group: i64) -> String {
    if group == COORDINATOR { "coordinator".to_owned() } else { format!("worker{group}") }
}

/// Nodes of a Citus cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members(Vec<Member>);

impl Members {
    /// Creates the list from nodes in the order of their groups.
    pub(crate) fn of(members: Vec<Member>) -> Self {
        Self(members)
    }

    /// Reads the nodes from the coordinator.
    ///
    /// # Errors
    /// The error of the query.
    pub(crate) async fn read(connection: &AsyncPgConnection) -> QueryResult<Self> {
        let rows = load(connection, Statement { sql: MEMBERS, binds: &[], cached: false }).await?;
        let member = |row: &RowView| {
            Some(Member {
                id: row.bigint(0)?,
                group: row.bigint(1)?,
                host: row.text(2)?,
                port: row.bigint(3)?,
                is_active: row.boolean(4)?,
                gets_rows: row.boolean(5)?,
            })
        };
        Ok(Self::of(rows.iter().filter_map(member).collect()))
    }

    /// Returns the nodes, in the order of their groups.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// Returns the node with this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Member> {
        self.0.iter().find(|member| member.name() == name)
    }

    /// Returns the node at an address.
    pub(crate) fn at(&self, host: &str, port: i64) -> Option<&Member> {
        self.0.iter().find(|member| member.host == host && member.port == port)
    }

    /// Returns the node with this number.
    pub(crate) fn numbered(&self, id: i64) -> Option<&Member> {
        self.0.iter().find(|member| member.id == id)
    }

    /// Returns a copy of the list in which the node of this group receives no more rows.
    pub(crate) fn draining(&self, group: i64) -> Self {
        let mut members = self.clone();
        let drained = members.0.iter_mut().filter(|member| member.group == group);
        drained.for_each(|member| member.gets_rows = false);
        members
    }
}

/// Part of the rows that moves as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MovablePart {
    /// Group of nodes that holds it.
    pub(crate) group: i64,
    /// One of its shards, which names it.
    pub(crate) shard: i64,
    /// Size; `None` if it is not known.
    pub(crate) bytes: Option<u64>,
}

/// Parts of the rows of a Citus cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MovableParts(Vec<MovablePart>);

impl MovableParts {
    /// Creates the list from parts.
    pub(crate) fn of(parts: Vec<MovablePart>) -> Self {
        Self(parts)
    }

    /// Reads the parts from the coordinator. The workers report the sizes.
    ///
    /// # Errors
    /// The error of the query.
    pub(crate) async fn read(connection: &AsyncPgConnection) -> QueryResult<Self> {
        let rows = load(connection, Statement { sql: PARTS, binds: &[], cached: false }).await?;
        let part = |row: &RowView| {
            let bytes = row.bigint(2).and_then(|bytes| u64::try_from(bytes).ok());
            Some(MovablePart { group: row.bigint(0)?, shard: row.bigint(1)?, bytes })
        };
        Ok(Self::of(rows.iter().filter_map(part).collect()))
    }

    /// Returns the number of parts of each group that has some.
    pub(crate) fn counts(&self) -> BTreeMap<i64, usize> {
        let mut counts = BTreeMap::new();
        self.0.iter().for_each(|part| *counts.entry(part.group).or_default() += 1);
        counts
    }

    /// Returns the bytes of each group that has some; `None` if a size is not known.
    pub(crate) fn bytes(&self) -> Option<BTreeMap<i64, u64>> {
        let mut bytes = BTreeMap::new();
        for part in &self.0 {
            *bytes.entry(part.group).or_default() += part.bytes?;
        }
        Some(bytes)
    }

    /// Returns the number of parts of a group.
    pub(crate) fn count(&self, group: i64) -> usize {
        self.counts().get(&group).copied().unwrap_or(0)
    }

    /// Returns the size of the part that this shard names; `None` if it is not known.
    pub(crate) fn bytes_of(&self, shard: i64) -> Option<u64> {
        self.0.iter().find(|part| part.shard == shard)?.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_their_groups_and_found_by_name_and_address() {
        let member = |group, port, gets_rows| {
            let (id, host) = (group + 10, "10.0.0.7".to_owned());
            Member { id, group, host, port, is_active: true, gets_rows }
        };
        let members = Members::of(vec![member(0, 1, false), member(3, 2, true)]);
        let found = members.find("worker3").expect("it is listed");
        assert_eq!((found.port, found.state()), (2, MemberState::Serving));
        assert_eq!(members.find("coordinator").map(Member::state), Some(MemberState::Draining));
        assert_eq!(members.at("10.0.0.7", 2), Some(found));
        assert_eq!((members.at("10.0.0.7", 3), members.find("worker4")), (None, None));
        assert_eq!(members.numbered(13), Some(found));
        let draining = members.draining(3);
        assert_eq!(draining.find("worker3").map(Member::state), Some(MemberState::Draining));
    }

    #[test]
    fn bytes_are_known_only_if_each_part_reports_them() {
        let part = |group, shard, bytes| MovablePart { group, shard, bytes };
        let parts =
            MovableParts::of(vec![part(1, 7, Some(5)), part(1, 8, Some(6)), part(2, 9, Some(0))]);
        assert_eq!((parts.count(1), parts.count(2), parts.count(3)), (2, 1, 0));
        assert_eq!(parts.bytes(), Some(BTreeMap::from([(1, 11), (2, 0)])));
        assert_eq!((parts.bytes_of(8), parts.bytes_of(10)), (Some(6), None));
        assert_eq!(MovableParts::of(vec![part(1, 7, Some(5)), part(1, 8, None)]).bytes(), None);
    }
}
