//! Tests of crashes at every step of a move: a router kills or freezes itself at a named stop point
//! (`shard-manager/model/src/sabotage/stop_points.rs`), and the next start goes on.
//!
//! On files one process is mover, source, target and catalog, so each crash ends all of them.
//!
//! **Not here:** crashes at random times (`moves`), loss of power (`power_loss` of the manager).

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Answer, try_send};
use crate::router::{MANAGER, bare_command};
use crate::served_router::ServedRouter;
use crate::{for_each, sabotage, text};

/// Longest time in which a move ends after a crash.
const RESUMED_MAX: Duration = Duration::from_secs(30);
/// Longest time in which a stop point is reached.
const REACHED_MAX: Duration = Duration::from_secs(60);
/// Time for which a router is frozen: no fence lasts as long.
const FROZEN: Duration = Duration::from_millis(2_500);
/// Keys that a move takes along, and others that stay.
const MOVED_KEYS: usize = 4;
const OTHER_KEYS: usize = 2;
/// Keys with large values, which a move that is to be cancelled copies slowly, and their size.
const LARGE_KEYS: usize = 6;
const LARGE: usize = 900_000;

/// Wish of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The slots arrive, and the source is cleaned.
    Done,
    /// They arrive, and are taken back.
    RolledBack,
    /// The move is given up while rows are copied.
    Cancelled,
}

use Ending::{Cancelled, Done, RolledBack};

/// Crashes that every run of the tests meets: one of each line of the table of crashes.
const SHORT: [(Ending, &[&str]); 14] = [
    (Done, &["kill:after_plan"]),
    (Done, &["kill:after_prepare", "kill:before_raise"]),
    (Done, &["kill:inside_trace"]),
    (Done, &["kill:inside_store", "kill:inside_raise"]),
    (Done, &["kill:before_verify"]),
    (Done, &["kill:after_fence"]),
    (Done, &["kill:before_commit", "kill:after_raise", "kill:inside_commit"]),
    (Done, &["kill:after_commit", "kill:inside_activate"]),
    (Done, &["kill:after_activate", "kill:before_publish"]),
    (Done, &["freeze:before_commit"]),
    (Done, &["kill:inside_clean", "kill:after_forget"]),
    (Done, &["kill:before_end"]),
    (RolledBack, &["kill:after_reverse", "kill:after_commit"]),
    (Cancelled, &["kill:inside_lift", "kill:inside_discard"]),
];

/// Steps of a move in each direction that a shard carries out.
const CHANGES: [&str; 10] = [
    "prepare",
    "trace",
    "store",
    "trim",
    "fence",
    "commit",
    "activate",
    "begin_cleaning",
    "clean",
    "forget",
];
/// Steps of the way back, with the number of times that they are reached before it ends.
const BACK: [(&str, usize); 9] = [
    ("reverse", 2),
    ("fence", 2),
    ("commit", 2),
    ("activate", 2),
    ("publish", 2),
    ("trim", 2),
    ("begin_cleaning", 1),
    ("clean", 1),
    ("forget", 2),
];

/// Returns every single crash, and each again while the next router takes over.
fn all() -> Vec<(Ending, Vec<String>)> {
    let mut all = vec![(Done, "after_plan".to_owned())];
    let moments = ["before", "inside", "after"];
    let mut add = |ending, step: &str, turn: usize| {
        let is_change = !["publish", "verify", "end"].contains(&step);
        let moments = moments.iter().filter(|moment| is_change || **moment != "inside");
        all.extend(moments.map(|moment| (ending, format!("{moment}_{step}#{turn}"))));
    };
    CHANGES.iter().for_each(|step| add(Done, step, 1));
    ["verify", "publish", "end"].iter().for_each(|step| add(Done, step, 1));
    add(Done, "forget", 2);
    for (step, last) in BACK {
        (1..=last).for_each(|turn| add(RolledBack, step, turn));
    }
    add(RolledBack, "end", 1);
    ["lift", "discard", "end"].iter().for_each(|step| add(Cancelled, step, 1));
    let killed = all.iter().map(|(ending, point)| (*ending, vec![format!("kill:{point}")]));
    let frozen = all.iter().map(|(ending, point)| (*ending, vec![format!("freeze:{point}")]));
    let twice = all.iter().enumerate().filter(|(_, (_, point))| {
        // The next mover raises no term where no shard has a row.
        !["plan", "prepare#1", "end", "discard", "forget#2"].iter().any(|step| point.contains(step))
    });
    let twice = twice.map(|(number, (ending, point))| {
        let raise = format!("kill:{}_raise", moments[number % moments.len()]);
        (*ending, vec![format!("kill:{point}"), raise])
    });
    killed.chain(frozen).chain(twice).collect()
}

