//! Tests of crashes at every step of a move between servers: the router that carries out the move
//! freezes itself at a named stop point, then something is lost, and the move resumes.
//!
//! In each test case one of these is lost: the router, the primary of one shard or of both (`kill
//! -9`), or the response to a step; or a server's clock jumps by an hour; or nothing is lost, and
//! the frozen router resumes after another one has taken over. The clients write at level `quorum`.
//!
//! **Invariant:** two test cases never use a cluster at the same time, and the servers of a failed
//! test case are not used again.
//! **Not here:** the stop points, and the same tests with shards in files (`move_stops`).

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::crash_servers::{ClockJump, CrashServers};
use super::{Router, cluster_folder, start_program};
use crate::move_client::Ending::{self, Cancelled, CopiedAgain, Done, RolledBack};
use crate::move_client::{FROM, MoveClient, TO};
use crate::move_stops::points;
use crate::{for_each, sabotage};

/// Longest wait for the end of a move that has resumed after a crash.
const ENDED_MAX: Duration = Duration::from_secs(60);
/// Longest wait until a stop point is reached.
const REACHED_MAX: Duration = Duration::from_secs(60);
/// Longest wait of the client for a response. It is short, so that a frozen router is resumed
/// before the requests that it has in progress are too late.
const ANSWERED_MAX: Duration = Duration::from_secs(2);
/// Headers of writes. The deadline is short, so that the client does not wait long for a router
/// whose server is down.
const HEADERS: [(&str, &str); 2] = [("x-consistency", "quorum"), ("x-deadline-ms", "1000")];
/// Environment variable with the time, in seconds, after which the long test begins no further test
/// case.
const SECONDS: &str = "TESSERA_CRASH_SECONDS";
/// Environment variable with the number of test cases that the long test skips at the beginning.
const FIRST: &str = "TESSERA_CRASH_FIRST";
/// Environment variable with a string. The long test runs only the test cases whose descriptions
/// contain it.
const ONLY: &str = "TESSERA_CRASH_ONLY";

/// Loss that happens while the router is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// The router is lost.
    Mover,
    /// Nothing is lost: another router takes over, and then the first one resumes.
    Nothing,
    /// The primaries of these shards are lost, and the router too if `and_mover` is true.
    Servers { shards: &'static [&'static str], and_mover: bool },
    /// The response to the step is lost. The shard has committed the step when its slots have this
    /// state.
    Answer { shard: &'static str, state: &'static str },
    /// The clock of the source jumps.
    Clock(ClockJump),
}

/// Crash: the ending of the move, the stop point, and the loss. Lost servers either fail over or
/// start again.
#[derive(Clone, Debug)]
struct Crash {
    ending: Ending,
    point: String,
    lost: Lost,
    fails_over: bool,
}

const BOTH: &[&str] = &[FROM, TO];

const fn servers(shards: &'static [&'static str], and_mover: bool) -> Lost {
    Lost::Servers { shards, and_mover }
}

/// Crashes that every run of the tests on servers covers.
const SHORT: [(Ending, &str, Lost, bool); 12] = [
    (Done, "inside_store", Lost::Mover, false),
    (Done, "before_store", servers(&[TO], false), true),
    (Done, "after_fence", servers(&[FROM], true), true),
    (Done, "before_fence", Lost::Answer { shard: FROM, state: "fenced" }, false),
    (Done, "before_commit", Lost::Clock(ClockJump::Back), false),
    (Done, "before_commit", Lost::Clock(ClockJump::Forth), false),
    (Done, "before_commit", Lost::Answer { shard: FROM, state: "moved" }, false),
    (Done, "after_commit", servers(BOTH, false), false),
    (Done, "before_activate", Lost::Answer { shard: TO, state: "owned" }, false),
    (Done, "before_publish", Lost::Nothing, false),
    (RolledBack, "before_activate#2", servers(&[FROM], true), true),
    (Cancelled, "inside_lift", Lost::Mover, false),
];

