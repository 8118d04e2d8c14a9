//! Response budget: limits the memory that the responses to all clients take together until the
//! clients have received them.
//!
//! A response larger than `SMALL_BYTES_MAX` is charged to the budget with its whole size until its
//! last part is passed to the connection. If a new response does not fit, responses whose clients
//! receive fewer than `RATE_MIN` bytes per second are evicted, slowest first: their memory is
//! freed, and their connections are closed. If even that would not free enough, none is evicted,
//! and the new response waits. Waiting responses get memory in the order of their arrival. They
//! have a limit of their own (`WAITING_BYTES_MAX`), because they are in memory too. Responses to
//! writes that were carried out, and responses of routes that do not serve rows, never wait.
//!
//! Small responses, and up to 128 KiB in the buffer of each connection, are not charged: the
//! maximum number of connections limits their total.
//!
//! **Invariant:** a response that may be refused is charged only if the total is then at most
//! [`ResponseBudget::BYTES_MAX`], or if no other response is charged; a response charged
//! `in_any_case` may exceed this limit. Dropping a share returns its bytes to the budget.
//! **Not here:** the rows of running reads (`shard_manager`), bodies of requests (`body_budget`).

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::web::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::problem::{Code, LESS_AT_ONCE, Problem};

/// Maximum size, in bytes, of a response that is not charged.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Maximum number of bytes of a charged response that are passed to the connection at once.
const PART_BYTES_MAX: usize = 64 << 10;
/// Rate, in bytes per second, below which a client is slow, so that its response may be evicted.
const RATE_MIN: f64 = 128.0 * 1024.0;
/// Time in which the weight of received bytes falls to about a third (1/e). A client may take more
/// than a megabyte at once, and then nothing until it has received most of it: such a pause must
/// not make the client look slow.
const DECAY: Duration = Duration::from_secs(5);
/// Number of bytes that count as received when a response begins, because its client has had no
/// time to receive any. A response that is never read may thus be evicted after two seconds.
const INITIAL_CREDIT: f64 = 1024.0 * 1024.0;
/// Maximum number of bytes that count as received recently. Even the response to a fast client may
/// thus be evicted six seconds after the client stops receiving.
const RECENT_BYTES_MAX: f64 = 2.0 * 1024.0 * 1024.0;
/// Interval at which the first response in the queue searches again for slow responses.
const RECHECK_EVERY: Duration = Duration::from_millis(100);

/// Memory budget for the responses to all clients of a router.
#[derive(Debug, Default)]
pub struct ResponseBudget {
    state: Mutex<BudgetState>,
    /// Number of responses that were evicted.
    evicted: AtomicU64,
    /// Number of responses that were refused.
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct BudgetState {
    held: usize,
    next: u64,
    responses: BTreeMap<u64, Charged>,
    /// Responses that wait for memory, in the order of their arrival.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Charged {
    bytes: usize,
    /// Bytes that were not passed to the connection yet; `None` until sending begins.
    rest: Option<Bytes>,
    /// Number of recently received bytes at the time `at`, each weighted by its age (see `DECAY`).
    received: f64,
    at: Instant,
}

/// A response that waits for memory.
#[derive(Debug)]
struct Waiting {
    bytes: usize,
    /// Notified when this response becomes the first in the queue, and then whenever memory is
    /// freed.
    woken: Arc<Notify>,
}

impl Charged {
    /// Returns the rate at which the client has recently received bytes, in bytes per second.
    fn rate(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64();
        self.received * (-age).exp() / DECAY.as_secs_f64()
    }
}

impl BudgetState {
    fn fits(&self, bytes: usize) -> bool {
        fits_beside(self.held, bytes)
    }

    fn charge(&mut self, bytes: usize) -> u64 {
        let number = self.next;
        self.next += 1;
        self.held += bytes;
        let (received, at) = (INITIAL_CREDIT, Instant::now());
        self.responses.insert(number, Charged { bytes, rest: None, received, at });
        number
    }

    fn remove(&mut self, number: u64) -> Option<Charged> {
        let removed = self.responses.remove(&number)?;
        self.held -= removed.bytes;
        Some(removed)
    }

    /// Evicts slow responses, slowest first, until `bytes` more bytes fit, and returns the evicted
    /// responses. If evicting all slow responses would not make enough room, none is evicted,
    /// unless `in_any_case` is true.
    fn evict_for(&mut self, bytes: usize, in_any_case: bool) -> Vec<Charged> {
        let mut evicted = Vec::new();
        if self.fits(bytes) {
            return evicted;
        }
        let now = Instant::now();
        let sent = self.responses.iter().filter(|(_, one)| one.rest.is_some());
        let rates = sent.map(|(number, one)| (one.rate(now), *number, one.bytes));
        let mut slow: Vec<(f64, u64, usize)> = rates.filter(|one| one.0 < RATE_MIN).collect();
        let evictable: usize = slow.iter().map(|one| one.2).sum();
        if !in_any_case && !fits_beside(self.held - evictable, bytes) {
            return evicted;
        }
        slow.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, number, _) in slow {
            if self.fits(bytes) {
                break;
            }
            evicted.extend(self.remove(number));
        }
        evicted
    }

