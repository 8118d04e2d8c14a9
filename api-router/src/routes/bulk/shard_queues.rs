//! Shard queues: the rows of a streamed body on their way to the shards.
//!
//! While a shard stores rows, further rows for it gather in its queue. The shard then takes all of
//! these rows, sorts them by their place in the file, and stores them in chunks. So rows that share
//! a page of the file are written together, however they are spread over the body, and a single
//! write of another client waits for at most one chunk. The slower a shard is, the more rows
//! gather. All queues of a stream share one limit, the window, and the body budget must allow it.
//!
//! **Invariant:** rows of one key are stored in the order of the body; the queues hold at most the
//! window and the rows of one batch, and the body budget is charged with all of these rows but
//! those of one batch.
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

/// Maximum number of rows that a shard stores in one transaction: a single write may have to wait
/// for them.
const CHUNK_ROWS_MAX: usize = 4_000;
/// Maximum number of bytes that a shard stores in one transaction.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Maximum number of bytes of rows that the queues of a stream hold: the more, the faster they are
/// stored.
const WINDOW: usize = 12 << 20;

/// Queues of rows, one for each shard that has received any.
pub(super) struct ShardQueues {
    shared: Rc<Shared>,
    app: Data<App>,
    rights: CallerRights,
    options: RequestOptions,
    patience: Duration,
    outcome: Rc<RefCell<BulkOutcome>>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

/// Rows of one shard.
#[derive(Default)]
struct ShardQueue {
    /// Rows that wait.
    queued: RefCell<Vec<BulkRow>>,
    /// Notified when rows were queued or no more will be.
    more: Notify,
}

/// State that the sender and the writers share.
struct Shared {
    /// Queues by the numbers of their shards. A queue is made for the first row of its shard.
    queues: RefCell<Vec<Option<Rc<ShardQueue>>>>,
    ended: Cell<bool>,
    /// True if a writer has ended.
    has_ended_writer: Cell<bool>,
    /// Bytes of rows that are queued or being stored.
    held: Cell<usize>,
    /// Number of bytes that are charged.
    charged: Cell<usize>,
    share: Rc<BudgetShare>,
    /// Notified when fewer bytes are held.
    room: Notify,
}

impl ShardQueues {
    /// Creates queues that hold rows while the share of their body allows it; each chunk is stored
    /// within `patience`.
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

    /// Makes the queue of a shard, and starts its writer.
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

    /// Queues rows, and waits until there is room for more.
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

    /// Waits until all queued rows are carried out.
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
    /// Returns true if the queues may hold more. If the body budget has no room for the rows that
    /// they hold already, these are stored first.
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

/// Ends the queues: if the client has disconnected, queued rows are still carried out.
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

/// Wakes the sender, which may wait for room, so that it notices the end of the writer.
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

/// Sorts rows by their place in the file; rows of one key keep their order.
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
