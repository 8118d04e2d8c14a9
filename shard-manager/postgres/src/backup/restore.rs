//! Restore: proves that a copy is complete, and fills empty databases from it.
//!
//! The row that marks a catalog as that of a cluster is stored last. A router that starts before
//! finds databases of a cluster without its catalog, and is refused. If the copy is restored on a
//! server that it comes from, or on one where it was restored before, positions of the lost history
//! would look like later ones of the new history; so the key of the session tokens is replaced.
//!
//! A key that was revoked after the backup must not become valid again, so every API key is
//! suspended until the operator resumes it.
//!
//! **Invariant:** nothing is changed before the whole copy was verified; no restored key is usable;
//! no version is assigned twice; an interrupted restore is repeated from its beginning.
//! **Not here:** the contents of a copy (`manifest`), checking the databases (`target`).

use std::path::Path;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::access_store::{AccessChange, ChangeAuthor, now};
use engine::index_record::{IndexRecord, IndexRow, IndexState};
use engine::progress_observer::{ProgressObserver, Step};
use engine::save_error::SaveError;
use engine::saved_file::{check_bits, check_length, read_and_hash};
use model::idempotency;
use model::table::{Registry, Table};
use model::topology::ShardState;
use serde::Deserialize;

use super::documents::{self, CATALOG_TABLES, CLUSTER, Documents};
use super::manifest::{self, CopiedShard, ServerManifest};
use super::row_file::Parts;
use super::target::{Occupancy, RestoreTarget};
use crate::catalog::Catalog;
use crate::declarations;
use crate::node_address::ClusterAddress;
use crate::row_arrays;
use crate::shard_database::{has_rows, migrate_shard};
use crate::shard_indexes;
use crate::slot_moves::record_restored;
use crate::sql;
use crate::statement::{Bind, Statement, load, run};

/// Versions to skip: more than the lost history has assigned since the copy, 4096 for each
/// transaction, and only a small part of the 2^53 that every client can represent.
const VERSIONS_LEFT_OUT: i64 = 1 << 40;
/// Selects the tables of clients that exist already.
const EXISTING: &str = "SELECT relname::text FROM pg_class \
    WHERE relnamespace='public'::regnamespace AND relkind='r'";
/// Removes the addresses, which are those of the copied cluster, and retires the shards that were
/// joining, which have no rows and no database here. The databases that were filled get their
/// addresses afterwards.
const NEW_ADDRESSES: &str = "UPDATE tessera.tessera_shards SET address=NULL, \
    state=CASE state WHEN 'joining' THEN 'retired' ELSE state END";
/// Records the address of a database that was filled.
const SET_ADDRESS: &str =
    "UPDATE tessera.tessera_shards SET address=$1 WHERE name=$2 AND state<>'retired'";
const NEXT_LOG_NUMBER: &str = "SELECT setval(pg_get_serial_sequence('tessera.tessera_access_log',\
    'number'),coalesce((SELECT max(number) FROM tessera.tessera_access_log),0)+1,false)";
const NEW_SECRET: &str =
    "UPDATE tessera.tessera_cluster SET secret=replace(gen_random_uuid()::text,'-','')";

/// Proves that a folder has a complete copy: every bit is as it was saved. Changes nothing. Blocks.
///
/// # Errors
/// [`SaveError::Unsuitable`], which names the file and the difference; other errors if the copy
/// could not be read.
pub fn verify(folder: &Path, observer: &ProgressObserver<'_>) -> Result<ServerManifest, SaveError> {
    let manifest = ServerManifest::read(folder)?;
    for file in manifest.files() {
        check_length(&folder.join(&file.file), file.bytes)?;
    }
    let (total, mut done) = (manifest.bytes(), 0);
    for file in manifest.files() {
        let found = read_and_hash(folder, &file.file, |piece| {
            done += piece.len() as u64;
            observer.report(&Step::Checking { bytes: done, of: total })
        })?;
        check_bits(&folder.join(&file.file), &found, file)?;
    }
    check_shards(folder, &manifest)?;
    Ok(manifest)
}

