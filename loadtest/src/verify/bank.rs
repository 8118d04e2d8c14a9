//! Bank: accounts under one shard key. A transfer does not change the sum of the accounts.
//!
//! A transfer is one transaction. It changes two accounts and the counter, on the condition that
//! each still has the version that was read, and inserts an entry into the ledger.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checker::history::{Kind, Level, Operation, Outcome, Total, Value};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::attempt::{self, Attempted, Done};
use super::batch::outcomes;
use super::names::{account, counter, entry};
use super::session::Session;
use super::{ACCOUNTS, BANKS, DEPOSIT, PAUSE, Verification};
use crate::counters::Operation as Counted;
use crate::http_client::HttpRequest;
use crate::requests::{self, IDEMPOTENCY_KEY};
use crate::response_check::Failure;
use crate::tables::TRANSACTIONS;

/// Maximum number of attempts to open a bank.
const OPENINGS_MAX: u32 = 5;
/// Number of reads of a bank directly after it was opened. With eight banks, at least one read
/// reaches each of three nodes almost certainly.
const OPENING_READS: u32 = 8;
/// Longest wait until all nodes return a new bank. After this time the run starts nevertheless.
const SHOWN_MAX: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Rows {
    data: Vec<Row>,
}

/// A row of [`TRANSACTIONS`]: an account, a counter, or an entry of the ledger.
#[derive(Clone, Deserialize)]
pub(super) struct Row {
    pub(super) tx_id: String,
    pub(super) amount: i64,
    memo: Option<String>,
    pub(super) version: u64,
}

impl Row {
    pub(super) fn value(&self) -> Value {
        self.memo.as_deref().map_or(Value::FOREIGN, Value::from_wire)
    }
}

/// Location of a key, as the router reports it.
#[derive(Deserialize)]
struct Placed {
    slot: u16,
}

/// New state of a row.
struct Change {
    id: String,
    amount: i64,
    based_on: u64,
}

/// Returns the name of a row in the history.
pub(super) fn name(id: &str) -> String {
    format!("{TRANSACTIONS}/{id}")
}

/// Opens all banks: writes their accounts and counters.
pub(super) async fn open(session: &mut Session) -> anyhow::Result<()> {
    let of = Arc::clone(&session.of);
    let is_embedded = is_embedded(&of).await;
    for number in 0..BANKS {
        let bank = session.client.names.bank(number);
        open_one(session, &bank).await?;
        note_slot(&of, &bank).await;
        if is_embedded {
            // Any node may respond to these reads. A node that lacks the bank can be detected only
            // now, because it will catch up later.
            for _ in 0..OPENING_READS {
                look(session, &bank, Level::One, false).await;
            }
        } else {
            await_shown(&of, &bank).await;
        }
    }
    session.log.flush();
    Ok(())
}

/// Remembers the slot of a bank if slots move in this run, so that moves can be directed to it:
/// only few slots contain a bank.
async fn note_slot(of: &Verification, bank: &str) {
    let asked = requests::get(&format!("/api/route?key={bank}")).ok().filter(|_| of.has_moves);
    let Some(asked) = asked else { return };
    let answer = of.owner.client.pool(0).send(asked, SHOWN_MAX).await.ok();
    let slot = answer.and_then(|answer| serde_json::from_slice::<Placed>(&answer.body).ok());
    if let Some(Placed { slot }) = slot {
        of.moving.note_slot(slot);
    }
}

