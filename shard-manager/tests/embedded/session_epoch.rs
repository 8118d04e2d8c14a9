//! Tests of sessions whose slots have moved, or whose shards get another primary during a read. The
//! shards own their slots throughout; the maps state that slots were elsewhere before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};
use shard_manager::access::rights::Rights;
use shard_manager::cache::ServedBy;
use shard_manager::consistency::Level;
use shard_manager::engine::access_store::AccessStore;
use shard_manager::engine::backup_maker::BackupMaker;
use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::index_catalog::IndexCatalog;
use shard_manager::engine::move_catalog::MoveCatalog;
use shard_manager::engine::new_shard::{NewShard, NewShardRefusal};
use shard_manager::engine::node_distributor::NodeDistributor;
use shard_manager::engine::operator_queue::OperatorCommand;
use shard_manager::engine::rebalance_catalog::RebalanceCatalog;
use shard_manager::engine::runtime_pool::RuntimePool;
use shard_manager::engine::{
    ClusterBackend, EngineFuture, OpenedShard, ReplicaIsolation, SchemaLock,
};
use shard_manager::error::Error;
use shard_manager::keyspace::{ShardKey, Slot};
use shard_manager::manager::{Manager, ReadDone, RequestOptions};
use shard_manager::map_change::MapChange;
use shard_manager::position::Position;
use shard_manager::query::{Condition, ReadQuery, Test};
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::shard_map::{ShardMap, with_owner};
use shard_manager::slot_set::SlotSet;
use shard_manager::store::sqlite;
use shard_manager::table::Registry;
use shard_manager::token::SessionToken;
use shard_manager::topology::ShardNumber;
use shard_manager::value::Value;
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::Receiver;

use crate::cluster::{Cluster, deadline, options, shards, with_replicas};
use crate::promoting_reader::{NextPromotion, PromotingReader, committed};
use crate::scratch;

/// Catalog of a test, which other routers have changed.
#[derive(Default)]
struct OtherMap {
    /// Map of the catalog; `None` if the catalog does not answer.
    map: Mutex<Option<ShardMap>>,
    reads: AtomicUsize,
}

/// Backend of an embedded cluster whose map comes from the catalog of the test.
struct Backend {
    files: Box<dyn ClusterBackend>,
    catalog: Arc<OtherMap>,
    publish: Arc<dyn Fn(ShardMap) + Send + Sync>,
}

impl ClusterBackend for Backend {
    fn lock_schema(
        &self,
        local: OwnedMutexGuard<()>,
        deadline: Instant,
    ) -> EngineFuture<'_, Box<dyn SchemaLock>> {
        self.files.lock_schema(local, deadline)
    }

    fn change_map(
        &self,
        change: MapChange,
        expected_epoch: u64,
    ) -> BoxFuture<'_, Result<Arc<ShardMap>, MapChangeError>> {
        self.files.change_map(change, expected_epoch)
    }

    fn update_map(&self, _epoch: u64, _deadline: Instant) -> EngineFuture<'_, ()> {
        self.catalog.reads.fetch_add(1, Ordering::SeqCst);
        let map = self.catalog.map.lock().expect("not poisoned").clone();
        let away = || Error::ShardUnavailable { shard: "the catalog".to_owned() };
        Box::pin(ready(map.map(|map| (self.publish)(map)).ok_or_else(away)))
    }

    fn check_new_shard<'a>(
        &'a self,
        shard: &'a NewShard,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Option<String>, NewShardRefusal>> {
        self.files.check_new_shard(shard, deadline)
    }

    fn open_shard<'a>(
        &'a self,
        number: ShardNumber,
        tables: &'a Registry,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<OpenedShard, NewShardRefusal>> {
        self.files.open_shard(number, tables, deadline)
    }

    fn release_shard(&self, number: ShardNumber) {
        self.files.release_shard(number);
    }

    fn move_catalog(&self) -> Option<&dyn MoveCatalog> {
        None
    }

    fn rebalance_catalog(&self) -> Option<&dyn RebalanceCatalog> {
        None
    }

    fn index_catalog(&self) -> Option<&dyn IndexCatalog> {
        None
    }

    fn backup_maker(&self) -> Option<Arc<dyn BackupMaker>> {
        None
    }

    fn node_distributor(&self) -> Option<&dyn NodeDistributor> {
        None
    }

    fn holds_catalog(&self, number: ShardNumber) -> bool {
        self.files.holds_catalog(number)
    }

    fn operator_commands(&self) -> Option<Receiver<OperatorCommand>> {
        self.files.operator_commands()
    }

    fn access_store(&self) -> &dyn AccessStore {
        self.files.access_store()
    }

    fn runtime_pool(&self) -> Option<&RuntimePool> {
        self.files.runtime_pool()
    }

    fn isolation(&self) -> ReplicaIsolation {
        self.files.isolation()
    }

    fn is_unclean(&self) -> bool {
        self.files.is_unclean()
    }

    fn unlogged_tables(&self) -> Vec<String> {
        self.files.unlogged_tables()
    }

    fn stop_background(&self) {
        self.files.stop_background();
    }

    fn release(&self) {
        self.files.release();
    }
}