/// Checks that the copy has each shard that its catalog lists. Earlier versions could miss one that
/// joined when the copy began.
fn check_shards(folder: &Path, manifest: &ServerManifest) -> Result<(), SaveError> {
    /// Members of a row of `tessera_shards`.
    #[derive(Deserialize)]
    struct Listed {
        name: String,
        state: String,
    }
    let path = folder.join(manifest::CATALOG);
    let documents = read_documents(folder, manifest::CATALOG)?;
    let rows = documents.get("tessera_shards").map_or("[]", |rows| rows.get());
    let rows: Vec<Listed> = serde_json::from_str(rows)
        .map_err(|error| SaveError::unsuitable(&path, error.to_string()))?;
    let is_missing = |listed: &&Listed| {
        let mut copied = manifest.shards.iter();
        let has_rows = ShardState::parse(&listed.state).is_none_or(ShardState::has_rows);
        has_rows && !copied.any(|shard| shard.shard == listed.name)
    };
    match rows.iter().find(is_missing) {
        Some(Listed { name, .. }) => {
            let cause = format!("it lists the shard {name}, which the copy lacks");
            Err(SaveError::unsuitable(&path, cause))
        }
        None => Ok(()),
    }
}

/// Fills empty databases from a copy: those of the shards, in the order of the copy, and that of
/// the catalog if it has one of its own.
///
/// # Errors
/// Errors of [`verify`], and [`SaveError::Databases`]; nothing was changed then.
/// [`SaveError::Partial`] if the restore began and did not end.
pub async fn restore(
    from: &Path,
    address: &ClusterAddress,
    observer: &ProgressObserver<'_>,
) -> Result<ServerManifest, SaveError> {
    fill(from, address, (Occupancy::Empty, observer)).await
}

/// Fills databases that may have these contents. See [`restore`].
pub(super) async fn fill(
    from: &Path,
    address: &ClusterAddress,
    (occupancy, observer): (Occupancy, &ProgressObserver<'_>),
) -> Result<ServerManifest, SaveError> {
    let manifest = verify(from, observer)?;
    let mut restoring = Restoring::open(from, (&manifest, occupancy), address).await?;
    let filled = restoring.run(observer).await;
    filled.map_err(|error| SaveError::Partial { cause: cause_of(&error) })?;
    Ok(manifest)
}

/// Returns the message of an error for a sentence that states what the databases contain.
pub(super) fn cause_of(error: &SaveError) -> String {
    match matches!(error, SaveError::Cancelled) {
        true => "cancelled".to_owned(),
        false => error.to_string(),
    }
}

/// Databases of a restore.
struct Restoring<'r> {
    from: &'r Path,
    manifest: &'r ServerManifest,
    /// Name of each shard, and the address of its database without user and password.
    addresses: Vec<(String, String)>,
    shards: Vec<RestoreTarget>,
    /// Database of the catalog; `None` if the first shard has it.
    catalog: Option<RestoreTarget>,
}

