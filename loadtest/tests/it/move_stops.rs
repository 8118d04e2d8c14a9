//! Tests of crashes at every step of a move: a router kills or freezes itself at a named stop point
//! (`shard-manager/model/src/sabotage/stop_points.rs`), and the next router resumes the move.
//!
//! With shards in files, one process carries out the move and contains its source, its target and
//! the catalog, so that each crash ends all of them.
//!
//! **Not here:** crashes at random times (`moves`), loss of power (the tests `power_loss` of
//! `shard-manager`).

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::move_client::Ending::{self, Cancelled, Done, RolledBack};
use crate::move_client::{MoveClient, RESUMED_MAX};
use crate::router::{MANAGER, bare_command};
use crate::served_router::ServedRouter;
use crate::{for_each, sabotage, text};

/// Longest wait until a stop point is reached.
const REACHED_MAX: Duration = Duration::from_secs(60);
/// Time for which a router is frozen. It is longer than any fence lasts.
const FROZEN: Duration = Duration::from_millis(2_500);
/// Crashes that every run of the tests covers: one for each line of the table of crashes in the
/// design document.
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

/// Moments of a step at which the router can stop.
const MOMENTS: [&str; 3] = ["before", "inside", "after"];
/// Steps of a forward move that a shard carries out.
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
/// Steps of a move that is rolled back, each with the number of times that it is reached until the
/// end.
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

/// Returns each stop point of a move that loses no recorded changes, as its name, with the ending
/// of the move that reaches it.
pub(crate) fn points() -> Vec<(Ending, String)> {
    let mut all = vec![(Done, "after_plan".to_owned())];
    let mut add = |ending, step: &str, turn: usize| {
        let is_change = !["publish", "verify", "end"].contains(&step);
        let moments = MOMENTS.iter().filter(|moment| is_change || **moment != "inside");
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
    all
}

/// Returns all crashes: each stop point alone, and each followed by a crash of the router that
/// takes over.
fn all() -> Vec<(Ending, Vec<String>)> {
    let all = points();
    let killed = all.iter().map(|(ending, point)| (*ending, vec![format!("kill:{point}")]));
    let frozen = all.iter().map(|(ending, point)| (*ending, vec![format!("freeze:{point}")]));
    let twice = all.iter().enumerate().filter(|(_, (_, point))| {
        // After these stop points no shard has a row of the move, so the router that takes over
        // need not raise the term.
        !["plan", "prepare#1", "end", "discard", "forget#2"].iter().any(|step| point.contains(step))
    });
    let twice = twice.map(|(number, (ending, point))| {
        let raise = format!("kill:{}_raise", MOMENTS[number % MOMENTS.len()]);
        (*ending, vec![format!("kill:{point}"), raise])
    });
    killed.chain(frozen).chain(twice).collect()
}

/// One test case: a router, a move of some of its slots, and a client that writes to them.
struct Story {
    router: ServedRouter,
    client: MoveClient,
}

/// Returns the command of a router that stops at the stop point `stop`, if one is given.
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
        let label = format!("{ending:?}: {}", stops.join(", "));
        let router = ServedRouter::start(
            tempfile::tempdir().unwrap(),
            command(stops.first().map(|stop| &**stop)),
        );
        let host = router.host.clone();
        Self { router, client: MoveClient::begin((host, label), ending, "key", &[]) }
    }

    /// Starts the router again, after it has ended.
    fn start_again(&mut self, stop: Option<&str>) {
        self.router.start_again(command(stop));
        self.client.host.clone_from(&self.router.host);
    }

    fn write_all(&mut self) {
        let router = &self.router;
        self.client.write_all(|| router.is_frozen());
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
                assert!(!freezes && status.signal() == Some(9), "{}: {status}", self.client.label);
                return;
            }
            self.write_all();
            let has_ended = self.client.direct();
            // At these stop points, the client may see the end of the move before the router stops.
            let is_last = stop.contains("_end");
            let is_lost = has_ended && !is_last || began.elapsed() > REACHED_MAX;
            assert!(
                !is_lost,
                "{}: {stop} is not reached: {:?}",
                self.client.label,
                self.client.shown()
            );
        }
    }

    /// Checks the files of the router after it has ended: every row is on its shard exactly once,
    /// and nothing of the move is left.
    fn check_files(&mut self) {
        self.router.end();
        let mut check = bare_command(&*MANAGER);
        check.args(["check", "--deep", "--data-dir"]).arg(self.router.folder().join("data"));
        let checked = check.output().unwrap();
        let said = text(&checked.stdout);
        assert_eq!(checked.status.code(), Some(0), "{}: {said}", self.client.label);
        for left in ["in a move", "moved away"] {
            assert!(!said.contains(left), "{}: {said}", self.client.label);
        }
    }
}

/// Runs a test case, in which the router stops at each of these points, one after the other.
fn play((ending, stops): (Ending, Vec<String>)) {
    let mut story = Story::begin(ending, &stops);
    let Story { router, client } = &mut story;
    client.begin_move(|| router.is_frozen());
    for (index, stop) in stops.iter().enumerate() {
        story.await_stop(stop);
        if !stop.starts_with("freeze") {
            story.start_again(stops.get(index + 1).map(|stop| &**stop));
        }
    }
    let Story { router, client } = &mut story;
    client.await_end(RESUMED_MAX, || router.log());
    if stops[0] == "kill:after_commit" {
        // The killed router began the fence, and its successor ended it.
        let shown = client.shown().unwrap();
        assert!(shown["longest_hold_ms"].as_f64() > Some(0.0), "{}: {shown}", client.label);
    }
    client.check_rows();
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