/// Returns every stop point with every loss. They are ordered so that successive ones differ as
/// much as possible.
fn all() -> Vec<Crash> {
    let mut all = Vec::new();
    // This ending is not among the stop points of `move_stops`, because with shards in files
    // changes are lost only if very many rows are recorded.
    let again = ["before", "inside", "after"];
    let again = again.map(|moment| (CopiedAgain, format!("{moment}_copy_again")));
    for (ending, point) in points().into_iter().chain(again) {
        let mut losses = vec![
            Lost::Mover,
            Lost::Nothing,
            servers(&[FROM], false),
            servers(&[TO], false),
            servers(&[FROM], true),
            servers(&[TO], true),
            servers(BOTH, false),
        ];
        let is_back = point.ends_with("#2");
        let (from, to) = if is_back { (TO, FROM) } else { (FROM, TO) };
        let step = point.split('#').next().unwrap_or_default();
        match step {
            "before_fence" => losses.push(Lost::Answer { shard: from, state: "fenced" }),
            "before_commit" => losses.push(Lost::Answer { shard: from, state: "moved" }),
            "before_activate" => losses.push(Lost::Answer { shard: to, state: "owned" }),
            _ => {}
        }
        if ["after_fence", "before_commit"].contains(&step) && !is_back {
            losses.extend([ClockJump::Back, ClockJump::Forth].map(Lost::Clock));
        }
        all.extend(losses.into_iter().map(|lost| Crash {
            ending,
            point: point.clone(),
            lost,
            fails_over: false,
        }));
    }
    for (number, crash) in all.iter_mut().enumerate() {
        crash.fails_over = number % 2 == 0;
    }
    // A step that has no common divisor with the number of crashes visits each crash once.
    let step = (all.len() / 3..).find(|step| gcd(*step, all.len()) == 1).unwrap_or(1);
    (0..all.len()).map(|number| all[number * step % all.len()].clone()).collect()
}

fn gcd(one: usize, other: usize) -> usize {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// One test case: a move between servers, a router that carries it out, and a client.
struct Story<'s> {
    servers: &'s CrashServers,
    folder: TempDir,
    environment: PathBuf,
    crash: &'s Crash,
    client: MoveClient,
    /// Router that carries out the move, as long as it has not ended.
    mover: Option<Router>,
    /// Routers that have taken over.
    others: Vec<Router>,
}

impl<'s> Story<'s> {
    fn begin(servers: &'s CrashServers, number: usize, crash: &'s Crash) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let environment = folder.path().join("servers.env");
        fs::write(&environment, servers.environment()).unwrap();
        let stop = format!("freeze:{}", crash.point);
        let options = (folder.path(), &["--operate"][..]);
        let variables = [("TESSERA_STOP_AT", &*stop)];
        let mover = start_program(&sabotage::PROGRAM, &environment, options, &variables);
        let place = (mover.host(), format!("{crash:?}"));
        let prefix = format!("crash{number}-");
        let mut client = MoveClient::begin(place, crash.ending, &prefix, &HEADERS);
        client.patience = ANSWERED_MAX;
        let (mover, others) = (Some(mover), Vec::new());
        Self { servers, folder, environment, crash, client, mover, others }
    }

    /// Starts another router, which serves the client from now on.
    fn take_over(&mut self) {
        let options = (self.folder.path(), &["--operate"][..]);
        let router = start_program(&sabotage::PROGRAM, &self.environment, options, &[]);
        self.client.host = router.host();
        self.others.push(router);
    }

    /// Writes until the router has stopped. If a response is to be lost, the client does not write,
    /// because its changes would cause another step first.
    fn await_stop(&mut self) {
        let began = Instant::now();
        let mover = self.mover.as_ref().unwrap();
        let writes = !matches!(self.crash.lost, Lost::Answer { .. });
        let mut loses_changes = self.crash.ending == CopiedAgain;
        self.client.begin_move(|| mover.is_frozen());
        while !mover.is_frozen() {
            if writes {
                self.client.write_all(|| mover.is_frozen());
            }
            let has_ended = self.client.direct();
            if loses_changes && self.client.shown().is_some_and(|shown| shown["phase"] == "copying")
            {
                self.servers.record_too_much(FROM, self.client.slots()[0][0]);
                loses_changes = false;
            }
            // At these stop points, the client may see the end of the move before the router stops.
            let is_lost = has_ended && !self.crash.point.contains("_end");
            let is_lost = is_lost || began.elapsed() > REACHED_MAX;
            let label = &self.client.label;
            assert!(!is_lost, "{label}: the point is not reached: {:?}", self.client.shown());
        }
    }

    fn thaw(&self) {
        self.mover.as_ref().unwrap().thaw();
    }

    /// Causes the loss, and then starts everything again.
    fn lose(&mut self) {
        match self.crash.lost {
            Lost::Mover => {
                self.mover = None;
                self.take_over();
            }
            Lost::Nothing => {
                self.take_over();
                self.client.await_progress();
                self.client.await_end(ENDED_MAX, String::new);
                self.thaw();
            }
            Lost::Servers { shards, and_mover } => {
                let killed: Vec<String> =
                    shards.iter().map(|shard| self.servers.kill(shard)).collect();
                if and_mover {
                    self.mover = None;
                } else {
                    self.thaw();
                }
                for (shard, node) in shards.iter().zip(&killed) {
                    self.servers.bring_back(shard, node, self.crash.fails_over);
                }
                if and_mover {
                    self.take_over();
                }
            }
            Lost::Answer { shard, state } => {
                self.servers.hold_commit(shard);
                self.thaw();
                self.servers.await_state(shard, &self.client.slots(), state);
                self.servers.cut(shard);
            }
            Lost::Clock(jump) => {
                self.servers.jump(FROM, jump);
                self.thaw();
            }
        }
    }

    /// Checks that the move resumes and ends, that all rows are correct, and that nothing of the
    /// move is left.
    fn check(mut self) {
        self.client.await_progress();
        let hosts = self.mover.iter().chain(&self.others).map(Router::host);
        for host in hosts.collect::<Vec<_>>() {
            self.client.host = host;
            self.client.await_end(ENDED_MAX, String::new);
            self.client.check_rows();
        }
        self.servers.check_left_behind(&self.client.label);
        self.servers.check_placed_once(&self.client);
        let routers = self.mover.take().into_iter().chain(self.others.drain(..));
        routers.for_each(drop);
        self.servers.check_unlocked(&self.client.label);
    }
}

