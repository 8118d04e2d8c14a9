//! Recorder: collects a history from many tasks without locking shared state for every operation.
//!
//! Each session collects its own operations and hands them over in chunks. [`Recorder::key`] takes
//! a read lock to look up a name, and a write lock to add a new one. A sender should therefore call
//! it before it starts to measure time.
//!
//! **Invariant:** all operations in a [`SessionLog`] are in the history once the log has been
//! dropped.
//! **Not here:** sending requests and filling in the [`Operation`], which the sender does.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use checker::history::{
    Fault, Header, Key, Ledger, Names, NodeId, Operation, OperationHistory, Page, Role, Total,
    Value, request_id,
};

/// Number of operations that a session collects before it takes the lock of the history and hands
/// them over.
const CHUNK: usize = 256;

/// Collects the history of one run.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    run: String,
    sessions: AtomicU32,
    names: RwLock<Names>,
    history: Mutex<OperationHistory>,
}

impl Recorder {
    /// Creates a recorder, and starts its clock.
    pub fn start(header: Header) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            run: header.run.clone(),
            sessions: AtomicU32::new(0),
            names: RwLock::default(),
            history: Mutex::new(OperationHistory { header, ..OperationHistory::default() }),
        })
    }

    /// Returns the time since the start, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Returns the time from the start to `moment`, in nanoseconds; 0 if `moment` is before the
    /// start.
    pub fn at(&self, moment: Instant) -> u64 {
        // The conversion does not overflow: 2^64 nanoseconds are 584 years.
        moment.saturating_duration_since(self.started).as_nanos() as u64
    }

    /// Returns the key with a name such as `table/…`; a new name gets a new key.
    pub fn key(&self, name: &str) -> Key {
        // No change of `Names` can panic half-way, so the names are intact even if the lock is
        // poisoned.
        if let Some(key) = self.names.read().unwrap_or_else(PoisonError::into_inner).find(name) {
            return key;
        }
        self.names.write().unwrap_or_else(PoisonError::into_inner).intern(name)
    }

    /// Returns all keys so far, with their names.
    pub fn names(&self) -> Vec<(Key, String)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let keys = (0..names.len() as u32).map(Key);
        keys.map(|key| (key, names.name(key).to_owned())).collect()
    }

    /// Starts a new session; sessions are numbered from 1.
    pub fn session(self: &Arc<Self>) -> SessionLog {
        SessionLog {
            number: self.sessions.fetch_add(1, Ordering::Relaxed) + 1,
            drawn: 0,
            buffer: Vec::with_capacity(CHUNK),
            nodes: Vec::new(),
            recorder: Arc::clone(self),
        }
    }

    /// Records the sum of the accounts of a bank.
    pub fn total(&self, total: Total) {
        self.lock().totals.push(total);
    }

    /// Records the ledger of a bank.
    pub fn ledger(&self, ledger: Ledger) {
        self.lock().ledgers.push(ledger);
    }

    /// Records a page of a walk (an iteration over a table by cursor).
    pub fn page(&self, page: Page) {
        self.lock().pages.push(page);
    }

    /// Records a fault that is injected now.
    pub fn fault(&self, what: &str) {
        let fault = Fault { at: self.now(), what: what.to_owned() };
        self.lock().faults.push(fault);
    }

    /// Takes the history out of the recorder. Operations that sessions hand over after this call
    /// are not in the returned history.
    pub fn finish(&self) -> OperationHistory {
        let mut history = mem::take(&mut *self.lock());
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        history.keys = mem::take(&mut names);
        history
    }

    fn lock(&self) -> MutexGuard<'_, OperationHistory> {
        // A poisoned lock is ignored: each record is complete when it is pushed, so a panic cannot
        // leave an incomplete one.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Operations of one session. A log belongs to one task, and hands over its remaining operations
/// when it is dropped.
#[derive(Debug)]
pub struct SessionLog {
    number: u32,
    drawn: u32,
    buffer: Vec<Operation>,
    /// Nodes that have responded to this session so far, about a dozen at most. Looking up a node
    /// here needs no lock.
    nodes: Vec<(String, Role, u16, NodeId)>,
    recorder: Arc<Recorder>,
}

impl SessionLog {
    /// Returns the session's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the session's next unused number, which identifies a request or a value.
    pub fn draw(&mut self) -> u32 {
        self.drawn += 1;
        self.drawn
    }

    /// Returns the value for a number that was drawn before.
    pub fn value(&self, number: u32) -> Value {
        Value::new(self.number, number)
    }

    /// Returns the `x-request-id` of a request with this number.
    pub fn request_id(&self, request: u32) -> String {
        request_id(&self.recorder.run, self.number, request)
    }

    /// Returns the recorder of the run.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Returns the number of the node that responded. The node is identified by the headers
    /// `x-shard` and `x-served-by` and by the router to which the request was sent.
    pub fn node(&mut self, shard: &str, role: Role, host: u16) -> NodeId {
        let met = |node: &&(String, Role, u16, NodeId)| {
            (node.0.as_str(), node.1, node.2) == (shard, role, host)
        };
        if let Some(node) = self.nodes.iter().find(met) {
            return node.3;
        }
        let id = self.recorder.lock().nodes.intern(shard, role, host);
        self.nodes.push((shard.to_owned(), role, host, id));
        id
    }

    /// Adds an operation to the session.
    pub fn push(&mut self, operation: Operation) {
        self.buffer.push(operation);
        if self.buffer.len() >= CHUNK {
            self.flush();
        }
    }

    /// Hands the collected operations over to the recorder.
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.recorder.lock().operations.append(&mut self.buffer);
        }
    }
}

impl Drop for SessionLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checker::history::Kind;

    #[test]
    fn many_tasks_lose_nothing() {
        let recorder = Recorder::start(Header::new("r", String::new(), vec![]));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut log = recorder.session();
                    for _ in 0..1_000 {
                        let request = log.draw();
                        let key = recorder.key(&format!("kv/{}", request % 10));
                        let mut write = Operation::new(Kind::Write, key, log.number(), request);
                        write.value = log.value(request);
                        write.node = log.node("shard1", Role::Primary, 0);
                        log.push(write);
                    }
                });
            }
        });
        let history = recorder.finish();
        assert_eq!((history.operations.len(), history.keys.len()), (4_000, 10));
        let mut values: Vec<_> = history.operations.iter().map(|write| write.value).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 4_000);
        let first = &history.operations[0];
        assert_eq!(history.request_id(first), format!("r-{}-1", first.session));
        assert_eq!(history.nodes.get(first.node).unwrap().to_string(), "shard1 primary");
    }
}