/// Returns true if the shards are files of the router, so that a write at level `all` is
/// immediately visible on all nodes.
async fn is_embedded(of: &Verification) -> bool {
    let Ok(asked) = requests::get("/api/health") else { return false };
    let answer = of.owner.client.pool(0).send(asked, SHOWN_MAX).await;
    let is_embedded =
        |body: &Bytes| String::from_utf8_lossy(body).contains(r#""levels":"embedded"#);
    answer.is_ok_and(|answer| is_embedded(&answer.body))
}

/// Waits until reads from all nodes return a bank. A server that has stored a row on its disk may
/// make the row visible a moment later, which violates no guarantee.
async fn await_shown(of: &Verification, bank: &str) {
    let began = Instant::now();
    let mut shown = 0;
    while shown < OPENING_READS && began.elapsed() < SHOWN_MAX {
        let answer = of.owner.client.pool(0).send(accounts_of(bank), SHOWN_MAX).await;
        let rows = answer.ok().and_then(|answer| serde_json::from_slice::<Rows>(&answer.body).ok());
        if rows.is_some_and(|rows| rows.data.len() >= ACCOUNTS as usize) {
            shown += 1;
        } else {
            shown = 0;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Opens a bank with a write that every node must store, because a read without a session token
/// must never find a bank that is not open yet.
async fn open_one(session: &mut Session, bank: &str) -> anyhow::Result<()> {
    let mut text = String::new();
    for _ in 0..OPENINGS_MAX {
        let deposit = |number| Change { id: account(bank, number), amount: DEPOSIT, based_on: 0 };
        let mut changes: Vec<_> = (0..ACCOUNTS).map(deposit).collect();
        changes.push(Change { id: counter(bank), amount: 0, based_on: 0 });
        let sent = together(session, bank, changes, Level::All).await;
        if sent.outcome == Outcome::Ok {
            return Ok(());
        }
        let failure = sent.done.sample.verdict.err();
        text = failure.map(|failure: Failure| failure.detail).unwrap_or_default();
    }
    anyhow::bail!("a bank cannot be opened on every node: {text}")
}

/// Reads a bank at level `one`, so that any node may respond.
pub(super) async fn read(session: &mut Session) -> Done {
    let number = session.random.below(BANKS);
    let bank = session.client.names.bank(number);
    let token = session.percent(50);
    look(session, &bank, Level::One, token).await.0
}

/// Moves money between two accounts, and counts the transfer.
pub(super) async fn transfer(session: &mut Session) -> Vec<Done> {
    let number = session.random.below(BANKS);
    let bank = session.client.names.bank(number);
    let (seen, rows) = look(session, &bank, Level::Quorum, true).await;
    let from = session.random.below(ACCOUNTS);
    let to = (from + 1 + session.random.below(ACCOUNTS - 1)) % ACCOUNTS;
    let amount = i64::from(session.random.below(20)) + 1;
    let row = |id: String| rows.iter().find(|row| row.tx_id == id);
    let (Some(from), Some(to), Some(count)) =
        (row(account(&bank, from)), row(account(&bank, to)), row(counter(&bank)))
    else {
        return vec![seen];
    };
    let change = |row: &Row, by: i64| Change {
        id: row.tx_id.clone(),
        amount: row.amount + by,
        based_on: row.version,
    };
    let ledger = entry(&bank, session.log.number(), session.log.draw());
    let changes = vec![
        change(from, -amount),
        change(to, amount),
        change(count, 1),
        Change { id: ledger, amount, based_on: 0 },
    ];
    let level = session.write_level();
    let sent = together(session, &bank, changes, level).await;
    let transfers = &session.client.transfers[number as usize];
    if sent.outcome != Outcome::Rejected {
        transfers.attempted.fetch_add(1, Ordering::Relaxed);
    }
    if matches!(sent.outcome, Outcome::Ok | Outcome::Committed) {
        transfers.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    vec![seen, sent.done]
}

/// Reads the accounts and the counter of a bank in one request.
async fn look(session: &mut Session, bank: &str, level: Level, token: bool) -> (Done, Vec<Row>) {
    let mut request = session.operation(Kind::Read, &name(&counter(bank)));
    request.level = level;
    request.token = token;
    let other = session.percent(50);
    let asked = accounts_of(bank);
    let sent = attempt::send(session, asked, &mut request, Counted::Read, other).await;
    let answer = sent.answer.filter(|_| sent.outcome == Outcome::Ok);
    let rows = answer.and_then(|answer| serde_json::from_slice::<Rows>(&answer.body).ok());
    let rows = rows.map(|rows| rows.data).unwrap_or_default();
    if request.outcome == Outcome::Ok {
        let accounts = rows.iter().filter(|row| row.tx_id != counter(bank));
        session.of.recorder.total(Total {
            bank: bank.to_owned(),
            session: request.session,
            request: request.request,
            start: request.start,
            end: request.end,
            node: request.node,
            level,
            sum: accounts.clone().map(|row| row.amount).sum(),
            accounts: accounts.count() as u32,
        });
        for row in &rows {
            let key = session.of.recorder.key(&name(&row.tx_id));
            session.log.push(Operation {
                key,
                value: row.value(),
                version: row.version,
                ..request
            });
        }
    }
    (sent.done, rows)
}

fn accounts_of(bank: &str) -> HttpRequest {
    let path = format!("/api/read?table={TRANSACTIONS}&tx_id=like.{bank}-a*&limit=100");
    let mut asked = requests::keyed_get("/", bank);
    // The tester's names need no escaping in a path.
    if let Ok(path) = path.parse() {
        *asked.uri_mut() = path;
    }
    asked
}

/// Changes rows of one bank in one transaction.
async fn together(
    session: &mut Session,
    bank: &str,
    changes: Vec<Change>,
    level: Level,
) -> Attempted {
    let mut request = session.operation(Kind::Write, &name(&counter(bank)));
    request.level = level;
    request.token = true;
    let run = session.client.names.run().to_owned();
    let mut operations: Vec<Operation> = Vec::new();
    let mut rows = Vec::new();
    for Change { id, amount, based_on } in changes {
        let value = session.log.draw();
        let value = session.log.value(value);
        let mut row = json!({"data": {"tx_id": id, "account": bank, "amount": amount, "memo": value.to_string(), "run": run}});
        if based_on > 0 {
            row["if_version"] = json!(based_on);
        }
        rows.push(row);
        let key = session.of.recorder.key(&name(&id));
        operations.push(Operation { key, value, based_on, ..request });
    }
    let body = Bytes::from(json!({"table": TRANSACTIONS, "rows": rows}).to_string());
    let mut asked = requests::plain(Method::POST, "/api/bulk-write", body, None);
    let headers = asked.headers_mut();
    headers.insert("prefer", hyper::header::HeaderValue::from_static("tx=per-shard"));
    if let Some(key) = requests::id_header(&session.log.value(request.request).to_string()) {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    let mut sent = attempt::send(session, asked, &mut request, Counted::Transfer, false).await;
    let outcomes = outcomes(&sent, operations.len());
    for (operation, &outcome) in operations.into_iter().zip(&outcomes) {
        let Operation { key, value, based_on, .. } = operation;
        session.log.push(Operation { key, value, based_on, outcome, ..request });
    }
    sent.outcome = outcomes.into_iter().next().unwrap_or(sent.outcome);
    sent
}
