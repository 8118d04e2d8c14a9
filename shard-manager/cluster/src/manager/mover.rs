//! Mover: the task in which a process carries out the cluster's moves of slots between shards.
//!
//! ```text
//!   each second: lead? ──▶ list ──▶ a run for each open move that need not wait
//! ```
//! The catalog lets one process at a time lead: only the leader carries out moves. When a leader
//! ends or loses the lead, it leaves its moves as they are, and the next leader resumes them from
//! the state that both shards have stored.
//!
//! These terms are used in all files of the folder. The **origin** owned the slots when the move
//! was planned, and the **destination** is to own them. A **leg** transfers the slots in one
//! direction, from its **source** to its **target**: the first leg goes from the origin to the
//! destination, and each change of direction (a rollback) begins the next. A **round** copies some
//! rows or recorded changes. A **fence** makes the writes of the slots wait while they are handed
//! over. After the commit the source is **kept** for some time: the changes of the new owner flow
//! back to it, so that a rollback need not copy all rows. Each mover that takes a move over begins
//! a higher **term**, and the shards refuse the requests of lower terms.
//!
//! **Invariant:** a process has at most one run (the task that carries out one move) of each move.
//! **Not here:** the steps of one move (`move_run`), the decision about a step
//! (`moves::next_step`), the orders of an operator (`moves`).

mod copy_cleaner;
mod copy_difference;
mod copy_forecast;
mod copy_lag;
mod copy_pace;
mod copy_rate;
mod copy_steps;
mod fence_clock;
mod left_copies;
mod left_search;
mod lone_side;
mod lost_moves;
mod move_answers;
mod move_limits;
mod move_reports;
mod move_round;
mod move_run;
mod move_sides;
mod move_steps;
mod phases;
mod publication;
mod recorded_changes;
mod trim_waits;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::move_catalog::{MoveCatalog, MoveReport};
use engine::move_record::{MovePhase, MoveProgressReport, MoveRecord};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use moves::identity::MoveId;

use self::fence_clock::FenceTimes;
use self::left_copies::{LeftCopies, Remains};
use self::left_search::{LeftSearch, Searched};
use self::move_limits::MoveLimits;
use self::move_run::MoveRun;
use super::Manager;
use super::move_announcements::MoveWatch;

/// Interval at which the catalog is queried for moves.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait for a response of the catalog.
const CATALOG_MAX: Duration = Duration::from_secs(5);

/// Carries out the moves of the cluster whenever the catalog lets this process lead, until the
/// future is dropped. One task of a process does this.
pub(super) async fn carry_out(manager: &Manager) {
    let Some(catalog) = manager.backend.move_catalog() else { return };
    let mover = Mover {
        manager,
        catalog,
        running: BTreeSet::new(),
        events: FuturesUnordered::new(),
        fences: Arc::default(),
        left_copies: LeftCopies::default(),
        left_search: LeftSearch::default(),
    };
    mover.run().await;
}

/// Task that carries out moves.
struct Mover<'m> {
    manager: &'m Manager,
    catalog: &'m dyn MoveCatalog,
    /// Moves that have a run.
    running: BTreeSet<MoveId>,
    events: FuturesUnordered<BoxFuture<'m, Event>>,
    fences: Arc<FenceTimes>,
    /// Cancelled and failed moves that may have left rows or records on their shards.
    left_copies: LeftCopies,
    /// Search of the shards for ended moves that the catalog no longer lists, and for moves that it
    /// has lost.
    left_search: LeftSearch,
}

/// End of a task of the mover.
enum Event {
    /// The catalog was queried, with this result.
    Looked(MoveWatch, Look),
    /// A run has ended; true if its move has ended, too.
    Ended(MoveId, bool),
    /// The attempt to report why a move waits has ended.
    Postponed,
    /// The attempt to delete what ended moves have left is over; this is what may remain of each.
    Deleted(Vec<(MoveId, Remains)>),
    /// Shards were searched for records of moves.
    Searched(Searched),
}

/// Result of a query of the catalog.
enum Look {
    /// The process leads, and these are the moves, the latest first.
    Leads(Vec<MoveRecord>),
    /// Another process leads.
    Follows,
    /// The catalog does not answer. Runs continue: only the state on the shards matters to them.
    Unknown,
}

