//! Workload: the operations of a session, and the share of each.
//!
//! | share | operation | violations that it reveals |
//! |---|---|---|
//! | 30 % | write of a register | lost updates, duplicates |
//! | 15 % | read of the session's last write, with its token | stale reads in a session |
//! | 15 % | strong read through another router | a stale primary, a stale router, split brain |
//! | 10 % | read with bounded staleness | reads that are older than their bound |
//! | 5 % | eventual read | values that were never written |
//! | 10 % | repetition of an acknowledged write | a second effect of a retry |
//! | 5 % | bulk write of 20 rows over all shards | wrong outcomes of single rows |
//! | 7 % | transfer, or read of a whole bank | torn transactions |
//! | 3 % | delete | deleted rows that reappear |
//!
//! Before these shares apply, half a percent of the steps (three percent in a run in which slots
//! move) are walks by cursor over rows that never change. These walks reveal rows that are lost or
//! returned twice while slots change owners.
//!
//! With tenants, a tenth of all steps are requests for rows of another tenant instead. They are not
//! part of the history.

use checker::history::Level;

use super::attempt::{self, Done};
use super::register::Read;
use super::session::Session;
use super::{bank, batch, fixed_rows, register};
use crate::probe::Probe;

/// Staleness that a bounded read allows, in milliseconds.
const BOUND_MS: u32 = 500;

/// Number of walks by cursor among 1000 steps.
const WALKS: u32 = 5;
/// Number of walks by cursor among 1000 steps of a run in which slots move.
const WALKS_WITH_MOVES: u32 = 30;

/// Performs one step of the session, and returns the requests sent for it.
pub(super) async fn next(session: &mut Session) -> Vec<Done> {
    if session.client.client.is_tenant() && Probe::is_due(&mut session.random) {
        return vec![attempt::probe(session).await];
    }
    let walks = if session.of.has_moves { WALKS_WITH_MOVES } else { WALKS };
    if session.of.fixed.are_there() && session.random.below(1_000) < walks {
        return fixed_rows::walk(session).await;
    }
    let act = session.random.below(100);
    let plain = Read { level: Level::One, token: false, bound_ms: 0, other: false };
    match act {
        0..30 => {
            let row = session.register();
            vec![register::write(session, &row).await]
        }
        30..45 => {
            let row = session.last.as_ref().map(|last| last.row.clone());
            let row = row.unwrap_or_else(|| session.register());
            vec![register::read(session, &row, Read { token: true, ..plain }).await]
        }
        45..60 => {
            let row = session.register();
            let level = if session.percent(50) { Level::Quorum } else { Level::All };
            vec![register::read(session, &row, Read { level, other: true, ..plain }).await]
        }
        60..70 => {
            let row = session.register();
            let other = session.percent(50);
            vec![register::read(session, &row, Read { bound_ms: BOUND_MS, other, ..plain }).await]
        }
        70..75 => {
            let row = session.register();
            let other = session.percent(50);
            vec![register::read(session, &row, Read { other, ..plain }).await]
        }
        75..85 => register::replay(session).await.into_iter().collect(),
        85..90 => vec![batch::write(session).await],
        90..95 => bank::transfer(session).await,
        95..97 => vec![bank::read(session).await],
        _ => {
            let row = session.register();
            vec![register::delete(session, &row).await]
        }
    }
}
