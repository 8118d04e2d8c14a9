//! Outcome: the response to a bulk write, which counts the rows and lists those that failed.

use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponseBuilder};
use serde::Serialize;
use shard_manager::cache::ServedBy;
use shard_manager::error::Error;
use shard_manager::lane::LaneTimes;
use shard_manager::manager::BulkRowDone;
use shard_manager::position::Position;
use shard_manager::token::SessionToken;
use shard_manager::topology::ShardNumber;
use utoipa::ToSchema;

use crate::access::audit::note_rows_refused;
use crate::app::App;
use crate::problem::{Code, Problem, ProblemBody, Progress};
use crate::request_record;
use crate::response_headers::{AnswerOrigin, Timing, data_response};

/// Maximum number of failed rows that a response lists; `failed_total` counts all of them.
const FAILED_MAX: usize = 1_000;

/// Outcome of the rows.
#[derive(Serialize, ToSchema)]
pub(super) struct BulkAnswer<'a> {
    /// True if every row is stored.
    success: bool,
    /// Rows in the request.
    accepted: usize,
    /// Rows that are durable at the requested level.
    stored: usize,
    /// Rows that are not durable at that level, or not known to be.
    failed_total: usize,
    /// The first 1 000 of these rows, by index.
    failed: Vec<FailedRow<'a>>,
    /// Rows stored by each shard that stored any.
    shards: Vec<ShardRows<'a>>,
    /// Duration of the request, in milliseconds.
    elapsed_ms: u64,
}

/// A row that is not stored at the requested level.
#[derive(Serialize, ToSchema)]
pub(super) struct FailedRow<'a> {
    /// Index among the rows of the request, from 0. Blank lines and the header of CSV are not rows.
    index: usize,
    /// Shard that it was sent to, if it could be routed.
    shard: Option<&'a str>,
    /// `rejected`: it is not stored; `committed`: it is on the primary, but not confirmed at the
    /// requested level; `unknown`: it may be stored.
    outcome: &'a str,
    /// True if the same row may succeed later.
    retryable: bool,
    /// Problem of the row.
    error: ProblemBody<'a>,
}

/// Rows that a shard stored.
#[derive(Serialize, ToSchema)]
pub(super) struct ShardRows<'a> {
    /// The shard.
    shard: &'a str,
    /// Rows.
    rows: usize,
}

/// A row that is not durable at the requested level, with its index and its problem.
pub(super) struct RefusedRow {
    pub(super) index: usize,
    pub(super) problem: Problem,
}

/// Outcome of the rows that were processed so far.
pub(super) struct BulkOutcome {
    /// Number of stored rows of each shard, indexed by shard number.
    stored: Vec<usize>,
    /// Time that each shard has spent on rows, in its write queue (lane) and in the database,
    /// indexed by shard number; `None` if it received no row. The chunks for one shard are stored
    /// one after another, so their times are added.
    times: Vec<Option<LaneTimes>>,
    /// Failed rows: at least the first [`FAILED_MAX`] by index, and fewer than twice as many.
    refused: Vec<RefusedRow>,
    failed_total: usize,
    /// Number of rows that were refused because the caller lacks a right.
    forbidden: u64,
    /// Number of rows whose outcome is repeated from an earlier request with the same idempotency
    /// key.
    replayed: usize,
    pub(super) session: SessionToken,
}

impl BulkOutcome {
    pub(super) fn new(session: SessionToken) -> Self {
        let (stored, times) = (Vec::new(), Vec::new());
        let (refused, forbidden) = (Vec::new(), 0);
        Self { stored, times, refused, failed_total: 0, forbidden, replayed: 0, session }
    }

