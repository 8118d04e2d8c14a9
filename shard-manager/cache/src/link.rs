//! Link: the connections to Redis: one for each thread that serves, shared by all that it serves.
//!
//! A connection lives on the runtime of the thread that had it made, so an answer wakes nobody else. Who needs one that is
//! not there begins to make it, and waits as long as its patience lasts; it is made all the same. That it takes longer, or
//! leaves too little time for an answer, is not held against Redis. That it fails is, once for all who wait; and so is that
//! one ends, unless the next one is made while they do.
//!
//! **Invariant:** of each link at most one connection is being made; nothing here waits longer than it is told to.
//! **Not here:** whether Redis is to be asked (`breaker`), what (`cache`).

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, TlsCertificates, Value};
use rustls::crypto::{CryptoProvider, ring};
use tokio::sync::watch;

use super::address::CacheAddress;

/// Connections of one process; more threads than this share them.
const LINKS_MAX: usize = 64;
/// How long a connection may take to be made.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Commands that wait to be written on one connection; who comes then waits.
const WAITING_MAX: usize = 512;

/// Questions in a row that are not answered in time after which a connection is taken for dead.
const LATES_MAX: u32 = 3;

/// What it is called that Redis takes a command for none. Of who has not told a password it takes all that are long so.
pub(super) const PROTOCOL_ERROR: &str = "protocol error";

/// Why Redis was not asked, or did not answer. What it said is not repeated: that may be what it was told.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// No connection could be made.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// It refused the command.
    #[error("{0}")]
    Refused(String),
    /// Its connection ended.
    #[error("the connection ended")]
    Ended,
    /// There was no time for an answer, because the connection was still being made.
    #[error("the connection is being made")]
    Connecting,
    /// It was asked, and did not answer in time.
    #[error("it does not answer in time")]
    Late,
}

/// What Redis said.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) value: Value,
    /// How long it took to say it, from when there was a connection.
    pub(super) took: Duration,
}

/// How long somebody waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For all of it.
    pub(super) until: Instant,
    /// For a connection, from when it was begun to be made. Whoever comes when it has been longer does not wait at all.
    pub(super) connection: Duration,
}

/// All connections.
pub(super) struct Links {
    id: u64,
    address: CacheAddress,
    all: Mutex<Vec<Arc<Link>>>,
    shared: AtomicUsize,
    failures: Arc<Failures>,
}

/// Connections that ended, or could not be made, since the last one that was made, of which nobody has taken notice yet;
/// and why.
#[derive(Default)]
struct Failures(Mutex<(u32, Option<Trouble>)>);

impl Failures {
    fn add(&self, trouble: Trouble) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = (failures.0.saturating_add(1), Some(trouble));
    }

    fn take(&self) -> (u32, Option<Trouble>) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
struct Link(Mutex<State>, Arc<Failures>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// Told when that has ended; when it was begun.
    Connecting(watch::Receiver<Option<Trouble>>, Instant),
    Open(Open),
}

#[derive(Clone)]
struct Open {
    connection: MultiplexedConnection,
    /// Tells it from those before.
    number: u64,
    lates: Arc<Lates>,
}

/// What a connection was asked in a row and did not answer in time. One may die without a word while others live.
#[derive(Default)]
struct Lates {
    count: AtomicU32,
    last: Mutex<Option<Instant>>,
}

impl Lates {
    fn answered(&self) {
        if self.count.load(Ordering::Relaxed) != 0 {
            self.count.store(0, Ordering::Relaxed);
        }
    }

    /// Told of one that was asked then; tells whether there are too many. What was on its way together counts once.
    fn add(&self, asked: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| asked < last) {
            return false;
        }
        *last = Some(Instant::now());
        self.count.fetch_add(1, Ordering::Relaxed) + 1 >= LATES_MAX
    }
}

