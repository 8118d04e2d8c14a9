//! Manifest: the contents of a copy of a cluster of servers, in `manifest.json` beside its files.
//!
//! ```json
//! {"engine": "postgres", "format": 1, "program": "0.1.0", "schema": ["…", "…"], "cluster_id": "…",
//!  "at": "2026-11-21T10:00:00.000000Z", "epoch": 1, "held_us": 2100,
//!  "catalog": {"file": "catalog.json", "bytes": 20480, "xxh3": "…"},
//!  "shards": [{"shard": "shard1", "system": "…", "position": 7312, "version": 4096,
//!              "rows": {"users": 41}, "files": [{"file": "shard1.users.rows", …}]}]}
//! ```
//!
//! **Not here:** the file itself (`engine::manifest_file`), comparing the files with it
//! (`restore`).

use std::collections::BTreeMap;
use std::path::Path;

use engine::manifest_file;
use engine::save_error::SaveError;
use engine::saved_file::SavedFile;
use serde::{Deserialize, Serialize};

use super::documents;

pub use engine::manifest_file::FILE;

/// Name of the file of the catalog.
pub(super) const CATALOG: &str = "catalog.json";
/// Format that this program writes and reads.
const FORMAT: u32 = 1;
/// Value of `engine`, which distinguishes copies of servers from copies of files.
const ENGINE: &str = "postgres";

/// Contents of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerManifest {
    /// Kind of the copied cluster.
    pub engine: String,
    /// Format of the manifest.
    pub format: u32,
    /// Version of the program that wrote it.
    pub program: String,
    /// Latest migrations of shards and catalog.
    pub schema: [String; 2],
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
    /// Shards, in the order of the catalog.
    pub shards: Vec<CopiedShard>,
}

/// One shard of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedShard {
    /// Name of the shard.
    pub shard: String,
    /// System identifier of its server.
    pub system: String,
    /// Position of the shard in the copy.
    pub position: u64,
    /// Counter of versions.
    pub version: i64,
    /// Number of rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Files: the metadata of the shard, then one for each table.
    pub files: Vec<SavedFile>,
}

impl CopiedShard {
    /// Iterates over the tables: name, number of rows, and the file of the rows.
    pub fn table_files(&self) -> impl Iterator<Item = (&str, u64, &SavedFile)> {
        self.rows.iter().filter_map(|(table, rows)| {
            let name = rows_of(&self.shard, table);
            let file = self.files.iter().find(|file| file.file == name)?;
            Some((table.as_str(), *rows, file))
        })
    }
}

/// Returns the name of the file with the metadata of a shard. Names of shards have no dots, so it
/// is not the name of another file of the copy, even if the file system ignores case.
pub(super) fn metadata_of(shard: &str) -> String {
    let name = format!("{shard}.json");
    match [CATALOG, FILE].iter().any(|other| name.eq_ignore_ascii_case(other)) {
        true => format!("{shard}.shard.json"),
        false => name,
    }
}

/// Returns the name of the file of a table.
pub(super) fn rows_of(shard: &str, table: &str) -> String {
    format!("{shard}.{table}.rows")
}

/// Returns true if a folder has a manifest of servers.
pub fn is_of_servers(folder: &Path) -> bool {
    manifest_file::read_document(folder).is_ok_and(|manifest| manifest["engine"] == ENGINE)
}

impl ServerManifest {
    /// Creates a manifest of this program.
    pub(super) fn new(
        (cluster_id, epoch): (String, u64),
        (at, held_us): (String, u64),
        catalog: SavedFile,
        shards: Vec<CopiedShard>,
    ) -> Self {
        let (engine, program) = (ENGINE.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let (format, schema) = (FORMAT, documents::own_schemas());
        Self { engine, format, program, schema, cluster_id, at, epoch, held_us, catalog, shards }
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// [`SaveError::Unsuitable`] if the folder has none, or one of another format or schema;
    /// [`SaveError::Io`] if the folder is missing or cannot be read.
    pub fn read(folder: &Path) -> Result<Self, SaveError> {
        let manifest: Self = manifest_file::read(folder, FORMAT)?;
        if manifest.schema != documents::own_schemas() {
            let cause = format!(
                "version {} of the program wrote it with another schema: restore it with that version",
                manifest.program
            );
            return Err(SaveError::unsuitable(&folder.join(FILE), cause));
        }
        manifest_file::check_names(folder, manifest.files())?;
        Ok(manifest)
    }

    /// Iterates over all files but the manifest itself.
    pub fn files(&self) -> impl Iterator<Item = &SavedFile> {
        let of_shards = self.shards.iter().flat_map(|shard| &shard.files);
        std::iter::once(&self.catalog).chain(of_shards)
    }

    /// Returns the bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    /// Returns the number of rows of all tables and shards. Rows of slots in a move are counted on
    /// both shards.
    pub fn rows(&self) -> u64 {
        self.shards.iter().flat_map(|shard| shard.rows.values()).sum()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), SaveError> {
        manifest_file::write(folder, self)
    }
}