/// A router, the catalog that it shares with others, and its current map.
struct Router {
    cluster: Cluster,
    catalog: Arc<OtherMap>,
    publish: Arc<dyn Fn(ShardMap) + Send + Sync>,
    /// Replication states of the shards.
    replication: Vec<Arc<ReplicationState>>,
    promotion: Arc<NextPromotion>,
}

impl Router {
    fn open(wanted: ClusterSpec) -> Self {
        let dir: TempDir = scratch::folder();
        let wanted = sqlite::open::EmbeddedCluster { data_dir: dir.path().to_owned(), wanted };
        let mut opened = sqlite::open::open(&wanted).expect("a new cluster starts").cluster;
        let map = Arc::clone(&opened.map);
        let publish: Arc<dyn Fn(ShardMap) + Send + Sync> =
            Arc::new(move |next| assert_eq!(map.publish(next), Ok(true)));
        let catalog = Arc::<OtherMap>::default();
        let (files, kept) = (opened.backend, Arc::clone(&catalog));
        opened.backend = Box::new(Backend { files, catalog: kept, publish: Arc::clone(&publish) });
        let promotion = Arc::<NextPromotion>::default();
        let mut replication = Vec::new();
        for shard in &mut opened.shards {
            let (files, promotion) = (Arc::clone(&shard.primary), Arc::clone(&promotion));
            shard.primary = Arc::new(PromotingReader { files, promotion });
            replication.push(Arc::clone(&shard.replication));
        }
        let manager = Manager::new(opened).expect("its threads start");
        let cluster = Cluster { manager, source: None, dir };
        Self { cluster, catalog, publish, replication, promotion }
    }

    fn manager(&self) -> &Manager {
        &self.cluster.manager
    }

    /// Returns the slot of a key, its owner, and another shard.
    fn place(&self, key: &str) -> (Slot, ShardNumber, ShardNumber) {
        let place = self.manager().map().place(ShardKey::parse(key).expect("a key"));
        let place = place.expect("it has a slot");
        (place.slot, place.shard, ShardNumber(1 - place.shard.0))
    }

