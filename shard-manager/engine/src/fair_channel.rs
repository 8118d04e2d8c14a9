//! Fair channel: a bounded channel whose receiver serves several tenants in turns.
//!
//! While all waiting messages belong to one tenant, this is a plain channel with one more
//! comparison for each message. Once messages of several tenants wait and exceed one batch, the
//! receiver moves them to a [`FairQueue`]. A barrier is a message that belongs to no tenant and
//! that no other message may overtake.
//!
//! **Invariant:** messages of one tenant are received in the order in which they were sent. A
//! barrier is received after everything that was sent before it, and before everything that was
//! sent after it. The channel and the fair queue together hold no more messages than the capacity.
//! **Not here:** the order of turns (`fair_queue`), the work (lanes and readers).

mod holdings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use model::fair_share::FairShare;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::fair_queue::FairQueue;
use holdings::{Held, Holdings};

/// Tenant number that stands for several tenants.
const SEVERAL: u64 = u64::MAX;
/// Tenant number that stands for no tenant.
const NO_TENANT: u64 = u64::MAX - 1;
const _: () = assert!(FairShare::NUMBER_MAX < NO_TENANT, "numbers of tenants differ from both");

/// Divisor of the capacity that gives its reserved part. Only tenants that hold no more than such a
/// part may use the reserve, so that the first messages of a tenant are accepted even if other
/// tenants fill the rest.
const RESERVED: usize = 64;

/// Message of a fair channel.
pub trait Queued {
    /// Returns the tenant of the message and its size in bytes; `None` for a barrier.
    fn share(&self) -> Option<(FairShare, usize)>;
}

/// Limits of a fair channel.
#[derive(Clone, Copy, Debug)]
pub struct FairLimits {
    /// Maximum number of waiting messages.
    pub operations: usize,
    /// Maximum number of bytes of the waiting messages, which the sender counts; 0 if bytes are not
    /// counted.
    pub bytes: usize,
    /// Maximum number of messages that are received at once.
    pub batch_operations: usize,
    /// Maximum number of bytes that are received at once; 0 if bytes are not counted.
    pub batch_bytes: usize,
}

impl FairLimits {
    /// Returns the cost of a message: 1, or more if its bytes take up more of a batch than one
    /// message does.
    fn cost(&self, bytes: usize) -> u64 {
        (bytes * self.batch_operations).checked_div(self.batch_bytes).unwrap_or(1).max(1) as u64
    }

    fn is_long(&self, operations: usize, bytes: usize) -> bool {
        operations >= self.batch_operations || (self.batch_bytes > 0 && bytes >= self.batch_bytes)
    }
}

/// Reason why a message was not accepted, with the message.
#[derive(Debug)]
pub enum Refused<M> {
    /// The channel is full.
    Full(M),
    /// The tenant uses more than half of the capacity, and another tenant has messages waiting, or
    /// had until just now.
    Share(M),
    /// The receiver has ended.
    Closed(M),
}

/// State that the sender shares with the receiver.
#[derive(Debug)]
struct Shared {
    /// Number of the tenant to which all messages in the channel belong, [`SEVERAL`] or
    /// [`NO_TENANT`].
    tenant_in_channel: AtomicU64,
    /// Number of messages in the fair queue.
    sorted: AtomicUsize,
    /// True if messages of several tenants waited when the last batch was prepared. Tenants with
    /// more than half of the capacity are then still refused, so that a tenant whose few messages
    /// were just received finds room for its next ones.
    is_shared: AtomicBool,
    /// Number of messages and of bytes of each tenant.
    holdings: Holdings,
}

impl Shared {
    /// Records that a message of this tenant was sent. Called after the message was sent, so that a
    /// receiver that sees several tenants finds the messages of all of them.
    #[inline]
    fn join(&self, number: u64) {
        let known = self.tenant_in_channel.load(Ordering::Relaxed);
        if known != number && known != SEVERAL {
            self.join_others(number);
        }
    }

    #[cold]
    fn join_others(&self, number: u64) {
        let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
        match self.tenant_in_channel.compare_exchange(NO_TENANT, number, set, seen) {
            Err(known) if known != number => {
                self.tenant_in_channel.store(SEVERAL, Ordering::Release)
            }
            Ok(_) | Err(_) => {}
        }
    }

