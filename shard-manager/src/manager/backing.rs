//! Backing: what stands behind a manager beside its shards: the catalog, and what holds it all together.
//!
//! **Invariant:** the tables are changed by whoever holds a [`Turn`], and by nobody else meanwhile.
//! **Not here:** what is changed (`tables`), how a cluster is opened (`embedded`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::OwnedMutexGuard;

use super::Manager;
use super::comparing::Comparing;
use super::following::Following;
use crate::backup::BackupSource;
use crate::control::ControlSocket;
use crate::error::Error;
use crate::home::Homes;
use crate::shard::Shard;
use crate::store::postgres::catalog::{self, Catalog};
use crate::store::postgres::primary_tracker::{PrimaryTracker, Term};
use crate::store::schema_intent::Intent;
use crate::store::sqlite::data_dir::DataDir;
use crate::store::sqlite::guard::Guard;
use crate::store::sqlite::intents::{self, Intents};
use crate::table::Table;

/// How long the catalog may take over one step of a change of the tables.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What stands behind a manager.
pub(super) enum Backing {
    /// A data directory.
    Files(Files),
    /// Databases of others.
    Servers(Servers),
}

impl Backing {
    /// The right to change the tables.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], or what the catalog said.
    pub(super) async fn turn(
        &self,
        guard: OwnedMutexGuard<()>,
        deadline: Instant,
    ) -> Result<Turn, Error> {
        match self {
            Self::Files(files) => {
                files.guard.check()?;
                Ok(Turn::Files {
                    catalog: files.data_dir.catalog(),
                    closed: Arc::clone(&files.closed),
                    guard: Arc::new(guard),
                })
            }
            Self::Servers(servers) => servers.turn(guard, deadline).await,
        }
    }

    /// Leaders of the shards, where nodes are servers.
    pub(super) fn leaders(&self) -> impl Iterator<Item = &Arc<PrimaryTracker>> {
        let servers = match self {
            Self::Files(_) => None,
            Self::Servers(servers) => Some(servers),
        };
        let followed = servers.into_iter().flat_map(|servers| &servers.following.shards);
        followed.map(|(leader, _)| leader)
    }

    /// Ends what works behind the back of requests, before the shards are closed.
    pub(super) fn end(&self) {
        match self {
            Self::Files(files) => {
                files.closed.store(true, Ordering::Release);
                files.control_socket.close();
                files.stop_comparing();
            }
            Self::Servers(servers) => servers.following.closed.store(true, Ordering::Release),
        }
    }

    /// Lets go of everything, after the shards were closed.
    pub(super) fn close(&self) {
        match self {
            Self::Files(files) => files.data_dir.close(),
            Self::Servers(servers) => servers.close(),
        }
    }
}

impl Manager {
    /// Offers the runtime of a thread that serves clients to what speaks with servers: see [`crate::home`]. It is to be
    /// driven until [`Manager::withdraw`].
    pub fn offer(&self, runtime: Handle) {
        if let Backing::Servers(servers) = &self.backing {
            servers.homes.offer(runtime);
        }
    }

    /// Gives up all runtimes that were offered.
    pub fn withdraw(&self) {
        if let Backing::Servers(servers) = &self.backing {
            servers.homes.withdraw();
        }
    }

    /// The cluster, as a backup copies it; `None` if its files are not this process's.
    pub fn saved(&self) -> Option<&Arc<BackupSource>> {
        match &self.backing {
            Backing::Files(files) => Some(&files.saved),
            Backing::Servers(_) => None,
        }
    }

    /// Finishes what is queued and closes the files. Blocks.
    pub fn close(&self) {
        self.backing.end();
        if let Some(cache) = &self.cache {
            cache.close();
        }
        self.shards.iter().for_each(Shard::close);
        self.backing.close();
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        match self {
            Self::Files(files) => {
                files.closed.store(true, Ordering::Release);
                // Before the lock of the data directory is released.
                files.stop_comparing();
            }
            Self::Servers(servers) => servers.close(),
        }
    }
}

/// The files of an embedded cluster.
pub(super) struct Files {
    /// What a backup copies.
    pub(super) saved: Arc<BackupSource>,
    /// Where it is told to.
    control_socket: ControlSocket,
    /// Dropped before the lock is released.
    guard: Guard,
    /// Held as long as anything may write.
    pub(super) data_dir: DataDir,
    /// Tells what works behind the back of requests to end.
    pub(super) closed: Arc<AtomicBool>,
    /// Comparison of each shard's copies.
    pub(super) comparing: OnceLock<Comparing>,
}

impl Files {
    /// The files of this data directory.
    pub(super) fn new(saved: Arc<BackupSource>, data_dir: DataDir, guard: Guard) -> Self {
        let (closed, comparing) = (Arc::default(), OnceLock::new());
        Self {
            control_socket: ControlSocket::open(&saved),
            saved,
            guard,
            data_dir,
            closed,
            comparing,
        }
    }

    fn stop_comparing(&self) {
        if let Some(comparing) = self.comparing.get() {
            comparing.stop();
        }
    }
}

/// What is shared by the connections of a cluster of servers.
pub(super) struct Servers {
    following: Arc<Following>,
    /// Drives the connections of long reads and watchers, and those that have no other home.
    runtime: Mutex<Option<Runtime>>,
    /// Where lanes and short reads are at home.
    pub(super) homes: Homes,
}

