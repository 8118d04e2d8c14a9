//! Tests of the parity of the engines: SQLite and PostgreSQL give the same responses and store the
//! same rows, and so do the two write paths of PostgreSQL.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::Manager;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::RowDone;
use shard_manager::value::Value;

use crate::cluster::{Databases, connect};
use crate::random_changes::{Draft, KEYS, SendMode, Step, pairs, plain, steps, things};
use crate::random_reads::{Question, question};
use crate::rows::{RowOutcome, make, options, write_all};
use crate::scratch;
use crate::server::runtime;

/// Configuration for this many cases, the same in each run.
fn cases(count: u32) -> Config {
    let rng_seed = RngSeed::Fixed(0x7e55e4a);
    Config { cases: count, failure_persistence: None, rng_seed, ..Config::default() }
}

/// A cluster, and the row versions that it has returned.
struct Side {
    manager: Manager,
    versions: HashMap<(bool, usize, usize), i64>,
}

impl Side {
    async fn new(manager: Manager) -> Self {
        make(&manager, &things()).await;
        make(&manager, &pairs()).await;
        Self { manager, versions: HashMap::new() }
    }

    /// Sends changes; returns the result of each.
    async fn take(&mut self, (how, drafts): &Step, prefix: &str) -> Vec<String> {
        let mut answers = Vec::with_capacity(drafts.len());
        let at_once = match how {
            SendMode::Singly => 1,
            SendMode::Together | SendMode::AtomicPerShard => drafts.len(),
        };
        for drafts in drafts.chunks(at_once) {
            let prepare = |draft: &Draft| draft.prepare(&self.manager, prefix, &self.versions);
            let rows = drafts.iter().map(prepare).collect();
            let done =
                write_all(&self.manager, rows, matches!(how, SendMode::AtomicPerShard)).await;
            for (draft, outcome) in drafts.iter().zip(done) {
                self.note(draft, &outcome);
                answers.push(shown(&outcome));
            }
        }
        answers
    }

    /// Remembers the version of a row, which must grow even if the row is removed and created
    /// again.
    fn note(&mut self, draft: &Draft, outcome: &RowOutcome) {
        let Ok(RowDone { version, replayed: false, .. }) = outcome else { return };
        let before = self.versions.insert(draft.row(), *version);
        assert!(before.is_none_or(|before| before < *version), "{draft:?}: {before:?}, {version}");
    }

    /// Result of a query: the number of rows, and all pages.
    async fn ask(&self, table: &str, question: &Question, keys: &[String]) -> Vec<String> {
        let table = self.manager.schema(Rights::ALL).table(table).unwrap();
        let values = keys.iter().map(|key| Value::Text(key.clone())).collect();
        let mut query = question.query(&table, values);
        let key = || question.key.map(|key| ShardKey::parse(&keys[key]).unwrap());
        let mut reported = Vec::new();
        for _ in 0..4 {
            let read = self
                .manager
                .data(Rights::ALL)
                .read(query.clone(), key(), &options())
                .await
                .unwrap();
            let rows = String::from_utf8(read.rows.json().to_vec()).unwrap();
            reported.push(format!("{:?} [{rows}] {:?}", read.rows.total, read.shards));
            let Some(cursor) = read.next_cursor else { break };
            query.after =
                Some(self.manager.data(Rights::ALL).resume(&query, key(), &cursor).unwrap());
            (query.offset, query.counts) = (0, false);
        }
        reported
    }
}

/// Result of a change, without the parts in which engines may differ.
fn shown(outcome: &RowOutcome) -> String {
    match outcome {
        Ok(done) => format!("{:?} {} {}", done.change, done.replayed, stripped(&done.json)),
        Err((error, outcome)) => format!("{error:?} {}", outcome.name()),
    }
}

/// A row as returned, byte by byte, except for its version and its times.
fn stripped(json: &[u8]) -> String {
    if json.is_empty() {
        return String::new();
    }
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(json).unwrap();
    for member in ["version", "created_at", "updated_at"] {
        assert!(members.remove(member).is_some(), "{}", String::from_utf8_lossy(json));
    }
    format!("{members:?}")
}

fn embedded(shards: usize) -> (Manager, tempfile::TempDir) {
    let dir = scratch::folder();
    let wanted = ClusterSpec { shards: Some(shards), replicas: Some(0), ..ClusterSpec::default() };
    let cluster = EmbeddedCluster { data_dir: dir.path().to_owned(), wanted };
    (assembly::open(&cluster).unwrap(), dir)
}

fn same(one: &[String], other: &[String], of: &dyn std::fmt::Debug) -> Result<(), TestCaseError> {
    match one == other {
        true => Ok(()),
        false => Err(TestCaseError::fail(format!("{of:#?}\n one   {one:#?}\n other {other:#?}"))),
    }
}

