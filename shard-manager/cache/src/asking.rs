//! Asking: puts a question to Redis, and tells the breaker how it was answered.
//!
//! **Invariant:** nothing waits for Redis longer than it says; a state of the cache is logged once, not each failure.
//! **Not here:** connections (`link`), judging (`breaker`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::runtime::Handle;

use super::Cache;
use super::breaker::{Advice, TRIAL_MAX};
use super::link::{Answered, CONNECT_MAX, PROTOCOL_ERROR, Patience, Trouble};
use super::script::Step;
use super::tally::Count;

/// What Redis says that refuses whatever it is asked, until somebody or time puts that right.
const REFUSES_ALL: [&str; 6] =
    ["NOAUTH", PROTOCOL_ERROR, "LOADING", "MASTERDOWN", "BUSY", "CLUSTERDOWN"];

/// What became of a question.
#[derive(Debug)]
pub(super) enum Asked {
    /// An answer.
    Answer(Value),
    /// What is there is no hash, so it is nothing of ours.
    WrongKind,
    /// There was none in time.
    Late,
    /// It was refused, or could not be put.
    Trouble,
}

/// How many things may be sent to Redis that nobody waits for.
pub(super) struct Turns {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// The right to send some; given back when dropped.
pub(super) struct Turn(Arc<AtomicUsize>, usize);

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// So many, if there is room for them.
    pub(super) fn take(&self, count: usize) -> Option<Turn> {
        let before = self.taken.fetch_add(count, Ordering::Relaxed);
        let turn = Turn(Arc::clone(&self.taken), count);
        (before + count <= self.most).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Cache {
    /// Has it tried whether Redis is back, if it was left alone long enough. Where nobody reads, whoever asks how the
    /// cluster is has to. Waits for nothing.
    pub fn look_after(self: &Arc<Self>) {
        self.may_ask();
    }

    /// Whether Redis is to be asked now. If it is time to try whether it is back, that begins, and nobody waits for it.
    pub(super) fn may_ask(self: &Arc<Self>) -> bool {
        match self.breaker.advice() {
            Advice::Ask => true,
            Advice::Leave => false,
            Advice::Try => {
                let cache = Arc::clone(self);
                self.spawn(async move { cache.try_again().await });
                false
            }
        }
    }

    async fn try_again(&self) {
        let ping = redis::cmd("PING");
        self.links.renew();
        let end = Instant::now() + TRIAL_MAX;
        let until = |until: Instant| Patience { until: until.min(end), connection: CONNECT_MAX };
        // The first may have to connect; the second tells how long an answer takes.
        let is_well = self.links.ask(&ping, until(end)).await.is_ok()
            && self.links.ask(&ping, until(Instant::now() + self.settings.patience)).await.is_ok();
        // What was tried meanwhile is over.
        self.links.take_failures();
        self.breaker.tried(is_well);
        if is_well {
            tracing::info!(address = %self.links.address(), "the cache answers again");
        }
    }

    /// Puts a question that is to be answered by then.
    pub(super) async fn ask(&self, cmd: &Cmd, until: Instant) -> Asked {
        let trouble = match self.links.ask(cmd, self.patience(until)).await {
            Ok(Answered { value, took }) => {
                self.answered(took);
                return Asked::Answer(value);
            }
            Err(trouble) => trouble,
        };
        self.failed(&trouble);
        if matches!(&trouble, Trouble::Refused(code) if code == "WRONGTYPE") {
            return Asked::WrongKind;
        }
        self.blame(&trouble, until);
        if matches!(trouble, Trouble::Late) { Asked::Late } else { Asked::Trouble }
    }

    /// Runs a script. That Redis refuses one does not mean that it is away, unless it refuses everything.
    pub(super) async fn step(&self, step: &Step, until: Instant) -> Option<Value> {
        let patience = self.patience(until);
        let answer = match self.links.ask(&step.cmd, patience).await {
            Err(Trouble::Refused(code)) if code == "NOSCRIPT" => {
                match self.links.ask(&step.load(), patience).await {
                    Ok(_) => self.links.ask(&step.cmd, patience).await,
                    Err(trouble) => Err(trouble),
                }
            }
            answer => answer,
        };
        let trouble = match answer {
            Ok(Answered { value, took }) => {
                self.answered(took);
                return Some(value);
            }
            Err(trouble) => trouble,
        };
        self.failed(&trouble);
        let is_of_this_script = match &trouble {
            Trouble::Refused(code) => !REFUSES_ALL.contains(&code.as_str()),
            Trouble::Unreachable(_) | Trouble::Ended | Trouble::Connecting | Trouble::Late => false,
        };
        if !is_of_this_script {
            self.blame(&trouble, until);
        }
        None
    }

    /// How long somebody waits who does until then: what nobody waits for waits for a connection as well.
    fn patience(&self, until: Instant) -> Patience {
        let is_read = until.saturating_duration_since(Instant::now()) <= self.settings.patience;
        let connection = if is_read { self.settings.patience } else { CONNECT_MAX };
        Patience { until, connection }
    }

    fn answered(&self, took: Duration) {
        if self.breaker.answered(took, Instant::now()) {
            self.opened("it answers slowly");
        }
    }

    fn failed(&self, trouble: &Trouble) {
        if !matches!(trouble, Trouble::Connecting) {
            self.tally.count(Count::Error);
        }
    }

    /// Tells the breaker of a failure, if it is one of Redis.
    fn blame(&self, trouble: &Trouble, until: Instant) {
        let (opens, why) = match trouble {
            Trouble::Connecting | Trouble::Unreachable(_) | Trouble::Ended => {
                // Each connection counts once, not all who have waited for it.
                let (failures, why) = self.links.take_failures();
                let opens = (0..failures).fold(false, |opens, _| self.breaker.failed() || opens);
                (opens, why.unwrap_or_else(|| trouble.clone()))
            }
            Trouble::Late => (self.breaker.late(until, Instant::now()), trouble.clone()),
            Trouble::Refused(_) => (self.breaker.failed(), trouble.clone()),
        };
        if opens {
            self.opened(&why.to_string());
        }
    }

    fn opened(&self, why: &str) {
        let address = self.links.address();
        tracing::warn!(%address, why, "the cache is not asked for a while: reads go to the shards");
    }

    /// Does what nobody waits for.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(work);
        }
    }
}

/// How long what nobody waits for may take.
pub(super) const UNWAITED_MAX: Duration = Duration::from_secs(1);
