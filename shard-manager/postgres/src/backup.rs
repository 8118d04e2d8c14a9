//! Backup: copies all rows and the catalog of a cluster as of one moment, while it is written to.
//!
//! 1. The fence lock of every shard is taken, so that no batch of writes is under way on any. This
//!    is the moment: each shard and the catalog get a snapshot, and the locks are released.
//! 2. The rows of all tables are read in these snapshots and written to files.
//! 3. The files are synced, the manifest is written, and the folder gets its final name.
//!
//! So a copy contains no effect without its cause: if a client writes to one shard and, after the
//! response, to another, the copy contains the second write only with the first. Writes wait for
//! the running batches and a few round trips. If a batch has not ended after half a second, all
//! locks are released, and the backup tries again. If this process hangs while it holds the locks,
//! the servers terminate its sessions after two seconds, which releases the locks.
//!
//! A copy contains the shards that the catalog lists at this moment, without those that are
//! joining, which have no rows. If others have joined or retired since the sessions began, the
//! backup begins again.
//!
//! A copy also contains the foreign rows and the moves that have not ended. A restored cluster can
//! continue these moves, just as a router continues a move whose mover has crashed.
//!
//! **Invariant:** under the final name there is a complete copy or nothing.
//! **Not here:** restoring a copy (`restore`, `replace`), dumps by the programs of PostgreSQL.

mod documents;
pub(super) mod live;
pub mod manifest;
pub mod replace;
pub mod restore;
mod row_file;
mod snapshot_point;
mod target;

use std::collections::BTreeMap;
use std::path::Path;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use engine::open_error::OpenError;
use engine::progress_observer::{ProgressObserver, Step};
use engine::save_error::SaveError;
use engine::saved_file::SavedFile;
use engine::unfinished_folder::{Unfinished, check_room, free_place};
use model::idempotency;
use model::table::Table;

use self::manifest::{CopiedShard, ServerManifest};
use self::row_file::RowFile;
use self::snapshot_point::SnapshotPoint;
use super::cluster_sessions::{ClusterSessions, ShardSession};
use super::declarations;
use super::node_address::ClusterAddress;
use super::row_arrays::ColumnArrays;
use super::sql;
use super::statement::{Statement, for_each_row, load};

/// Number of attempts to copy the cluster while shards join and retire.
const ATTEMPTS_MAX: usize = 8;
/// Maximum rows and bytes of one part of a file, which a restore stores with one statement.
const PART_ROWS: usize = 2_000;
const PART_BYTES: usize = 1 << 20;
/// Selects the bytes of the tables of a database without their indexes.
const BYTES: &str =
    "SELECT coalesce(sum(pg_table_size(relation)),0)::bigint FROM tessera_moving_tables";
/// Selects the last value of the version counter.
const VERSION: &str = "SELECT last_value FROM tessera_version";

/// Copies a cluster into a folder that is missing or empty. If shards join or retire before the
/// moment of the copy, it begins again.
///
/// # Errors
/// [`SaveError`]; the folder is empty or missing then.
pub async fn save(
    address: &ClusterAddress,
    to: &Path,
    observer: &ProgressObserver<'_>,
) -> Result<ServerManifest, SaveError> {
    for _ in 1..ATTEMPTS_MAX {
        match save_shards(address, to, observer).await {
            Err(SaveError::ShardsChanged) => {
                tracing::info!("a backup begins again, because the shards have changed");
            }
            saved => return saved,
        }
    }
    save_shards(address, to, observer).await
}

/// Copies the shards that the catalog lists now.
async fn save_shards(
    address: &ClusterAddress,
    to: &Path,
    observer: &ProgressObserver<'_>,
) -> Result<ServerManifest, SaveError> {
    let place = free_place(to)?;
    let sessions = ClusterSessions::open(address).await?;
    documents::check_schemas(&sessions).await?;
    let mut sizes = Vec::with_capacity(sessions.shards.len());
    for shard in &sessions.shards {
        sizes.push(number(shard, BYTES).await?.max(0).cast_unsigned());
    }
    check_room(&place, sizes.iter().sum())?;
    let unfinished = Unfinished::begin(&place)?;
    let folder = unfinished.path();
    let moment = snapshot_point::take(&sessions, observer).await?;
    observer.report(&Step::Held { micros: moment.held.as_micros() as u64 })?;
    for (shard, size) in sessions.shards.iter().zip(&sizes) {
        observer.report(&Step::Copying { shard: shard.name.clone(), bytes: 0, of: *size })?;
    }
    let mut shards = Vec::with_capacity(sessions.shards.len());
    for (index, (shard, size)) in sessions.shards.iter().zip(sizes).enumerate() {
        let saving = SavingShard { shard, folder, observer, bytes: 0, size };
        shards.push(saving.save(moment.positions[index]).await?);
    }
    let manifest = seal(&sessions, moment, shards, folder).await?;
    observer.check()?;
    unfinished.finish()?;
    Ok(manifest)
}

