//! Client of Redis: sends commands, and reports their durations and failures to the circuit
//! breaker.
//!
//! **Invariant:** a command waits for Redis no longer than its wait limits; the log has a line for
//! each change of the breaker's state, and not for each failure.
//! **Not here:** connections (`connections`), the circuit breaker (`breaker`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use redis::{Cmd, Value};
use tokio::runtime::Handle;

use super::CacheSettings;
use super::breaker::{Advice, Breaker, TRIAL_MAX};
use super::connections::{
    Answered, CONNECT_MAX, Connections, PROTOCOL_ERROR, RedisError, WaitLimits,
};
use super::script::RedisStep;
use super::tally::{Count, Tally};

/// Time limit of a background command, which no request waits for.
pub(super) const UNWAITED_MAX: Duration = Duration::from_secs(1);
/// Maximum number of background operations in progress, counted as stored entries and invalidated
/// keys. Further ones are dropped.
const UNWAITED_COUNT_MAX: usize = 16_384;
/// Error codes with which Redis refuses every command, either temporarily or until an operator
/// acts.
const REFUSES_ALL: [&str; 6] =
    ["NOAUTH", PROTOCOL_ERROR, "LOADING", "MASTERDOWN", "BUSY", "CLUSTERDOWN"];

/// Result of a command.
#[derive(Debug)]
pub(super) enum Reply {
    /// Redis returned this value.
    Answer(Value),
    /// The key exists but is not a hash, so another program stored it.
    WrongKind,
    /// No response arrived in time.
    Late,
    /// Redis refused the command, or the command could not be sent.
    Failed,
}

/// Limit on the number of keys of background commands in progress.
pub(super) struct SendPermits {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// Permit to send a background command for a number of keys; it is returned when this value is
/// dropped.
pub(super) struct SendPermit(Arc<AtomicUsize>, usize);

impl SendPermits {
    pub(super) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// Takes a permit for `count` keys; returns `None` if that would exceed the limit.
    pub(super) fn take(&self, count: usize) -> Option<SendPermit> {
        let before = self.taken.fetch_add(count, Ordering::Relaxed);
        let permit = SendPermit(Arc::clone(&self.taken), count);
        (before + count <= self.most).then_some(permit)
    }
}

impl Drop for SendPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Client of one Redis server, with the circuit breaker that decides whether the server is used.
pub(super) struct Client {
    connections: Connections,
    pub(super) breaker: Breaker,
    /// Permits of background commands.
    pub(super) permits: SendPermits,
    /// Longest time that a read waits for a connection.
    patience: Duration,
    tally: Arc<Tally>,
}

impl Client {
    /// Creates the client of the server in the settings; it does not connect yet.
    pub(super) fn new(settings: &CacheSettings, tally: &Arc<Tally>) -> Self {
        Self {
            connections: Connections::new(settings.address.clone()),
            breaker: Breaker::new(settings.patience),
            permits: SendPermits::new(UNWAITED_COUNT_MAX),
            patience: settings.patience,
            tally: Arc::clone(tally),
        }
    }

    /// Returns true if Redis may be used now. If the pause of the circuit breaker is over, starts a
    /// trial in the background and returns false.
    pub(super) fn may_use(self: &Arc<Self>) -> bool {
        match self.breaker.advice() {
            Advice::Use => true,
            Advice::Avoid => false,
            Advice::Trial => {
                let client = Arc::clone(self);
                spawn(async move { client.try_again().await });
                false
            }
        }
    }

    async fn try_again(&self) {
        let ping = redis::cmd("PING");
        self.connections.renew();
        let end = Instant::now() + TRIAL_MAX;
        let until = |until: Instant| WaitLimits { until: until.min(end), connection: CONNECT_MAX };
        // The first command may have to open a connection; the second shows whether a response
        // arrives within the patience.
        let is_well = self.connections.send(&ping, until(end)).await.is_ok()
            && self.connections.send(&ping, until(Instant::now() + self.patience)).await.is_ok();
        // Connections that failed before the end of the trial no longer count as failures of Redis.
        self.connections.take_failures();
        self.breaker.end_trial(is_well);
        if is_well {
            tracing::info!(address = %self.connections.address(), "the cache answers again");
        }
    }

