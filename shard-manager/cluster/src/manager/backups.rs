//! Backups: copies of the cluster that this router writes to its folder for backups, one at a time.
//!
//! A separate thread writes a backup to a folder with a temporary name, and renames that folder to
//! the id of the backup when the copy is complete. So the complete backups, including those that
//! other processes made, are found in the folder. The running backup of a process, and its backups
//! that failed or were cancelled, are known only to that process.
//!
//! **Invariant:** one backup runs at a time, and a backup is called done only if its folder is
//! complete.
//! **Not here:** the copy (`engine::backup_maker`), the folders (`engine::backup_folder`).

mod backup_desk;

use std::sync::Arc;

use engine::backup_folder::BackupFolder;
use engine::backup_id::BackupId;
use engine::backup_maker::BackupMaker;
use engine::backup_summary::BackupSummary;
use engine::backup_view::{BackupState, BackupView};
use engine::progress_observer::ProgressObserver;
use engine::save_error::SaveError;

use self::backup_desk::{BackupDesk, EndedBackup};
use super::Manager;

pub use self::backup_desk::BackupTotals;

/// Maximum number of complete backups in a list. There is a limit because the manifest of each
/// backup is read.
pub const LISTED_MAX: usize = 100;
/// Reason that is given for a backup that another process has left unfinished.
const ROUTER_ENDED: &str =
    "the router ended while it was making the copy; the incomplete copy was removed";
const LEFT_OVER: &str = "the router ended while it made the copy, and what it left cannot be removed: the log of the router \
     names the reason";
const NO_THREAD: &str = "the system cannot start a thread";

/// Backups of a router.
pub struct Backups {
    maker: Option<Arc<dyn BackupMaker>>,
    folder: BackupFolder,
    desk: Arc<BackupDesk>,
}