/// A key, and what was written under it.
struct Key {
    name: String,
    slot: u64,
    moves: bool,
    /// True if its value is written once only.
    is_large: bool,
    /// Number of the last value that was acknowledged, and of the last one that was sent.
    acknowledged: u64,
    sent: u64,
}

/// A router, a move of some of its slots, and a client that writes to them.
struct Story {
    router: ServedRouter,
    ending: Ending,
    keys: Vec<Key>,
    told: String,
}

/// Shards of the move.
const FROM: &str = "shard1";
const TO: &str = "shard2";

/// Returns the command of a router that stops at a point, or nowhere.
fn command(stop: Option<&str>) -> Command {
    let mut command = bare_command(&*sabotage::PROGRAM);
    if let Some(stop) = stop {
        command.env("TESSERA_STOP_AT", stop);
    }
    command.args(["--shards", "2", "--replicas", "1", "--operate", "--log", "info"]);
    command
}

impl Story {
    fn begin(ending: Ending, stops: &[String]) -> Self {
        let told = format!("{ending:?}: {}", stops.join(", "));
        let router = ServedRouter::start(
            tempfile::tempdir().unwrap(),
            command(stops.first().map(|stop| &**stop)),
        );
        let mut story = Self { router, ending, keys: Vec::new(), told };
        story.choose_keys();
        story.write_all();
        assert!(story.keys.iter().all(|key| key.acknowledged == 1), "{}", story.told);
        story
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        try_send(&self.router.host, (method, path), &[], &body.to_string()).ok()
    }

    /// Chooses keys of the first shard, each in a slot of its own.
    fn choose_keys(&mut self) {
        let large = if self.ending == Cancelled { LARGE_KEYS } else { 0 };
        let moved = MOVED_KEYS + large;
        for number in 0.. {
            let name = format!("key{number}");
            let route = self.ask("GET", &format!("/api/route?key={name}"), &json!({})).unwrap();
            let slot = route.body["slot"].as_u64().unwrap();
            if route.body["shard"] != FROM || self.keys.iter().any(|key| key.slot == slot) {
                continue;
            }
            let place = self.keys.len();
            let (moves, is_large) = (place < moved, (MOVED_KEYS..moved).contains(&place));
            self.keys.push(Key { name, slot, moves, is_large, acknowledged: 0, sent: 0 });
            if self.keys.len() == moved + OTHER_KEYS {
                break;
            }
        }
    }

    /// Writes the next value of each key. A write without a response may have happened.
    fn write_all(&mut self) {
        let mut keys = std::mem::take(&mut self.keys);
        for key in keys.iter_mut().filter(|key| !key.is_large || key.sent == 0) {
            if self.router.is_frozen() {
                break;
            }
            key.sent += 1;
            let padding = if key.is_large { "x".repeat(LARGE) } else { String::new() };
            let value = json!({"number": key.sent, "padding": padding});
            let answer = self.ask("PUT", &format!("/api/kv/{}", key.name), &value);
            if answer.is_some_and(|answer| answer.status < 300) {
                key.acknowledged = key.sent;
            }
        }
        self.keys = keys;
    }

    /// Begins the move, once the replicas follow. The router may end meanwhile.
    fn begin_move(&mut self) {
        let moved = self.keys.iter().filter(|key| key.moves);
        let slots: Vec<[u64; 2]> = moved.map(|key| [key.slot, key.slot]).collect();
        let keep = if self.ending == RolledBack { 600 } else { 0 };
        let mut wished = json!({"slots": slots, "from": FROM, "to": TO, "keep": keep});
        if self.ending == Cancelled {
            wished["rate"] = json!(1);
        }
        let began = Instant::now();
        loop {
            match self.ask("POST", "/api/moves", &wished) {
                Some(answer) if answer.status == 409 && began.elapsed() < RESUMED_MAX => {
                    self.write_all();
                }
                Some(answer) => return assert_eq!(answer.status, 202, "{}", answer.body),
                None => return,
            }
        }
    }

    /// Returns the move, if the router answers and lists it.
    fn shown(&self) -> Option<Value> {
        let moves = self.ask("GET", "/api/moves", &json!({}))?.body["moves"].clone();
        moves.as_array()?.first().cloned()
    }

    /// Gives the order that is wished for, if the move takes it. Returns true once the move has
    /// ended.
    fn direct(&self) -> bool {
        let Some(shown) = self.shown() else { return false };
        let order = match (self.ending, shown["phase"].as_str().unwrap()) {
            (RolledBack, "keeping") => "rollback",
            (Cancelled, "copying") => "cancel",
            _ => return !shown["ended_at"].is_null(),
        };
        if shown["actions"].as_array().unwrap().contains(&json!(order)) {
            let id = shown["id"].as_str().unwrap();
            // The answer is lost if the router stops first.
            let _ = self.ask("POST", &format!("/api/moves/{id}/{order}"), &json!({}));
        }
        false
    }