    /// Sends a command and waits for the response until `until` at the latest.
    pub(super) async fn send(&self, cmd: &Cmd, until: Instant) -> Reply {
        let error = match self.connections.send(cmd, self.wait_limits(until)).await {
            Ok(Answered { value, took }) => {
                self.answered(took);
                return Reply::Answer(value);
            }
            Err(error) => error,
        };
        self.failed(&error);
        if matches!(&error, RedisError::Refused(code) if code == "WRONGTYPE") {
            return Reply::WrongKind;
        }
        self.report_failure(&error, until);
        if matches!(error, RedisError::Late) { Reply::Late } else { Reply::Failed }
    }

    /// Runs a script, and returns its result; `None` if it failed. An error response to a script
    /// does not count as a failure of Redis, unless Redis refuses every command.
    pub(super) async fn run_script(&self, step: &RedisStep, until: Instant) -> Option<Value> {
        let limits = self.wait_limits(until);
        let answer = match self.connections.send(&step.cmd, limits).await {
            Err(RedisError::Refused(code)) if code == "NOSCRIPT" => {
                match self.connections.send(&step.load(), limits).await {
                    Ok(_) => self.connections.send(&step.cmd, limits).await,
                    Err(error) => Err(error),
                }
            }
            answer => answer,
        };
        let error = match answer {
            Ok(Answered { value, took }) => {
                self.answered(took);
                return Some(value);
            }
            Err(error) => error,
        };
        self.failed(&error);
        let is_of_this_script = match &error {
            RedisError::Refused(code) => !REFUSES_ALL.contains(&code.as_str()),
            RedisError::Unreachable(_)
            | RedisError::Ended
            | RedisError::Connecting
            | RedisError::Late => false,
        };
        if !is_of_this_script {
            self.report_failure(&error, until);
        }
        None
    }

    /// Returns the wait limits for a deadline. A read waits up to `patience` for a connection, and
    /// background work up to [`CONNECT_MAX`].
    fn wait_limits(&self, until: Instant) -> WaitLimits {
        let is_read = until.saturating_duration_since(Instant::now()) <= self.patience;
        let connection = if is_read { self.patience } else { CONNECT_MAX };
        WaitLimits { until, connection }
    }

    fn answered(&self, took: Duration) {
        if self.breaker.answered(took, Instant::now()) {
            self.opened("it answers slowly");
        }
    }

    fn failed(&self, error: &RedisError) {
        if !matches!(error, RedisError::Connecting) {
            self.tally.count(Count::Error);
        }
    }

    /// Reports a failure to the circuit breaker, if Redis has caused it.
    fn report_failure(&self, error: &RedisError, until: Instant) {
        let (opens, why) = match error {
            RedisError::Connecting | RedisError::Unreachable(_) | RedisError::Ended => {
                // A failed connection counts as one failure, even if many commands have waited for
                // it.
                let (failures, why) = self.connections.take_failures();
                let opens = (0..failures).fold(false, |opens, _| self.breaker.failed() || opens);
                (opens, why.unwrap_or_else(|| error.clone()))
            }
            RedisError::Late => (self.breaker.late(until, Instant::now()), error.clone()),
            RedisError::Refused(_) => (self.breaker.failed(), error.clone()),
        };
        if opens {
            self.opened(&why.to_string());
        }
    }

    fn opened(&self, why: &str) {
        let address = self.connections.address();
        tracing::warn!(%address, why, "the cache is not used for a while: reads go to the shards");
    }

    /// Removes the entries of these keys in the background, without waiting for Redis.
    pub(super) fn unlink(self: &Arc<Self>, keys: Vec<String>) {
        // While the breaker is open no read uses Redis, so the invalidation can be omitted: an
        // outdated entry that remains still states its true age and position.
        if !self.breaker.is_closed() {
            return;
        }
        let count = keys.len();
        let Some(permit) = self.permits.take(count) else {
            self.tally.add(Count::Error, count as u64);
            return;
        };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let client = Arc::clone(self);
        let mut sent = Box::pin(async move {
            let _permit = permit;
            let mut cmd = redis::cmd("UNLINK");
            cmd.arg(&keys);
            client.send(&cmd, Instant::now() + UNWAITED_MAX).await;
        });
        // On an open connection the command is sent before the response to the client.
        if sent.as_mut().now_or_never().is_none() {
            spawn(sent);
        }
    }

    /// Closes the connections to Redis.
    pub(super) fn close(&self) {
        self.connections.close();
    }
}

/// Runs a task in the background; does nothing outside a Tokio runtime.
pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}
