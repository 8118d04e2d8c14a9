//! Snapshot folder: the folder in which each snapshot of a cluster has a subfolder with its name.
//!
//! **Invariant:** a name never leads outside this folder.
//! **Not here:** the contents of a copy (`sqlite::backup`, `postgres::backup`).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use engine::unfinished_folder::UNFINISHED;
use postgres::backup::manifest::{ServerManifest, is_of_servers};
use serde::Serialize;
use sqlite::backup::manifest::Manifest;
use sqlite::backup::replace;
use sqlite::digest::Digest;

use crate::command::CommandError;
use crate::command::atomic_file::refused;
use crate::command::backup::{Copied, judged};

/// Maximum length of the name of a snapshot, in bytes.
const NAME_MAX: usize = 64;

/// Folder of snapshots.
pub(super) struct SnapshotFolder(PathBuf);

/// Snapshot of a cluster.
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) facts: Copied,
    manifest: SnapshotManifest,
}

/// Snapshot or, if its folder cannot be read, the name of the folder and the reason.
pub(super) type ListedSnapshot = Result<Snapshot, (String, String)>;

enum SnapshotManifest {
    Files(Manifest),
    Servers(ServerManifest),
}

/// Digest of the rows of a table on a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct TableDigest {
    pub(super) shard: String,
    pub(super) table: String,
    pub(super) rows: u64,
    /// XXH3-128 hash in hexadecimal: for files, of the rows; for servers, of the snapshot's file
    /// with the rows.
    pub(super) digest: String,
}

impl TableDigest {
    /// Returns the digests of the tables of shards that are files.
    pub(super) fn of_shards(shards: Vec<(String, Digest)>) -> Vec<Self> {
        let tables = shards.into_iter().flat_map(|(shard, digest)| {
            digest.tables.into_iter().map(move |(table, rows, digest)| Self {
                shard: shard.clone(),
                table,
                rows,
                digest: format!("{digest:032x}"),
            })
        });
        tables.collect()
    }
}

impl SnapshotFolder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Returns the path of the folder for a new snapshot; fails if the folder exists already.
    pub(super) fn free(&self, name: &str) -> Result<PathBuf, CommandError> {
        let folder = self.folder_of(name)?;
        if folder.exists() {
            let line = format!(
                "a snapshot {name} exists already: remove its folder, or choose another name"
            );
            return Err(refused(&folder, &line));
        }
        Ok(folder)
    }

    /// Returns the snapshot of this name.
    pub(super) fn find(&self, name: &str) -> Result<Snapshot, CommandError> {
        let folder = self.folder_of(name)?;
        if !folder.is_dir() {
            let all = self.all()?;
            let names: Vec<&str> = all.iter().flatten().map(|found| found.name.as_str()).collect();
            let line = match names.is_empty() {
                true => format!("there is no snapshot {name}, nor any other"),
                false => format!("there is no snapshot {name}; there are: {}", names.join(", ")),
            };
            return Err(refused(&self.0, &line));
        }
        Snapshot::read(&folder)
    }

    /// Returns the snapshots in the order of their times, followed by the names of folders that
    /// cannot be read, with the reasons.
    pub(super) fn all(&self) -> Result<Vec<ListedSnapshot>, CommandError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused(&self.0, &error)),
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && check_name(&name).is_ok() {
                let read = Snapshot::read(&entry.path());
                found.push(read.map_err(|error| (name, error.to_string())));
            }
        }
        found.sort_by(|a, b| order(a).cmp(&order(b)));
        Ok(found)
    }

    fn folder_of(&self, name: &str) -> Result<PathBuf, CommandError> {
        check_name(name).map_err(|cause| CommandError::Refused(format!("{name}: {cause}")))?;
        Ok(self.0.join(name))
    }
}

/// Returns the sort key of a snapshot in the list: by time, with those without a time last.
fn order(found: &ListedSnapshot) -> (bool, &str, &str) {
    match found {
        Ok(snapshot) => (false, &snapshot.facts.at, &snapshot.name),
        Err((name, _)) => (true, "", name),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_plain);
    if fits && !name.starts_with(['.', '-', '_']) && !name.ends_with(UNFINISHED) {
        return Ok(());
    }
    Err(format!(
        "the name of a snapshot has 1 to {NAME_MAX} letters, digits, `-`, `_` and `.`, and begins with a letter or digit"
    ))
}

impl Snapshot {
    /// Reads the manifest of a snapshot.
    pub(super) fn read(folder: &Path) -> Result<Self, CommandError> {
        let (facts, manifest) = if is_of_servers(folder) {
            let manifest = ServerManifest::read(folder).map_err(|error| judged(&error))?;
            (Copied::of_servers(&manifest)?, SnapshotManifest::Servers(manifest))
        } else {
            let manifest = Manifest::read(folder).map_err(|error| judged(&error))?;
            (Copied::of_files(&manifest)?, SnapshotManifest::Files(manifest))
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, folder: folder.to_owned(), facts, manifest })
    }

    /// Returns true if it is a snapshot of PostgreSQL servers, and false for one of files.
    pub(super) fn is_of_servers(&self) -> bool {
        matches!(self.manifest, SnapshotManifest::Servers(_))
    }

    /// Returns the digests of all tables of all shards.
    pub(super) fn digests(&self) -> Result<Vec<TableDigest>, CommandError> {
        match &self.manifest {
            SnapshotManifest::Files(manifest) => {
                let found = replace::digests(&self.folder, manifest);
                Ok(TableDigest::of_shards(found.map_err(|error| judged(&error))?))
            }
            SnapshotManifest::Servers(manifest) => {
                let shards = manifest.shards.iter();
                let tables = shards.flat_map(|shard| {
                    shard.table_files().map(|(table, rows, file)| TableDigest {
                        shard: shard.shard.clone(),
                        table: table.to_owned(),
                        rows,
                        digest: file.xxh3.clone(),
                    })
                });
                Ok(tables.collect())
            }
        }
    }
}
