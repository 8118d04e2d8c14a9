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
use super::link::Trouble;
use super::script::Step;
use super::tally::Count;

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
        // The first may have to connect; the second tells how long an answer takes.
        let tried = async {
            self.links.ask(&ping).await.ok()?;
            tokio::time::timeout(self.settings.patience, self.links.ask(&ping)).await.ok()?.ok()
        };
        let is_well = matches!(tokio::time::timeout(TRIAL_MAX, tried).await, Ok(Some(_)));
        self.breaker.tried(is_well);
        if is_well {
            tracing::info!(address = %self.links.address(), "the cache answers again");
        }
    }

    /// Puts a question that is to be answered by then.
    pub(super) async fn ask(&self, cmd: &Cmd, until: Instant) -> Asked {
        let began = Instant::now();
        let trouble = match tokio::time::timeout_at(until.into(), self.links.ask(cmd)).await {
            Ok(Ok(value)) => {
                if self.breaker.answered(began.elapsed()) {
                    self.opened("it answers slowly");
                }
                return Asked::Answer(value);
            }
            Ok(Err(trouble)) => Some(trouble),
            Err(_elapsed) => None,
        };
        self.tally.count(Count::Error);
        if let Some(Trouble::Refused(code)) = &trouble
            && code == "WRONGTYPE"
        {
            return Asked::WrongKind;
        }
        if self.breaker.failed() {
            let late = || "it does not answer in time".to_owned();
            self.opened(&trouble.as_ref().map_or_else(late, ToString::to_string));
        }
        if trouble.is_some() { Asked::Trouble } else { Asked::Late }
    }

    /// Runs a script. That Redis refuses one does not mean that it is away.
    pub(super) async fn step(&self, step: &Step, until: Instant) -> Option<Value> {
        let began = Instant::now();
        let stepped = async {
            match self.links.ask(&step.cmd).await {
                Err(Trouble::Refused(code)) if code == "NOSCRIPT" => {
                    self.links.ask(&step.load()).await?;
                    self.links.ask(&step.cmd).await
                }
                answer => answer,
            }
        };
        let trouble = match tokio::time::timeout_at(until.into(), stepped).await {
            Ok(Ok(value)) => {
                if self.breaker.answered(began.elapsed()) {
                    self.opened("it answers slowly");
                }
                return Some(value);
            }
            Ok(Err(Trouble::Refused(_))) => {
                self.tally.count(Count::Error);
                return None;
            }
            Ok(Err(trouble)) => trouble.to_string(),
            Err(_elapsed) => "it does not answer in time".to_owned(),
        };
        self.tally.count(Count::Error);
        if self.breaker.failed() {
            self.opened(&trouble);
        }
        None
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