    /// Wakes the first response in the queue.
    fn wake_first(&self) {
        if let Some((_, first)) = self.waiting.first_key_value() {
            first.woken.notify_one();
        }
    }
}

/// Returns true if a budget of which `held` bytes are in use has room for `bytes` more bytes. A
/// response of any size fits if no bytes are held.
fn fits_beside(held: usize, bytes: usize) -> bool {
    held == 0 || held + bytes <= ResponseBudget::BYTES_MAX
}

impl ResponseBudget {
    /// Maximum number of bytes that the responses to all clients may hold at once.
    pub const BYTES_MAX: usize = 256 << 20;
    /// Maximum number of bytes of the responses that wait until the budget has room for them.
    pub const WAITING_BYTES_MAX: usize = 64 << 20;

    /// Charges a response with its size, if it is larger than `SMALL_BYTES_MAX`. If it does not
    /// fit, it waits for memory until the time that `until` returns; with `in_any_case`, it is
    /// charged at once nevertheless.
    ///
    /// # Errors
    /// TSR005 if no memory becomes free in time, or the waiting responses have reached their limit.
    pub async fn charge(
        self: &Arc<Self>,
        response: &ServiceResponse<BoxBody>,
        in_any_case: bool,
        until: impl FnOnce() -> Instant,
    ) -> Result<Option<ResponseShare>, Problem> {
        let bytes = match response.response().body().size() {
            BodySize::Sized(bytes) if bytes > SMALL_BYTES_MAX as u64 => bytes as usize,
            BodySize::Sized(_) | BodySize::None | BodySize::Stream => return Ok(None),
        };
        if in_any_case {
            return Ok(Some(self.charge_in_any_case(bytes)));
        }
        let none_waits = self.state().waiting.is_empty();
        let at_once = if none_waits { self.try_charge(bytes, true) } else { None };
        match at_once {
            Some(share) => Ok(Some(share)),
            None => {
                let waited = self.wait_and_charge(bytes, until()).await;
                if waited.is_err() {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                waited.map(Some)
            }
        }
    }

    /// Returns the number of responses that were evicted since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Returns the number of responses that were refused since the start, because no memory became
    /// free in time, or because too many responses waited.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Charges these bytes even if they do not fit; evicts slow responses first to make room.
    fn charge_in_any_case(self: &Arc<Self>, bytes: usize) -> ResponseShare {
        let mut state = self.state();
        let evicted = state.evict_for(bytes, true);
        let number = state.charge(bytes);
        // The memory is freed after the lock is released.
        drop(state);
        self.free(evicted);
        ResponseShare { budget: Arc::clone(self), number }
    }

    /// Charges these bytes if they fit. With `evicts`, evicts slow responses first if that makes
    /// enough room.
    fn try_charge(self: &Arc<Self>, bytes: usize, evicts: bool) -> Option<ResponseShare> {
        let mut state = self.state();
        let evicted = if evicts { state.evict_for(bytes, false) } else { Vec::new() };
        let number = state.fits(bytes).then(|| state.charge(bytes));
        // The memory is freed after the lock is released.
        drop(state);
        self.free(evicted);
        Some(ResponseShare { budget: Arc::clone(self), number: number? })
    }

    async fn wait_and_charge(
        self: &Arc<Self>,
        bytes: usize,
        until: Instant,
    ) -> Result<ResponseShare, Problem> {
        let queued = QueuedResponse::begin(self, bytes)?;
        while !queued.is_first() {
            let woken = timeout_at(until.into(), queued.woken.notified()).await;
            woken.map_err(|_| budget_exhausted())?;
        }
        // After a wake-up because memory was freed, the loop only checks whether the response fits
        // now. The search for slow responses visits every charged response, so it runs only at
        // intervals.
        let mut search_at = Instant::now();
        loop {
            let now = Instant::now();
            let evicts = now >= search_at;
            if evicts {
                search_at = now + RECHECK_EVERY;
            }
            if let Some(share) = self.try_charge(bytes, evicts) {
                return Ok(share);
            }
            if now >= until {
                return Err(budget_exhausted());
            }
            // The result is ignored: the loop checks again after a wake-up as well as after the
            // interval.
            let _ = timeout_at(until.min(search_at).into(), queued.woken.notified()).await;
        }
    }

    /// Frees the evicted responses, counts them, and logs that they were aborted.
    fn free(&self, evicted: Vec<Charged>) {
        if !evicted.is_empty() {
            self.evicted.fetch_add(evicted.len() as u64, Ordering::Relaxed);
            let bytes: usize = evicted.iter().map(|one| one.bytes).sum();
            tracing::warn!(
                responses = evicted.len(),
                bytes,
                "aborted large responses to slow clients"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Place of a response in the queue for memory; dropping it leaves the queue.
struct QueuedResponse<'b> {
    budget: &'b ResponseBudget,
    number: u64,
    woken: Arc<Notify>,
}

impl<'b> QueuedResponse<'b> {
    fn begin(budget: &'b ResponseBudget, bytes: usize) -> Result<Self, Problem> {
        let mut state = budget.state();
        let waiting: usize = state.waiting.values().map(|one| one.bytes).sum();
        if waiting + bytes > ResponseBudget::WAITING_BYTES_MAX {
            return Err(budget_exhausted());
        }
        let number = state.waiting.last_key_value().map_or(0, |(last, _)| last + 1);
        let woken = Arc::new(Notify::new());
        state.waiting.insert(number, Waiting { bytes, woken: Arc::clone(&woken) });
        Ok(Self { budget, number, woken })
    }

    /// Returns true if this response is the first in the queue.
    fn is_first(&self) -> bool {
        let state = self.budget.state();
        state.waiting.first_key_value().is_none_or(|(first, _)| *first == self.number)
    }
}

impl Drop for QueuedResponse<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.waiting.remove(&self.number);
        state.wake_first();
    }
}

/// Share of one response in the budget.
#[derive(Debug)]
pub struct ResponseShare {
    budget: Arc<ResponseBudget>,
    number: u64,
}

impl ResponseShare {
    /// Returns the response with a body that holds the share until its last part is passed to the
    /// connection. If the body was compressed after the charge, the charge changes to its new size.
    pub fn hold(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        response.map_body(|_, body| match body.try_into_bytes() {
            Ok(bytes) if bytes.len() > SMALL_BYTES_MAX => {
                let size = bytes.len() as u64;
                self.send(bytes);
                BoxBody::new(ChargedBody { share: Some(self), size })
            }
            Ok(bytes) => BoxBody::new(bytes),
            Err(streamed) => streamed,
        })
    }

    fn send(&self, bytes: Bytes) {
        let mut state = self.budget.state();
        let Some(charged) = state.responses.get_mut(&self.number) else { return };
        let before = std::mem::replace(&mut charged.bytes, bytes.len());
        (charged.rest, charged.at) = (Some(bytes), Instant::now());
        let now = charged.bytes;
        state.held = state.held - before + now;
        state.wake_first();
    }

    /// Takes the next part of the body, and returns it with true if it is the last part; `None` if
    /// the response was evicted.
    fn next_part(&self) -> Option<(Bytes, bool)> {
        let mut state = self.budget.state();
        let charged = state.responses.get_mut(&self.number)?;
        let now = Instant::now();
        let rest = charged.rest.as_mut()?;
        let part = rest.split_to(rest.len().min(PART_BYTES_MAX));
        let is_last = rest.is_empty();
        let received = charged.rate(now) * DECAY.as_secs_f64() + part.len() as f64;
        (charged.received, charged.at) = (received.min(RECENT_BYTES_MAX), now);
        Some((part, is_last))
    }
}

impl Drop for ResponseShare {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        let removed = state.remove(self.number);
        state.wake_first();
        // The memory is freed after the lock is released.
        drop(state);
        drop(removed);
    }
}

/// Error that ends the connection of a response that was evicted.
#[derive(thiserror::Error)]
#[error("the client received a large response more slowly than others needed its memory")]
struct Evicted;

/// The HTTP server logs the error in its `Debug` form, so this form has to be readable.
impl fmt::Debug for Evicted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Body of a response that is charged.
struct ChargedBody {
    /// `None` once the last part was passed to the connection.
    share: Option<ResponseShare>,
    size: u64,
}

impl MessageBody for ChargedBody {
    type Error = Evicted;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Evicted>>> {
        let Some(share) = &self.share else { return Poll::Ready(None) };
        let Some((part, is_last)) = share.next_part() else {
            return Poll::Ready(Some(Err(Evicted)));
        };
        if is_last {
            self.share = None;
        }
        Poll::Ready(Some(Ok(part)))
    }
}

fn budget_exhausted() -> Problem {
    let limit = ResponseBudget::BYTES_MAX >> 20;
    let detail = format!(
        "the {limit} MiB for large responses are used up by responses that clients are still receiving"
    );
    Problem::new(Code::TSR005, detail).hint(LESS_AT_ONCE)
}

#[cfg(test)]
mod tests;
