//! Slot router: the engine of one router without the cluster's waiting and re-routing, so that a
//! test sees what a database refuses.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use shard_manager::assembly::ConnectedCluster;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::slot_change::{SlotChange, SlotChangeError, SlotStep};
use shard_manager::engine::{
    AsyncWriter, KeyRead, NodeReader, NodeRows, OpenedCluster, ScanRead, WriteGroup, WriterKind,
};
use shard_manager::error::Error;
use shard_manager::fair_share::FairShare;
use shard_manager::keyspace::{ShardKey, Slot};
use shard_manager::manager::Data;
use shard_manager::node_address::ClusterAddress;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::{Operation, RowDone, RowWrite};
use shard_manager::slot_refusal::RefusedState;
use shard_manager::slot_set::SlotSet;
use shard_manager::store::postgres::open;
use shard_manager::table::Table;

use crate::rows::deadline;

pub(crate) const USER: &str = r#"{"name":"n","email":"e"}"#;

/// A shard that one router has opened, and its writer.
pub(crate) struct SlotRouter {
    pub(crate) opened: OpenedCluster,
    writer: Box<dyn AsyncWriter>,
}

impl SlotRouter {
    /// Opens a cluster of one shard as a router does.
    pub(crate) fn open(address: &ClusterAddress) -> Self {
        let (address, wanted) = (address.clone(), ClusterSpec::default());
        let opened = open::open(&ConnectedCluster { address, wanted });
        let mut opened = opened.unwrap_or_else(|error| panic!("{error}"));
        match opened.shards[0].writers.remove(0) {
            WriterKind::Task(writer, _) => Self { opened, writer },
            WriterKind::Thread(_) => panic!("a server is written to by a task"),
        }
    }

    pub(crate) fn users(&self) -> Arc<Table> {
        Arc::clone(self.opened.registry.load().find("users").unwrap())
    }

    pub(crate) fn slot(&self, key: &str) -> Slot {
        self.opened.map.load().place(ShardKey::parse(key).unwrap()).unwrap().slot
    }

    pub(crate) async fn change(
        &mut self,
        slots: &[Slot],
        step: SlotStep,
    ) -> Result<u64, SlotChangeError> {
        let slots = slots.iter().copied().collect();
        self.writer.change_slots(&SlotChange { slots, step }).await
    }

    /// Changes slots, which nothing may prevent.
    pub(crate) async fn must_change(&mut self, slots: &[Slot], step: SlotStep) -> u64 {
        self.change(slots, step).await.unwrap_or_else(|error| panic!("{step:?}: {error}"))
    }

    /// Prepares a change of a user.
    pub(crate) fn user(&self, operation: Operation, key: &str) -> RowWrite {
        let json = if operation == Operation::Delete { "{}" } else { USER };
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).unwrap();
        let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
        let key = ShardKey::parse(key).unwrap();
        let map = self.opened.map.load_full();
        Data::prepare(&map, &self.users(), operation, key, &fields).unwrap().1
    }

    /// Applies changes in one transaction.
    pub(crate) async fn write(
        &mut self,
        rows: &[RowWrite],
        atomic: bool,
    ) -> Vec<Result<RowDone, Error>> {
        let places: Vec<usize> = (0..rows.len()).collect();
        let group = WriteGroup { rows, atomic_rows: atomic.then_some(&places) };
        self.writer.apply(&[group]).await.unwrap().rows
    }

    /// Writes users with these operations and keys, one after the other.
    pub(crate) async fn write_users(
        &mut self,
        operation: Operation,
        keys: &[&str],
    ) -> Vec<Result<RowDone, Error>> {
        let rows: Vec<RowWrite> = keys.iter().map(|key| self.user(operation, key)).collect();
        self.write(&rows, false).await
    }

    /// Reads the users of a key on a node, with or without the number of rows.
    pub(crate) async fn read(
        &self,
        node: &dyn NodeReader,
        key: &str,
        counts: bool,
    ) -> Result<NodeRows, Error> {
        let table = self.users();
        let query = ReadQuery { counts, ..ReadQuery::all(&table) };
        let slot = self.slot(key);
        let (deadline, share) = (deadline(), FairShare::COMMON);
        let read = KeyRead { query: &query, slot, key, min_position: 0, deadline, share };
        node.read_key(read).await
    }

    /// Reads all users of a node.
    pub(crate) async fn scan(&self, node: &dyn NodeReader) -> NodeRows {
        let query = ReadQuery {
            counts: true,
            limit: ReadQuery::LIMIT_MAX,
            ..ReadQuery::all(&self.users())
        };
        let (query, share) = (Arc::new(query), FairShare::COMMON);
        let read = ScanRead { query, min_position: 0, deadline: deadline(), share };
        node.scan(read).await.unwrap()
    }
}

/// The state for which a slot was refused.
pub(crate) fn refused<T: std::fmt::Debug>(result: &Result<T, Error>) -> RefusedState {
    match result {
        Err(Error::SlotRefused(refusal)) => refusal.state,
        other => panic!("not refused: {other:?}"),
    }
}

/// Returns true if a state is that of a fence with time left.
pub(crate) fn is_fenced(state: RefusedState) -> bool {
    matches!(state, RefusedState::Fenced { left } if left > Duration::ZERO)
}

/// All slots but these.
pub(crate) fn all_but(slots: &[Slot]) -> SlotSet {
    SlotSet::full().without(&slots.iter().copied().collect())
}
