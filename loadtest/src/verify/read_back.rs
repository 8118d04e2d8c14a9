//! Read-back: reads all rows once more from the primaries after the last write.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use checker::history::{Key, Kind, Ledger, Level, NodeId, Operation, Outcome, Page, Value};
use serde::Deserialize;

use super::attempt;
use super::names::counter;
use super::session::Session;
use super::{BANKS, bank, fixed_rows, register};
use crate::counters::Operation as Counted;
use crate::requests;
use crate::tables::{TRANSACTIONS, USERS};

/// Maximum number of rows of a page.
const PAGE: usize = 1_000;
/// Maximum number of requests for one page. If all of them fail, the router is treated as
/// unreachable.
const ATTEMPTS_MAX: u32 = 20;

#[derive(Deserialize)]
struct Rows {
    data: Vec<serde_json::Value>,
    next_cursor: Option<String>,
}

/// Description of a walk: the table, and the rows that it covers.
#[derive(Clone, Copy)]
struct Walked {
    table: &'static str,
    /// Name of the table in the history.
    name: &'static str,
    id: &'static str,
    value: &'static str,
    /// Value of the column `email`; empty for a table without that column.
    email: &'static str,
}

/// Walks over both tables, and then reads each row that the walks did not return.
pub(super) async fn all(session: &mut Session) -> anyhow::Result<()> {
    let users = Walked { table: USERS, name: USERS, id: "user_id", value: "name", email: "verify" };
    let fixed = Walked { name: fixed_rows::NAME, email: fixed_rows::EMAIL, ..users };
    let (name, id, value) = (TRANSACTIONS, "tx_id", "memo");
    let transactions = Walked { table: TRANSACTIONS, name, id, value, email: "" };
    let users = walk(session, users).await?;
    walk(session, fixed).await?;
    let transactions = walk(session, transactions).await?;
    ledgers(session, &transactions);
    let met: HashSet<Key> = users.keys().chain(transactions.keys()).copied().collect();
    for (key, row) in session.of.recorder.names() {
        let missing = !met.contains(&key);
        let row = row.strip_prefix(USERS).and_then(|row| row.strip_prefix('/'));
        let Some(row) = row.filter(|_| missing) else { continue };
        // In the history, the name of the run stands for whole bulk writes and is not a row.
        if *row == *session.client.names.run() {
            continue;
        }
        read_missing(session, row).await?;
    }
    Ok(())
}

/// Reads a row that no page contained; a router that has just restarted may need several attempts.
async fn read_missing(session: &mut Session, row: &str) -> anyhow::Result<()> {
    let how = register::Read { level: Level::All, token: false, bound_ms: 0, other: false };
    let mut text = String::new();
    for _ in 0..ATTEMPTS_MAX {
        match register::read_last(session, row, how).await.sample.verdict {
            Ok(()) => return Ok(()),
            Err(failure) => text = failure.detail,
        }
        tokio::time::sleep(super::PAUSE).await;
    }
    bail!("a row cannot be read back after the run: {text}")
}

/// Reads the rows of this run in a table by cursor.
async fn walk(session: &mut Session, walked: Walked) -> anyhow::Result<HashMap<Key, i64>> {
    let Walked { table, name, id, value, email } = walked;
    let email = if email.is_empty() { String::new() } else { format!("&email=eq.{email}") };
    let run = session.client.names.run().to_owned();
    let mut met = HashMap::new();
    let mut cursor = String::new();
    loop {
        let path =
            format!("/api/read?table={table}&run=eq.{run}{email}&order={id}&limit={PAGE}{cursor}");
        let (request, rows) = page(session, (table, name), &path).await?;
        let before = met.len();
        let mut keys = Vec::with_capacity(rows.data.len());
        for row in &rows.data {
            let text = |member: &str| row[member].as_str().unwrap_or_default();
            let key = session.of.recorder.key(&format!("{name}/{}", text(id)));
            let version = row["version"].as_u64().unwrap_or_default();
            let value = Value::from_wire(text(value));
            session.log.push(Operation { key, value, version, ..request });
            met.insert(key, row["amount"].as_i64().unwrap_or_default());
            keys.push(key);
        }
        let complete = rows.next_cursor.is_none();
        session.of.recorder.page(Page {
            table: name.to_owned(),
            session: request.session,
            request: request.request,
            start: request.start,
            end: request.end,
            keys,
            complete,
        });
        match rows.next_cursor {
            // This is an error, because a cursor that does not advance would lead to an endless
            // loop.
            Some(_) if met.len() == before => bail!("a page of {table} has no further rows"),
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(met),
        }
    }
}

/// Reads one page; a router that has just restarted may need several attempts.
async fn page(
    session: &mut Session,
    (table, name): (&str, &str),
    path: &str,
) -> anyhow::Result<(Operation, Rows)> {
    let mut text = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let whole = format!("{name}/{}", session.client.names.run());
        let mut request = session.operation(Kind::Read, &whole);
        request.level = Level::All;
        request.last = true;
        let asked = requests::get(path).map_err(|failure| anyhow::anyhow!(failure.detail))?;
        let sent = attempt::send(session, asked, &mut request, Counted::Scatter, false).await;
        match sent.answer.filter(|_| sent.outcome == Outcome::Ok) {
            Some(answer) => {
                let rows = serde_json::from_slice(&answer.body);
                return Ok((request, rows.context("a page without rows")?));
            }
            None => text = sent.done.sample.verdict.err().map(|f| f.detail).unwrap_or_default(),
        }
        tokio::time::sleep(super::PAUSE).await;
    }
    bail!("{table} cannot be read back after the run: {text}")
}

/// Records the counters and ledgers of all banks.
fn ledgers(session: &Session, rows: &HashMap<Key, i64>) {
    let names: Vec<_> = session.of.recorder.names();
    let banks = |client| (0..BANKS).map(move |number| (client, number));
    for (client, number) in session.of.clients.iter().flat_map(banks) {
        let bank = client.names.bank(number);
        let counted = session.of.recorder.key(&bank::name(&counter(&bank)));
        let entries = bank::name(&format!("{bank}-l"));
        let count =
            names.iter().filter(|(key, name)| name.starts_with(&entries) && rows.contains_key(key));
        let transfers = &client.transfers[number as usize];
        let now = session.of.recorder.now();
        session.of.recorder.ledger(Ledger {
            bank,
            session: session.log.number(),
            request: 0,
            start: now,
            end: now,
            node: NodeId::NONE,
            counter: rows.get(&counted).copied().unwrap_or_default().max(0) as u64,
            rows: count.count() as u64,
            acknowledged: transfers.acknowledged.load(Ordering::Relaxed),
            attempted: transfers.attempted.load(Ordering::Relaxed),
        });
    }
}
