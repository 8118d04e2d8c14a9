//! Tests of managers whose cluster of servers gets another shard while requests run: its router and
//! the others serve it, and let it go when it retires.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shard_manager::access::rights::Rights;
use shard_manager::engine::new_shard::{NewShard, NewShardRefusal};
use shard_manager::engine::rebalance_draft::{DraftMembers, RebalanceDraft};
use shard_manager::engine::rebalance_record::RebalanceState;
use shard_manager::engine::rebalance_view::RebalanceBegun;
use shard_manager::manager::{
    Manager, Rebalances, RebalancesError, ShardChangeError, ShardChanged,
};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::{ShardNumber, ShardState};
use shard_manager::value::ColumnType::Text;

use crate::cluster::{Databases, SideSession, connect};
use crate::new_shard::{until, url};
use crate::rows::{self, deadline, options, prepare, table, write};

const USER: &str = r#"{"name":"n","email":"e"}"#;

/// Two routers of a cluster of two shards, and an empty database with its URL.
async fn two_routers() -> (Databases, [Manager; 2], Databases, String) {
    let databases = Databases::blank(2).await;
    let managers = [connect(&databases.address()), connect(&databases.address())];
    let empty = Databases::blank(1).await;
    let url = url(&empty.nodes[0], &empty.names[0]);
    (databases, managers, empty, url)
}

/// Does some work beside the tasks of the routers.
async fn beside<T>(managers: &[Manager], work: impl Future<Output = T>) -> T {
    let tasks = join_all(managers.iter().map(|manager| manager.shards().keep_up()));
    tokio::select! {
        done = work => done,
        _ = tasks => panic!("the tasks have ended"),
    }
}

async fn join(manager: &Manager, name: &str, url: &str) -> Result<ShardChanged, ShardChangeError> {
    let shard = NewShard { name: name.to_owned(), weight: 1, url: Some(url.to_owned()) };
    manager.shards().join(shard, None, deadline()).await
}

/// Number of members of the map that a router has in force.
fn members(manager: &Manager) -> usize {
    let map = manager.map();
    map.topology().members().filter(|(_, shard)| shard.state == ShardState::Serving).count()
}

async fn count(manager: &Manager) -> usize {
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table) };
    manager.data(Rights::ALL).read(query, None, &options()).await.unwrap().rows.len()
}

/// Number of these rows that a read returns: on a busy machine a join lasts for many writes.
fn shown(rows: usize) -> usize {
    rows.min(ReadQuery::LIMIT_MAX as usize)
}

#[tokio::test]
async fn a_shard_joins_beside_requests_and_every_router_serves_it() {
    let (databases, managers, empty, url) = two_routers().await;
    let [one, other] = &managers;
    let has_joined = AtomicBool::new(false);
    let written = async {
        let mut written = 0;
        while !has_joined.load(Ordering::Relaxed) {
            write(one, "users", Insert, &format!("k{written}"), USER).await.unwrap();
            written += 1;
            assert_eq!(count(other).await, shown(written));
        }
        written
    };
    let work = async {
        let joined = async {
            let joined = join(one, "new", &url).await.unwrap();
            until("the new shard", || members(other) == 3).await;
            has_joined.store(true, Ordering::Relaxed);
            joined
        };
        let (joined, written) = tokio::join!(joined, written);
        assert_eq!((joined.shard, members(one)), (ShardNumber(2), 3));
        // Both routers create tables on it, and repeat the join.
        for (manager, name) in [(other, "first"), (one, "second")] {
            rows::make(manager, &table(name, &[("id", Text)], 1, &["id"], None)).await;
            let again = join(manager, "new", &url).await.unwrap();
            assert_eq!((again.shard, again.map.epoch()), (joined.shard, joined.map.epoch()));
        }
        // A slot that it gets is written and read there.
        let place = prepare(one, "users", Upsert, "later", USER).0;
        let slots: SlotSet = [place.slot].into_iter().collect();
        let owners = (place.shard, joined.shard);
        one.slots().hand_over(&slots, owners, deadline()).await.unwrap();
        let done = write(other, "users", Insert, "later", USER).await.unwrap();
        assert_eq!(done.receipt.place.shard, joined.shard);
        assert_eq!(rows::rows(one, "users", Some("later")).await.len(), 1);
        written
    };
    let written = beside(&managers, work).await;
    let mut direct = empty.direct_session(0).await;
    assert_eq!(direct.text("SELECT count(*)::text AS value FROM users").await, "1");
    let tables =
        "SELECT count(*)::text AS value FROM tessera_tables WHERE name IN ('first','second')";
    assert_eq!(direct.text(tables).await, "2");
    managers.iter().for_each(Manager::close);
    let again = connect(&databases.address());
    assert_eq!((members(&again), count(&again).await), (3, shown(written + 1)));
    again.close();
}

