//! Tests of crashes at every step of a move between servers: the router that moves freezes itself
//! at a named stop point, then something is lost, and the move resumes.
//!
//! Each story loses one of these: the router, the primary of one shard or of both (`kill -9`), the
//! answer to a step, or the hour by which the clock of a server jumps. The clients write at level
//! `quorum`.
//!
//! **Invariant:** no two stories use a cluster at the same time, and servers of a failed story are
//! not used again.
//! **Not here:** the stop points and the same on files (`move_stops`).

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

/// Longest wait for the end of a move that goes on after a crash.
const ENDED_MAX: Duration = Duration::from_secs(60);
/// Longest wait until a stop point is reached.
const REACHED_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a response. The client does not wait longer for a frozen router, so that the
/// router's own requests are not too late when it resumes.
const ANSWERED_MAX: Duration = Duration::from_secs(2);
/// Headers of writes. The deadline is short, so that the client does not wait long for a router
/// whose server is down.
const HEADERS: [(&str, &str); 2] = [("x-consistency", "quorum"), ("x-deadline-ms", "1000")];
/// Seconds after which the long test begins no other story.
const SECONDS: &str = "TESSERA_CRASH_SECONDS";
/// Number of stories that the long test leaves out.
const FIRST: &str = "TESSERA_CRASH_FIRST";
/// Text in the descriptions of the stories that the long test plays.
const ONLY: &str = "TESSERA_CRASH_ONLY";

/// Loss while the router is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// The router.
    Mover,
    /// Nothing: another router takes over, and then the first one resumes.
    Nothing,
    /// Primaries of these shards, and the router.
    Servers { shards: &'static [&'static str], and_mover: bool },
    /// The answer to the step, which this shard has committed when the slots have this state.
    Answer { shard: &'static str, state: &'static str },
    /// The clock of the source jumps.
    Clock(ClockJump),
}

/// A crash: the ending of the move, the stop point, and the loss. Servers fail over, or start
/// again.
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

/// Returns every stop point with every loss, in an order in which the first ones differ most.
fn all() -> Vec<Crash> {
    let mut all = Vec::new();
    // On files only a log of many rows loses changes.
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
    // A step size that has no divisor in common with the length visits each crash once.
    let step = (all.len() / 3..).find(|step| gcd(*step, all.len()) == 1).unwrap_or(1);
    (0..all.len()).map(|number| all[number * step % all.len()].clone()).collect()
}

fn gcd(one: usize, other: usize) -> usize {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// A move between servers, a router that carries it out, and a client.
struct Story<'s> {
    servers: &'s CrashServers,
    folder: TempDir,
    environment: PathBuf,
    crash: &'s Crash,
    client: MoveClient,
    /// The router that moves, as long as it has not ended.
    mover: Option<Router>,
    /// Routers that took over.
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

    /// Lets another router serve the client.
    fn take_over(&mut self) {
        let options = (self.folder.path(), &["--operate"][..]);
        let router = start_program(&sabotage::PROGRAM, &self.environment, options, &[]);
        self.client.host = router.host();
        self.others.push(router);
    }

    /// Writes until the router has stopped. If a response is to be lost, the client writes nothing,
    /// because a change would cause another step first.
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
            // The router may stop while it reports the end of the move.
            let is_lost = has_ended && !self.crash.point.contains("_end");
            let is_lost = is_lost || began.elapsed() > REACHED_MAX;
            let label = &self.client.label;
            assert!(!is_lost, "{label}: the point is not reached: {:?}", self.client.shown());
        }
    }

    fn thaw(&self) {
        self.mover.as_ref().unwrap().thaw();
    }

    /// Causes the loss, and makes everything run again.
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

    /// Checks that the move goes on and ends, that all rows are right, and that nothing is left of
    /// the move.
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

/// Plays stories, each on a cluster that no other one uses meanwhile, and returns their number and
/// those that failed.
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