impl<'r> Restoring<'r> {
    /// Connects to all databases, and checks that they may be filled. Changes nothing.
    async fn open(
        from: &'r Path,
        (manifest, occupancy): (&'r ServerManifest, Occupancy),
        address: &ClusterAddress,
    ) -> Result<Self, SaveError> {
        let (saved, named) = (manifest.shards.len(), address.shards.len());
        if saved != named {
            return Err(wrong_number(manifest, named, occupancy));
        }
        let copy = (manifest, occupancy);
        let mut shards: Vec<RestoreTarget> = Vec::with_capacity(saved);
        let mut addresses = Vec::with_capacity(saved);
        for (shard, at) in manifest.shards.iter().zip(&address.shards) {
            let label = shard.shard.clone();
            addresses.push((label.clone(), at.primary.location()));
            let target = RestoreTarget::open(&at.primary, label, copy, &shards).await?;
            shards.push(target);
        }
        let catalog = match &address.catalog {
            Some(at) if *at != address.shards[0].primary => {
                Some(RestoreTarget::open(at, "the catalog".to_owned(), copy, &shards).await?)
            }
            Some(_) | None => None,
        };
        let restoring = Self { from, manifest, addresses, shards, catalog };
        // The marks of the shards are removed before that of the catalog. If an earlier restore was
        // cut off in between, some shards have the cluster without a mark.
        if !restoring.is_filled().await? {
            for target in restoring.catalog.iter().chain(&restoring.shards) {
                target.check_unfinished()?;
                target.check_foreign().await?;
            }
        }
        Ok(restoring)
    }

    fn catalog(&self) -> &RestoreTarget {
        self.catalog.as_ref().unwrap_or(&self.shards[0])
    }

    /// Returns all databases, that of the catalog first: while it has the mark, no router starts.
    fn targets(&mut self) -> impl Iterator<Item = &mut RestoreTarget> {
        self.catalog.iter_mut().chain(&mut self.shards)
    }

    async fn run(&mut self, observer: &ProgressObserver<'_>) -> Result<(), SaveError> {
        if !self.is_filled().await? {
            let manifest = self.manifest;
            for target in self.targets() {
                let begun = target.begin(manifest).await;
                begun.map_err(|error| target.failed(error))?;
            }
            let mut progress = Progress { observer, done: 0, total: self.manifest.bytes() };
            for index in 0..self.shards.len() {
                self.fill_shard(index, &mut progress).await?;
            }
            self.fill_catalog(observer).await?;
        }
        // The catalog comes last: its mark shows the next restore that all databases are filled.
        let targets: Vec<_> = self.targets().collect();
        for target in targets.into_iter().rev() {
            target.finish().await.map_err(|error| target.failed(error))?;
        }
        Ok(())
    }

    /// Returns true if an earlier restore has stored everything, and was cut off before it removed
    /// its marks.
    async fn is_filled(&self) -> Result<bool, SaveError> {
        let catalog = self.catalog();
        if !catalog.is_marked {
            return Ok(false);
        }
        let found = async {
            if !has_rows(&catalog.connection, CLUSTER).await? {
                return Ok(false);
            }
            let rows = catalog.load("SELECT cluster_id FROM tessera.tessera_cluster").await?;
            Ok(rows.first().and_then(|row| row.text(0)).as_ref() == Some(&self.manifest.cluster_id))
        };
        let found: QueryResult<bool> = found.await;
        found.map_err(|error| catalog.failed(error))
    }

    async fn fill_shard(
        &mut self,
        index: usize,
        progress: &mut Progress<'_>,
    ) -> Result<(), SaveError> {
        let target = self.shards.remove(index);
        let label = target.label.clone();
        let connection = migrate_shard(target.connection, &label).await?;
        self.shards.insert(index, RestoreTarget { connection, ..target });
        let (target, saved) = (&self.shards[index], &self.manifest.shards[index]);
        let documents = read_documents(self.from, &manifest::metadata_of(&saved.shard))?;
        let indexes = read_documents(self.from, manifest::CATALOG)?;
        let indexes = indexes_of(&indexes)?;
        let filling = ShardFilling {
            connection: &target.connection,
            saved,
            documents,
            version_floor: target.version_floor,
        };
        let tables = filling.begin(&self.manifest.cluster_id).await;
        let tables = tables.map_err(|error| target.failed(error))?;
        for table in tables.iter().chain([&**idempotency::TABLE]) {
            let path = self.from.join(manifest::rows_of(&saved.shard, table.name()));
            let mut parts = Parts::open(path.clone())?;
            let mut rows = 0;
            while let Some(part) = parts.next()? {
                let stored = filling.store(table, &part).await;
                rows += stored.map_err(|error| target.failed(error))?;
                progress.add(part.len())?;
            }
            if saved.rows.get(table.name()) != Some(&rows) {
                let cause = format!("it has {rows} rows, not those of the manifest");
                return Err(SaveError::unsuitable(&path, cause));
            }
        }
        filling.finish(&tables, &indexes).await.map_err(|error| target.failed(error))
    }

    async fn fill_catalog(&mut self, observer: &ProgressObserver<'_>) -> Result<(), SaveError> {
        let documents = read_documents(self.from, manifest::CATALOG)?;
        observer.check()?;
        let target = match self.catalog.take() {
            Some(target) => target,
            None => self.shards.remove(0),
        };
        let catalog = Catalog::on(target.connection).migrate().await?;
        let stored = store_catalog(&catalog, &documents, &self.addresses).await;
        let timeline = target.identity.timeline;
        let suspended = match stored {
            Ok(()) => suspend_keys(&catalog, timeline).await,
            Err(error) => Err(error.to_string()),
        };
        let ended = match suspended {
            Ok(()) => store_cluster(&catalog, &documents).await,
            Err(cause) => return Err(SaveError::Databases(format!("{}: {cause}", target.label))),
        };
        let target = RestoreTarget { connection: catalog.connection, ..target };
        let ended = ended.map_err(|error| target.failed(error));
        match target.label.as_str() == "the catalog" {
            true => self.catalog = Some(target),
            false => self.shards.insert(0, target),
        }
        ended
    }
}

/// Returns the error for settings that do not name one database for each shard of the copy.
fn wrong_number(manifest: &ServerManifest, named: usize, occupancy: Occupancy) -> SaveError {
    let remedy = match occupancy {
        Occupancy::Empty => "name an empty one for each".to_owned(),
        Occupancy::Cluster => {
            let names: Vec<&str> = manifest.shards.iter().map(|shard| &*shard.shard).collect();
            format!("name the database of each shard, in this order: {}", names.join(", "))
        }
    };
    SaveError::Databases(format!(
        "the copy has {} shards, and SHARD_URLS names {named} databases: {remedy}",
        manifest.shards.len()
    ))
}

fn read_documents(from: &Path, name: &str) -> Result<Documents, SaveError> {
    let path = from.join(name);
    let text = std::fs::read_to_string(&path).map_err(|error| SaveError::io(&path, error))?;
    serde_json::from_str(&text).map_err(|error| SaveError::unsuitable(&path, error.to_string()))
}

/// Returns the indexes of a copied catalog.
fn indexes_of(documents: &Documents) -> Result<Vec<IndexRecord>, SaveError> {
    let rows = documents.get("tessera_indexes").map_or("[]", |rows| rows.get());
    let path = Path::new(manifest::CATALOG);
    let rows: Vec<IndexRow> = serde_json::from_str(rows)
        .map_err(|error| SaveError::unsuitable(path, error.to_string()))?;
    let records = rows.into_iter().map(IndexRow::record);
    records.collect::<Result<_, _>>().map_err(|damage| SaveError::unsuitable(path, damage))
}

/// Progress of a restore.
struct Progress<'w> {
    observer: &'w ProgressObserver<'w>,
    done: u64,
    total: u64,
}

