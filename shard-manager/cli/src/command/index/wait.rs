//! Wait: polls an index until every shard has it or, after a drop, no shard has it any longer.
//! Progress is a bar on a terminal, and lines otherwise.
//!
//! **Invariant:** an interrupt (Ctrl-C) ends the wait, but never the work of the router.

use std::thread::sleep;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::super::{CommandError, interrupt};
use super::place::IndexPlace;
use super::state;
use super::view::IndexView;
use crate::terminal::{Terminal, say};

/// Interval at which an index is polled.
const LOOK: Duration = Duration::from_millis(300);
/// Interval between two checks for an interrupt.
const NAP: Duration = Duration::from_millis(50);
/// Time for which the router may be unreachable before the wait fails: it may restart, or another
/// one may take over.
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Waits until an index is ready, has failed or is being dropped, and returns it.
pub(super) fn until_built(
    place: &IndexPlace,
    begun: IndexView,
    terminal: &Terminal,
) -> Result<IndexView, CommandError> {
    let name = begun.name.clone();
    let mut follower = Follower::begin(place, &begun, terminal);
    let mut shown = Some(begun);
    loop {
        let Some(index) = shown else {
            let line = format!("the index {name} was dropped while it was being built");
            return Err(CommandError::Found(line));
        };
        follower.show(&index);
        if index.is_ready() || index.is_lost() {
            return Ok(index);
        }
        shown = follower.next(&name)?;
    }
}

/// Waits until an index is no longer listed.
pub(super) fn until_dropped(
    place: &IndexPlace,
    begun: IndexView,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let name = begun.name.clone();
    let mut follower = Follower::begin(place, &begun, terminal);
    let mut shown = Some(begun);
    while let Some(index) = shown {
        follower.show(&index);
        shown = follower.next(&name)?;
    }
    Ok(())
}

/// Polls one index, and reports its progress.
struct Follower<'f> {
    place: &'f IndexPlace,
    terminal: &'f Terminal,
    bar: ProgressBar,
    last_line: String,
    seen: Instant,
}

impl<'f> Follower<'f> {
    fn begin(place: &'f IndexPlace, index: &IndexView, terminal: &'f Terminal) -> Self {
        interrupt::watch();
        let bar = terminal.steps(&index.name, index.shards.unwrap_or(1));
        Self { place, terminal, bar, last_line: String::new(), seen: Instant::now() }
    }

    /// Shows the state of an index on the bar or, if there is no bar, as a line each time that it
    /// changes.
    fn show(&mut self, index: &IndexView) {
        let reason = index.reason.as_deref().unwrap_or_default();
        let line = format!("{} {reason}", state(index));
        self.bar.set_position(index.built.unwrap_or(0));
        self.bar.set_message(line.trim_end().to_owned());
        if line != self.last_line && self.terminal.has_lines() {
            say(format_args!("{}: {}", index.name, line.trim_end()));
        }
        self.last_line = line;
    }

    /// Waits for one interval, and returns the index; `None` if it is no longer listed.
    fn next(&mut self, name: &str) -> Result<Option<IndexView>, CommandError> {
        loop {
            let next = Instant::now() + LOOK;
            while Instant::now() < next {
                if interrupt::is_interrupted() {
                    let (table, flags) = (self.place.table(), self.place.flags());
                    let again = format!("`shard-manager index list {table}{flags}` shows it");
                    let line =
                        format!("cancelled; the router continues to work on the index: {again}");
                    return Err(CommandError::Refused(line));
                }
                sleep(NAP);
            }
            match self.place.list() {
                Ok(indexes) => {
                    self.seen = Instant::now();
                    return Ok(indexes.into_iter().find(|index| index.name == name));
                }
                Err(error) if self.seen.elapsed() > UNREACHABLE_MAX => return Err(error),
                Err(_) => {}
            }
        }
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