    /// Counts the stored rows by shard, and adds the failed ones to the failed rows so far.
    pub(super) fn add(&mut self, app: &App, done: Vec<BulkRowDone>) {
        for row in done {
            self.replayed += usize::from(is_replayed(&row));
            match row.outcome {
                Ok(_) => *entry(&mut self.stored, row.place.shard) += 1,
                Err((error, outcome)) => {
                    // The caller must not learn the shard of a key that it may not reach.
                    let is_known = !matches!(error, Error::Forbidden { .. });
                    let shard = app.manager.shard_name(row.place.shard);
                    let problem = Problem::from(error).outcome(outcome.name());
                    let problem = if is_known { problem.shard(shard) } else { problem };
                    self.refuse(RefusedRow { index: row.index, problem });
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, mut row: RefusedRow) {
        row.problem.ensure_outcome();
        self.forbidden += u64::from(row.problem.code() == Code::TSR403);
        self.failed_total += 1;
        self.refused.push(row);
        if self.refused.len() == 2 * FAILED_MAX {
            self.keep_first();
        }
    }

    /// Refuses the rows with these indices, which were not sent to a shard because the client has
    /// lost the right to write.
    pub(super) fn refuse_all(&mut self, rows: &[usize], problem: &Problem) {
        for index in rows {
            self.refuse(RefusedRow { index: *index, problem: problem.clone() });
        }
    }

    pub(super) fn extend_session(
        &mut self,
        app: &App,
        shard: ShardNumber,
        position: Option<Position>,
    ) {
        if let Some(position) = position {
            app.manager.sessions().extend(&mut self.session, shard, position);
        }
    }

    /// Adds the times of a chunk to those of the shard that stored it.
    pub(super) fn add_times(&mut self, shard: ShardNumber, times: LaneTimes) {
        let spent = entry(&mut self.times, shard).get_or_insert_default();
        *spent = spent.and_then(times);
    }

    /// Returns the number of shards that received rows.
    pub(super) fn shards(&self) -> usize {
        self.times.iter().flatten().count()
    }

    /// Enters the shards of the request, and the longest times of a shard, in the request record.
    pub(super) fn update_record(&self, request: &HttpRequest) {
        let asked = || self.times.iter().flatten();
        let slowest = asked().fold(LaneTimes::default(), |slowest, times| slowest.slower(*times));
        let numbered = (0..).map(ShardNumber).zip(&self.times);
        let mut shards = numbered.filter(|(_, times)| times.is_some()).map(|(shard, _)| shard);
        let only = shards.next().filter(|_| shards.next().is_none());
        request_record::update(request, |record| {
            record.fanout = request_record::fanout(self.shards());
            (record.shard, record.queue, record.database) = (only, slowest.queue, slowest.database);
            record.served_by = (record.fanout > 0).then_some(ServedBy::Primary);
        });
        if self.forbidden > 0 {
            note_rows_refused(request, self.forbidden);
        }
    }

    fn keep_first(&mut self) {
        self.refused.sort_by_key(|row| row.index);
        self.refused.truncate(FAILED_MAX);
    }

    fn stored(&self) -> usize {
        self.stored.iter().sum()
    }

    /// Returns true if the outcomes of all rows are repeated from an earlier request.
    pub(super) fn is_replayed(&self) -> bool {
        self.replayed > 0 && self.replayed == self.stored() + self.failed_total
    }

    /// Returns the response to a request whose rows were all processed, and its body, which is
    /// still to be serialized.
    pub(super) fn respond<'a>(
        &'a mut self,
        app: &'a App,
        request: &HttpRequest,
        began: Instant,
        route: Duration,
    ) -> (HttpResponseBuilder, BulkAnswer<'a>) {
        self.keep_first();
        let database = began.elapsed().saturating_sub(route);
        let timing = Timing { route, database, ..Timing::default() };
        let epoch = app.manager.map().epoch();
        let origin = AnswerOrigin::of_write(request, &self.session, epoch);
        let mut response = data_response(app, &origin, &timing);
        self.update_record(request);
        let stored_all = self.failed_total == 0;
        response.status(if stored_all { StatusCode::CREATED } else { StatusCode::MULTI_STATUS });
        (response, self.answer(app, began))
    }

    fn answer<'a>(&'a self, app: &'a App, began: Instant) -> BulkAnswer<'a> {
        let shards = (0..).map(ShardNumber).zip(&self.stored).filter(|(_, rows)| **rows > 0);
        let shards = shards
            .map(|(shard, rows)| ShardRows { shard: app.manager.shard_name(shard), rows: *rows });
        BulkAnswer {
            success: self.failed_total == 0,
            accepted: self.stored() + self.failed_total,
            stored: self.stored(),
            failed_total: self.failed_total,
            failed: self.refused.iter().map(failed_row).collect(),
            shards: shards.collect(),
            elapsed_ms: began.elapsed().as_millis() as u64,
        }
    }

    /// Returns the problem of a request that ended early: only the rows before `next_index` were
    /// processed.
    pub(super) fn partial(&mut self, app: &App, problem: Problem, next_index: usize) -> Problem {
        self.keep_first();
        let failed = self.refused.iter().map(failed_row).collect::<Vec<_>>();
        let failed = serde_json::to_value(failed).unwrap_or_default();
        let (stored, failed_total) = (self.stored(), self.failed_total);
        problem
            .partial(Progress { stored, next_index, failed_total, failed })
            .session(app.manager.sessions().token(&self.session))
    }
}

/// Returns the element for a shard in a vector indexed by shard number, which is extended if it is
/// too short.
#[inline]
fn entry<T: Clone + Default>(list: &mut Vec<T>, shard: ShardNumber) -> &mut T {
    if list.len() <= shard.index() {
        list.resize(shard.index() + 1, T::default());
    }
    &mut list[shard.index()]
}

/// Returns true if the outcome of a row is repeated from an earlier request.
fn is_replayed(row: &BulkRowDone) -> bool {
    match &row.outcome {
        Ok(done) => done.replayed,
        Err((error, _)) => matches!(error, Error::Remembered(_)),
    }
}

fn failed_row(row: &RefusedRow) -> FailedRow<'_> {
    FailedRow {
        index: row.index,
        shard: row.problem.shard.as_deref(),
        outcome: row.problem.outcome.unwrap_or("rejected"),
        retryable: row.problem.code().is_retryable(),
        error: ProblemBody::of(&row.problem, None),
    }
}