thread_local! {
    static OWN: RefCell<Vec<(u64, Weak<Link>)>> = const { RefCell::new(Vec::new()) };
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Links {
    pub(super) fn new(address: CacheAddress) -> Self {
        let (all, shared, failures) = Default::default();
        Self { id: next_number(), address, all, shared, failures }
    }

    /// Where they go.
    pub(super) fn address(&self) -> &CacheAddress {
        &self.address
    }

    /// Asks on the connection of this thread. One that has ended, or one that ends before it has answered, is replaced once.
    pub(super) async fn ask(&self, cmd: &Cmd, patience: Patience) -> Result<Answered, Trouble> {
        let link = self.own();
        match link.ask(cmd, &self.address, patience).await {
            Err(Trouble::Ended) => link.ask(cmd, &self.address, patience).await,
            answer => answer,
        }
    }

    /// How many connections ended or could not be made since this was asked last, and since one was made; and why the last
    /// of them.
    pub(super) fn take_failures(&self) -> (u32, Option<Trouble>) {
        self.failures.take()
    }

    /// All that are asked next make connections anew: any may have died without a word.
    pub(super) fn renew(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for link in all.iter() {
            let mut state = link.state();
            if matches!(&*state, State::Open(..)) {
                *state = State::Idle;
            }
        }
    }

    /// Gives up all connections.
    pub(super) fn close(&self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn own(&self) -> Arc<Link> {
        let mine = |own: &mut Vec<(u64, Weak<Link>)>| {
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

    fn another(&self) -> Arc<Link> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < LINKS_MAX {
            all.push(Arc::new(Link(Mutex::default(), Arc::clone(&self.failures))));
            return Arc::clone(&all[all.len() - 1]);
        }
        Arc::clone(&all[self.shared.fetch_add(1, Ordering::Relaxed) % all.len()])
    }
}

impl Link {
    async fn ask(
        self: &Arc<Self>,
        cmd: &Cmd,
        address: &CacheAddress,
        patience: Patience,
    ) -> Result<Answered, Trouble> {
        let (mut open, has_waited) = self.connection(address, patience).await?;
        let asked = Instant::now();
        let answered = open.connection.send_packed_command(cmd);
        let answer = tokio::time::timeout_at(patience.until.into(), answered).await;
        if answer.is_ok() {
            open.lates.answered();
        }
        match answer {
            Ok(Ok(Value::ServerError(error))) => Err(Trouble::Refused(told(&error.into()))),
            Ok(Ok(value)) => Ok(Answered { value, took: asked.elapsed() }),
            Ok(Err(error)) if error.is_unrecoverable_error() || error.is_io_error() => {
                if self.forget(open.number) {
                    // Once, however many it leaves without an answer; not at all, if the next one is made in time.
                    self.1.add(Trouble::Ended);
                }
                Err(Trouble::Ended)
            }
            Ok(Err(error)) => Err(Trouble::Refused(told(&error))),
            Err(_elapsed) if has_waited => Err(Trouble::Connecting),
            Err(_elapsed) => {
                if open.lates.add(asked) {
                    self.forget(open.number);
                }
                Err(Trouble::Late)
            }
        }
    }

    /// The connection, and whether it had to be waited for.
    async fn connection(
        self: &Arc<Self>,
        address: &CacheAddress,
        patience: Patience,
    ) -> Result<(Open, bool), Trouble> {
        let mut has_waited = false;
        loop {
            let (mut ended, began, making) = {
                let mut state = self.state();
                match &*state {
                    State::Open(open) => return Ok((open.clone(), has_waited)),
                    State::Connecting(ended, began) => (ended.clone(), *began, None),
                    State::Idle => {
                        let (tell, ended) = watch::channel(None);
                        let began = Instant::now();
                        *state = State::Connecting(ended.clone(), began);
                        (ended, began, Some(Making(Arc::clone(self), tell)))
                    }
                }
            };
            if let Some(making) = making {
                // Only now that the lock is released: a runtime that shuts down drops the task at
                // once, and to drop it takes the lock.
                tokio::spawn(making.make(address.clone()));
            }
            has_waited = true;
            // It ends without a word if its runtime does; then this one makes another.
            let until = (began + patience.connection).min(patience.until);
            if tokio::time::timeout_at(until.into(), ended.changed()).await.is_err() {
                return Err(Trouble::Connecting);
            }
            if let Some(trouble) = &*ended.borrow() {
                return Err(trouble.clone());
            }
        }
    }

    /// Whether that was the connection until now.
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

/// A connection that is being made. When it is dropped, that has ended, well or not.
struct Making(Arc<Link>, watch::Sender<Option<Trouble>>);

impl Making {
    async fn make(self, address: CacheAddress) {
        match tokio::time::timeout(CONNECT_MAX, connect(&address)).await {
            Ok(Ok(connection)) => {
                // What failed before is over.
                self.0.1.take();
                let (number, lates) = (next_number(), Arc::default());
                *self.0.state() = State::Open(Open { connection, number, lates });
            }
            Ok(Err(trouble)) => self.fail(trouble),
            Err(_elapsed) => self.fail(Trouble::Unreachable("it took too long".to_owned())),
        }
    }

    fn fail(&self, trouble: Trouble) {
        *self.0.state() = State::Idle;
        // Once, however many wait for it, and also if nobody does any more.
        self.0.1.add(trouble.clone());
        self.1.send_replace(Some(trouble));
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if matches!(&*state, State::Connecting(..)) {
            *state = State::Idle;
        }
    }
}

pub(super) async fn connect(address: &CacheAddress) -> Result<MultiplexedConnection, Trouble> {
    let unreachable = |error: RedisError| Trouble::Unreachable(told(&error));
    if address.is_secured() && CryptoProvider::get_default().is_none() {
        // The client of Redis takes the one of the process, and ends it if there are several and none is chosen. Somebody
        // else may be choosing one at this moment, which is as good.
        let _ = ring::default_provider().install_default();
    }
    let client = match address.roots() {
        None => Client::open(address.info().clone()).map_err(unreachable)?,
        Some(path) => {
            let unreadable = |error| Trouble::Unreachable(format!("{}: {error}", path.display()));
            // Short, and seldom.
            let roots = std::fs::read(path).map_err(unreadable)?;
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(roots) };
            Client::build_with_tls(address.info().clone(), certificates).map_err(unreachable)?
        }
    };
    // Who asks waits no longer than its own patience.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_pipeline_buffer_size(WAITING_MAX);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreachable)
}

/// What kind of error it was. The text of a server may repeat what it was sent.
fn told(error: &RedisError) -> String {
    match error.code() {
        Some("ERR") if error.detail().is_some_and(|it| it.starts_with("Protocol error")) => {
            PROTOCOL_ERROR.to_owned()
        }
        Some(code) => code.to_owned(),
        None if error.is_connection_refusal() => "it is refused".to_owned(),
        None => error.category().to_owned(),
    }
}