/// Reason why a request about backups was refused.
#[derive(Debug, thiserror::Error)]
pub enum BackupsError {
    /// The engine distributes rows over nodes that the router does not read.
    #[error("the rows of this cluster are on nodes that the router does not read")]
    Unsupported,
    /// Another backup is in progress.
    #[error("the backup {0} is in progress, and a router makes one at a time")]
    Runs(BackupId),
    /// The router is stopping.
    #[error("the router is stopping")]
    Closing,
    /// There is no such backup.
    #[error("there is no backup with this id")]
    NoBackup,
    /// The backup has ended.
    #[error("the backup {0} has ended")]
    Ended(BackupId),
    /// The folder of the backups cannot be read.
    #[error("the folder for backups cannot be read")]
    Folder(#[source] SaveError),
}

impl Backups {
    /// Opens the backups of a cluster in this folder, and removes unfinished backups of routers
    /// that no longer run.
    ///
    /// # Errors
    /// [`SaveError`] if the folder cannot be read.
    pub fn open(manager: &Manager, folder: BackupFolder) -> Result<Self, SaveError> {
        let (maker, desk) = (manager.backend.backup_maker(), Arc::new(BackupDesk::default()));
        for left_over in folder.remove_left_overs()? {
            let reason = match &left_over.kept {
                None => ROUTER_ENDED,
                Some(error) => {
                    tracing::warn!(%error, "an incomplete copy remains in the folder");
                    LEFT_OVER
                }
            };
            tracing::warn!(backup = %left_over.id, "a router ended while it was making a backup");
            desk.add(EndedBackup::left_over(left_over.id, reason));
        }
        let latest = folder.finished()?.into_iter().next();
        let latest = latest.and_then(|id| BackupSummary::read(&folder.place(&id)).ok());
        desk.note_success(latest.as_ref());
        Ok(Self { maker, folder, desk })
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// [`BackupsError`] if another one is running, the router is stopping, or the engine does not
    /// support backups.
    pub fn begin(&self) -> Result<BackupView, BackupsError> {
        let maker = self.maker.as_ref().map(Arc::clone).ok_or(BackupsError::Unsupported)?;
        let (id, begun) = self.desk.begin()?;
        let (desk, folder) = (Arc::clone(&self.desk), self.folder.clone());
        let work = move || make(&*maker, &folder, &desk, &id);
        if let Err(error) = std::thread::Builder::new().name("backup".to_owned()).spawn(work) {
            tracing::error!(%error, "a backup cannot be made");
            self.desk.end(BackupState::Failed, Some(NO_THREAD.to_owned()));
        }
        Ok(begun)
    }

    /// Returns the running backup, those that failed or were cancelled, and the last [`LISTED_MAX`]
    /// in the folder, the latest first. Blocks.
    ///
    /// # Errors
    /// [`BackupsError::Folder`].
    pub fn list(&self) -> Result<Vec<BackupView>, BackupsError> {
        // Read before the folder, so that a backup that is completed meanwhile is found in both
        // places rather than in neither.
        let mut views = self.desk.without_copy();
        let finished = self.folder.finished().map_err(folder_failed)?;
        for id in finished.into_iter().take(LISTED_MAX) {
            if !views.iter().any(|view| view.id == id.name()) {
                views.push(self.read(&id));
            }
        }
        views.sort_by(|one, other| other.id.cmp(&one.id));
        Ok(views.into_iter().map(BackupView::listed).collect())
    }

    /// Returns a backup with its shards. Blocks.
    ///
    /// # Errors
    /// [`BackupsError::NoBackup`].
    pub fn get(&self, id: &BackupId) -> Result<BackupView, BackupsError> {
        // A complete backup is looked up in the folder, from which it may have been removed.
        let known = self.desk.find(id).filter(|known| known.state != BackupState::Done);
        match known {
            Some(known) => Ok(known),
            None if self.folder.place(id).is_dir() => Ok(self.read(id)),
            None => Err(BackupsError::NoBackup),
        }
    }

    /// Cancels a running backup, which ends soon. Blocks.
    ///
    /// # Errors
    /// [`BackupsError::NoBackup`], or [`BackupsError::Ended`].
    pub fn cancel(&self, id: &BackupId) -> Result<BackupView, BackupsError> {
        if let Some(cancelled) = self.desk.cancel(id) {
            return Ok(cancelled);
        }
        self.get(id).and_then(|_| Err(BackupsError::Ended(id.clone())))
    }

    /// Returns the counts since the start.
    pub fn totals(&self) -> BackupTotals {
        self.desk.totals()
    }

    /// Refuses further backups, and cancels the running one.
    pub fn stop(&self) {
        self.desk.close();
    }

    /// Waits at most ten seconds for the running backup to end. If the process ends before the
    /// backup, the next process removes the unfinished copy. Blocks.
    pub fn wait(&self) {
        self.desk.wait_for_end();
    }

    /// Returns the view of a complete backup.
    fn read(&self, id: &BackupId) -> BackupView {
        match BackupSummary::read(&self.folder.place(id)) {
            Ok(summary) => {
                let view = BackupView::done(id, &summary);
                match self.desk.times_of(id) {
                    Some((began, ended)) => view.ended(began, ended),
                    None => view,
                }
            }
            Err(error) => BackupView {
                reason: Some(error.for_clients()),
                ..BackupView::new(id, BackupState::Failed)
            },
        }
    }
}

impl Drop for Backups {
    fn drop(&mut self) {
        self.stop();
    }
}

fn folder_failed(error: SaveError) -> BackupsError {
    tracing::warn!(%error, "the folder for backups cannot be read");
    BackupsError::Folder(error)
}

/// Makes the running backup. Blocks until it has ended.
fn make(maker: &dyn BackupMaker, folder: &BackupFolder, desk: &BackupDesk, id: &BackupId) {
    // Ends the backup even after a panic.
    let ending = Ending(desk);
    tracing::info!(backup = %id, "a backup has begun");
    let place = folder.place(id);
    let observer =
        ProgressObserver { step: &|step| desk.note(step), cancelled: &|| desk.is_cancelled() };
    let made = maker.make(&place, &observer).and_then(|()| BackupSummary::read(&place));
    match made {
        Ok(summary) => {
            let (rows, bytes) = (summary.rows(), summary.bytes());
            tracing::info!(backup = %id, rows, bytes, "a backup is complete");
            desk.note_success(Some(&summary));
            desk.end(BackupState::Done, None);
        }
        Err(SaveError::Cancelled) => {
            tracing::info!(backup = %id, "a backup was cancelled");
            desk.end(BackupState::Cancelled, None);
        }
        Err(error) => {
            tracing::warn!(backup = %id, %error, "a backup has failed");
            desk.end(BackupState::Failed, Some(error.for_clients()));
        }
    }
    drop(ending);
}

/// Guard that ends the running backup when it is dropped, if it has not ended before.
struct Ending<'d>(&'d BackupDesk);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if self.0.is_running() {
            let reason = "an internal error: the log of the router names the reason";
            self.0.end(BackupState::Failed, Some(reason.to_owned()));
        }
    }
}