impl<'m> Mover<'m> {
    async fn run(mut self) {
        self.look(self.manager.move_announcements.watch(), Duration::ZERO);
        while let Some(event) = self.events.next().await {
            match event {
                Event::Looked(watch, look) => {
                    match look {
                        Look::Leads(records) => {
                            self.manager.move_status.list(&records);
                            self.start(&records);
                            self.delete_left_copies(&records);
                            self.search_left_copies();
                            self.announce_lead();
                        }
                        Look::Follows => {
                            self.manager.move_status.list(&[]);
                            self.manager.move_announcements.set_leading(false);
                            self.stop();
                        }
                        Look::Unknown => {}
                    }
                    self.look(watch, LOOK);
                }
                Event::Ended(id, has_ended) => {
                    self.running.remove(&id);
                    if has_ended {
                        // Another move may have waited for it.
                        self.manager.move_announcements.announce();
                    }
                }
                Event::Postponed => {}
                Event::Deleted(found) => self.left_copies.settle(found, Instant::now()),
                Event::Searched(found) => {
                    let now = Instant::now();
                    let are_noted = self.left_copies.note_found(&found.records, now);
                    self.left_search.settle(&found, are_noted, now);
                    self.announce_lead();
                }
            }
        }
    }

    /// Queries the catalog after this time, or as soon as a move or an order is announced.
    fn look(&self, mut watch: MoveWatch, after: Duration) {
        let catalog = self.catalog;
        let look = async move {
            watch.rest(after).await;
            let look = tokio::time::timeout(CATALOG_MAX, look(catalog)).await;
            Event::Looked(watch, look.unwrap_or(Look::Unknown))
        };
        self.events.push(look.boxed());
    }

    /// Announces that this process leads, so that rebalances may begin moves. This waits for the
    /// first search of the shards, which lists lost moves again: they may concern the same slots.
    fn announce_lead(&self) {
        if self.left_search.has_searched() {
            self.manager.move_announcements.set_leading(true);
        }
    }

    /// Drops all runs, the search of the shards, and the attempt to delete what ended moves have
    /// left.
    fn stop(&mut self) {
        if !self.running.is_empty() {
            tracing::info!("another process carries the moves out from now on");
        }
        self.running.clear();
        self.events.clear();
        self.left_copies = LeftCopies::default();
        self.left_search = LeftSearch::default();
    }

    /// Searches the shards for records of moves, if an attempt is due.
    fn search_left_copies(&mut self) {
        let Some(due) = self.left_search.due(self.manager, Instant::now()) else { return };
        let search = left_search::search(self.manager, self.catalog, due);
        self.events.push(search.map(Event::Searched).boxed());
    }

    /// Deletes what ended moves have left on their shards, if an attempt is due.
    fn delete_left_copies(&mut self, records: &[MoveRecord]) {
        let Some(due) = self.left_copies.due(records, Instant::now()) else { return };
        self.events.push(copy_cleaner::delete(self.manager, due).map(Event::Deleted).boxed());
    }

    /// Starts a run for each open move that has no run and need not wait for another move.
    fn start(&mut self, records: &[MoveRecord]) {
        let mut limits = MoveLimits::of(records, &self.running);
        let open = records.iter().rev().filter(|record| !record.phase.has_ended());
        for record in open {
            if self.running.contains(&record.id) {
                continue;
            }
            match limits.take(record) {
                Ok(()) => {
                    self.running.insert(record.id);
                    let run = MoveRun::new(
                        self.manager,
                        self.catalog,
                        record.clone(),
                        Arc::clone(&self.fences),
                    );
                    let id = record.id;
                    let ended = move |has_ended| Event::Ended(id, has_ended);
                    self.events.push(run.carry_out().map(ended).boxed());
                }
                Err(reason) if record.progress.reason.as_ref() != Some(&reason) => {
                    let postponed = postpone(self.catalog, record.clone(), reason);
                    self.events.push(postponed.map(|()| Event::Postponed).boxed());
                }
                Err(_) => {}
            }
        }
    }
}

/// Reports to the catalog why a move has not begun.
async fn postpone(catalog: &dyn MoveCatalog, record: MoveRecord, reason: String) {
    let progress = MoveProgressReport { reason: Some(reason), ..record.progress };
    let report = MoveReport { phase: MovePhase::Planned, progress };
    let reported = catalog.report(record.id, record.term, &report);
    match tokio::time::timeout(CATALOG_MAX, reported).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a move that waits was not reported"),
        Err(_elapsed) => tracing::debug!("a move that waits was not reported in time"),
    }
}

async fn look(catalog: &dyn MoveCatalog) -> Look {
    let listed = match catalog.lead().await {
        Ok(true) => catalog.list().await,
        Ok(false) => return Look::Follows,
        Err(error) => Err(error),
    };
    listed.map_or_else(
        |error| {
            tracing::debug!(%error, "the catalog does not list the moves");
            Look::Unknown
        },
        Look::Leads,
    )
}
