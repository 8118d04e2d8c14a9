//! Event stream: the server-sent events that dashboards watch.
//!
//! Once a second, one event is built for each distinct query that at least one client watches.
//! Clients that watch the same query get the same event. Only the newest event is kept, so a slow
//! client misses events.
//!
//! **Invariant:** there are at most [`VIEWERS_MAX`] streams; a stream ends when its client
//! disconnects, when the hub is closed, or when the hub can no longer build its events.
//! **Not here:** the contents of events, HTTP.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// Maximum number of streams at the same time: enough for many screens, and a bound on connections
/// that are never closed.
pub const VIEWERS_MAX: usize = 32;
/// Time between two events.
pub const EVERY: Duration = Duration::from_secs(1);
/// Time without an event after which a comment line is sent, so that proxies do not close the
/// connection.
const PING_AFTER: Duration = Duration::from_secs(15);
const PING: &[u8] = b": ping\n\n";

/// Error for a new stream when there are too many already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {VIEWERS_MAX} streams already")]
pub struct Full;

/// Builds events and sends them to all streams.
pub struct Hub<Q> {
    /// Builds the data of an event: JSON on one line.
    build: Box<dyn Fn(&Q) -> Bytes + Send + Sync>,
    topics: Mutex<HashMap<Q, watch::Receiver<Option<Bytes>>>>,
    viewers: Arc<AtomicUsize>,
    built: AtomicU64,
    closed: watch::Sender<bool>,
    runtime: Handle,
}

impl<Q: Clone + Eq + Hash + Send + Sync + 'static> Hub<Q> {
    /// Creates a hub. `build` returns the data of an event for a query; it runs on the blocking
    /// threads of `runtime`, whose timer must be enabled.
    pub fn new(runtime: Handle, build: impl Fn(&Q) -> Bytes + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            build: Box::new(build),
            topics: Mutex::default(),
            viewers: Arc::default(),
            built: AtomicU64::new(0),
            closed: watch::Sender::new(false),
            runtime,
        })
    }

    /// Returns the number of streams.
    pub fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Relaxed)
    }

    /// Returns the number of events built since the start, for all queries.
    pub fn built(&self) -> u64 {
        self.built.load(Ordering::Relaxed)
    }

    /// Ends all streams, also those that are opened later, so that a server can end without waiting
    /// for the clients.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Returns a stream of events for `question`, as bytes of `text/event-stream`. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// Fails with [`Full`] if there are too many streams.
    pub fn watch(
        self: &Arc<Self>,
        question: Q,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + use<Q>, Full> {
        let permit = ViewerPermit::take(&self.viewers)?;
        let viewer = Viewer {
            events: self.topic(question),
            closed: self.closed.subscribe(),
            is_new: true,
            _permit: permit,
        };
        Ok(unfold(viewer, |mut viewer| async {
            let bytes = viewer.next().await?;
            Some((Ok(bytes), viewer))
        }))
    }

    /// Returns the events of a query. Building them starts with the first client that watches the
    /// query.
    fn topic(self: &Arc<Self>, question: Q) -> watch::Receiver<Option<Bytes>> {
        let mut topics = self.topics();
        // The sender no longer exists if its runtime has ended or if building an event has
        // panicked.
        let is_made = |events: &&watch::Receiver<Option<Bytes>>| events.has_changed().is_ok();
        if let Some(events) = topics.get(&question).filter(is_made) {
            return events.clone();
        }
        let (sender, events) = watch::channel(None);
        topics.insert(question.clone(), events.clone());
        drop(topics);
        self.runtime.spawn(self.clone().produce(question, sender));
        events
    }

    /// Builds the events of a query until no client watches it.
    async fn produce(self: Arc<Self>, question: Q, events: watch::Sender<Option<Bytes>>) {
        let mut beat = interval(EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            if self.forget_unwatched(&question, &events) {
                return;
            }
            let (hub, asked) = (self.clone(), question.clone());
            let built = tokio::task::spawn_blocking(move || (hub.build)(&asked)).await;
            // After a panic this task ends, and the next client of the query starts a new one.
            let Ok(data) = built else { return };
            self.built.fetch_add(1, Ordering::Relaxed);
            events.send_replace(Some(event(&data)));
        }
    }

    /// Removes the topic of a query if no client watches it, and returns true then. It holds the
    /// lock, so that no client can start to watch the topic meanwhile.
    fn forget_unwatched(&self, question: &Q, events: &watch::Sender<Option<Bytes>>) -> bool {
        let mut topics = self.topics();
        // One receiver is that of the map itself.
        let is_unwatched = events.receiver_count() <= 1 || *self.closed.borrow();
        if is_unwatched {
            topics.remove(question);
        }
        is_unwatched
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<Q, watch::Receiver<Option<Bytes>>>> {
        // A poisoned lock is ignored, because the map is valid even after a panic.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permit for one of at most [`VIEWERS_MAX`] streams.
struct ViewerPermit(Arc<AtomicUsize>);

impl ViewerPermit {
    fn take(taken: &Arc<AtomicUsize>) -> Result<Self, Full> {
        let more = |count: usize| (count < VIEWERS_MAX).then_some(count + 1);
        let done = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        done.map(|_| Self(taken.clone())).map_err(|_| Full)
    }
}

impl Drop for ViewerPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Viewer {
    events: watch::Receiver<Option<Bytes>>,
    closed: watch::Receiver<bool>,
    /// True until the first event has been sent. A new stream begins with the newest event, if one
    /// exists already.
    is_new: bool,
    _permit: ViewerPermit,
}

impl Viewer {
    async fn next(&mut self) -> Option<Bytes> {
        if *self.closed.borrow() {
            return None;
        }
        if std::mem::take(&mut self.is_new) {
            let there = self.events.borrow_and_update().clone();
            if there.is_some() {
                return there;
            }
        }
        tokio::select! {
            changed = self.events.changed() => {
                changed.ok()?;
                self.events.borrow_and_update().clone()
            }
            () = tokio::time::sleep(PING_AFTER) => Some(Bytes::from_static(PING)),
            _ = self.closed.changed() => None,
        }
    }
}

/// Returns the data as one server-sent event.
fn event(data: &[u8]) -> Bytes {
    [b"event: metrics\ndata: ", data, b"\n\n"].concat().into()
}
