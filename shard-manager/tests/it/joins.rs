//! Tests of shards that join an open cluster of files, and leave it.

use std::path::Path;
use std::time::Duration;

use shard_manager::access::rights::Rights;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::new_shard::NewShard;
use shard_manager::manager::{ShardChangeError, ShardChanged};
use shard_manager::row_change::Operation::Upsert;
use shard_manager::topology::{ShardNumber, ShardState};

use crate::cluster::{Cluster, deadline, ints, open, with_replicas};
use crate::tables::{declaration, make};

const THIRD: ShardNumber = ShardNumber(2);

fn new_shard(name: &str) -> NewShard {
    NewShard { name: name.to_owned(), weight: 1, url: None }
}

async fn join(cluster: &Cluster, shard: NewShard) -> Result<ShardChanged, ShardChangeError> {
    cluster.manager.shards().join(shard, None, deadline()).await
}

/// Number of tables of clients that a file declares.
fn declared(dir: &Path, shard: usize) -> i64 {
    let file = crate::cluster::shard_file(dir, shard);
    ints(&file, "SELECT count(*) AS value FROM tessera_tables")[0]
}

#[tokio::test]
async fn a_shard_joins_with_all_tables_and_without_slots_and_a_restart_finds_it() {
    let cluster = Cluster::with(with_replicas(2, 1));
    make(&cluster, declaration("before").check().expect("a table")).await.expect("created");
    cluster.write("users", Upsert, "ada", r#"{"name":"n","email":"e"}"#).await.expect("written");
    let joined = join(&cluster, new_shard("shard3")).await.expect("it joins");
    assert_eq!((joined.shard, joined.map.epoch()), (THIRD, 3));
    let map = cluster.manager.map();
    assert_eq!(map, joined.map, "the whole map is in force");
    assert_eq!(map.topology().shards()[2].state, ShardState::Serving);
    assert_eq!(map.slots_of(THIRD).count(), 0);
    assert_eq!(cluster.manager.status().stats().len(), 3);
    make(&cluster, declaration("after").check().expect("a table")).await.expect("created");
    assert_eq!(declared(cluster.dir.path(), 3), declared(cluster.dir.path(), 1));
    assert_eq!(cluster.rows("before", None).await.len(), 0);
    assert_eq!(cluster.rows("after", None).await.len(), 0);
    assert_eq!(cluster.rows("users", None).await.len(), 1);
    let again = join(&cluster, new_shard("shard3")).await.expect("a repeat succeeds");
    assert_eq!((again.shard, again.map.epoch()), (THIRD, 3));
    let other = join(&cluster, NewShard { weight: 2, ..new_shard("shard3") }).await;
    assert!(matches!(other, Err(ShardChangeError::Exists { .. })), "{other:?}");
    let cluster = cluster.restart_after(|_| {});
    assert_eq!(cluster.manager.map(), map);
    assert_eq!(cluster.manager.status().stats().len(), 3);
    assert_eq!(cluster.rows("users", Some("ada")).await.len(), 1);
    assert_eq!(cluster.rows("after", None).await.len(), 0);
}
