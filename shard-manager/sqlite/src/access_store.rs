//! Access store: keys, roles and denials in the catalog of an embedded cluster.
//!
//! Only the process that holds the data directory writes to the catalog. Therefore there are no
//! changes by others, and the state that this process has last published is always the current one.
//!
//! **Invariant:** a change is synced to the disk before it is published.
//! **Not here:** the rules of changes (`engine::access_store`), requests of other processes
//! (`control`).

mod stopped;
mod tables;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use access::audit::AuditSecret;
use access::audit::chain::AuditHead;
use access::unix_time::UnixTime;
use diesel::sqlite::SqliteConnection;
use engine::EngineFuture;
use engine::access_store::{
    AccessChange, AccessError, AccessFeed, AccessMode, AccessState, AccessStore, ChangeAuthor,
    UsageFlush, now,
};
use futures_util::future::BoxFuture;
use model::error::Error;

use super::catalog_failure::not_opened;
use super::connection::open;
use super::file_watch::FileChecks;
use super::intents::{ending, unavailable};
use super::threads::run_to_end;

pub use stopped::{change_stopped, read_audit_heads, read_state};
pub(super) use tables::suspend_keys;

/// Keys, roles and denials of an open cluster.
#[derive(Clone)]
pub(super) struct FileAccess(Arc<Shared>);

struct Shared {
    catalog: PathBuf,
    /// Checks that the files are still those of this process.
    file_checks: Arc<FileChecks>,
    /// True once this process is closing its files, so that another process may already own the
    /// catalog.
    closed: Arc<AtomicBool>,
    feed: AccessFeed,
    /// Locked from a change until it is published.
    turn: Mutex<()>,
}

impl FileAccess {
    /// Creates the store of a catalog.
    pub(super) fn new(
        catalog: PathBuf,
        file_checks: &Arc<FileChecks>,
        closed: &Arc<AtomicBool>,
    ) -> Self {
        Self(Arc::new(Shared {
            catalog,
            file_checks: Arc::clone(file_checks),
            closed: Arc::clone(closed),
            feed: AccessFeed::default(),
            turn: Mutex::default(),
        }))
    }

    /// Makes a change. Blocks.
    ///
    /// # Errors
    /// Errors of [`AccessStore::change`].
    pub(super) fn change_now(
        &self,
        change: &AccessChange,
        author: &ChangeAuthor,
        now: UnixTime,
    ) -> Result<u64, AccessError> {
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_writable()?;
        let mut connection = self.connect()?;
        let generation = tables::change(&mut connection, change, author, now)?;
        if self.0.feed.is_watched() {
            let read = self.0.feed.begin_read();
            let state = tables::load(&mut connection).map_err(|error| unavailable(&error))?;
            self.0.feed.publish(&read, state, now);
        }
        Ok(generation)
    }

    fn check_writable(&self) -> Result<(), Error> {
        self.0.file_checks.check_writable()
    }

    fn connect(&self) -> Result<SqliteConnection, Error> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(ending());
        }
        open(&self.0.catalog, "").map_err(|error| not_opened(&self.0.catalog, error))
    }

    fn add_usage_now(&self, flush: &UsageFlush) -> Result<(), Error> {
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.file_checks.check_writable()?;
        tables::add_usage(&mut self.connect()?, flush).map_err(|error| unavailable(&error))
    }

    fn load_now(&self) -> Result<AccessState, Error> {
        tables::load(&mut self.connect()?).map_err(|error| unavailable(&error))
    }
}

impl AccessStore for FileAccess {
    fn mode(&self) -> EngineFuture<'_, AccessMode> {
        let store = self.clone();
        Box::pin(run_to_end(move || {
            tables::mode(&mut store.connect()?).map_err(|error| unavailable(&error))
        }))
    }

    fn load(&self) -> EngineFuture<'_, AccessState> {
        let store = self.clone();
        Box::pin(run_to_end(move || {
            let read = store.0.feed.begin_read();
            let state = store.load_now()?;
            if store.0.feed.is_watched() {
                store.0.feed.publish(&read, state.clone(), now());
            }
            Ok(state)
        }))
    }

    fn change<'a>(
        &'a self,
        change: &'a AccessChange,
        author: &'a ChangeAuthor,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<u64, AccessError>> {
        let (store, change, author) = (self.clone(), change.clone(), author.clone());
        Box::pin(run_to_end(move || store.change_now(&change, &author, now)))
    }

    fn add_usage<'a>(&'a self, flush: &'a UsageFlush) -> EngineFuture<'a, ()> {
        let (store, flush) = (self.clone(), flush.clone());
        Box::pin(run_to_end(move || store.add_usage_now(&flush)))
    }

    fn usage(&self, day: u32) -> EngineFuture<'_, Vec<(String, u64)>> {
        let store = self.clone();
        Box::pin(run_to_end(move || {
            tables::usage(&mut store.connect()?, day).map_err(|error| unavailable(&error))
        }))
    }

    fn feed(&self) -> &AccessFeed {
        &self.0.feed
    }

    fn confirmed_at(&self, now: UnixTime) -> Option<UnixTime> {
        let is_open = !self.0.closed.load(Ordering::Acquire);
        self.0.feed.confirmed_at().map(|last| if is_open { now } else { last })
    }
    fn audit_secret(&self) -> EngineFuture<'_, AuditSecret> {
        let store = self.clone();
        Box::pin(run_to_end(move || {
            store.check_writable()?;
            tables::audit_secret(&mut store.connect()?).map_err(|error| unavailable(&error))
        }))
    }

    fn keep_audit_head(&self, head: AuditHead, now: UnixTime) -> EngineFuture<'_, ()> {
        let store = self.clone();
        Box::pin(run_to_end(move || {
            store.check_writable()?;
            let kept = tables::keep_audit_head(&mut store.connect()?, &head, now);
            kept.map_err(|error| unavailable(&error))
        }))
    }
}