    /// Writes until the router has stopped.
    fn await_stop(&mut self, stop: &str) {
        let began = Instant::now();
        let freezes = stop.starts_with("freeze");
        loop {
            if freezes && self.router.is_frozen() {
                std::thread::sleep(FROZEN);
                return self.router.thaw();
            }
            if let Some(status) = self.router.ended() {
                assert!(!freezes && status.signal() == Some(9), "{}: {status}", self.told);
                return;
            }
            self.write_all();
            let has_ended = self.direct();
            // It may stop while it reports the end.
            let is_last = stop.contains("_end");
            let is_lost = has_ended && !is_last || began.elapsed() > REACHED_MAX;
            assert!(!is_lost, "{}: {stop} is not reached: {:?}", self.told, self.shown());
        }
    }

    /// Writes until the move has ended as is wished.
    fn await_end(&mut self) {
        let began = Instant::now();
        while !self.direct() {
            let shown = || format!("{:?}\n{}", self.shown(), self.router.log());
            assert!(began.elapsed() < RESUMED_MAX, "{}: {}", self.told, shown());
            self.write_all();
        }
        let shown = self.shown().unwrap();
        let phase = match self.ending {
            Done => "done",
            RolledBack => "rolled_back",
            Cancelled => "cancelled",
        };
        assert_eq!(shown["phase"], phase, "{}: {shown}", self.told);
    }

    /// Checks that each key has the last value that was acknowledged, or a later one, on the shard
    /// that should have it.
    fn check_rows(&mut self) {
        for Key { name, moves, acknowledged, sent, .. } in &self.keys {
            let (path, headers) = (format!("/api/kv/{name}"), [("x-consistency", "all")]);
            let read = try_send(&self.router.host, ("GET", &path), &headers, "").unwrap();
            let number = read.body["number"].as_u64();
            let is_right = number.is_some_and(|number| (*acknowledged..=*sent).contains(&number));
            assert!(is_right, "{}: {name} is {number:?}, not {acknowledged} to {sent}", self.told);
            let route = self.ask("GET", &format!("/api/route?key={name}"), &json!({})).unwrap();
            let owner = if *moves && self.ending == Done { TO } else { FROM };
            assert_eq!(route.body["shard"], owner, "{}: {name}", self.told);
        }
        self.write_all();
        for key in self.keys.iter().filter(|key| !key.is_large) {
            assert_eq!(key.acknowledged, key.sent, "{}: {} is refused", self.told, key.name);
        }
    }

    /// Checks the files of the stopped router: every row is on its shard once, and nothing is left
    /// of the move.
    fn check_files(&mut self) {
        self.router.end();
        let mut check = bare_command(&*MANAGER);
        check.args(["check", "--deep", "--data-dir"]).arg(self.router.folder().join("data"));
        let checked = check.output().unwrap();
        let said = text(&checked.stdout);
        assert_eq!(checked.status.code(), Some(0), "{}: {said}", self.told);
        for left in ["in a move", "moved away"] {
            assert!(!said.contains(left), "{}: {said}", self.told);
        }
    }
}

/// Plays a story: the router stops at each of these points, one after the other.
fn play((ending, stops): (Ending, Vec<String>)) {
    let mut story = Story::begin(ending, &stops);
    story.begin_move();
    for (index, stop) in stops.iter().enumerate() {
        story.await_stop(stop);
        if !stop.starts_with("freeze") {
            story.router.start_again(command(stops.get(index + 1).map(|stop| &**stop)));
        }
    }
    story.await_end();
    story.check_rows();
    story.check_files();
}

#[test]
fn a_move_goes_on_after_a_crash_and_loses_no_write_and_leaves_nothing() {
    let stories = SHORT.map(|(ending, stops)| {
        (ending, stops.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>())
    });
    for_each(stories, play);
}

#[test]
#[ignore = "takes minutes: cargo test -p loadtest --test it move_stops -- --ignored"]
fn a_move_goes_on_after_a_crash_at_every_stop_point() {
    let stories = all();
    eprintln!("{} crashes", stories.len());
    for_each(stories, play);
}

#[test]
fn a_stop_point_that_does_not_exist_is_refused() {
    let mut router = command(Some("kill:after_tea"));
    let folder = tempfile::tempdir().unwrap();
    let ended = router.current_dir(folder.path()).output().unwrap();
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("kill:after_tea") && said.contains("begin_cleaning"), "{said}");
}
