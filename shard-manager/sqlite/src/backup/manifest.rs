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
//! **Invariant:** the manifest is the last file of a copy to be written: if it exists, the others
//! are complete.
//! **Not here:** comparing it with the files (`restore`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SaveError;
use crate::private_file;

pub use engine::saved_file::{SavedFile, look};

/// Name of the file.
pub const FILE: &str = "manifest.json";
/// Format that this program writes and reads.
const FORMAT: u32 = 1;
/// Maximum number of bytes of a manifest: that of the largest cluster has far less.
const BYTES_MAX: u64 = 16 << 20;

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
        let path = folder.join(FILE);
        let unfit = |cause: String| SaveError::unsuitable(&path, cause);
        let opened = File::open(&path).map_err(|error| {
            // An unfinished copy has none.
            let unfinished = error.kind() == ErrorKind::NotFound && folder.is_dir();
            if unfinished {
                return unfit(error.to_string());
            }
            SaveError::io(if folder.exists() { &path } else { folder }, error)
        })?;
        let mut text = Vec::new();
        let read = opened.take(BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error| SaveError::io(&path, error))?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| unfit(format!("no manifest: {error}")))?;
        if manifest.format != FORMAT {
            return Err(unfit(format!("format {} is not known here", manifest.format)));
        }
        for file in manifest.files() {
            let plain = Path::new(&file.file).file_name().is_some_and(|name| name == &*file.file);
            if !plain {
                return Err(unfit(format!("`{}` is not a file beside it", file.file)));
            }
        }
        Ok(manifest)
    }

    /// Iterates over all files but the manifest itself.
    pub fn files(&self) -> impl Iterator<Item = &SavedFile> {
        std::iter::once(&self.catalog).chain(self.shards.iter().map(|shard| &shard.file))
    }

    /// Returns the bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    /// Returns the number of rows of all tables and shards.
    pub fn rows(&self) -> i64 {
        self.shards.iter().flat_map(|shard| shard.rows.values()).sum()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), SaveError> {
        let path = folder.join(FILE);
        let told = |error| SaveError::io(&path, error);
        let mut text = serde_json::to_vec_pretty(self).expect("texts and numbers serialise");
        text.push(b'\n');
        let mut file = private_file::create(&path).map_err(told)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(told)
    }
}

/// Returns the bytes of a file; 0 if it is missing.
pub(super) fn bytes_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}
