//! Crash tests: servers and their processes are killed under load; acknowledged writes stay, and no
//! write is stored twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use shard_manager::error::Outcome;
use shard_manager::keyspace::ShardKey;
use shard_manager::local::{LocalNode, Stop};
use shard_manager::manager::Manager;
use shard_manager::row_change::Operation::{Insert, Update, Upsert};
use shard_manager::shard_map::KeyLocation;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Databases, SideSession, connect, mortal};
use crate::rows::write;

/// Number of writers of each shard.
const WRITERS: usize = 3;
/// Number of writes of each writer that must be acknowledged before a crash, and after it.
const SOME: usize = 5;

/// Number of crashes.
fn rounds() -> u64 {
    if std::env::var_os("LONG_TESTS").is_some() { 20 } else { 3 }
}

/// The state of a writer's rows, as far as it knows.
#[derive(Default)]
struct Known {
    /// The users that it has created, with their versions; `None` if the outcome of the write is
    /// unknown.
    users: BTreeMap<String, Option<i64>>,
    /// Key of the account that holds its counter.
    account: String,
    /// Lower and upper bound of the counter.
    counted: (i64, i64),
    failures: usize,
}

/// A writer, and its progress as seen by the test.
struct Writer {
    manager: Arc<Manager>,
    name: String,
    shard: ShardNumber,
    acknowledged: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Writer {
    /// A key that lies on the writer's shard, searched from this number on.
    fn key(&self, from: &mut u64) -> String {
        loop {
            *from += 1;
            let key = format!("{}-{from}", self.name);
            let place: KeyLocation =
                self.manager.map().place(ShardKey::parse(&key).unwrap()).unwrap();
            if place.shard == self.shard {
                return key;
            }
        }
    }

    async fn run(self) -> Known {
        let mut number = 0;
        let mut known = Known { account: self.key(&mut number), ..Known::default() };
        let mut key = self.key(&mut number);
        while !self.ended.load(Ordering::SeqCst) {
            let user = r#"{"name":"n","email":"e"}"#;
            let operation = if number.is_multiple_of(2) { Insert } else { Upsert };
            match write(&self.manager, "users", operation, &key, user).await {
                Ok(written) => {
                    known.users.insert(key, Some(written.row.version));
                    key = self.key(&mut number);
                }
                Err(failure) if failure.outcome == Outcome::Rejected => known.failures += 1,
                Err(_) => {
                    known.failures += 1;
                    known.users.insert(key, None);
                    key = self.key(&mut number);
                }
            }
            self.count(&mut known).await;
            tokio::task::yield_now().await;
        }
        known
    }

    /// Increments the counter, which only ever grows: a write that arrives late would set it back.
    async fn count(&self, known: &mut Known) {
        let next = known.counted.1 + 1;
        let json = format!(r#"{{"tx_id":"t","amount":{next}}}"#);
        let is_there = known.counted.0 > 0 && next % 2 == 0;
        let operation = if is_there { Update } else { Upsert };
        match write(&self.manager, "transactions", operation, &known.account, &json).await {
            Ok(_) => {
                known.counted = (next, next);
                self.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Err(failure) => {
                known.failures += 1;
                if failure.outcome != Outcome::Rejected {
                    known.counted.1 = next;
                }
            }
        }
    }
}

/// Waits until each of these writers has had `SOME` more writes acknowledged.
async fn some_more<'w>(writers: impl IntoIterator<Item = &'w Arc<AtomicUsize>>) {
    let began: Vec<_> = writers.into_iter().map(|w| (w, w.load(Ordering::SeqCst))).collect();
    for (writer, before) in began {
        while writer.load(Ordering::SeqCst) < before + SOME {
            tokio::task::yield_now().await;
        }
    }
}

/// A crash.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// A backend process of the engine is killed, and the server recovers by itself.
    Backend,
    /// The server is stopped immediately, while the other shards complete some writes, and started
    /// again.
    Server,
}

async fn strike(blow: Blow, node: &LocalNode, database: &str, others: &[&Arc<AtomicUsize>]) {
    match blow {
        Blow::Backend => {
            let mut direct = SideSession::open(node, database).await;
            let lane = "SELECT pid::text AS value FROM pg_stat_activity
                WHERE datname=current_database() AND application_name='tessera lane'";
            // The engine may be reconnecting at this moment.
            let pid = loop {
                let found = direct.text(lane).await;
                if let Ok(pid) = found.parse() {
                    break Pid::from_raw(pid).unwrap();
                }
            };
            kill_process(pid, Signal::KILL).unwrap();
            some_more(others.iter().copied()).await;
        }
        Blow::Server => {
            let stopped = node.clone();
            let stopped = tokio::task::spawn_blocking(move || stopped.stop(Stop::Immediate));
            stopped.await.unwrap().unwrap();
            some_more(others.iter().copied()).await;
            let started = node.clone();
            tokio::task::spawn_blocking(move || started.start()).await.unwrap().unwrap();
        }
    }
}

#[test]
fn no_acknowledged_write_is_lost_or_stored_twice_whatever_is_killed() {
    let servers = mortal();
    let nodes: Vec<&LocalNode> = servers.primaries().collect();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(story(&nodes));
}

async fn story(nodes: &[&LocalNode]) {
    let databases = Databases::on(nodes).await;
    let manager = Arc::new(connect(&databases.address()));
    let ended = Arc::new(AtomicBool::new(false));
    let mut acknowledged = Vec::new();
    let mut tasks = Vec::new();
    for number in 0..nodes.len() * WRITERS {
        let counter = Arc::new(AtomicUsize::new(0));
        acknowledged.push(Arc::clone(&counter));
        let shard = ShardNumber((number % nodes.len()) as u16);
        let (manager, name) = (Arc::clone(&manager), format!("w{number}"));
        let ended = Arc::clone(&ended);
        let writer = Writer { manager, name, shard, acknowledged: counter, ended };
        tasks.push(tokio::spawn(writer.run()));
    }
    let mut struck = vec![false; nodes.len()];
    for round in 0..rounds() {
        // The choices are the same in each run; the first two rounds differ in both.
        let chance = (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let shard = (chance / 7) as usize % nodes.len();
        let blow = if round % 2 == 0 { Blow::Server } else { Blow::Backend };
        struck[shard] = true;
        some_more(&acknowledged).await;
        let others = acknowledged.iter().enumerate();
        let others = others.filter(|(writer, _)| writer % nodes.len() != shard);
        let others: Vec<_> = others.map(|(_, writer)| writer).collect();
        strike(blow, nodes[shard], &databases.names[shard], &others).await;
        some_more(&acknowledged).await;
    }
    ended.store(true, Ordering::SeqCst);
    let mut known = Vec::new();
    for task in tasks {
        known.push(task.await.unwrap());
    }
    for (shard, struck) in struck.into_iter().enumerate() {
        let writers = known.iter().enumerate().filter(|(writer, _)| writer % nodes.len() == shard);
        let writers: Vec<&Known> = writers.map(|(_, known)| known).collect();
        let failures: usize = writers.iter().map(|known| known.failures).sum();
        // Shards whose servers keep running are not affected.
        assert!(struck || failures == 0, "{failures} failures of shard{}", shard + 1);
        check(&mut databases.direct_session(shard).await, &writers).await;
    }
}

/// Compares the rows of a shard with the state known to its writers.
async fn check(direct: &mut SideSession, writers: &[&Known]) {
    let stored = "SELECT user_id||' '||version AS value FROM users";
    let stored = direct.texts(stored).await;
    let mut stored: BTreeMap<&str, i64> = stored
        .iter()
        .map(|row| row.split_once(' ').unwrap())
        .map(|(key, version)| (key, version.parse().unwrap()))
        .collect();
    for (key, version) in writers.iter().flat_map(|known| &known.users) {
        let found = stored.remove(&**key);
        if version.is_some() {
            assert_eq!(found, *version, "{key} was acknowledged");
        }
    }
    assert_eq!(stored, BTreeMap::new(), "what was never written, or was rejected");
    for known in writers {
        let account = &known.account;
        let amounts =
            format!("SELECT amount::text AS value FROM transactions WHERE account='{account}'");
        let amounts: Vec<i64> =
            direct.texts(&amounts).await.iter().map(|amount| amount.parse().unwrap()).collect();
        let (least, most) = known.counted;
        assert!(
            amounts.len() == 1 && (least..=most).contains(&amounts[0]),
            "{account}: {amounts:?} {least} {most}"
        );
    }
}
