//! Clients that write and read while slots move, and what they know of the rows afterwards.
//!
//! Each client has keys of its own, so it knows the last acknowledged state of each of them.
//!
//! **Not here:** the moves themselves, which the tests of each engine begin.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use serde_json::Value;
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::keyspace::{ShardKey, Slot};
use shard_manager::manager::{BulkRow, Data, Manager, ReadDone, RequestOptions, WriteReceipt};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::{self, Delete, Insert, Update, Upsert};
use shard_manager::row_change::{Precondition, RowWrite};
use shard_manager::shard_map::KeyLocation;
use shard_manager::slot_set::SlotSet;
use shard_manager::token::SessionToken;
use shard_manager::topology::ShardNumber;

/// Keys of each client.
const KEYS: usize = 6;

/// Deadline of requests. Generous: a test that reaches it has found a defect.
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Returns the keys of all clients: of each, half of the keys have slots of a shard. Also returns
/// the slots of those keys, which a test moves.
pub(crate) fn keys_of(
    manager: &Manager,
    shard: ShardNumber,
    clients: usize,
) -> (Vec<Vec<String>>, SlotSet) {
    let map = manager.map();
    let mut slots: BTreeSet<Slot> = BTreeSet::new();
    let mut keys = |client: usize| {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for number in 0.. {
            let key = format!("c{client}k{number}");
            let place = map.place(ShardKey::parse(&key).expect("a key")).expect("a slot");
            if place.shard != shard && outside.len() < KEYS / 2 {
                outside.push(key);
            } else if place.shard == shard && inside.len() < KEYS / 2 {
                slots.insert(place.slot);
                inside.push(key);
            }
            if inside.len() + outside.len() == KEYS {
                break;
            }
        }
        inside.append(&mut outside);
        inside
    };
    let keys = (0..clients).map(&mut keys).collect();
    (keys, slots.into_iter().collect())
}

/// Checks and routes a change.
pub(crate) fn prepare(
    manager: &Manager,
    (table, operation): (&str, Operation),
    key: &str,
    json: &str,
) -> (KeyLocation, RowWrite) {
    let table = manager.schema(Rights::ALL).table(table).expect("the table is there");
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).expect("an object");
    let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
    let key = ShardKey::parse(key).expect("a key");
    Data::prepare(&manager.map(), &table, operation, key, &fields).expect("a row of the table")
}

/// Reads the rows of a table.
pub(crate) async fn rows(
    manager: &Manager,
    table: &str,
    key: Option<&str>,
    options: &RequestOptions,
) -> (Vec<Value>, ReadDone) {
    let table = manager.schema(Rights::ALL).table(table).expect("the table is there");
    let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table) };
    let key = key.map(|key| ShardKey::parse(key).expect("a key"));
    let read = manager.data(Rights::ALL).read(query, key, options).await;
    let read = read.expect("reads are answered while slots move");
    let json = format!("[{}]", std::str::from_utf8(read.rows.json()).expect("UTF-8"));
    (serde_json::from_str(&json).expect("rows"), read)
}

/// Client, and what it knows.
pub(crate) struct Client<'m> {
    manager: &'m Manager,
    keys: Vec<String>,
    session: SessionToken,
    /// Value of each key in the table of values; `None` if it was deleted.
    values: BTreeMap<String, Option<u64>>,
    /// Name and version of each user.
    users: BTreeMap<String, (String, i64)>,
    round: u64,
}

impl<'m> Client<'m> {
    pub(crate) fn new(manager: &'m Manager, keys: Vec<String>) -> Self {
        let session = SessionToken::empty();
        let (values, users) = (BTreeMap::new(), BTreeMap::new());
        Self { manager, keys, session, values, users, round: 0 }
    }

    fn options(&self) -> RequestOptions {
        let level = if self.round.is_multiple_of(3) { Level::Quorum } else { Level::One };
        let session = self.session.clone();
        RequestOptions { level, session, ..RequestOptions::by(deadline()) }
    }

    async fn write(&mut self, place: KeyLocation, row: RowWrite) -> WriteReceipt {
        let written = self.manager.data(Rights::ALL).write(place, row, &self.options()).await;
        let written = written.expect("writes are carried out while slots move");
        let (shard, position) = (written.receipt.place.shard, written.receipt.position);
        self.manager.sessions().extend(&mut self.session, shard, position);
        written
    }

    /// Writes one row of each kind, and reads what was written.
    pub(crate) async fn act(&mut self) {
        self.round += 1;
        let key = self.keys[self.round as usize % self.keys.len()].clone();
        match self.round % 5 {
            0 => self.delete(&key).await,
            1 | 2 => self.store_value(&key).await,
            3 => self.store_all().await,
            _ => self.store_user(&key).await,
        }
        self.check(&key).await;
        if self.round.is_multiple_of(7) {
            self.check_all().await;
        }
    }

