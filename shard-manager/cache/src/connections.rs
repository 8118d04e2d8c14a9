//! Connections: one connection to Redis for each thread that serves requests, shared by all
//! requests of the thread.
//!
//! A connection belongs to the runtime of the thread that opened it, so a response wakes no other
//! thread. The first request that needs a connection starts to open it and waits within its limits;
//! the attempt to connect continues even if the request stops waiting. Some events count as
//! failures of Redis, which may open the circuit breaker. An attempt that is slow, or that leaves
//! too little time for a response, is not a failure. An attempt that fails is one failure for all
//! requests that wait for it. A connection that ends is also a failure, unless a new connection
//! opens while the requests still wait.
//!
//! **Invariant:** a thread opens at most one connection at a time, and no request waits longer than
//! its limits.
//! **Not here:** the decision to use Redis (`breaker`), the commands (`client`).

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, TlsCertificates, Value};
use rustls::crypto::{CryptoProvider, ring};
use tokio::sync::watch;

use super::address::CacheAddress;

/// Maximum number of connections of one cache. If there are more threads, some of them share a
/// connection.
const CONNECTIONS_MAX: usize = 64;
/// Time limit for opening a connection.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Maximum number of commands in the send buffer of one connection; further commands wait for
/// space.
const WAITING_MAX: usize = 512;

/// Number of consecutive timeouts after which a connection counts as dead.
const TIMEOUTS_MAX: u32 = 3;

/// Name for the error with which Redis responds to a command that it cannot parse, or to a long one
/// before authentication.
pub(super) const PROTOCOL_ERROR: &str = "protocol error";

/// Reason why a command has no result. It never repeats the error text of Redis, which may contain
/// a password.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum RedisError {
    /// No connection could be opened.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// Redis responded with an error, whose code this is.
    #[error("{0}")]
    Refused(String),
    /// The connection ended.
    #[error("the connection ended")]
    Ended,
    /// The command had to wait until a connection was open, and no response arrived in time.
    #[error("the connection is being made")]
    Connecting,
    /// Redis did not respond in time on an open connection.
    #[error("it does not answer in time")]
    Late,
}

/// Response of Redis.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) value: Value,
    /// Time from sending the command on an open connection to its response.
    pub(super) took: Duration,
}

/// Limits on how long a command waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitLimits {
    /// Moment at which the command stops waiting for the response.
    pub(super) until: Instant,
    /// Longest time that a command waits for a connection, measured from the moment at which the
    /// opening of the connection began. A command that arrives after that does not wait.
    pub(super) connection: Duration,
}

/// Connections of one cache.
pub(super) struct Connections {
    id: u64,
    address: CacheAddress,
    all: Mutex<Vec<Arc<SharedConnection>>>,
    shared: AtomicUsize,
    failures: Arc<Failures>,
}

/// Number of connections that ended or failed to open since a connection was last opened, without
/// those already reported to the circuit breaker, and the reason of the last one.
#[derive(Default)]
struct Failures(Mutex<(u32, Option<RedisError>)>);

impl Failures {
    fn add(&self, error: RedisError) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = (failures.0.saturating_add(1), Some(error));
    }

    fn take(&self) -> (u32, Option<RedisError>) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
struct SharedConnection(Mutex<State>, Arc<Failures>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// A connection is being opened. The receiver learns when the attempt ends; the instant is its
    /// start.
    Connecting(watch::Receiver<Option<RedisError>>, Instant),
    Open(Open),
}

#[derive(Clone)]
struct Open {
    connection: MultiplexedConnection,
    /// Unique number of the connection, which distinguishes it from earlier ones.
    number: u64,
    timeouts: Arc<TimeoutStreak>,
}

/// Number of consecutive timeouts of one connection, which may be dead while other connections
/// work.
#[derive(Default)]
struct TimeoutStreak {
    count: AtomicU32,
    last: Mutex<Option<Instant>>,
}

impl TimeoutStreak {
    fn answered(&self) {
        if self.count.load(Ordering::Relaxed) != 0 {
            self.count.store(0, Ordering::Relaxed);
        }
    }