impl Progress<'_> {
    fn add(&mut self, bytes: usize) -> Result<(), SaveError> {
        self.done += bytes as u64;
        self.observer.report(&Step::Writing { bytes: self.done, of: self.total })
    }
}

/// Shard that is being filled.
struct ShardFilling<'f> {
    connection: &'f AsyncPgConnection,
    saved: &'f CopiedShard,
    documents: Documents,
    /// Version that the database has last assigned.
    version_floor: i64,
}

impl ShardFilling<'_> {
    async fn load(&self, sql: &str, binds: &[Bind]) -> QueryResult<u64> {
        let rows = load(self.connection, Statement { sql, binds, cached: false }).await?;
        Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).max(0).cast_unsigned())
    }

    /// Records the cluster and the shard in the database, creates the tables of the copy, and
    /// returns them.
    async fn begin(&self, cluster_id: &str) -> QueryResult<Vec<Table>> {
        let connection = self.connection;
        run(connection, "BEGIN").await?;
        let binds = [Bind::text(cluster_id), Bind::text(&self.saved.shard)];
        self.load("INSERT INTO tessera_shard (id,cluster_id,shard) VALUES (1,$1,$2)", &binds)
            .await?;
        documents::store(connection, "tessera_tables", &self.documents).await?;
        let (tables, _) = declarations::load(connection).await?;
        let existing = load(connection, Statement { sql: EXISTING, binds: &[], cached: false });
        let existing: Vec<String> = existing.await?.iter().filter_map(|row| row.text(0)).collect();
        for table in tables.iter().filter(|table| !existing.iter().any(|it| it == table.name())) {
            run(connection, &sql::create(table)).await?;
        }
        run(connection, "COMMIT").await?;
        Ok(tables)
    }

    /// Stores a part of the rows of a table, and returns their number.
    async fn store(&self, table: &Table, part: &[u8]) -> QueryResult<u64> {
        let binds = row_arrays::row_binds(table, part)?;
        let sql = format!(
            "WITH stored AS ({} RETURNING 1) SELECT count(*) FROM stored",
            sql::insert(table)
        );
        self.load(&sql, &binds).await
    }

    /// Builds the indexes, stores the slots and the moves, and makes versions continue above those
    /// of the lost history.
    async fn finish(&self, tables: &[Table], indexes: &[IndexRecord]) -> QueryResult<()> {
        let connection = self.connection;
        run(connection, "BEGIN").await?;
        let registry = Registry::new(tables.iter().cloned());
        // The router builds the indexes whose build had not ended.
        for record in indexes.iter().filter(|record| record.state == IndexState::Ready) {
            if let Some(index) = record.index(&registry) {
                run(connection, &shard_indexes::create(&index, "")).await?;
            }
        }
        for table in ["tessera_slots", "tessera_slot_moves"] {
            documents::store(connection, table, &self.documents).await?;
        }
        // Marks of moves name transactions of the copied server.
        self.load("UPDATE tessera_slot_moves SET system=''", &[]).await?;
        record_restored(connection, tables).await?;
        let version = (self.saved.version + VERSIONS_LEFT_OUT).max(self.version_floor);
        let version = [Bind::bigint(version)];
        self.load("SELECT setval('tessera_version',$1)", &version).await?;
        run(connection, "COMMIT").await
    }
}

