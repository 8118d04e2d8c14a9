//! Manifest: the contents of a copy of a cluster, in `manifest.json` beside its files.
//!
//! ```json
//! {"format": 1, "program": "0.1.0", "cluster_id": "…",
//!  "at": "2026-11-21T10:00:00.000000Z", "epoch": 1,
//!  "catalog": {"file": "catalog.db", "bytes": 20480, "xxh3": "…"},
//!  "shards": [{"shard": "shard1", "position": 7312, "rows": {"users": 41},
//!              "file": "shard1-primary.db", …}]}
//! ```
//!
//! **Not here:** reading and writing the file (`engine::manifest_file`), comparing the manifest
//! with the other files (`restore`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use engine::manifest_file;
use serde::{Deserialize, Serialize};

use super::SaveError;

pub use engine::manifest_file::FILE;
pub use engine::saved_file::{SavedFile, read_and_hash};

/// Format that this program writes and reads.
const FORMAT: u32 = 1;

/// Contents of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of the manifest.
    pub format: u32,
    /// Version of the program that wrote it.
    pub program: String,
    /// Id of the copied cluster.
    pub cluster_id: String,
    /// Time of the copy, the same for all shards.
    pub at: String,
    /// Version of the shard map.
    pub epoch: u64,
    /// Time for which writes were held, in microseconds.
    pub held_us: u64,
    /// File of the catalog.
    pub catalog: SavedFile,
    /// Shards, in the cluster's order.
    pub shards: Vec<SavedShardFile>,
}

/// File of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedShardFile {
    /// Name of the shard.
    pub shard: String,
    /// Position of the shard in the copy.
    pub position: u64,
    /// Number of rows of each table.
    pub rows: BTreeMap<String, i64>,
    /// File of the copy.
    #[serde(flatten)]
    pub file: SavedFile,
}

impl Manifest {
    /// Creates a manifest of this program.
    pub(super) fn new(
        (cluster_id, epoch): (String, u64),
        (at, held_us): (String, u64),
        catalog: SavedFile,
        shards: Vec<SavedShardFile>,
    ) -> Self {
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, program, cluster_id, at, epoch, held_us, catalog, shards }
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// [`SaveError::Unsuitable`] if the folder has none, or one of another format;
    /// [`SaveError::Io`] if the folder is missing or cannot be read.
    pub fn read(folder: &Path) -> Result<Self, SaveError> {
        let manifest: Self = manifest_file::read(folder, FORMAT)?;
        manifest_file::check_names(folder, manifest.files())?;
        Ok(manifest)
    }

    /// Iterates over all files but the manifest itself.
    pub fn files(&self) -> impl Iterator<Item = &SavedFile> {
        std::iter::once(&self.catalog).chain(self.shards.iter().map(|shard| &shard.file))
    }

    /// Returns the total size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    /// Returns the number of rows of all tables and shards.
    pub fn rows(&self) -> i64 {
        self.shards.iter().flat_map(|shard| shard.rows.values()).sum()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), SaveError> {
        manifest_file::write(folder, self)
    }
}

/// Returns the size of a file in bytes; 0 if the file is missing.
pub(super) fn bytes_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}
