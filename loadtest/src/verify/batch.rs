//! Batch: a bulk write that adds new rows on all shards. No later operation changes these rows.

use bytes::Bytes;
use checker::history::{Kind, Operation, Outcome};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::attempt::{self, Attempted, Done};
use super::register::name;
use super::session::Session;
use crate::counters::Operation as Counted;
use crate::http_client::Answer;
use crate::requests::{self, IDEMPOTENCY_KEY};
use crate::tables::USERS;

/// Number of rows in a bulk write.
const ROWS: u32 = 20;

/// Members of the response that describe the rows which are not stored.
#[derive(Deserialize)]
struct Parts {
    failed: Vec<Failed>,
    failed_total: usize,
}

#[derive(Deserialize)]
struct Failed {
    index: usize,
    outcome: String,
}

/// Writes rows that were never written before.
pub(super) async fn write(session: &mut Session) -> Done {
    let whole = name(session.client.names.run());
    let mut request = session.operation(Kind::Write, &whole);
    request.token = true;
    request.level = session.write_level();
    let run = session.client.names.run().to_owned();
    let mut operations: Vec<Operation> = Vec::new();
    let mut rows = Vec::new();
    for _ in 0..ROWS {
        let number = session.log.draw();
        let row = session.client.names.once(session.log.number(), number);
        let key = session.of.recorder.key(&name(&row));
        let value = session.log.value(number);
        let data =
            json!({"user_id": row, "name": value.to_string(), "email": "verify", "run": run});
        rows.push(json!({"data": session.client.names.placed(&row, data)}));
        operations.push(Operation { key, value, ..request });
    }
    let body = Bytes::from(json!({"table": USERS, "rows": rows}).to_string());
    let mut asked = requests::plain(Method::POST, "/api/bulk-write", body, None);
    let idempotency = session.log.value(request.request).to_string();
    if let Some(key) = requests::id_header(&idempotency) {
        asked.headers_mut().insert(IDEMPOTENCY_KEY, key);
    }
    let sent = attempt::send(session, asked, &mut request, Counted::Bulk, false).await;
    let outcomes = outcomes(&sent, operations.len());
    for (operation, outcome) in operations.into_iter().zip(outcomes) {
        let Operation { key, value, .. } = operation;
        session.log.push(Operation { key, value, outcome, ..request });
    }
    sent.done
}

/// Returns the outcome of each row.
pub(super) fn outcomes(sent: &Attempted, rows: usize) -> Vec<Outcome> {
    let whole = sent.outcome;
    let mut outcomes = vec![whole; rows];
    let parts = |answer: &&Answer| whole == Outcome::Ok && answer.status == 207;
    let Some(answer) = sent.answer.as_ref().filter(parts) else { return outcomes };
    match serde_json::from_slice::<Parts>(&answer.body) {
        // The response names every failed row, because a response lists up to 1000 of them, and a
        // bulk write has fewer rows.
        Ok(parts) if parts.failed.len() == parts.failed_total => {
            for Failed { index, outcome } in parts.failed {
                let Some(row) = outcomes.get_mut(index) else { continue };
                *row = match outcome.as_str() {
                    // An earlier attempt may still store the row.
                    "rejected" if sent.may_have_happened => Outcome::Unknown,
                    "rejected" => Outcome::Rejected,
                    "committed" => Outcome::Committed,
                    _ => Outcome::Unknown,
                };
            }
            outcomes
        }
        Ok(_) | Err(_) => vec![Outcome::Unknown; rows],
    }
}