    async fn store_value(&mut self, key: &str) {
        let json = format!(r#"{{"value":{}}}"#, self.round);
        let (place, row) = prepare(self.manager, ("kv", Upsert), key, &json);
        self.write(place, row).await;
        self.values.insert(key.to_owned(), Some(self.round));
    }

    async fn delete(&mut self, key: &str) {
        let is_there = self.values.get(key).is_some_and(Option::is_some);
        if is_there {
            let (place, row) = prepare(self.manager, ("kv", Delete), key, "{}");
            self.write(place, row).await;
            self.values.insert(key.to_owned(), None);
        }
    }

    /// Writes all keys in one request.
    async fn store_all(&mut self) {
        let json = format!(r#"{{"value":{}}}"#, self.round);
        let row = |(index, key): (usize, &String)| {
            let (place, row) = prepare(self.manager, ("kv", Upsert), key, &json);
            BulkRow { index, place, row }
        };
        let rows = self.keys.iter().enumerate().map(row).collect();
        let done = self.manager.data(Rights::ALL).write_bulk(rows, &self.options()).await;
        assert_eq!(done.rows.len(), self.keys.len());
        assert!(done.rows.iter().all(|row| row.outcome.is_ok()), "{done:?}");
        self.session = done.session;
        for key in &self.keys {
            self.values.insert(key.clone(), Some(self.round));
        }
    }

    /// Writes a user with a key of idempotency and on condition, and repeats the request.
    async fn store_user(&mut self, key: &str) {
        let name = format!("n{}", self.round);
        let json = format!(r#"{{"name":"{name}","email":"e"}}"#);
        let known = self.users.get(key).map(|(_, version)| *version);
        let operation = if known.is_some() { Update } else { Insert };
        let (place, mut row) = prepare(self.manager, ("users", operation), key, &json);
        row.idempotency_key = Some(format!("{key}-{}", self.round));
        row.precondition = known.map(|version| Precondition::Versions(vec![version]));
        let first = self.write(place, row.clone()).await.row;
        assert!(known.is_none_or(|known| known < first.version), "versions of a row grow");
        self.users.insert(key.to_owned(), (name, first.version));
        let again = self.write(place, row).await.row;
        assert!(again.replayed, "a request is carried out once");
        assert_eq!(again.version, first.version);
    }

    /// Reads a key with the token of the last response.
    async fn check(&mut self, key: &str) {
        let options = self.options();
        let (found, read) = rows(self.manager, "kv", Some(key), &options).await;
        let value = found.first().map(|row| row["value"].as_u64().expect("a number"));
        assert!(found.len() <= 1, "{found:?}");
        let known = self.values.get(key).copied().flatten();
        assert_eq!(value, known, "{key} in round {}", self.round);
        self.session = read.session;
        let (found, read) = rows(self.manager, "users", Some(key), &options).await;
        let name = found.first().map(|row| row["name"].as_str().expect("a name").to_owned());
        assert_eq!(name, self.users.get(key).map(|(name, _)| name.clone()), "{key}");
        self.session = read.session;
    }

    /// Reads the rows of all clients, and looks for its own.
    async fn check_all(&mut self) {
        let (found, _) = rows(self.manager, "kv", None, &self.options()).await;
        let own: Vec<(&str, u64)> = found
            .iter()
            .filter_map(|row| Some((row["key"].as_str()?, row["value"].as_u64()?)))
            .filter(|(key, _)| self.keys.iter().any(|own| own == key))
            .collect();
        let once: BTreeMap<&str, u64> = own.iter().copied().collect();
        assert_eq!(once.len(), own.len(), "no row is read twice: {own:?}");
        let known: BTreeMap<&str, u64> =
            self.values.iter().filter_map(|(key, value)| Some((&**key, (*value)?))).collect();
        assert_eq!(once, known);
    }

    /// Checks every row that the client knows.
    pub(crate) async fn check_at_last(&mut self) {
        for key in self.keys.clone() {
            self.check(&key).await;
        }
        self.check_all().await;
    }
}

/// Rounds that clients have made.
#[derive(Default)]
pub(crate) struct Rounds {
    made: AtomicU64,
    are_over: AtomicBool,
}

impl Rounds {
    /// Waits until the clients have made some more rounds.
    pub(crate) async fn more(&self, count: u64) {
        let (until, limit) = (self.made.load(Ordering::Acquire) + count, deadline());
        while self.made.load(Ordering::Acquire) < until {
            assert!(Instant::now() < limit, "the clients stand still");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Lets clients write and read while a test does something. Every acknowledged write is there
/// afterwards.
pub(crate) async fn beside<T>(
    clients: &mut [Client<'_>],
    test: impl AsyncFnOnce(&Rounds) -> T,
) -> T {
    let rounds = Rounds::default();
    let busy = clients.iter_mut().map(async |client| {
        while !rounds.are_over.load(Ordering::Acquire) {
            client.act().await;
            rounds.made.fetch_add(1, Ordering::AcqRel);
        }
    });
    let test = async {
        rounds.more(8).await;
        let done = test(&rounds).await;
        rounds.more(8).await;
        rounds.are_over.store(true, Ordering::Release);
        done
    };
    let (_, done) = join(join_all(busy), test).await;
    for client in clients {
        client.check_at_last().await;
    }
    done
}
