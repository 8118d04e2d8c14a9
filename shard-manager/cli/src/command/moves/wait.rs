//! Wait: polls a move until the target owns the slots. Progress is a bar on a terminal, and lines
//! otherwise.
//!
//! **Invariant:** an interrupt (Ctrl-C) ends the wait, but does not cancel the move. A move that
//! this process carries out stays in its state, and can be continued.
//! **Not here:** the state of a move (`cluster`).

use std::time::{Duration, Instant};

use clap::Args;
use engine::move_record::{MovePhase, goal_name};
use engine::move_view::MoveView;
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use moves::observation::MoveGoal;

use super::super::router_polls::RouterPolls;
use super::super::{ClusterSource, CommandError, interrupt};
use super::place::MovePlace;
use super::{details, lag, phase};
use crate::terminal::{Terminal, say};

pub(super) const EXAMPLES: &str = "\
Exit code 0 means that the target owns the slots; after a cancellation or a rollback, that the
source does. Ctrl-C ends the wait, and the move goes on. If no router serves the files when the
command begins, it carries the move out itself. If a router stops meanwhile and none starts within
30 s, the wait ends with exit code 2.

Examples:
  shard-manager move wait 5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e
  shard-manager move wait 5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e --ended --json";

/// Longest interval between two lines about a running move.
const LINE: Duration = Duration::from_secs(10);

/// Move that is waited for, on the command line.
#[derive(Args, Clone, Debug)]
pub(super) struct WaitArgs {
    /// Id of the move
    #[arg(value_name = "ID")]
    id: String,
    /// Wait for the end of the move, also while its source is kept for a rollback
    #[arg(long)]
    ended: bool,
    #[command(flatten)]
    source: ClusterSource,
}

/// Waits for a move.
pub(super) fn run(args: &WaitArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let mut place = MovePlace::of(&args.source)?;
    let first = place.show(&args.id)?;
    if is_over(&first, args.ended) {
        return follow(&place, first, args.ended, terminal);
    }
    place.serve_if_stopped()?;
    let first = place.poll(&args.id)?;
    follow(&place, first, args.ended, terminal)
}

/// Waits until the target of a move owns the slots or, if `ended` is true, until the move has
/// ended. Then shows the move. Fails if it has not ended as it was meant to.
pub(super) fn follow(
    place: &MovePlace,
    first: MoveView,
    ended: bool,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    interrupt::watch();
    let returns = first.goal == goal_name(MoveGoal::Back);
    let last = until_arrived(place, first, ended, terminal)?;
    terminal.show(&last, |_| details(&last))?;
    let is_back = ["cancelled", "rolled_back"].contains(&&*last.phase);
    if if returns { is_back } else { last.has_arrived() } {
        return Ok(());
    }
    let reason = last.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Err(CommandError::Found(format!("the move is {}{reason}", last.phase)))
}

/// Returns true if a wait for a move is over: the move has ended or, unless `ended` is true, the
/// target owns the slots.
fn is_over(shown: &MoveView, ended: bool) -> bool {
    shown.has_ended() || (!ended && shown.has_arrived())
}

/// Polls a move until the wait for it is over, and returns it.
fn until_arrived(
    place: &MovePlace,
    first: MoveView,
    ended: bool,
    terminal: &Terminal,
) -> Result<MoveView, CommandError> {
    let mut shown = first;
    let mut report = Report::begin(terminal, &shown);
    let mut polls = RouterPolls::begin();
    loop {
        report.show(&shown);
        if is_over(&shown, ended) {
            report.end();
            return Ok(shown);
        }
        if !RouterPolls::pause() {
            report.end();
            let (id, flags) = (&shown.id, place.flags());
            let ended = if ended { " --ended" } else { "" };
            let again = format!("`shard-manager move wait {id}{ended}{flags}`");
            return Err(CommandError::Refused(if place.is_own() {
                format!("cancelled; the move stays as it is: {again} or a router carries it on")
            } else {
                format!("cancelled; the move goes on: {again} waits again")
            }));
        }
        if let Some(view) = polls.answer(place.poll(&shown.id))? {
            shown = view;
        }
    }
}

/// Progress report of a running move.
struct Report<'t> {
    terminal: &'t Terminal,
    bar: ProgressBar,
    /// Number of copied rows and bytes at the previous poll, and the time of that poll.
    previous: (u64, u64, Instant),
    /// Last line that was written, without its numbers, and the time at which it was written.
    last_line: Option<(String, Instant)>,
}

impl<'t> Report<'t> {
    fn begin(terminal: &'t Terminal, shown: &MoveView) -> Self {
        let bar = terminal.steps(&shown.to, steps_before(MovePhase::Keeping));
        let previous = (shown.rows, shown.bytes, Instant::now());
        Self { terminal, bar, previous, last_line: None }
    }

    /// Shows a move on the bar or, if there is no bar, as a line when its phase or reason has
    /// changed or the last line is as old as `LINE`.
    fn show(&mut self, shown: &MoveView) {
        let numbers = self.numbers(shown);
        let (state, reason) = (phase(shown), shown.reason.as_deref().unwrap_or_default());
        if let Some(phase) = MovePhase::parse(&shown.phase) {
            self.bar.set_position(steps_before(phase));
        }
        self.bar.set_message(format!("{state:<10} {numbers} {reason}"));
        let state = [&*state, reason].join(" ");
        let is_news =
            self.last_line.as_ref().is_none_or(|(line, at)| *line != state || at.elapsed() >= LINE);
        if is_news && self.terminal.has_lines() {
            say(format_args!("{}: {} {numbers}", shown.id, state.trim_end()));
            self.last_line = Some((state, Instant::now()));
        }
    }

    /// Returns, as text, the copied rows and bytes, their rates per second, the time that is left,
    /// and the lag.
    fn numbers(&mut self, shown: &MoveView) -> String {
        let (rows, bytes, at) = self.previous;
        let seconds = at.elapsed().as_secs_f64().max(0.001);
        let per_second = |more: u64| (more as f64 / seconds).round() as u64;
        let rate = per_second(shown.rows.saturating_sub(rows));
        let mib = shown.bytes.saturating_sub(bytes) as f64 / seconds / f64::from(1 << 20);
        self.previous = (shown.rows, shown.bytes, Instant::now());
        let lag = match lag(shown) {
            lag if ["0", "-"].contains(&&*lag) => String::new(),
            lag => format!(", {lag} behind"),
        };
        format!(
            "{} rows, {} ({} rows/s, {mib:.1} MiB/s){}{lag}",
            copied(shown),
            HumanBytes(shown.bytes),
            HumanCount(rate),
            time_left(shown)
        )
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Returns the number of copied rows and, if it is known and higher, the expected number of rows to
/// copy.
fn copied(shown: &MoveView) -> String {
    match shown.rows_expected.filter(|expected| *expected > shown.rows) {
        Some(expected) => format!("{} of about {}", HumanCount(shown.rows), HumanCount(expected)),
        None => HumanCount(shown.rows).to_string(),
    }
}

/// Returns the time that is left, as a part of a line; empty if it is not known.
fn time_left(shown: &MoveView) -> String {
    let left = shown.seconds_left.map(|seconds| format!(", about {seconds} s left"));
    left.unwrap_or_default()
}

/// Returns the number of phases before this one.
fn steps_before(phase: MovePhase) -> u64 {
    MovePhase::ALL.into_iter().take_while(|earlier| *earlier != phase).count() as u64
}
