//! Wait: polls a rebalance until it has ended. Progress is a bar on a terminal, and lines
//! otherwise.
//!
//! **Invariant:** an interrupt (Ctrl-C) ends the wait, but does not cancel the rebalance. A
//! rebalance that this process carries out stays in its state, and can be continued.
//! **Not here:** the state of a rebalance (`cluster`).

use std::time::{Duration, Instant};

use engine::rebalance_record::RebalanceState;
use engine::rebalance_view::RebalanceView;
use indicatif::{HumanBytes, HumanCount, ProgressBar};

use super::super::router_polls::RouterPolls;
use super::super::{CommandError, interrupt};
use super::place::RebalancePlace;
use super::{details, state};
use crate::terminal::{Terminal, say};

pub(super) const EXAMPLES: &str = "\
Exit code 0 means that all slots have moved, or that a rebalance that was to be cancelled was.
Ctrl-C ends the wait, and the rebalance goes on. If no router serves the files when the command
begins, it carries the rebalance out itself. If a router stops meanwhile and none starts within
30 s, the wait ends with exit code 2.

Example:
  shard-manager rebalance wait 9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71";

/// Longest interval between two lines about a running rebalance.
const LINE: Duration = Duration::from_secs(10);

/// Waits for a rebalance.
pub(super) fn run(
    place: &mut RebalancePlace,
    id: &str,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let first = place.show(id)?;
    if first.has_ended() {
        return follow(place, first, terminal);
    }
    place.serve_if_stopped()?;
    let first = place.poll(id)?;
    follow(place, first, terminal)
}

/// Waits until a rebalance has ended, and shows it. Fails if it has not ended as it was meant to.
pub(super) fn follow(
    place: &RebalancePlace,
    first: RebalanceView,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    interrupt::watch();
    let was_cancelled = first.state == RebalanceState::Cancelling.name();
    let last = until_ended(place, first, terminal)?;
    terminal.show(&last, |terminal| details(&last, terminal))?;
    let is_cancelled = last.state == RebalanceState::Cancelled.name();
    if last.state == RebalanceState::Done.name() || (was_cancelled && is_cancelled) {
        return Ok(());
    }
    let reason = last.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Err(CommandError::Found(format!("the rebalance is {}{reason}", last.state)))
}

fn until_ended(
    place: &RebalancePlace,
    first: RebalanceView,
    terminal: &Terminal,
) -> Result<RebalanceView, CommandError> {
    let mut shown = first;
    let mut report = Report::begin(terminal, &shown);
    let mut polls = RouterPolls::begin();
    loop {
        report.show(&shown);
        if shown.has_ended() {
            report.bar.finish_and_clear();
            return Ok(shown);
        }
        if !RouterPolls::pause() {
            report.bar.finish_and_clear();
            let (id, flags) = (&shown.id, place.flags());
            let again = format!("`shard-manager rebalance wait {id}{flags}`");
            return Err(CommandError::Refused(if place.is_own() {
                format!(
                    "cancelled; the rebalance stays as it is: {again} or a router carries it on"
                )
            } else {
                format!("cancelled; the rebalance goes on: {again} waits again")
            }));
        }
        if let Some(view) = polls.answer(place.poll(&shown.id))? {
            shown = view;
        }
    }
}

/// Progress report of a running rebalance.
struct Report<'t> {
    terminal: &'t Terminal,
    bar: ProgressBar,
    /// Number of slots that had moved at the first poll, and the time of that poll.
    began: (usize, Instant),
    /// Last line that was written, without its numbers, and the time at which it was written.
    last_line: Option<(String, Instant)>,
}

impl<'t> Report<'t> {
    fn begin(terminal: &'t Terminal, shown: &RebalanceView) -> Self {
        let bar = terminal.steps("rebalance", shown.slots as u64);
        let began = (shown.slots_moved, Instant::now());
        Self { terminal, bar, began, last_line: None }
    }

    /// Shows a rebalance on the bar or, if there is no bar, as a line when its state or reason has
    /// changed or the last line is as old as `LINE`.
    fn show(&mut self, shown: &RebalanceView) {
        self.bar.set_position(shown.slots_moved as u64);
        let (numbers, left) = (numbers(shown), self.left(shown));
        let reason = shown.reason.as_deref().unwrap_or_default();
        let state = state(shown);
        self.bar.set_message(format!("{state:<10} {numbers}{left} {reason}"));
        let state = [&*state, reason].join(" ");
        let is_news =
            self.last_line.as_ref().is_none_or(|(line, at)| *line != state || at.elapsed() >= LINE);
        if is_news && self.terminal.has_lines() {
            say(format_args!("{}: {} {numbers}{left}", shown.id, state.trim_end()));
            self.last_line = Some((state, Instant::now()));
        }
    }

    /// Returns the time that is left, estimated from the slots moved since the first poll; empty if
    /// none has moved since then, or none is left.
    fn left(&self, shown: &RebalanceView) -> String {
        let (before, at) = self.began;
        let moved = shown.slots_moved.saturating_sub(before);
        let left = shown.slots.saturating_sub(shown.slots_moved);
        if moved == 0 || left == 0 {
            return String::new();
        }
        let seconds = at.elapsed().as_secs_f64() * left as f64 / moved as f64;
        format!(", about {seconds:.0} s left")
    }
}

fn numbers(shown: &RebalanceView) -> String {
    let rows = shown.rows.map(|rows| format!(", {} rows", HumanCount(rows)));
    let bytes = shown.bytes.map(|bytes| format!(", {}", HumanBytes(bytes)));
    format!(
        "{} of {} slots, {} of {} moves{}{}",
        shown.slots_moved,
        shown.slots,
        shown.moved_count,
        shown.move_count,
        rows.unwrap_or_default(),
        bytes.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use engine::rebalance_view::GoalView;

    use super::*;

    fn running(slots_moved: usize) -> RebalanceView {
        let goal = GoalView { by: "slots".to_owned(), placement: None, shard: None, group: None };
        RebalanceView {
            id: "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71".to_owned(),
            goal,
            state: RebalanceState::Running.name().to_owned(),
            stalled: false,
            rate: None,
            keep: 900,
            slots: 128,
            slots_moved,
            needed_slots: 128,
            move_count: 2,
            moved_count: slots_moved / 64,
            failed_count: 0,
            rows: Some(1_200),
            bytes: Some(3 << 20),
            planned_rows: None,
            planned_bytes: None,
            skew_before: Some(1.5),
            skew_planned: Some(1.0),
            skew_measured: None,
            reason: Some("shard1 is busy".to_owned()),
            began_at: None,
            changed_at: None,
            ended_at: None,
            actions: Vec::new(),
            moves: None,
        }
    }

    #[test]
    fn the_bar_shows_the_slots_that_have_moved_and_the_time_left() {
        let terminal = Terminal::new(true);
        let mut report = Report::begin(&terminal, &running(0));
        report.show(&running(0));
        assert_eq!((report.bar.position(), report.bar.length()), (0, Some(128)));
        assert!(!report.bar.message().contains("left"), "no pace is known yet");
        report.show(&running(64));
        assert_eq!(report.bar.position(), 64);
        let message = report.bar.message();
        for part in
            ["running", "64 of 128 slots, 1 of 2 moves, 1,200 rows", " s left", "shard1 is busy"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
