//! Crash servers: a cluster of two shards with a replica each. A test can kill its nodes and lose
//! their responses.
//!
//! Routers reach each node through a proxy. The test itself connects to the servers directly.
//!
//! **Invariant:** only processes of this cluster are killed, and only by their process ids.
//! **Not here:** the test cases (`crashed_moves`).

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::database_session::DatabaseSession;
use crate::move_client::{FROM, MoveClient, TO};
use crate::tcp_proxy::{ProxyMode, TcpProxy};
use crate::text;

/// Longest time for repeating a command that fails until another process has started or ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two attempts.
const ATTEMPT_EVERY: Duration = Duration::from_millis(50);

/// Query for the numbers of everything that a move keeps in a shard's database: rows of moves,
/// recorded changes, followed slots (whose changes are recorded), and enabled triggers.
const LEFT_BEHIND: &str = "SELECT concat_ws(' ',
    (SELECT count(*) FROM tessera.tessera_slot_moves),
    (SELECT count(*) FROM tessera.tessera_changes),
    (SELECT coalesce(sum(bit_count(bits)), 0) FROM tessera.tessera_followed),
    (SELECT count(*) FROM pg_trigger
        WHERE tgname::text LIKE 'tessera_record%' AND tgenabled <> 'D'))";
/// Query for the number of advisory locks and of open or prepared transactions in the database.
const HELD: &str = "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    + (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())
    + (SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%')";

/// Number of changes in one transaction that is too large for a move to follow.
const TOO_MANY: usize = 100_001;

/// Strings in the two messages that enclose a change of a move. The first message begins a
/// transaction with a limit on its idle time; the second one commits it.
const COMMIT_OF_MOVE: [&str; 2] = ["SET LOCAL idle_in_transaction_session_timeout", "COMMIT"];

/// Direction in which a server's clock jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockJump {
    /// The clock jumps back by an hour.
    Back,
    /// The clock jumps forward by an hour.
    Forth,
}

/// Node of the cluster.
struct CrashNode {
    name: String,
    port: u16,
    proxy: TcpProxy,
}

/// Cluster whose nodes can be killed and cut off.
pub(super) struct CrashServers {
    cluster: Cluster,
    nodes: Vec<CrashNode>,
    /// Contents of the file with the environment variables for a router, without proxies.
    variables: String,
}

impl CrashServers {
    /// Makes a cluster; `None` if PostgreSQL is not installed.
    pub(super) fn up() -> Option<Self> {
        let cluster = Cluster::up("2", "1")?;
        let variables = fs::read_to_string(cluster.dir().join("tessera.env")).unwrap();
        Some(Self { cluster, nodes: Vec::new(), variables })
    }

    /// Opens new proxies, and closes the old ones together with their connections.
    pub(super) fn open_proxies(&mut self) {
        let shown = self.shown();
        let nodes = shown.iter().map(|node| {
            let port = u16::try_from(node["port"].as_u64().unwrap()).unwrap();
            CrashNode { name: name(node), port, proxy: TcpProxy::to(port) }
        });
        self.nodes = nodes.collect();
    }

    /// Returns the contents of the file with the environment variables for a router that reaches
    /// the nodes through the proxies.
    pub(super) fn environment(&self) -> String {
        self.nodes.iter().fold(self.variables.clone(), |text, node| {
            text.replace(&format!(":{}/", node.port), &format!(":{}/", node.proxy.port))
        })
    }

    fn shown(&self) -> Vec<Value> {
        let status = self.cluster.command(&["status", "--json"]);
        let shown: Value = serde_json::from_slice(&status.stdout).unwrap();
        shown["nodes"].as_array().unwrap().clone()
    }

    /// Returns the current primary of a shard.
    fn primary(&self, shard: &str) -> Value {
        let mut nodes = self.shown().into_iter();
        let is_primary = |node: &Value| {
            node["role"] == "primary" && name(node).starts_with(&format!("{shard}-"))
        };
        nodes.find(is_primary).unwrap_or_else(|| panic!("{shard} has no primary"))
    }

    /// Connects to the primary of a shard.
    fn direct_session(&self, shard: &str) -> DatabaseSession {
        let port = self.primary(shard)["port"].as_u64().unwrap();
        let own = format!(":{port}/{shard}");
        let mut urls = self.variables.split(['=', ',', '\n', '\'', '"']);
        DatabaseSession::open(urls.find(|url| url.contains(&own)).unwrap())
    }

    /// Kills all processes of the primary of a shard, and returns the node's name.
    pub(super) fn kill(&self, shard: &str) -> String {
        let node = self.primary(shard);
        let server = i32::try_from(node["pid"].as_u64().unwrap()).unwrap();
        // The server's main process is killed first, because it would start the others again.
        for process in std::iter::once(server).chain(children(server)) {
            // The process may have ended already.
            let _ = kill_process(Pid::from_raw(process).unwrap(), Signal::KILL);
        }
        name(&node)
    }