/// Writes the catalog and the manifest.
async fn seal(
    sessions: &ClusterSessions,
    moment: SnapshotPoint,
    shards: Vec<CopiedShard>,
    folder: &Path,
) -> Result<ServerManifest, SaveError> {
    let failed = |error| OpenError::node("the catalog", error);
    let connection = &sessions.catalog.connection;
    let text = documents::read(connection, &documents::CATALOG_TABLES).await.map_err(failed)?;
    let epoch = sessions.catalog.version().await.map_err(failed)?.epoch.cast_unsigned();
    let catalog = write_document(folder, manifest::CATALOG, &text)?;
    let (cluster_id, at) = (sessions.cluster_id.clone(), moment.at);
    let held_us = moment.held.as_micros() as u64;
    let manifest = ServerManifest::new((cluster_id, epoch), (at, held_us), catalog, shards);
    manifest.write(folder)?;
    Ok(manifest)
}

fn write_document(folder: &Path, name: &str, text: &str) -> Result<SavedFile, SaveError> {
    let mut file = RowFile::create(folder, name)?;
    file.write(text.as_bytes())?;
    file.finish()
}

async fn number(shard: &ShardSession, sql: &str) -> Result<i64, OpenError> {
    let rows = load(shard.connection(), Statement { sql, binds: &[], cached: false }).await;
    let rows = rows.map_err(|error| shard.failed(error))?;
    Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0))
}

/// Shard that is being copied in the snapshot of its session.
struct SavingShard<'s> {
    shard: &'s ShardSession,
    folder: &'s Path,
    observer: &'s ProgressObserver<'s>,
    /// Bytes that were written.
    bytes: u64,
    /// Expected number of bytes.
    size: u64,
}

impl SavingShard<'_> {
    async fn save(mut self, position: u64) -> Result<CopiedShard, SaveError> {
        let Self { shard, folder, .. } = self;
        let connection = shard.connection();
        let failed = |error| SaveError::File(shard.failed(error));
        let (tables, _) = declarations::load(connection).await.map_err(failed)?;
        let text = documents::read(connection, &documents::SHARD_TABLES).await.map_err(failed)?;
        let mut files = vec![write_document(folder, &manifest::metadata_of(&shard.name), &text)?];
        let mut rows = BTreeMap::new();
        for table in tables.iter().chain([&**idempotency::TABLE]) {
            let (file, count) = self.save_table(table).await?;
            files.push(file);
            rows.insert(table.name().to_owned(), count);
        }
        let version = number(shard, VERSION).await?;
        let identity = &shard.session.identity;
        Ok(CopiedShard {
            shard: shard.name.clone(),
            system: identity.system.to_string(),
            position,
            version,
            rows,
            files,
        })
    }

    /// Writes all rows of a table, and returns its file and their number.
    async fn save_table(&mut self, table: &Table) -> Result<(SavedFile, u64), SaveError> {
        let name = manifest::rows_of(&self.shard.name, table.name());
        let mut file = RowFile::create(self.folder, &name)?;
        let (mut part, mut part_bytes, mut rows) = (ColumnArrays::of_table(table), 0, 0);
        let mut stopped = None;
        let shard = self.shard;
        let sql = sql::select_all(table);
        let statement = Statement { sql: &sql, binds: &[], cached: false };
        let read: QueryResult<()> = for_each_row(shard.connection(), statement, |row| {
            part_bytes += part.push_row(row);
            rows += 1;
            if part.rows() < PART_ROWS && part_bytes < PART_BYTES {
                return Ok(());
            }
            let full = std::mem::replace(&mut part, ColumnArrays::of_table(table));
            self.write_part(&mut file, &full.finish()).map_err(|error| {
                stopped = Some(error);
                DieselError::RollbackTransaction
            })?;
            part_bytes = 0;
            Ok(())
        })
        .await;
        if let Some(error) = stopped {
            return Err(error);
        }
        read.map_err(|error| shard.failed(error))?;
        if part.rows() > 0 {
            self.write_part(&mut file, &part.finish())?;
        }
        Ok((file.finish()?, rows))
    }

    fn write_part(&mut self, file: &mut RowFile, part: &[u8]) -> Result<(), SaveError> {
        file.write_part(part)?;
        self.bytes += part.len() as u64;
        let (bytes, of) = (self.bytes, self.size.max(self.bytes));
        self.observer.report(&Step::Copying { shard: self.shard.name.clone(), bytes, of })
    }
}
