//! Stop points: named places in a move of slots at which this process kills or freezes itself, so
//! that tests can cover a crash at each step of the table below. This violates no guarantee.
//!
//! The environment variable `TESSERA_STOP_AT` names the stop point, such as `kill:after_commit`. A
//! number may follow: with `freeze:before_fence#2` the process stops when it reaches the point for
//! the second time.
//!
//! | Time | Meaning |
//! |---|---|
//! | `before` | the mover has decided on the step, but has not sent the request for it |
//! | `inside` | the shard has executed the step, but has not committed its transaction |
//! | `after` | the step is committed, but the mover has not acted on the result |
//!
//! | Step | Work of the step |
//! |---|---|
//! | `plan` | the catalog stores the record of the move |
//! | `prepare`, `trace`, `raise` | both shards create their records, or accept a new mover |
//! | `store`, `copy_again`, `trim` | rows are copied, or recorded changes are deleted |
//! | `verify` | the copy is compared with its source |
//! | `fence`, `commit`, `activate` | the slots get their new owner |
//! | `publish` | the shard map in the catalog names the new owner |
//! | `reverse` | source and target exchange their roles, for a rollback |
//! | `lift`, `discard` | the move is cancelled, and its copy deleted |
//! | `begin_cleaning`, `clean`, `forget` | old rows and records of the move are deleted |
//! | `end` | the catalog records that the move has ended |
//!
//! **Invariant:** a process stops at most once, and only at the point that its environment names.
//! **Not here:** the calls of [`reach`], which are in the code of the steps.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use super::StopTime;

/// Environment variable that names the stop point.
pub const STOP_VARIABLE: &str = "TESSERA_STOP_AT";

/// Steps of a move that have stop points.
pub const STEPS: [&str; 18] = [
    "plan",
    "prepare",
    "trace",
    "raise",
    "store",
    "copy_again",
    "trim",
    "verify",
    "fence",
    "commit",
    "activate",
    "publish",
    "reverse",
    "lift",
    "discard",
    "begin_cleaning",
    "clean",
    "forget",
];
/// Last step of a move: the catalog records that the move has ended.
pub const LAST_STEP: &str = "end";

/// Place at which the process stops itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopPoint {
    time: StopTime,
    step: &'static str,
    /// Number of times that the process must reach the place before it stops, at least 1.
    turn: u64,
    freezes: bool,
}

/// Value of the environment variable that does not name a stop point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{STOP_VARIABLE} is {text:?}, not (kill|freeze):(before|inside|after)_STEP with #2 and so on \
     behind it if it is to be passed before, and one of the steps {}, {LAST_STEP}",
    STEPS.join(", ")
)]
pub struct UnknownStopPoint {
    text: String,
}

/// Returns the stop point of this process; `None` if the environment variable is not set.
///
/// # Errors
/// [`UnknownStopPoint`] if the environment variable does not name a stop point.
pub fn stop_point() -> Result<Option<StopPoint>, UnknownStopPoint> {
    static POINT: OnceLock<Result<Option<StopPoint>, UnknownStopPoint>> = OnceLock::new();
    let point = POINT.get_or_init(|| {
        let text = std::env::var_os(STOP_VARIABLE).unwrap_or_default();
        let text = text.to_string_lossy();
        if text.is_empty() {
            return Ok(None);
        }
        let unknown = || UnknownStopPoint { text: text.clone().into_owned() };
        parse(&text).map(Some).ok_or_else(unknown)
    });
    point.clone()
}

/// Kills or freezes this process if its stop point is at this time of this step.
pub fn reach(time: StopTime, step: &str) {
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let Ok(Some(point)) = stop_point() else { return };
    if point.time != time || point.step != step {
        return;
    }
    if REACHED.fetch_add(1, Ordering::SeqCst) + 1 != point.turn {
        return;
    }
    let signal = if point.freezes { Signal::STOP } else { Signal::KILL };
    let sent = kill_process(getpid(), signal);
    while !point.freezes && sent.is_ok() {
        // The signal ends the process. Until then this thread must not continue.
        std::thread::park();
    }
}

fn parse(text: &str) -> Option<StopPoint> {
    let (way, place) = text.split_once(':')?;
    let freezes = match way {
        "kill" => false,
        "freeze" => true,
        _ => return None,
    };
    let (place, turn) = place.split_once('#').unwrap_or((place, "1"));
    let turn = turn.parse().ok().filter(|turn| *turn > 0)?;
    let (time, step) = place.split_once('_')?;
    let time = match time {
        "before" => StopTime::Before,
        "inside" => StopTime::Inside,
        "after" => StopTime::After,
        _ => return None,
    };
    let step = STEPS.into_iter().chain([LAST_STEP]).find(|known| *known == step)?;
    Some(StopPoint { time, step, turn, freezes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_and_an_unknown_one_is_refused() {
        let point = |time, step, turn, freezes| StopPoint { time, step, turn, freezes };
        for (text, read) in [
            ("kill:after_commit", point(StopTime::After, "commit", 1, false)),
            ("freeze:before_begin_cleaning#3", point(StopTime::Before, "begin_cleaning", 3, true)),
            ("kill:inside_end", point(StopTime::Inside, "end", 1, false)),
        ] {
            assert_eq!(parse(text), Some(read), "{text}");
        }
        for text in ["", "kill", "kill:commit", "kill:after_commits", "stop:after_commit"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for text in ["kill:during_commit", "kill:after_commit#0", "kill:after_commit#x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_step_has_a_line_in_the_table() {
        let table = include_str!("stop_points.rs");
        let lines: Vec<&str> = table.lines().filter(|line| line.starts_with("//! | `")).collect();
        for step in STEPS.into_iter().chain([LAST_STEP]) {
            let named = format!("`{step}`");
            assert!(lines.iter().any(|line| line.contains(&named)), "{step}");
        }
    }
}