    /// Starts a killed primary again, or promotes its replica and lets the old primary rejoin.
    pub(super) fn bring_back(&self, shard: &str, node: &str, fails_over: bool) {
        if fails_over {
            self.insist(&["promote", "--best", shard]);
            self.insist(&["rejoin", node]);
        } else {
            self.insist(&["start", node]);
        }
    }

    /// Repeats a command until it succeeds, because processes of a killed server may still be
    /// ending.
    fn insist(&self, words: &[&str]) {
        let began = Instant::now();
        loop {
            let done = self.cluster.command(words);
            if done.status.success() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{words:?}: {}", text(&done.stderr));
            std::thread::sleep(ATTEMPT_EVERY);
        }
    }

    fn set(&self, shard: &str, mode: ProxyMode) {
        let own = self.nodes.iter().filter(|node| node.name.starts_with(&format!("{shard}-")));
        own.for_each(|node| node.proxy.set(mode));
    }

    /// Withholds the responses of a shard's servers to the next commit of a move. The servers carry
    /// out the commit.
    pub(super) fn hold_commit(&self, shard: &str) {
        self.set(shard, ProxyMode::AnswersHeldAfter(COMMIT_OF_MOVE));
    }

    /// Ends all connections to the servers of a shard, so that the withheld responses are lost.
    pub(super) fn cut(&self, shard: &str) {
        self.set(shard, ProxyMode::Cut);
        self.set(shard, ProxyMode::Open);
    }

    /// Waits until a shard has committed the state `state` for these slots.
    pub(super) fn await_state(&self, shard: &str, slots: &[[u64; 2]], state: &str) {
        let numbers: Vec<String> = slots.iter().map(|slot| slot[0].to_string()).collect();
        let sql = format!(
            "SELECT count(*) FROM tessera_slots WHERE state = '{state}' AND slot IN ({})",
            numbers.join(",")
        );
        self.direct_session(shard).until(state, &sql, &slots.len().to_string());
    }

    /// Changes the times of a fence as if the server's clock had jumped.
    pub(super) fn jump(&self, shard: &str, jump: ClockJump) {
        // Instead of the clock, the stored times are changed: if a clock jumps back by an hour, all
        // stored times seem an hour later.
        let sign = if jump == ClockJump::Back { '+' } else { '-' };
        let sql = format!(
            "UPDATE tessera_slots SET since = since {sign} interval '1h', until = until {sign} interval '1h'
            WHERE state = 'fenced' RETURNING slot"
        );
        assert!(!self.direct_session(shard).rows(&sql).is_empty(), "a fence lasts");
    }

    /// Makes a transaction record more changes of a slot than a move can follow.
    pub(super) fn record_too_much(&self, shard: &str, slot: u64) {
        let sql = format!(
            "WITH recorded AS (INSERT INTO tessera.tessera_changes
                SELECT pg_current_xact_id(), 'kv', {slot}, 'none', ARRAY[number::text]
                FROM generate_series(1, {TOO_MANY}) AS number RETURNING 1)
            SELECT count(*) FROM recorded"
        );
        assert_eq!(self.direct_session(shard).rows(&sql), [TOO_MANY.to_string()]);
    }

    /// Waits until nothing of a move is left on either shard.
    pub(super) fn check_left_behind(&self, label: &str) {
        for shard in [FROM, TO] {
            self.direct_session(shard).until(label, LEFT_BEHIND, "0 0 0 0");
        }
    }

    /// Checks that each row of a client is on exactly one shard.
    pub(super) fn check_placed_once(&self, client: &MoveClient) {
        let names: Vec<String> = client.keys.iter().map(|key| format!("'{}'", key.name)).collect();
        let sql = format!("SELECT key FROM kv WHERE key IN ({})", names.join(","));
        let mut placed: Vec<String> =
            [FROM, TO].iter().flat_map(|shard| self.direct_session(shard).rows(&sql)).collect();
        placed.sort();
        let mut expected: Vec<&str> = client.keys.iter().map(|key| &*key.name).collect();
        expected.sort_unstable();
        assert_eq!(placed, expected, "{}", client.label);
    }

    /// Checks that no session holds a lock or a transaction after the routers have ended.
    pub(super) fn check_unlocked(&self, label: &str) {
        for shard in [FROM, TO] {
            self.direct_session(shard).until(label, HELD, "0");
        }
    }
}

fn name(node: &Value) -> String {
    node["node"].as_str().unwrap().to_owned()
}

/// Returns the ids of the child processes of a process.
fn children(parent: i32) -> Vec<i32> {
    let listed = fs::read_dir("/proc").unwrap().flatten();
    let numbers = listed.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |process: &i32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let own = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        own.is_some_and(|own| own.trim() == parent.to_string())
    };
    numbers.filter(is_child).collect()
}
