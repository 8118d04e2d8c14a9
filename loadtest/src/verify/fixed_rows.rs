//! Fixed rows: rows that are written before the run and never changed. Therefore a walk over them
//! (an iteration by cursor) must return each of them exactly once, even if slots move meanwhile.
//!
//! **Invariant:** each walk is a session of its own, so that an interrupted walk is not mistaken
//! for the beginning of the next walk.
//! **Not here:** the walk after the run (`read_back`), the comparison of walks (`checker`).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use checker::history::{Kind, Level, Operation, Outcome, Page};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::attempt::{self, Attempted, Done};
use super::session::Session;
use crate::counters::Operation as Counted;
use crate::requests::{self, IDEMPOTENCY_KEY, SessionToken};
use crate::tables::USERS;

/// Value of the column `email` in these rows. Other rows of the run have another value there.
pub(super) const EMAIL: &str = "fixed";
/// Name of the table of these rows in the history. It differs from the name of the real table,
/// because walks over these rows do not return the other rows of the table.
pub(super) const NAME: &str = "loadtest_users-fixed";
/// Number of fixed rows.
const ROWS: u32 = 200;
/// Number of rows of a page. It is small, so that slots often change owners between the pages of a
/// walk.
const PAGE: u32 = 30;
/// Session number in the keys of these rows. Real sessions are numbered from 1.
const KEYS: u32 = 0;
/// Maximum number of attempts to write the rows.
const OPENINGS_MAX: u32 = 5;

/// Fixed rows of a run. The value is the session token of the write, once the rows are written.
#[derive(Debug, Default)]
pub(super) struct FixedRows(OnceLock<SessionToken>);

impl FixedRows {
    /// Returns true if the rows have been written.
    pub(super) fn are_there(&self) -> bool {
        self.0.get().is_some()
    }
}

#[derive(Deserialize)]
struct Rows {
    data: Vec<Row>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Row {
    user_id: String,
}

/// Writes the rows, which every node must store.
///
/// # Errors
/// Fails if no router accepts the rows.
pub(super) async fn write(session: &mut Session) -> anyhow::Result<()> {
    let mut text = String::new();
    for _ in 0..OPENINGS_MAX {
        let sent = write_once(session).await;
        if sent.outcome == Outcome::Ok && sent.answer.is_some_and(|answer| answer.status != 207) {
            if let Some(token) = session.token.clone() {
                // Setting the token cannot fail, because a run writes the rows once.
                let _ = session.of.fixed.0.set(token);
            }
            return Ok(());
        }
        text = sent.done.sample.verdict.err().map(|failure| failure.detail).unwrap_or_default();
    }
    anyhow::bail!("the rows that stay as they are cannot be written: {text}")
}

async fn write_once(session: &mut Session) -> Attempted {
    let run = session.client.names.run().to_owned();
    let mut request = session.operation(Kind::Write, &format!("{NAME}/{run}"));
    request.token = true;
    request.level = Level::All;
    let mut operations = Vec::new();
    let mut rows = Vec::new();
    for number in 0..ROWS {
        let row = session.client.names.once(KEYS, number);
        let key = session.of.recorder.key(&format!("{NAME}/{row}"));
        let value = session.log.draw();
        let value = session.log.value(value);
        let data = json!({"user_id": row, "name": value.to_string(), "email": EMAIL, "run": run});
        rows.push(json!({"data": session.client.names.placed(&row, data)}));
        operations.push(Operation { key, value, ..request });
    }
    let body = Bytes::from(json!({"table": USERS, "rows": rows}).to_string());
    let mut asked = requests::plain(Method::POST, "/api/bulk-write", body, None);
    if let Some(key) = requests::id_header(&session.log.value(request.request).to_string()) {
        asked.headers_mut().insert(IDEMPOTENCY_KEY, key);
    }
    let sent = attempt::send(session, asked, &mut request, Counted::Bulk, false).await;
    let outcomes = super::batch::outcomes(&sent, operations.len());
    for (operation, outcome) in operations.into_iter().zip(outcomes) {
        let Operation { key, value, .. } = operation;
        session.log.push(Operation { key, value, outcome, ..request });
    }
    sent
}

/// Walks over the rows by cursor, either with strong reads, or with reads from any node that have
/// the session token of the write. A request that fails ends the walk.
pub(super) async fn walk(session: &mut Session) -> Vec<Done> {
    let Some(token) = session.of.fixed.0.get().cloned() else { return Vec::new() };
    let router = session.random.below(u32::MAX) as usize;
    let is_strong = session.percent(50);
    let client = Arc::clone(&session.client);
    let mut walker = Session::of(Arc::clone(&session.of), client, router);
    walker.token = Some(token);
    walker.turns = session.turns.hand_over();
    let run = walker.client.names.run().to_owned();
    let path =
        format!("/api/read?table={USERS}&run=eq.{run}&email=eq.{EMAIL}&order=user_id&limit={PAGE}");
    let mut cursor = String::new();
    let mut all = Vec::new();
    // The number of pages is limited, so that the loop ends even if the cursor does not advance.
    for _ in 0..ROWS {
        let Ok(asked) = requests::get(&format!("{path}{cursor}")) else { break };
        let mut request = walker.operation(Kind::Read, &format!("{NAME}/{run}"));
        request.level = if is_strong { Level::Quorum } else { Level::One };
        request.token = !is_strong;
        let sent = attempt::send(&mut walker, asked, &mut request, Counted::Scatter, false).await;
        let answer = sent.answer.filter(|_| sent.outcome == Outcome::Ok);
        all.push(sent.done);
        let rows = answer.and_then(|answer| serde_json::from_slice::<Rows>(&answer.body).ok());
        let Some(Rows { data, next_cursor }) = rows else { break };
        let name = |row: &Row| walker.of.recorder.key(&format!("{NAME}/{}", row.user_id));
        let keys = data.iter().map(name).collect();
        let complete = next_cursor.is_none();
        let Operation { session, request, start, end, .. } = request;
        let table = NAME.to_owned();
        walker.of.recorder.page(Page { table, session, request, start, end, keys, complete });
        let Some(next) = next_cursor else { break };
        cursor = format!("&cursor={next}");
    }
    all
}
