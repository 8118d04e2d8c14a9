//! Session: a client that keeps its session token and sends one request after the other.

use std::sync::Arc;

use checker::history::{Kind, Level, NodeId, Operation, Role, Value};
use hyper::header::HeaderValue;
use loadtest::recorder::SessionLog;

use super::pacer::Turns;
use super::{Verification, VerifyingClient};
use crate::http_client::{Answer, HttpRequest, Pool};
use crate::random::Random;
use crate::requests::{SESSION_TOKEN, SessionToken};

/// Percentage of the operations on registers (rows with one value) that, while slots move, use
/// registers in moving slots.
const MOVING_PERCENT: u32 = 40;

/// Write that the router has acknowledged as stored.
#[derive(Clone)]
pub(super) struct Acknowledged {
    pub(super) row: String,
    pub(super) asked: HttpRequest,
    pub(super) value: Value,
    pub(super) level: Level,
}

pub(super) struct Session {
    pub(super) of: Arc<Verification>,
    pub(super) client: Arc<VerifyingClient>,
    pub(super) log: SessionLog,
    pub(super) random: Random,
    pub(super) token: Option<SessionToken>,
    /// Index of the session's usual router.
    home: usize,
    /// Last acknowledged write, which a later step may send again or read.
    pub(super) last: Option<Acknowledged>,
    /// Turns of the session's requests in the schedule, if the run has a maximum rate.
    pub(super) turns: Turns,
}

impl Session {
    /// Creates the session of a user. The maximum rate of the run limits its requests.
    pub(super) fn new(of: Arc<Verification>, number: usize) -> Self {
        let count = of.clients.len();
        let client = Arc::clone(&of.clients[number % count]);
        let turns = Turns::new(of.pacer.clone());
        Self { home: number / count, turns, ..Self::of(of, client, number) }
    }

    /// Creates a session of a client, without a maximum rate.
    pub(super) fn of(of: Arc<Verification>, client: Arc<VerifyingClient>, number: usize) -> Self {
        let log = of.recorder.session();
        let random = Random::of_user(of.seed, number);
        let turns = Turns::default();
        Self { of, client, log, random, token: None, home: number, last: None, turns }
    }

    /// Returns the session's usual router, or another router if `other` is true and there is one.
    /// The returned number is the position of the router among the hosts.
    pub(super) fn router(&self, other: bool) -> (u16, Arc<Pool>) {
        let client = &self.client.client;
        let index = (self.home.wrapping_add(usize::from(other))) % client.routers();
        (index as u16, Arc::clone(client.pool(index)))
    }

    /// Creates the history's record of the next request, with the fields that are known before the
    /// request is sent.
    pub(super) fn operation(&mut self, kind: Kind, name: &str) -> Operation {
        let key = self.of.recorder.key(name);
        let request = self.log.draw();
        Operation::new(kind, key, self.log.number(), request)
    }

    /// Returns the number of the node that responded.
    pub(super) fn node(&mut self, answer: &Answer, host: u16) -> NodeId {
        let role = answer.served_by().map_or(Role::Unknown, Role::from_wire);
        self.log.node(answer.shard().unwrap_or_default(), role, host)
    }

    /// Keeps the session token of a response.
    pub(super) fn saw(&mut self, answer: &Answer) {
        if let Some(token) = answer.headers.get(SESSION_TOKEN) {
            self.token = Some(token.clone());
        }
    }

    /// Returns true with a probability of `share` percent.
    pub(super) fn percent(&mut self, share: u32) -> bool {
        self.random.below(100) < share
    }

    /// Returns a level for a write: that of `--level`, or else mostly `one`, because writes at the
    /// other levels wait for replicas.
    pub(super) fn write_level(&mut self) -> Level {
        if let Some(level) = self.of.level {
            return level;
        }
        match self.random.below(20) {
            0 => Level::All,
            1 | 2 => Level::Quorum,
            _ => Level::One,
        }
    }

    /// Returns a random register. It is often a hot one, and while slots move, it is often one in a
    /// moving slot.
    pub(super) fn register(&mut self) -> String {
        if let Some(row) = self.of.moving.draw(&mut self.random, MOVING_PERCENT) {
            return row;
        }
        let rows = super::HOT_ROWS + super::COLD_ROWS;
        let rank = self.of.chooser.next(&mut self.random, rows);
        self.client.names.register(rank)
    }
}

/// Returns the header `x-consistency` for a level.
pub(super) fn consistency(level: Level) -> HeaderValue {
    HeaderValue::from_static(level.name())
}