    /// Returns a key, other than `ada`, of a shard.
    fn another_key_of(&self, owner: ShardNumber) -> &'static str {
        let mut keys = ["bob", "cleo", "dora", "emil", "fay", "gus"].into_iter();
        keys.find(|key| self.place(key).1 == owner).expect("one of them has this owner")
    }

    /// Returns the maps of the next two epochs: the slot of the key moves away, and returns.
    fn there_and_back(&self, key: &str) -> [ShardMap; 2] {
        let (slot, owner, other) = self.place(key);
        let mut slots = SlotSet::empty();
        slots.insert(slot);
        let away = with_owner(&self.manager().map(), &slots, other).expect("there is such a shard");
        let back = with_owner(&away, &slots, owner).expect("there is such a shard");
        [away, back]
    }

    async fn write(&self, key: &str) {
        let user = r#"{"name":"n","email":"e"}"#;
        self.cluster.write("users", Upsert, key, user).await.expect("it is stored");
    }

    /// Reads with this query, with the session of a client.
    async fn read(
        &self,
        (query, key): (ReadQuery, Option<&str>),
        session: &SessionToken,
    ) -> Result<ReadDone, Error> {
        let options = RequestOptions { session: session.clone(), ..options() };
        let key = key.map(|key| ShardKey::parse(key).expect("a key"));
        let read = self.manager().data(Rights::ALL).read(query, key, &options).await;
        read.map_err(|failure| failure.error)
    }

    /// Reads with the session of a client that has seen this many changes more than the committed
    /// ones of a shard. During the read a node that lacks them becomes the primary of that shard.
    async fn read_during_promotion(
        &self,
        (query, key): (ReadQuery, Option<&str>),
        (shard, uncommitted): (ShardNumber, u64),
        level: Level,
    ) -> Result<usize, Error> {
        let replication = &self.replication[shard.index()];
        let Position { timeline, sequence } = committed(replication);
        let mut session = SessionToken::empty();
        session.see(shard, Position { timeline, sequence: sequence + uncommitted });
        self.promotion.schedule(replication);
        let options = RequestOptions { session, level, ..options() };
        let key = key.map(|key| ShardKey::parse(key).expect("a key"));
        let read = self.manager().data(Rights::ALL).read(query, key, &options).await;
        assert_ne!(committed(replication).timeline, timeline, "the promotion has happened");
        read.map(|done| done.rows.len()).map_err(|failure| failure.error)
    }

    fn all(&self) -> ReadQuery {
        let table = self.manager().schema(Rights::ALL).table("users").expect("it is there");
        ReadQuery::all(&table)
    }

    /// Returns a query whose filter names these keys.
    fn named(&self, keys: &[&str]) -> ReadQuery {
        let all = self.all();
        let routing = all.table.routing().expect("a routing column");
        let keys = keys.iter().map(|key| Value::Text((*key).to_owned())).collect();
        let conditions = vec![Condition::Column(routing, Test::In(keys))];
        ReadQuery { conditions, ..all }
    }

    /// Returns the session that a client has after it was given this one as a token.
    fn returned(&self, session: &SessionToken) -> SessionToken {
        let token = self.manager().sessions().token(session);
        self.manager().sessions().merge([&*token].into_iter()).expect("a token of ours")
    }
}

/// A position that no shard has in its history.
const LOST: Position = Position { timeline: u32::MAX, sequence: 7 };

fn lost(shard: ShardNumber) -> SessionToken {
    let mut session = SessionToken::empty();
    session.see(shard, LOST);
    session
}

#[tokio::test]
async fn responses_carry_the_epoch_of_their_map() {
    let router = Router::open(shards(2));
    router.write("ada").await;
    let empty = SessionToken::empty();
    let first = router.read((router.all(), Some("ada")), &empty).await.expect("an answer");
    assert_eq!(router.returned(&first.session).epoch(), 0, "no slot has moved at the first epoch");
    let [_, back] = router.there_and_back("ada");
    (router.publish)(back);
    let second = router.read((router.all(), Some("ada")), &first.session).await;
    let second = second.expect("its position is held");
    let session = router.returned(&second.session);
    assert_eq!((session.epoch(), session.predates(3)), (3, false));
    let scatter = router.read((router.all(), None), &empty).await.expect("an answer");
    assert_eq!(router.returned(&scatter.session).epoch(), 3);
    assert_eq!(router.catalog.reads.load(Ordering::SeqCst), 0, "the router knew the map");
}