impl Servers {
    /// What these connections share.
    pub(super) fn new(following: Arc<Following>, runtime: Runtime, homes: Homes) -> Self {
        Self { following, runtime: Mutex::new(Some(runtime)), homes }
    }

    /// Among all routers: the lock of the catalog, and what they have changed before.
    async fn turn(&self, guard: OwnedMutexGuard<()>, deadline: Instant) -> Result<Turn, Error> {
        let told = |error: String| catalog::unavailable(&error);
        let turn = async {
            loop {
                let (catalog, term) = self.following.connect("tables").await.map_err(told)?;
                let turned = async {
                    let catalog = catalog.lock_to_change().await?;
                    self.following.refresh_from(&catalog).await.map_err(told)?;
                    Ok::<_, Error>(catalog)
                };
                tokio::select! {
                    turned = turned => break Ok((turned?, term)),
                    // Nothing has begun: it is another node's turn to lock.
                    () = self.following.catalog.ended(term) => {}
                }
            }
        };
        let turn = tokio::time::timeout_at(deadline.into(), turn).await;
        let (catalog, term) = turn.unwrap_or(Err(Error::DeadlinePassed))?;
        let leader = Arc::clone(&self.following.catalog);
        let held = Held { catalog, leader, term, _guard: guard };
        Ok(Turn::Servers(Box::new(held)))
    }

    fn close(&self) {
        self.following.closed.store(true, Ordering::Release);
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

/// The right to change the tables, until it is dropped, and the catalog that is told of it.
pub(super) enum Turn {
    /// In this process: nobody else may write.
    Files { catalog: PathBuf, closed: Arc<AtomicBool>, guard: Arc<OwnedMutexGuard<()>> },
    /// Among all routers: the session holds a lock.
    Servers(Box<Held>),
}

/// A catalog whose session holds the lock of whoever changes the tables.
pub(super) struct Held {
    catalog: Catalog,
    leader: Arc<PrimaryTracker>,
    term: Term,
    _guard: OwnedMutexGuard<()>,
}

impl Held {
    /// Waits for what the catalog is asked, but not for a node that leads no more or does not answer.
    async fn asked<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            asked = tokio::time::timeout(ANSWER_MAX, asked) => {
                asked.unwrap_or_else(|_elapsed| Err(catalog::unavailable(&"it does not answer")))
            }
            () = self.leader.ended(self.term) => {
                Err(catalog::unavailable(&"another node leads it by now"))
            }
        }
    }
}

impl Turn {
    /// What is on its way.
    ///
    /// # Errors
    /// What the catalog said.
    pub(super) async fn list(&self) -> Result<Vec<Intent>, Error> {
        match self {
            Self::Files { catalog, closed, guard } => {
                with_file((catalog, closed, guard), Intents::list).await
            }
            Self::Servers(held) => held.asked(held.catalog.intents()).await,
        }
    }

    /// Notes durably that a table is to be made.
    ///
    /// # Errors
    /// What the catalog said; [`Error::StorageFull`] alone means for certain that nothing was noted.
    pub(super) async fn note(&self, table: &Table) -> Result<(), Error> {
        match self {
            Self::Files { catalog, closed, guard } => {
                let table = table.clone();
                with_file((catalog, closed, guard), move |intents| intents.note(&table)).await
            }
            Self::Servers(held) => held.asked(held.catalog.note(table)).await,
        }
    }

    /// Decides durably that a table is not to be made after all.
    ///
    /// # Errors
    /// As [`Turn::note`].
    pub(super) async fn turn_to_undo(&self, name: &str) -> Result<(), Error> {
        match self {
            Self::Files { catalog, closed, guard } => {
                let name = name.to_owned();
                with_file((catalog, closed, guard), move |intents| intents.turn_to_undo(&name))
                    .await
            }
            Self::Servers(held) => held.asked(held.catalog.turn_to_undo(name)).await,
        }
    }

    /// Forgets an intent that was carried out.
    ///
    /// # Errors
    /// As [`Turn::note`].
    pub(super) async fn remove(&self, name: &str) -> Result<(), Error> {
        match self {
            Self::Files { catalog, closed, guard } => {
                let name = name.to_owned();
                with_file((catalog, closed, guard), move |intents| intents.remove(&name)).await
            }
            Self::Servers(held) => held.asked(held.catalog.remove(name)).await,
        }
    }
}

/// Works on the file of intents, on a thread that may block.
async fn with_file<T: Send + 'static>(
    (catalog, closed, guard): (&Path, &Arc<AtomicBool>, &Arc<OwnedMutexGuard<()>>),
    work: impl FnOnce(&mut Intents) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (catalog, closed) = (catalog.to_owned(), Arc::clone(closed));
    // Also if nobody waits for it any more, the next one's turn comes after it.
    let guard = Arc::clone(guard);
    let task = tokio::task::spawn_blocking(move || {
        let _guard = guard;
        if closed.load(Ordering::Acquire) {
            // The catalog may be another process's by now.
            return Err(intents::unavailable(&"the router ends"));
        }
        work(&mut Intents::open(&catalog).map_err(|error| intents::unavailable(&error))?)
    });
    task.await.unwrap_or(Err(Error::Internal))
}