    #[inline]
    fn leave(&self, message: &impl Queued) {
        if let Some((share, bytes)) = message.share()
            && !share.is_common()
        {
            self.holdings.leave(share, bytes);
        }
    }
}

/// Creates a channel with these limits.
pub fn channel<M: Queued>(limits: FairLimits) -> (FairSender<M>, FairReceiver<M>) {
    let (queue, channel) = mpsc::channel(limits.operations);
    let shared = Arc::new(Shared {
        // Share of clients that are not distinguished: without access control, this is every
        // client.
        tenant_in_channel: AtomicU64::new(FairShare::COMMON.number()),
        sorted: AtomicUsize::new(0),
        is_shared: AtomicBool::new(false),
        holdings: Holdings::default(),
    });
    let queue = FairSender { queue, shared: Arc::clone(&shared), limits };
    let sorted = FairQueue::new(limits.batch_operations as u64);
    (queue, FairReceiver { channel, sorted, shared, limits })
}

/// Sending side of a fair channel.
pub struct FairSender<M> {
    queue: mpsc::Sender<M>,
    shared: Arc<Shared>,
    limits: FairLimits,
}

impl<M: Queued> FairSender<M> {
    /// Returns the number of waiting messages.
    pub fn waiting(&self) -> usize {
        let queued = self.queue.max_capacity() - self.queue.capacity();
        queued + self.shared.sorted.load(Ordering::Relaxed)
    }

    /// Returns true if the receiver has ended.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Sends a message, if there is room for it; `bytes_waiting` is the size of all messages, this
    /// one included.
    ///
    /// # Errors
    /// [`Refused`], with the message.
    pub fn try_send(&self, message: M, bytes_waiting: usize) -> Result<(), Refused<M>> {
        let share = message.share();
        // Nearly always 0: the channel itself limits the messages in it.
        if self.shared.sorted.load(Ordering::Relaxed) > 0
            && self.waiting() >= self.limits.operations
        {
            return Err(Refused::Full(message));
        }
        let own = share.filter(|(share, _)| !share.is_common());
        if let Some((share, bytes)) = own {
            let held = self.shared.holdings.enter(share, bytes);
            if let Some(refused) = self.refusal(held, bytes_waiting) {
                self.shared.holdings.leave(share, bytes);
                return Err(refused(message));
            }
        }
        match self.queue.try_send(message) {
            Ok(()) => {
                if let Some((share, _)) = share {
                    self.shared.join(share.number());
                }
                Ok(())
            }
            Err(failed) => {
                if let Some((share, bytes)) = own {
                    self.shared.holdings.leave(share, bytes);
                }
                Err(match failed {
                    TrySendError::Full(message) => Refused::Full(message),
                    TrySendError::Closed(message) => Refused::Closed(message),
                })
            }
        }
    }

    /// Returns the reason to refuse a message, if there is one. `held` counts the waiting messages
    /// of its tenant, this message included.
    fn refusal(&self, held: Held, bytes_waiting: usize) -> Option<fn(M) -> Refused<M>> {
        let FairLimits { operations, bytes, .. } = self.limits;
        if held.operations <= operations / RESERVED && held.bytes <= bytes / RESERVED {
            return None;
        }
        if held.operations == 1 {
            // The only message of a tenant may have any size: in a busy channel a large one would
            // otherwise never be accepted.
            return None;
        }
        let waiting = self.waiting();
        let has_half = held.operations > operations / 2 || held.bytes > bytes / 2;
        let others_wait =
            waiting >= held.operations || self.shared.is_shared.load(Ordering::Relaxed);
        if has_half && others_wait {
            return Some(Refused::Share);
        }
        let is_short = waiting >= operations - operations / RESERVED
            || (bytes > 0 && bytes_waiting > bytes - bytes / RESERVED);
        is_short.then_some(Refused::Full)
    }
}

/// Receiving side of a fair channel.
pub struct FairReceiver<M> {
    channel: mpsc::Receiver<M>,
    sorted: FairQueue<M>,
    shared: Arc<Shared>,
    limits: FairLimits,
}

