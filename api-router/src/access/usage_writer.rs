//! Usage writer: adds the rows that callers with a daily quota have used to the totals in the
//! catalog, which all routers share, and stores the day on which each API key was last used.
//!
//! This happens in the background: requests only increment counters. While the catalog does not
//! respond, rows are still counted, and are stored later.
//!
//! **Invariant:** a batch of rows is stored before the next one is taken. A batch whose outcome is
//! unknown is stored again unchanged; if it was already stored, that adds nothing.
//! **Not here:** the counters (`shard_manager::access::limit`), the refusal of a caller (`gate`).

use std::sync::Arc;
use std::time::Duration;

use shard_manager::access::key::KeyId;
use shard_manager::access::limit::usage::UsageBatch;
use shard_manager::engine::access_store::UsageFlush;
use shard_manager::error::Error;
use shard_manager::manager::Manager;
use tokio::sync::Mutex;

use super::clock::unix_now;
use super::gate::AccessGate;

/// Interval between two flushes. A quota that several routers share may be exceeded for that long.
pub const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// Number of flushes between two writes of the last uses of keys: they are stored once a minute.
const FLUSHES_PER_USES: u64 = 6;
/// Longest time for the last flush, when the router stops.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(2);

/// Handle of the writer of a running router.
pub struct UsageWriter(Arc<Mutex<Writer>>);

struct Writer {
    gate: Arc<AccessGate>,
    manager: Arc<Manager>,
    process: Box<str>,
    /// Batch whose last attempt has failed, so that it may or may not be stored.
    pending: Option<UsageBatch>,
    /// True if the last flush has failed, which was logged.
    has_failed: bool,
}

impl UsageWriter {
    /// Reads the totals of this day, and then starts to flush at regular intervals.
    pub async fn start(gate: Arc<AccessGate>, manager: &Arc<Manager>) -> Self {
        let mut writer = Writer {
            gate,
            manager: Arc::clone(manager),
            process: uuid::Uuid::now_v7().simple().to_string().into(),
            pending: None,
            has_failed: false,
        };
        let loaded = writer.load().await;
        writer.report(loaded);
        let writer = Arc::new(Mutex::new(writer));
        actix_web::rt::spawn(run(Arc::clone(&writer)));
        Self(writer)
    }

    /// Stores what was counted since the last flush. Called when the router stops and serves no
    /// more requests.
    pub async fn finish(&self) {
        let last = async { self.0.lock().await.flush(true).await };
        if !matches!(tokio::time::timeout(LAST_FLUSH_MAX, last).await, Ok(Ok(()))) {
            tracing::warn!("the last rows of callers with a quota are not in the catalog");
        }
    }
}

async fn run(writer: Arc<Mutex<Writer>>) {
    for turn in 1_u64.. {
        tokio::time::sleep(FLUSH_EVERY).await;
        let mut writer = writer.lock().await;
        let flushed = writer.flush(turn % FLUSHES_PER_USES == 0).await;
        writer.report(flushed);
    }
}

impl Writer {
    /// Reads the totals of all routers for this day.
    async fn load(&self) -> Result<(), Error> {
        let today = unix_now().day();
        let sums = self.manager.access().usage(today).await?;
        self.gate.authenticator.get().limits().cells.usage().load(today, sums);
        Ok(())
    }

    /// Stores all counted rows and reads the totals. If `with_uses` is true, also stores the last
    /// uses of keys.
    async fn flush(&mut self, with_uses: bool) -> Result<(), Error> {
        let current = self.gate.authenticator.get();
        let (usage, today) = (current.limits().cells.usage(), unix_now().day());
        usage.collect(today);
        while let Some(batch) = self.pending.take().or_else(|| usage.next_batch()) {
            let stored = self.store(&batch, Vec::new(), today).await;
            if let Err(error) = stored {
                self.pending = Some(batch);
                return Err(error);
            }
            usage.confirm(&batch);
        }
        if usage.callers() > 0 {
            self.load().await?;
        }
        if with_uses { self.store_uses(today).await } else { Ok(()) }
    }

    /// Stores the day of the last use of each key, unless the catalog already has it.
    async fn store_uses(&self, today: u32) -> Result<(), Error> {
        let current = self.gate.authenticator.get();
        loop {
            let uses = current.snapshot().keys().unstored_uses(UsageFlush::KEYS_MAX);
            if uses.is_empty() {
                return Ok(());
            }
            let nothing = UsageBatch { number: 0, day: today, rows: Vec::new() };
            self.store(&nothing, uses.clone(), today).await?;
            current.snapshot().keys().confirm_uses(&uses);
        }
    }

    async fn store(
        &self,
        batch: &UsageBatch,
        key_uses: Vec<(KeyId, u32)>,
        today: u32,
    ) -> Result<(), Error> {
        let (process, batch) = (self.process.clone(), batch.clone());
        let flush = UsageFlush { process, batch, key_uses, today };
        self.manager.access().add_usage(&flush).await
    }

    /// Logs the first failure after a success, and the first success after it.
    fn report(&mut self, flushed: Result<(), Error>) {
        let has_failed = flushed.is_err();
        match flushed {
            Err(error) if !self.has_failed => tracing::warn!(
                %error,
                "the rows of callers with a quota cannot be stored in the catalog, and are counted by this router only"
            ),
            Ok(()) if self.has_failed => {
                tracing::info!("the rows of callers with a quota are in the catalog again");
            }
            Ok(()) | Err(_) => {}
        }
        self.has_failed = has_failed;
    }
}
