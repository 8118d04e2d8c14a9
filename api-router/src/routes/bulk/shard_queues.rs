//! Shard queues: the rows of a streamed body that wait until their shards store them.
//!
//! While a shard stores rows, further rows for it gather in its queue. The shard then takes all of
//! these rows, sorts them by their place in the file, and stores them in chunks. So rows that share
//! a page of the file are written together, however they are spread over the body, and a single
//! write of another client waits for at most one chunk. The slower a shard is, the more rows
//! gather. All queues of a stream share one limit on their bytes (the window); in addition, the
//! memory budget for bodies must allow these bytes.
//!
//! **Invariant:** rows of one key are stored in the order of the body. The queues hold at most the
//! window plus the rows of one batch, and all of these rows except those of one batch are charged
//! to the memory budget.
//! **Not here:** the source of the rows (`row_reader`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::rt;
use actix_web::web::{Data, block};
use shard_manager::manager::{BulkRow, RequestOptions};
use shard_manager::topology::ShardNumber;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::outcome::BulkOutcome;
use super::row_sample::RowSample;
use crate::app::App;
use crate::body_budget::BudgetShare;
use crate::caller_rights::CallerRights;
use crate::problem::{Code, Problem};

/// Maximum number of rows of a chunk, which a shard stores in one transaction. A single write may
/// have to wait for a chunk.
const CHUNK_ROWS_MAX: usize = 4_000;
/// Number of bytes of rows after which a chunk ends.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Number of bytes of rows in all queues of a stream above which no further rows are accepted. With
/// a larger window, rows are stored faster.
const WINDOW: usize = 12 << 20;

/// Queues of rows, one for each shard that has received a row.
pub(super) struct ShardQueues {
    shared: Rc<Shared>,
    app: Data<App>,
    rights: CallerRights,
    options: RequestOptions,
    patience: Duration,
    outcome: Rc<RefCell<BulkOutcome>>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

/// Queue of rows of one shard.
#[derive(Default)]
struct ShardQueue {
    /// Rows that the shard has not taken yet.
    queued: RefCell<Vec<BulkRow>>,
    /// Notified when rows were added, or when no more will be.
    more: Notify,
}

/// State that the sender and the writers share.
struct Shared {
    /// Queues, indexed by shard number. A queue is created for the first row of its shard.
    queues: RefCell<Vec<Option<Rc<ShardQueue>>>>,
    ended: Cell<bool>,
    /// True if a writer task has ended.
    has_ended_writer: Cell<bool>,
    /// Number of bytes of rows that are queued or being stored.
    held: Cell<usize>,
    /// Number of these bytes that are charged to the memory budget.
    charged: Cell<usize>,
    share: Rc<BudgetShare>,
    /// Notified when rows were stored, or when a writer task has ended.
    room: Notify,
}

impl ShardQueues {
    /// Creates queues whose rows are charged to `share`. Each chunk must be stored within
    /// `patience`.
    pub(super) fn new(
        app: &Data<App>,
        (rights, options): (&CallerRights, &RequestOptions),
        (share, patience): (Rc<BudgetShare>, Duration),
        outcome: &Rc<RefCell<BulkOutcome>>,
    ) -> Self {
        let shared = Rc::new(Shared {
            queues: RefCell::default(),
            ended: Cell::new(false),
            has_ended_writer: Cell::new(false),
            held: Cell::new(0),
            charged: Cell::new(0),
            share,
            room: Notify::new(),
        });
        Self {
            shared,
            app: app.clone(),
            rights: rights.clone(),
            options: options.clone(),
            patience,
            outcome: Rc::clone(outcome),
            tasks: RefCell::default(),
        }
    }

    /// Creates the queue of a shard, and starts the task that stores its rows.
    #[cold]
    fn open_queue(&self, shard: ShardNumber) -> Rc<ShardQueue> {
        let queue = Rc::new(ShardQueue::default());
        let writer = QueueWriter {
            shard,
            queue: Rc::clone(&queue),
            app: self.app.clone(),
            rights: self.rights.clone(),
            options: self.options.clone(),
            patience: self.patience,
            shared: Rc::clone(&self.shared),
            outcome: Rc::clone(&self.outcome),
        };
        self.tasks.borrow_mut().push(rt::spawn(writer.run()));
        queue
    }

    fn gather(&self, rows: Vec<BulkRow>) {
        let mut queues = self.shared.queues.borrow_mut();
        for row in rows {
            let shard = row.place.shard;
            if queues.len() <= shard.index() {
                queues.resize(shard.index() + 1, None);
            }
            let queue = queues[shard.index()].get_or_insert_with(|| self.open_queue(shard));
            queue.queued.borrow_mut().push(row);
        }
    }

