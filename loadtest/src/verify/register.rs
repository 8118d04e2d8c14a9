//! Register: a row of [`USERS`] whose column `name` holds the value that was written last.

use bytes::Bytes;
use checker::history::{Kind, Level, Operation, Outcome, Value};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::attempt::{self, Attempted, Done};
use super::session::{Acknowledged, Session};
use crate::counters::Operation as Counted;
use crate::http_client::{Answer, HttpRequest};
use crate::requests::{self, IDEMPOTENCY_KEY};
use crate::tables::USERS;

/// Path of a read of one key in [`USERS`].
const READ: &str = "/api/read?table=loadtest_users&limit=2";

/// Options of a read.
#[derive(Clone, Copy)]
pub(super) struct Read {
    pub(super) level: Level,
    pub(super) token: bool,
    pub(super) bound_ms: u32,
    pub(super) other: bool,
}

#[derive(Deserialize)]
struct WriteAnswer {
    version: u64,
    slot: Option<u16>,
}

#[derive(Deserialize)]
struct Rows {
    data: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    user_id: String,
    name: String,
    version: u64,
}

/// Returns the name of a register in the history.
pub(super) fn name(row: &str) -> String {
    format!("{USERS}/{row}")
}

/// Writes a value that was never written before.
pub(super) async fn write(session: &mut Session, row: &str) -> Done {
    let mut operation = session.operation(Kind::Write, &name(row));
    let value = session.log.value(operation.request);
    let run = session.client.names.run();
    let data = json!({"user_id": row, "name": value.to_string(), "email": "verify", "run": run});
    let body = json!({"table": USERS, "data": session.client.names.placed(row, data)});
    change(session, row, &body, value, &mut operation).await
}

/// Removes a row; a later write creates it again.
pub(super) async fn delete(session: &mut Session, row: &str) -> Done {
    let mut operation = session.operation(Kind::Delete, &name(row));
    let value = session.log.value(operation.request);
    let data = session.client.names.placed(row, json!({"user_id": row}));
    let body = json!({"table": USERS, "op": "delete", "data": data});
    change(session, row, &body, value, &mut operation).await
}

async fn change(
    session: &mut Session,
    row: &str,
    body: &serde_json::Value,
    value: Value,
    operation: &mut Operation,
) -> Done {
    operation.value = value;
    operation.token = true;
    operation.level = session.write_level();
    let asked = write_request(row, body, value);
    let counted = if operation.kind == Kind::Delete { Counted::Delete } else { Counted::Write };
    let Attempted { outcome, answer, done, .. } =
        attempt::send(session, asked.clone(), operation, counted, false).await;
    operation.version = answer.as_ref().and_then(version).unwrap_or_default();
    if outcome == Outcome::Ok && operation.kind == Kind::Write {
        let level = operation.level;
        if session.of.has_moves
            && let Some(slot) = answer.as_ref().and_then(slot)
        {
            session.of.moving.note_row(slot, row);
        }
        session.last = Some(Acknowledged { row: row.to_owned(), asked, value, level });
    }
    session.log.push(*operation);
    done
}

/// Sends the last acknowledged write again. It must change nothing, and get the same response as
/// before.
pub(super) async fn replay(session: &mut Session) -> Option<Done> {
    let Acknowledged { row, asked, value, level } = session.last.clone()?;
    let mut operation = session.operation(Kind::Replay, &name(&row));
    operation.value = value;
    operation.level = level;
    operation.token = true;
    let other = session.percent(50);
    let sent = attempt::send(session, asked, &mut operation, Counted::Replay, other).await;
    operation.version = sent.answer.as_ref().and_then(version).unwrap_or_default();
    session.log.push(operation);
    Some(sent.done)
}

/// Reads a row.
pub(super) async fn read(session: &mut Session, row: &str, how: Read) -> Done {
    let operation = session.operation(Kind::Read, &name(row));
    read_as(session, row, how, operation).await
}

/// Reads a row after the last write of the run, which the history marks as a last read.
pub(super) async fn read_last(session: &mut Session, row: &str, how: Read) -> Done {
    let operation = Operation { last: true, ..session.operation(Kind::Read, &name(row)) };
    read_as(session, row, how, operation).await
}

async fn read_as(session: &mut Session, row: &str, how: Read, mut operation: Operation) -> Done {
    operation.level = how.level;
    operation.token = how.token;
    operation.bound_ms = how.bound_ms;
    let asked = requests::keyed_get(READ, row);
    let sent = attempt::send(session, asked, &mut operation, Counted::Read, how.other).await;
    if sent.outcome == Outcome::Ok {
        (operation.value, operation.version) = found(sent.answer.as_ref(), row);
    }
    session.log.push(operation);
    sent.done
}

/// Returns the value and version of the row in a response. A response with another row, with
/// several rows or without valid JSON is recorded as a value that was never written, which the
/// checker reports.
fn found(answer: Option<&Answer>, row: &str) -> (Value, u64) {
    let rows = answer.and_then(|answer| serde_json::from_slice::<Rows>(&answer.body).ok());
    match rows.as_ref().map(|rows| &rows.data[..]) {
        Some([]) => (Value::NONE, 0),
        Some([one]) if one.user_id == row => (Value::from_wire(&one.name), one.version),
        Some(_) | None => (Value::FOREIGN, 0),
    }
}

fn write_request(row: &str, body: &serde_json::Value, value: Value) -> HttpRequest {
    let body = Bytes::from(body.to_string());
    let mut asked = requests::plain(Method::POST, "/api/write", body, Some(row));
    if let Some(key) = requests::id_header(&value.to_string()) {
        asked.headers_mut().insert(IDEMPOTENCY_KEY, key);
    }
    asked
}

fn version(answer: &Answer) -> Option<u64> {
    serde_json::from_slice::<WriteAnswer>(&answer.body).ok().map(|written| written.version)
}

fn slot(answer: &Answer) -> Option<u16> {
    serde_json::from_slice::<WriteAnswer>(&answer.body).ok()?.slot
}
