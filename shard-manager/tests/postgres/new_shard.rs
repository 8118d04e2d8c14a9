//! New shard: the steps by which a shard joins a cluster of servers, as a router takes them, for
//! the tests.

use std::time::{Duration, Instant};

use shard_manager::assembly::ConnectedCluster;
use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::new_shard::{NewShard, NewShardRefusal};
use shard_manager::engine::{OpenedCluster, OpenedShard};
use shard_manager::local::LocalNode;
use shard_manager::map_change::MapChange;
use shard_manager::node_address::ClusterAddress;
use shard_manager::store::postgres::open;
use shard_manager::topology::{ShardNumber, ShardState};

use crate::rows::deadline;

/// Opens a cluster as a router does, without the tasks of its manager.
pub(crate) fn router(address: &ClusterAddress) -> OpenedCluster {
    let (address, wanted) = (address.clone(), ClusterSpec::default());
    open::open(&ConnectedCluster { address, wanted }).unwrap_or_else(|error| panic!("{error}"))
}

/// URL of a database without user and password.
pub(crate) fn url(node: &LocalNode, database: &str) -> String {
    format!("postgres://127.0.0.1:{}/{database}", node.port)
}

/// Waits until a condition is met.
pub(crate) async fn until(what: &str, is_met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_met() {
        assert!(Instant::now() < deadline, "{what} never comes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn check(
    router: &OpenedCluster,
    name: &str,
    url: &str,
) -> Result<Option<String>, NewShardRefusal> {
    let shard = NewShard { name: name.to_owned(), weight: 1, url: Some(url.to_owned()) };
    router.backend.check_new_shard(&shard, deadline()).await
}

/// The reason why a database cannot join.
pub(crate) async fn refusal(router: &OpenedCluster, name: &str, url: &str) -> NewShardRefusal {
    check(router, name, url).await.expect_err(url)
}

/// Changes the map that this router knows.
pub(crate) async fn change(
    router: &OpenedCluster,
    change: MapChange,
) -> Result<(), MapChangeError> {
    let epoch = router.map.load().epoch();
    router.backend.change_map(change, epoch).await.map(drop)
}

pub(crate) async fn enter(router: &OpenedCluster, shard: ShardNumber, state: ShardState) {
    change(router, MapChange::State { shard, state }).await.unwrap();
}

/// Checks a database and lists it in the catalog: the first step of a join.
pub(crate) async fn list(router: &OpenedCluster, name: &str, url: &str) -> ShardNumber {
    let address = check(router, name, url).await.unwrap();
    let number = ShardNumber(router.map.load().topology().len() as u16);
    let name = name.to_owned();
    change(router, MapChange::NewShard { name, weight: 1, address }).await.unwrap();
    number
}

pub(crate) async fn try_open(
    router: &OpenedCluster,
    shard: ShardNumber,
) -> Result<OpenedShard, NewShardRefusal> {
    let tables = router.registry.load_full();
    router.backend.open_shard(shard, &tables, deadline()).await
}

/// Opens a listed shard, and allows maps that name it.
pub(crate) async fn open_listed(router: &OpenedCluster, shard: ShardNumber) -> OpenedShard {
    let opened = try_open(router, shard).await.unwrap();
    router.map.reserve(shard, &opened.name).unwrap();
    router.map.add_shard(shard);
    opened
}

/// Lets a shard join.
pub(crate) async fn join(
    router: &OpenedCluster,
    name: &str,
    url: &str,
) -> (ShardNumber, OpenedShard) {
    let number = list(router, name, url).await;
    let opened = open_listed(router, number).await;
    enter(router, number, ShardState::Serving).await;
    (number, opened)
}