impl<M: Queued> FairReceiver<M> {
    /// Waits for the next message; returns `None` once the sender is gone.
    ///
    /// Cancel safety: a dropped future has received nothing.
    pub async fn recv(&mut self) -> Option<M> {
        if let Some(next) = self.pop() {
            return Some(next);
        }
        let next = self.channel.recv().await?;
        self.shared.leave(&next);
        Some(next)
    }

    /// Waits for the next message like [`FairReceiver::recv`]. Blocks.
    pub fn blocking_recv(&mut self) -> Option<M> {
        if let Some(next) = self.pop() {
            return Some(next);
        }
        let next = self.channel.blocking_recv()?;
        self.shared.leave(&next);
        Some(next)
    }

    /// Returns the next message, if one waits.
    #[inline]
    pub fn try_next(&mut self) -> Option<M> {
        if let Some(next) = self.pop() {
            return Some(next);
        }
        let next = self.channel.try_recv().ok()?;
        self.shared.leave(&next);
        Some(next)
    }

    /// Waits for messages, and adds all that wait to `batch`, up to the size of one batch. Returns
    /// the number of added messages; 0 once the sender is gone.
    ///
    /// Cancel safety: a dropped future has received nothing.
    pub async fn recv_many(&mut self, batch: &mut Vec<M>) -> usize {
        self.sort(0);
        let most = self.limits.batch_operations;
        if !self.sorted.is_empty() {
            let before = batch.len();
            batch.extend(std::iter::from_fn(|| self.try_next()).take(most));
            return batch.len() - before;
        }
        let before = batch.len();
        let received = self.channel.recv_many(batch, most).await;
        batch[before..].iter().for_each(|message| self.shared.leave(message));
        received
    }

    #[inline]
    fn pop(&mut self) -> Option<M> {
        if self.sorted.is_empty() {
            return None;
        }
        let next = self.sorted.pop()?;
        self.shared.sorted.store(self.sorted.len(), Ordering::Relaxed);
        self.shared.leave(&next);
        Some(next)
    }

    /// Prepares the next batch. If messages of several tenants wait and exceed one batch, they are
    /// divided by tenant. `bytes_waiting` is the size of all waiting messages.
    #[inline]
    pub fn sort(&mut self, bytes_waiting: usize) {
        let tenant_in_channel = self.shared.tenant_in_channel.load(Ordering::Acquire);
        let is_due = if self.sorted.is_empty() {
            tenant_in_channel == SEVERAL && self.limits.is_long(self.channel.len(), bytes_waiting)
        } else {
            // Nothing is due if the channel holds only messages of the one tenant in the fair
            // queue.
            !self.sorted.is_closed() && self.sorted.only_tenant() != Some(tenant_in_channel)
        };
        if is_due {
            self.divide();
        }
        let is_shared = self.sorted.is_shared();
        // Checking first avoids needless stores, so the cache line stays shared with the senders.
        if self.shared.is_shared.load(Ordering::Relaxed) != is_shared {
            self.shared.is_shared.store(is_shared, Ordering::Relaxed);
        }
    }

    /// Moves the messages in the channel to the fair queue, up to and including the first barrier.
    fn divide(&mut self) {
        // A message that is sent from now on records its tenant again.
        self.shared.tenant_in_channel.swap(NO_TENANT, Ordering::AcqRel);
        let mut is_whole = true;
        for _ in 0..self.channel.len() {
            let Ok(next) = self.channel.try_recv() else {
                is_whole = false;
                break;
            };
            match next.share() {
                Some((share, bytes)) => self.sorted.push(share, self.limits.cost(bytes), next),
                None => {
                    is_whole = false;
                    self.sorted.close(next);
                }
            }
            self.shared.sorted.store(self.sorted.len(), Ordering::Relaxed);
            if self.sorted.is_closed() {
                break;
            }
        }
        if !is_whole {
            self.shared.tenant_in_channel.store(SEVERAL, Ordering::Release);
        } else if let Some(only) = self.sorted.only_tenant() {
            // The exchange fails if a message was sent meanwhile; then the messages are divided
            // again.
            let (set, seen) = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = self.shared.tenant_in_channel.compare_exchange(NO_TENANT, only, set, seen);
        }
    }
}