#[tokio::test]
async fn routers_that_let_the_same_shard_join_at_once_have_one() {
    let (_databases, managers, empty, url) = two_routers().await;
    let [one, other] = &managers;
    let work = async {
        let (first, second) = tokio::join!(join(one, "new", &url), join(other, "new", &url));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.shard, second.shard), (ShardNumber(2), ShardNumber(2)));
        until("the new shard", || members(one) == 3 && members(other) == 3).await;
        let refused = join(other, "another", &url).await;
        let Err(ShardChangeError::NewShard(NewShardRefusal::OtherShard { shard, .. })) = refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!(shard, "new");
    };
    beside(&managers, work).await;
    let mut direct = empty.direct_session(0).await;
    assert_eq!(direct.texts("SELECT shard AS value FROM tessera_shard").await, ["new"]);
}

#[tokio::test]
async fn a_shard_that_retires_is_closed_by_every_router() {
    let (databases, managers, empty, url) = two_routers().await;
    let [one, other] = &managers;
    let mut direct = SideSession::open(&empty.nodes[0], "postgres").await;
    let name = &empty.names[0];
    let work = async {
        join(one, "new", &url).await.unwrap();
        until("the new shard", || members(other) == 3).await;
        assert_eq!(count(other).await, 0);
        other.shards().remove("new", None).await.unwrap();
        let sessions =
            format!("SELECT count(*)::text AS value FROM pg_stat_activity WHERE datname='{name}'");
        direct.until(&sessions, "0").await;
        assert_eq!((members(one), members(other)), (2, 2));
        direct.run(&format!("DROP DATABASE {name}")).await;
        for (manager, name) in [(one, "first"), (other, "second")] {
            write(manager, "users", Insert, name, USER).await.unwrap();
            rows::make(manager, &table(name, &[("id", Text)], 1, &["id"], None)).await;
        }
        assert_eq!(count(one).await, 2);
    };
    beside(&managers, work).await;
    managers.iter().for_each(Manager::close);
    let again = connect(&databases.address());
    assert_eq!((members(&again), count(&again).await), (2, 2));
    again.close();
}

/// Begins to drain a shard.
async fn drain(manager: &Manager, shard: &str) -> Result<RebalanceBegun, RebalancesError> {
    let members = DraftMembers { keep: Some(0), ..DraftMembers::default() };
    let draft = RebalanceDraft::drain(shard.to_owned(), &members).expect("within bounds");
    Rebalances::of(manager).begin(&draft, None, deadline()).await
}

#[tokio::test]
async fn a_drain_is_carried_out_by_the_router_that_leads_and_the_shard_of_the_catalog_is_kept() {
    let (_databases, managers, _empty, url) = two_routers().await;
    let [one, other] = &managers;
    beside(&managers, async {
        join(one, "new", &url).await.unwrap();
        until("the new shard", || members(other) == 3).await;
        let kept = drain(other, "shard1").await;
        assert!(matches!(&kept, Err(RebalancesError::HoldsCatalog(name)) if name == "shard1"));
        assert!(Rebalances::of(one).list().await.unwrap().is_empty(), "nothing was begun");
        let RebalanceBegun::Begun(begun) = drain(other, "new").await.unwrap() else {
            panic!("a drain retires its shard, also without slots")
        };
        until("the retired shard", || [one, other].map(members) == [2, 2]).await;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let ended = Rebalances::of(one).get(&begun.id).await.unwrap();
            if ended.state == RebalanceState::Done.name() {
                break;
            }
            assert!(!ended.has_ended() && Instant::now() < deadline, "{ended:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let gone = drain(one, "new").await;
        assert!(matches!(&gone, Err(RebalancesError::NoShard(name)) if name == "new"));
    })
    .await;
    managers.iter().for_each(Manager::close);
}
