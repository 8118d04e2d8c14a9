//! Tests of shards that a catalog has lost in a failover: one without slots joins again, and one
//! with slots is kept until an operator enters it in the catalog.

use std::time::Duration;

use shard_manager::engine::move_record::MovePhase;
use shard_manager::engine::new_shard::{NewShard, NewShardRefusal};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, ShardChangeError, ShardChanged};
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardState;

use crate::cluster::{Databases, connect};
use crate::log;
use crate::move_steps::{TARGET, begin, kept_up, new, owners, until};
use crate::new_shard::{self, url};
use crate::rows::{deadline, rows, write};

/// Chapter of the book with the statements that enter a lost shard in the catalog.
const CHAPTER: &str = include_str!("../../../api-router/docs/src/postgresql.md");
/// Undoes the join of the second shard and the move to it, like a failover to a replica that lacks
/// them.
const LOSS: &str = "BEGIN;
    DELETE FROM tessera_shards WHERE name = 'east';
    UPDATE tessera_owners SET shard = 0, since = 1, came_from = NULL WHERE shard = 1;
    UPDATE tessera_cluster SET epoch = 1;
    COMMIT";
const KEY: &str = "u";
const USER: &str = r#"{"name":"n","email":"e"}"#;

/// A cluster of one shard that has a row.
async fn made() -> (Databases, Manager) {
    let databases = Databases::new(1).await;
    let manager = connect(&databases.address());
    write(&manager, "users", Insert, KEY, USER).await.unwrap();
    (databases, manager)
}

/// An empty database with its URL.
async fn empty() -> (Databases, String) {
    let databases = Databases::blank(1).await;
    let url = url(&databases.nodes[0], &databases.names[0]);
    (databases, url)
}

async fn join(manager: &Manager, url: &str) -> Result<ShardChanged, ShardChangeError> {
    let shard = NewShard { name: "east".to_owned(), weight: 1, url: Some(url.to_owned()) };
    manager.shards().join(shard, None, deadline()).await
}

/// Returns the slot of the row.
fn slots(manager: &Manager) -> SlotSet {
    let place = manager.map().place(ShardKey::parse(KEY).unwrap()).unwrap();
    [place.slot].into_iter().collect()
}

/// Moves the row to the second shard, and deletes it on the first one.
async fn move_row(manager: &Manager) {
    let slots = slots(manager);
    kept_up(manager, async {
        let id = begin(manager, new(&slots, Duration::ZERO)).await;
        until(manager, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!(owners(manager, &slots), [TARGET]);
}

/// Returns the statements of the chapter that contain these words.
fn statements(words: &str) -> &'static str {
    let blocks = CHAPTER.split("```sql\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(words)).unwrap()
}

#[tokio::test]
async fn a_lost_shard_without_slots_joins_again_once_the_routers_have_started_again() {
    log::listen();
    let (databases, manager) = made().await;
    let (lost, url) = empty().await;
    assert_eq!(join(&manager, &url).await.unwrap().shard, TARGET);
    databases.direct_session(0).await.run(LOSS).await;
    new_shard::until("the map without it", || manager.map().topology().len() == 1).await;
    let refused = join(&manager, &url).await.unwrap_err().to_string();
    assert!(refused.contains("start all routers again"), "{refused}");
    manager.close();
    let mut settings = databases.address();
    settings.shards.extend(lost.address().shards);
    // The session of the refused join ends while this thread waits.
    let manager = tokio::task::spawn_blocking(move || connect(&settings)).await.unwrap();
    log::check_logged(&["which the catalog has lost in a failover", &*lost.names[0]]);
    let joined = join(&manager, &url).await.unwrap();
    let state = joined.map.topology().shards()[TARGET.index()].state;
    assert_eq!((joined.shard, state), (TARGET, ShardState::Serving));
    move_row(&manager).await;
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    manager.close();
}

#[tokio::test]
async fn a_lost_shard_with_slots_keeps_its_rows_until_the_statements_of_the_book_enter_it() {
    let (databases, manager) = made().await;
    let (lost, url) = empty().await;
    join(&manager, &url).await.unwrap();
    move_row(&manager).await;
    manager.close();
    let (mut catalog, mut direct) =
        (databases.direct_session(0).await, lost.direct_session(0).await);
    catalog.run(LOSS).await;
    let manager = connect(&databases.address());
    let refused = join(&manager, &url).await.unwrap_err();
    let is_lost = |refusal: &ShardChangeError| {
        let ShardChangeError::NewShard(NewShardRefusal::Lost { shard, .. }) = refusal else {
            return false;
        };
        shard == "east"
    };
    assert!(is_lost(&refused), "{refused:?}");
    let users = "SELECT count(*)::text AS value FROM public.users";
    assert_eq!(direct.text(users).await, "1");
    let moved = slots(&manager);
    manager.close();
    let listing = statements("string_agg").trim().trim_end_matches(';');
    let listed = direct.text(&format!("SELECT ({listing}) AS value")).await;
    assert_eq!(listed, moved.to_string());
    let entering = statements("INSERT INTO tessera.tessera_shards");
    let entering = entering.replace("NAME", "east").replace("ADDRESS", &url);
    catalog.run(&entering.replace("SLOTS", &listed)).await;
    let manager = connect(&databases.address());
    assert_eq!(owners(&manager, &moved), [TARGET]);
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    write(&manager, "users", Upsert, KEY, USER).await.unwrap();
    assert_eq!(direct.text(users).await, "1", "it is written where it is");
    manager.close();
}