/// Keys that only one case uses, so that cases are independent.
fn keys(case: &Cell<u32>) -> (String, Vec<String>) {
    case.set(case.get() + 1);
    let prefix = format!("{}/", case.get());
    let keys = KEYS.iter().map(|key| format!("{prefix}{key}")).collect();
    (prefix, keys)
}

#[test]
fn both_engines_answer_store_and_find_the_same() {
    let runtime = runtime();
    let (embedded, _dir) = embedded(3);
    let databases = runtime.block_on(Databases::new(3));
    let connected = connect(&databases.address());
    let mut one = runtime.block_on(Side::new(embedded));
    let mut other = runtime.block_on(Side::new(connected));
    let questions = |table| proptest::collection::vec(question(&table, KEYS.len()), 4);
    let script = (steps(), questions(things()), questions(pairs()));
    let (case, found) = (Cell::new(0), Cell::new(0));
    let sides = std::cell::RefCell::new((&mut one, &mut other));
    let ran = TestRunner::new(cases(120)).run(&script, |(steps, of_things, of_pairs)| {
        let (one, other) = &mut *sides.borrow_mut();
        let (prefix, keys) = keys(&case);
        (one.versions, other.versions) = (HashMap::new(), HashMap::new());
        for step in &steps {
            let answers = runtime.block_on(one.take(step, &prefix));
            same(&answers, &runtime.block_on(other.take(step, &prefix)), &steps)?;
        }
        let of_things = of_things.iter().map(|question| ("things", question));
        for (table, question) in of_things.chain(of_pairs.iter().map(|one| ("pairs", one))) {
            let answers = runtime.block_on(one.ask(table, question, &keys));
            found.set(found.get() + u32::from(answers[0].contains('{')));
            same(
                &answers,
                &runtime.block_on(other.ask(table, question, &keys)),
                &(&steps, question),
            )?;
        }
        Ok(())
    });
    ran.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(found.get() > 150, "too few questions found rows: {}", found.get());
    runtime.block_on(compare_all(&one.manager, &other.manager));
}

/// Compares all rows, page by page in the order in which they are stored.
async fn compare_all(one: &Manager, other: &Manager) {
    for name in ["things", "pairs"] {
        let mut reported = Vec::new();
        for manager in [one, other] {
            let table = manager.schema(Rights::ALL).table(name).unwrap();
            let mut query = ReadQuery { limit: 37, ..ReadQuery::all(&table) };
            query.outputs.retain(|output| table.own().any(|column| column == output.column));
            let mut rows = Vec::new();
            loop {
                let read =
                    manager.data(Rights::ALL).read(query.clone(), None, &options()).await.unwrap();
                rows.push(String::from_utf8(read.rows.json().to_vec()).unwrap());
                let Some(cursor) = read.next_cursor else { break };
                query.after =
                    Some(manager.data(Rights::ALL).resume(&query, None, &cursor).unwrap());
            }
            reported.push(rows);
        }
        assert!(reported[0].len() > 3, "{name} is nearly empty");
        assert_eq!(reported[0], reported[1], "{name}");
    }
}

/// Plain upserts are sent to the server in one round trip; as parts of an atomic group they are
/// not.
#[test]
fn the_pipelined_path_and_the_sequential_path_store_the_same() {
    let runtime = runtime();
    let databases = runtime.block_on(Databases::new(2));
    let mut sides = databases.nodes.iter().zip(&databases.names).map(|(node, name)| {
        let alone = crate::cluster::cluster_of([crate::cluster::address(node, name)]);
        runtime.block_on(Side::new(connect(&alone)))
    });
    let sides = std::cell::RefCell::new((sides.next().unwrap(), sides.next().unwrap()));
    let script = proptest::collection::vec(proptest::collection::vec(plain(), 1..20), 1..6);
    let case = Cell::new(0);
    let ran = TestRunner::new(cases(60)).run(&script, |batches| {
        let (short, long) = &mut *sides.borrow_mut();
        let (prefix, _) = keys(&case);
        (short.versions, long.versions) = (HashMap::new(), HashMap::new());
        for batch in &batches {
            let answers =
                runtime.block_on(short.take(&(SendMode::Together, batch.clone()), &prefix));
            let others =
                runtime.block_on(long.take(&(SendMode::AtomicPerShard, batch.clone()), &prefix));
            same(&answers, &others, &batches)?;
        }
        Ok(())
    });
    ran.unwrap_or_else(|failure| panic!("{failure}"));
    let sides = sides.into_inner();
    runtime.block_on(compare_all(&sides.0.manager, &sides.1.manager));
}