fn play(servers: &CrashServers, number: usize, crash: &Crash) {
    let mut story = Story::begin(servers, number, crash);
    story.await_stop();
    story.lose();
    story.check();
}

/// Runs test cases, each on a cluster that no other one uses at the same time. Returns their
/// number, and descriptions of those that failed.
fn play_all(crashes: Vec<Crash>, limit: Option<Duration>) -> (usize, Vec<String>) {
    let began = Instant::now();
    let (idle, failed, played) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()), Mutex::new(0));
    for_each(crashes.into_iter().enumerate(), |(number, crash)| {
        if limit.is_some_and(|limit| began.elapsed() > limit) {
            return;
        }
        let free = idle.lock().unwrap().pop();
        let servers = free.or_else(CrashServers::up);
        let Some(mut servers) = servers else { return };
        servers.open_proxies();
        let story = std::panic::AssertUnwindSafe(|| play(&servers, number, &crash));
        let is_kept = std::panic::catch_unwind(story).is_ok();
        *played.lock().unwrap() += 1;
        if is_kept {
            idle.lock().unwrap().push(servers);
        } else {
            eprintln!("FAILED: {crash:?}");
            failed.lock().unwrap().push(format!("{crash:?}"));
        }
    });
    (played.into_inner().unwrap(), failed.into_inner().unwrap())
}

#[test]
fn a_move_between_servers_goes_on_after_a_crash_and_loses_no_write_and_leaves_nothing() {
    let Some(_) = cluster_folder() else { return };
    let crashes = SHORT.map(|(ending, point, lost, fails_over)| {
        let point = point.to_owned();
        Crash { ending, point, lost, fails_over }
    });
    let (_, failed) = play_all(crashes.to_vec(), None);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
#[ignore = "takes an hour: cargo test -p loadtest --test it crashed_moves -- --ignored"]
fn a_move_between_servers_goes_on_after_a_crash_at_every_stop_point() {
    let limit = std::env::var(SECONDS).ok().map(|text| text.parse().unwrap());
    let mut crashes = all();
    if let Ok(first) = std::env::var(FIRST) {
        crashes.drain(..first.parse::<usize>().unwrap().min(crashes.len()));
    }
    if let Ok(only) = std::env::var(ONLY) {
        crashes.retain(|crash| format!("{crash:?}").contains(&only));
    }
    let count = crashes.len();
    let (played, failed) = play_all(crashes, limit.map(Duration::from_secs));
    eprintln!("{played} of {count} crashes, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
}