/// Stores all tables of a catalog except the row that marks it as that of a cluster, with these
/// addresses of the shards, so that a router finds a shard that its settings do not name.
async fn store_catalog(
    catalog: &Catalog,
    documents: &Documents,
    addresses: &[(String, String)],
) -> QueryResult<()> {
    let connection = &catalog.connection;
    run(connection, "BEGIN").await?;
    for table in CATALOG_TABLES.into_iter().filter(|table| *table != CLUSTER) {
        documents::store(connection, table, documents).await?;
    }
    for sql in [NEW_ADDRESSES, NEXT_LOG_NUMBER] {
        load(connection, Statement { sql, binds: &[], cached: false }).await?;
    }
    for (shard, address) in addresses {
        let binds = [Bind::text(address), Bind::text(shard)];
        load(connection, Statement { sql: SET_ADDRESS, binds: &binds, cached: false }).await?;
    }
    run(connection, "COMMIT").await
}

/// Suspends every key, if there are any.
async fn suspend_keys(catalog: &Catalog, timeline: u32) -> Result<(), String> {
    let has_keys = has_rows(&catalog.connection, "tessera_access_keys").await;
    if !has_keys.map_err(|error| error.to_string())? {
        return Ok(());
    }
    let (change, author) = (AccessChange::SuspendAllKeys, ChangeAuthor::CommandLine);
    let suspended = catalog.access().change(&change, (&author, now()), timeline).await;
    suspended.map(drop).map_err(|error| error.to_string())
}

/// Stores the row that marks the catalog as that of the cluster, with a new key of the session
/// tokens.
async fn store_cluster(catalog: &Catalog, documents: &Documents) -> QueryResult<()> {
    let connection = &catalog.connection;
    run(connection, "BEGIN").await?;
    documents::store(connection, CLUSTER, documents).await?;
    load(connection, Statement { sql: NEW_SECRET, binds: &[], cached: false }).await?;
    run(connection, "COMMIT").await
}