#[tokio::test]
async fn a_router_behind_the_epoch_of_a_session_updates_its_map_before_it_reads() {
    let router = Router::open(shards(2));
    router.write("ada").await;
    let (_, owner, _) = router.place("ada");
    // By the map in which the slot is away the reads would miss the row.
    for (query, key) in [
        (router.all(), Some("ada")),
        (router.named(&["ada"]), None),
        (router.named(&["ada", "ada"]), None),
    ] {
        let [away, back] = router.there_and_back("ada");
        let epoch = back.epoch();
        (router.publish)(away);
        *router.catalog.map.lock().expect("not poisoned") = Some(back);
        let mut session = SessionToken::empty();
        session.see_epoch(epoch, |_, _| true);
        let read = router.read((query, key), &session).await.expect("an answer");
        assert_eq!((read.rows.len(), read.epoch, &read.shards[..]), (1, epoch, &[owner][..]));
    }
    assert_eq!(router.catalog.reads.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn without_the_catalog_a_read_ahead_of_the_map_is_proven_by_the_primary() {
    let router = Router::open(with_replicas(2, 1));
    router.write("ada").await;
    let mut session = SessionToken::empty();
    session.see_epoch(3, |_, _| true);
    let key = Some("ada");
    let deadline = deadline();
    let empty = SessionToken::empty();
    while router.read((router.all(), key), &empty).await.expect("an answer").served_by
        != ServedBy::Replica
    {
        assert!(Instant::now() < deadline, "the replica never answers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let proven = router.read((router.all(), key), &session).await.expect("an answer");
    assert_eq!((proven.rows.len(), proven.served_by, proven.epoch), (1, ServedBy::Primary, 1));
    assert_eq!(router.returned(&proven.session).epoch(), 3, "the session stays ahead of the map");
    let scatter = router.read((router.all(), None), &session).await.expect("an answer");
    assert_eq!((scatter.rows.len(), scatter.served_by), (1, ServedBy::Primary));
    assert_eq!(router.catalog.reads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_change_that_an_earlier_owner_lost_is_reported_by_the_new_owner() {
    let router = Router::open(shards(2));
    router.write("ada").await;
    let (_, owner, other) = router.place("ada");
    let elsewhere = router.another_key_of(owner);
    let read = async |query, key, session| router.read((query, key), session).await.map(drop);
    let session = lost(other);
    assert_eq!(read(router.all(), Some("ada"), &session).await, Ok(()), "nothing has moved");
    let [_, back] = router.there_and_back("ada");
    (router.publish)(back);
    let reported =
        Err(Error::SeenMayBeLost { shard: router.manager().shard_name(other).to_owned() });
    assert_eq!(read(router.all(), Some("ada"), &session).await, reported);
    assert_eq!(read(router.named(&["ada"]), None, &session).await, reported);
    assert_eq!(read(router.named(&["ada", elsewhere]), None, &session).await, reported);
    assert_eq!(read(router.all(), None, &session).await, reported);
    // The answer of a slot that has not moved must not hide the loss.
    let unmoved = router.read((router.all(), Some(elsewhere)), &session).await;
    let session = router.returned(&unmoved.expect("that slot has not moved").session);
    assert_eq!(session.epoch(), 3);
    assert_eq!(read(router.all(), Some("ada"), &session).await, reported);
}

#[tokio::test]
async fn a_position_that_was_seen_after_the_move_is_not_of_the_slot() {
    let router = Router::open(shards(2));
    router.write("ada").await;
    let (_, _, other) = router.place("ada");
    let [_, back] = router.there_and_back("ada");
    (router.publish)(back);
    let mut session = SessionToken::empty();
    session.see_epoch(3, |_, _| true);
    session.see(other, LOST);
    let read = router.read((router.all(), Some("ada")), &session).await.expect("it lost nothing");
    assert_eq!(read.rows.len(), 1);
}

#[tokio::test]
async fn a_promotion_during_a_read_is_reported_if_it_lost_what_the_session_has_seen() {
    let router = Router::open(shards(1));
    router.write("ada").await;
    let shard = ShardNumber(0);
    let lost = Err(Error::SeenMayBeLost { shard: router.manager().shard_name(shard).to_owned() });
    for level in Level::ALL {
        for (query, key) in [
            (router.all(), Some("ada")),
            (router.named(&["ada"]), None),
            (router.named(&["ada", "bob"]), None),
            (router.all(), None),
        ] {
            let read = (query.clone(), key);
            let reported = router.read_during_promotion(read, (shard, 1), level).await;
            assert_eq!(reported, lost, "{key:?} at {level:?}");
            let answered = router.read_during_promotion((query, key), (shard, 0), level).await;
            assert_eq!(answered, Ok(1), "the promotion lost nothing: {key:?} at {level:?}");
        }
    }
}

#[tokio::test]
async fn a_promotion_of_an_earlier_owner_during_a_read_is_reported_by_the_new_owner() {
    let router = Router::open(shards(2));
    router.write("ada").await;
    let (_, owner, other) = router.place("ada");
    let elsewhere = router.another_key_of(owner);
    let [_, back] = router.there_and_back("ada");
    (router.publish)(back);
    let lost = Err(Error::SeenMayBeLost { shard: router.manager().shard_name(other).to_owned() });
    for (query, key) in [
        (router.all(), Some("ada")),
        (router.named(&["ada"]), None),
        (router.named(&["ada", elsewhere]), None),
    ] {
        let read = (query.clone(), key);
        let reported = router.read_during_promotion(read, (other, 1), Level::One).await;
        assert_eq!(reported, lost, "{key:?}");
        let answered = router.read_during_promotion((query, key), (other, 0), Level::One).await;
        assert_eq!(answered, Ok(1), "the promotion lost nothing: {key:?}");
    }
}