    /// Counts the timeout of a command that was sent at `asked`. Returns true if there were
    /// `TIMEOUTS_MAX` in a row. A command that was sent before the last counted timeout does not
    /// count, so commands that waited at the same time count once.
    fn add(&self, asked: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| asked < last) {
            return false;
        }
        *last = Some(Instant::now());
        self.count.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX
    }
}

thread_local! {
    static OWN: RefCell<Vec<(u64, Weak<SharedConnection>)>> = const { RefCell::new(Vec::new()) };
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Connections {
    pub(super) fn new(address: CacheAddress) -> Self {
        let (all, shared, failures) = Default::default();
        Self { id: next_number(), address, all, shared, failures }
    }

    /// Returns the address of the Redis server.
    pub(super) fn address(&self) -> &CacheAddress {
        &self.address
    }

    /// Sends a command on the connection of this thread. If the connection has ended, or ends
    /// before the response, opens a new connection and sends the command again, once.
    pub(super) async fn send(&self, cmd: &Cmd, limits: WaitLimits) -> Result<Answered, RedisError> {
        let link = self.own();
        match link.send(cmd, &self.address, limits).await {
            Err(RedisError::Ended) => link.send(cmd, &self.address, limits).await,
            answer => answer,
        }
    }

    /// Returns the number of connections that ended or failed to open, and the reason of the last
    /// one, and resets both. Opening a connection resets them, too.
    pub(super) fn take_failures(&self) -> (u32, Option<RedisError>) {
        self.failures.take()
    }

    /// Drops all open connections, because any of them may be dead. Later commands open new ones.
    pub(super) fn renew(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for link in all.iter() {
            let mut state = link.state();
            if matches!(&*state, State::Open(..)) {
                *state = State::Idle;
            }
        }
    }

    /// Closes all connections.
    pub(super) fn close(&self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn own(&self) -> Arc<SharedConnection> {
        let mine = |own: &mut Vec<(u64, Weak<SharedConnection>)>| {
            let found = own.iter().find(|(id, _)| *id == self.id);
            found.and_then(|(_, link)| link.upgrade()).unwrap_or_else(|| {
                let link = self.another();
                own.retain(|(id, link)| *id != self.id && link.strong_count() > 0);
                own.push((self.id, Arc::downgrade(&link)));
                link
            })
        };
        OWN.with_borrow_mut(mine)
    }

    fn another(&self) -> Arc<SharedConnection> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < CONNECTIONS_MAX {
            all.push(Arc::new(SharedConnection(Mutex::default(), Arc::clone(&self.failures))));
            return Arc::clone(&all[all.len() - 1]);
        }
        Arc::clone(&all[self.shared.fetch_add(1, Ordering::Relaxed) % all.len()])
    }
}

impl SharedConnection {
    async fn send(
        self: &Arc<Self>,
        cmd: &Cmd,
        address: &CacheAddress,
        limits: WaitLimits,
    ) -> Result<Answered, RedisError> {
        let (mut open, has_waited) = self.connection(address, limits).await?;
        let asked = Instant::now();
        let answered = open.connection.send_packed_command(cmd);
        let answer = tokio::time::timeout_at(limits.until.into(), answered).await;
        if answer.is_ok() {
            open.timeouts.answered();
        }
        match answer {
            Ok(Ok(Value::ServerError(error))) => {
                Err(RedisError::Refused(description(&error.into())))
            }
            Ok(Ok(value)) => Ok(Answered { value, took: asked.elapsed() }),
            Ok(Err(error)) if error.is_unrecoverable_error() || error.is_io_error() => {
                if self.forget(open.number) {
                    // The end of the connection counts once for all commands. If a new connection
                    // opens before one of them reports the failure, the count is reset.
                    self.1.add(RedisError::Ended);
                }
                Err(RedisError::Ended)
            }
            Ok(Err(error)) => Err(RedisError::Refused(description(&error))),
            Err(_elapsed) if has_waited => Err(RedisError::Connecting),
            Err(_elapsed) => {
                if open.timeouts.add(asked) {
                    self.forget(open.number);
                }
                Err(RedisError::Late)
            }
        }
    }

    /// Returns the connection, and whether the command had to wait until it was open.
    async fn connection(
        self: &Arc<Self>,
        address: &CacheAddress,
        limits: WaitLimits,
    ) -> Result<(Open, bool), RedisError> {
        let mut has_waited = false;
        loop {
            let (mut ended, began, making) = {
                let mut state = self.state();
                match &*state {
                    State::Open(open) => return Ok((open.clone(), has_waited)),
                    State::Connecting(ended, began) => (ended.clone(), *began, None),
                    State::Idle => {
                        let (sender, ended) = watch::channel(None);
                        let began = Instant::now();
                        *state = State::Connecting(ended.clone(), began);
                        (ended, began, Some(ConnectionAttempt(Arc::clone(self), sender)))
                    }
                }
            };
            if let Some(making) = making {
                // The task is spawned only after the lock is released. A runtime that is shutting
                // down drops the task at once, and dropping the attempt takes the lock.
                tokio::spawn(making.make(address.clone()));
            }
            has_waited = true;
            // If its runtime shuts down, the attempt ends without a result; the loop then begins
            // another attempt.
            let until = (began + limits.connection).min(limits.until);
            if tokio::time::timeout_at(until.into(), ended.changed()).await.is_err() {
                return Err(RedisError::Connecting);
            }
            if let Some(error) = &*ended.borrow() {
                return Err(error.clone());
            }
        }
    }

    /// Drops a connection that has ended. Returns false if another connection has already replaced
    /// it.
    fn forget(&self, ended: u64) -> bool {
        let mut state = self.state();
        let is_it = matches!(&*state, State::Open(open) if open.number == ended);
        if is_it {
            *state = State::Idle;
        }
        is_it
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attempt to open a connection. The attempt ends when this value is dropped.
struct ConnectionAttempt(Arc<SharedConnection>, watch::Sender<Option<RedisError>>);

impl ConnectionAttempt {
    async fn make(self, address: CacheAddress) {
        match tokio::time::timeout(CONNECT_MAX, connect(&address)).await {
            Ok(Ok(connection)) => {
                // Redis is reachable, so earlier failures no longer count.
                self.0.1.take();
                let (number, timeouts) = (next_number(), Arc::default());
                *self.0.state() = State::Open(Open { connection, number, timeouts });
            }
            Ok(Err(error)) => self.fail(error),
            Err(_elapsed) => self.fail(RedisError::Unreachable("it took too long".to_owned())),
        }
    }

    fn fail(&self, error: RedisError) {
        *self.0.state() = State::Idle;
        // The failure counts once for all commands that wait, and also if none waits any more.
        self.0.1.add(error.clone());
        self.1.send_replace(Some(error));
    }
}

impl Drop for ConnectionAttempt {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if matches!(&*state, State::Connecting(..)) {
            *state = State::Idle;
        }
    }
}

pub(super) async fn connect(address: &CacheAddress) -> Result<MultiplexedConnection, RedisError> {
    let unreachable = |error: redis::RedisError| RedisError::Unreachable(description(&error));
    if address.is_secured() && CryptoProvider::get_default().is_none() {
        // The Redis client uses the process-wide cryptography provider of rustls, and panics if
        // several are compiled in and none is chosen. If another thread chooses one at this moment,
        // that one is used.
        let _ = ring::default_provider().install_default();
    }
    let client = match address.roots() {
        None => Client::open(address.info().clone()).map_err(unreachable)?,
        Some(path) => {
            let unreadable =
                |error| RedisError::Unreachable(format!("{}: {error}", path.display()));
            // Blocking is acceptable here: the file is short, and is read only when a connection is
            // opened.
            let roots = std::fs::read(path).map_err(unreadable)?;
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(roots) };
            Client::build_with_tls(address.info().clone(), certificates).map_err(unreachable)?
        }
    };
    // The client's own timeouts are disabled, because each command has its own wait limits.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_pipeline_buffer_size(WAITING_MAX);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreachable)
}

/// Returns the code or kind of an error, without the error text of the server, which may repeat
/// what was sent to it.
fn description(error: &redis::RedisError) -> String {
    match error.code() {
        Some("ERR") if error.detail().is_some_and(|it| it.starts_with("Protocol error")) => {
            PROTOCOL_ERROR.to_owned()
        }
        Some(code) => code.to_owned(),
        None if error.is_connection_refusal() => "it is refused".to_owned(),
        None => error.category().to_owned(),
    }
}