    /// Adds rows to the queues, and waits until there is room for more.
    pub(super) async fn send(&self, rows: Vec<BulkRow>) {
        let shared = &self.shared;
        let bytes: usize = rows.iter().map(|row| row.row.bytes()).sum();
        shared.held.set(shared.held.get() + bytes);
        self.gather(rows);
        shared.notify_writers();
        // A writer ends early only by a panic, which `finish` reports.
        while !shared.has_room() && !shared.has_ended_writer.get() {
            shared.room.notified().await;
        }
    }

    /// Waits until the outcome of all queued rows is known.
    pub(super) async fn finish(self) -> Result<(), Problem> {
        self.shared.end();
        let tasks = self.tasks.take();
        let ended = futures_util::future::join_all(tasks).await;
        if ended.iter().all(Result::is_ok) {
            return Ok(());
        }
        Err(Problem::new(Code::TSR500, "an internal error").outcome("unknown"))
    }
}

impl Shared {
    /// Returns true if further rows may be queued. If the memory budget cannot take the rows that
    /// are already held, some of these must be stored first.
    fn has_room(&self) -> bool {
        let held = self.held.get();
        let more = held.saturating_sub(self.charged.get());
        if more > 0 && self.share.try_grow(more) {
            self.charged.set(held);
        }
        held == 0 || (held <= WINDOW && self.charged.get() >= held)
    }

    fn stored(&self, bytes: usize) {
        let held = self.held.get() - bytes;
        self.held.set(held);
        self.share.shrink(self.charged.get().saturating_sub(held));
        self.charged.set(self.charged.get().min(held));
        self.room.notify_one();
    }

    fn end(&self) {
        self.ended.set(true);
        self.notify_writers();
    }

    fn notify_writers(&self) {
        self.queues.borrow().iter().flatten().for_each(|queue| queue.more.notify_one());
    }
}

/// Lets the writers end once their queues are empty. If the client has disconnected, the rows in
/// the queues are still stored.
impl Drop for ShardQueues {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Task that stores the rows of one shard.
struct QueueWriter {
    shard: ShardNumber,
    queue: Rc<ShardQueue>,
    app: Data<App>,
    rights: CallerRights,
    options: RequestOptions,
    patience: Duration,
    shared: Rc<Shared>,
    outcome: Rc<RefCell<BulkOutcome>>,
}

/// Wakes the sender, which may be waiting for room, so that it notices that the writer has ended.
impl Drop for QueueWriter {
    fn drop(&mut self) {
        self.shared.has_ended_writer.set(true);
        self.shared.room.notify_one();
    }
}

impl QueueWriter {
    async fn run(mut self) {
        loop {
            let queued = self.queue.queued.take();
            if !queued.is_empty() {
                self.store(queued).await;
            } else if self.shared.ended.get() {
                return;
            } else {
                self.queue.more.notified().await;
            }
        }
    }

    async fn store(&mut self, queued: Vec<BulkRow>) {
        let mut rows = sorted(queued).await.into_iter().peekable();
        while rows.peek().is_some() {
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            while chunk.len() < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
                let Some(row) = rows.next() else { break };
                bytes += row.row.bytes();
                chunk.push(row);
            }
            self.options.deadline = Instant::now() + self.patience;
            let sample = RowSample::of(&self.app, &chunk);
            let data = self.app.manager.data(&self.rights);
            let done = data.write_chunk(self.shard, chunk, &self.options).await;
            let mut outcome = self.outcome.borrow_mut();
            for (shard, part) in done {
                sample.list(&self.app, &part.rows);
                outcome.add(&self.app, part.rows);
                outcome.extend_session(&self.app, shard, part.seen);
                outcome.add_times(shard, part.times);
            }
            drop(outcome);
            self.shared.stored(bytes);
        }
    }
}

/// Sorts rows by slot and key, the order in which a file stores them. Rows of one key keep their
/// order.
async fn sorted(mut rows: Vec<BulkRow>) -> Vec<BulkRow> {
    let sort = |rows: &mut Vec<BulkRow>| {
        rows.sort_by(|a, b| (a.row.slot, &a.row.key).cmp(&(b.row.slot, &b.row.key)));
    };
    if rows.len() <= CHUNK_ROWS_MAX {
        sort(&mut rows);
        return rows;
    }
    let work = move || {
        sort(&mut rows);
        rows
    };
    block(work).await.expect("sorting does not panic")
}
