//! Backup summary: those facts in the manifest of a copy that do not depend on the engine.
//!
//! **Not here:** the other facts, and the checks of a restore (the engines).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::manifest_file;
use super::save_error::SaveError;
use super::saved_file::SavedFile;

/// Facts about a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// Time whose state the copy shows, the same for all shards.
    pub at: String,
    /// Time in microseconds for which writes had to wait.
    pub held_us: u64,
    /// File of the catalog.
    catalog: SavedFile,
    /// Shards, in the cluster's order.
    shards: Vec<ShardEntry>,
}

/// Entry of a shard. It has either the members of a single file or a list of files, depending on
/// the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ShardEntry {
    shard: String,
    rows: BTreeMap<String, i64>,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    files: Vec<SavedFile>,
}

/// Size of the copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedSize {
    /// Name of the shard.
    pub shard: String,
    /// Number of rows of all tables.
    pub rows: u64,
    /// Number of bytes of all files.
    pub bytes: u64,
}

impl BackupSummary {
    /// Reads the facts in the manifest of a folder. The other files are not read.
    ///
    /// # Errors
    /// [`SaveError::Unsuitable`] if the folder has no manifest, or one in another format;
    /// [`SaveError::Io`] if the folder is missing or cannot be read.
    pub fn read(folder: &Path) -> Result<Self, SaveError> {
        manifest_file::members(folder, manifest_file::read_document(folder)?)
    }

    /// Returns the sizes of the shards, in the cluster's order.
    pub fn sizes(&self) -> impl Iterator<Item = CopiedSize> {
        self.shards.iter().map(|entry| CopiedSize {
            shard: entry.shard.clone(),
            rows: entry.rows.values().sum::<i64>().max(0).cast_unsigned(),
            bytes: entry.bytes + entry.files.iter().map(|file| file.bytes).sum::<u64>(),
        })
    }

    /// Returns the number of rows of all tables and shards.
    pub fn rows(&self) -> u64 {
        self.sizes().map(|size| size.rows).sum()
    }

    /// Returns the total size in bytes of all files except the manifest.
    pub fn bytes(&self) -> u64 {
        self.catalog.bytes + self.sizes().map(|size| size.bytes).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_with_one_file_and_one_with_several_are_read_alike() {
        let text = r#"{"format":1,"at":"2026-11-25T09:30:00.000000Z","held_us":7,
            "catalog":{"file":"catalog","bytes":1,"xxh3":""},"shards":[
            {"shard":"a","rows":{"users":2,"orders":3},"file":"a.db","bytes":10,"xxh3":""},
            {"shard":"b","rows":{},"files":[{"file":"b.json","bytes":4,"xxh3":""},
                                            {"file":"b.rows","bytes":6,"xxh3":""}]}]}"#;
        let summary: BackupSummary = serde_json::from_str(text).expect("a manifest");
        let size = |shard: &str, rows, bytes| CopiedSize { shard: shard.to_owned(), rows, bytes };
        assert_eq!(summary.sizes().collect::<Vec<_>>(), [size("a", 5, 10), size("b", 0, 10)]);
        assert_eq!((summary.rows(), summary.bytes(), summary.held_us), (5, 21, 7));
    }
}
