//! SQLite: history in a file on this machine, which no other user can read.
//!
//! A damaged database, or a file that is not a database, is renamed, and a new file is created.
//! Another program's database is left unchanged, because it may be in use.
//!
//! **Invariant:** only a new file, or one with the application id of this store, is written to.
//! **Not here:** choosing the frames that stay stored (`store/history_writer`).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::{Integer, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::upsert::excluded;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::row::Row;
use super::schema::tessera_history::dsl;
use super::{NextRows, SourceRename, StoreError};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite/analytics");

/// First bytes of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Application id in the file header: `TSRH` in ASCII.
const APPLICATION_ID: i32 = 0x5453_5248;

/// An open database file.
pub(super) struct SqliteStore(SqliteConnection);

impl SqliteStore {
    /// Opens the file. A missing file is created; a damaged one is replaced.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        match Self::try_open(path) {
            Err(StoreError::Damaged { cause, .. }) => {
                let aside = set_aside(path).map_err(|error| StoreError::file(path, error))?;
                tracing::warn!(
                    "{} held no history that can be read ({cause}): it is now {}, and a new one is begun",
                    path.display(),
                    aside.display()
                );
                Self::try_open(path)
            }
            opened => opened,
        }
    }

    fn try_open(path: &Path) -> Result<Self, StoreError> {
        let is_new = prepare(path)?;
        let mut connection = SqliteConnection::establish(&path.to_string_lossy())
            .map_err(|error| StoreError::file(path, error))?;
        let sound = |error: diesel::result::Error| broken(path, &error);
        connection
            .batch_execute("PRAGMA busy_timeout=2000; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;")
            .map_err(sound)?;
        let owner = number(&mut connection, "PRAGMA application_id").map_err(sound)?;
        let tables =
            number(&mut connection, "SELECT count(*) FROM sqlite_schema").map_err(sound)?;
        if owner != APPLICATION_ID && tables > 0 {
            return Err(StoreError::Foreign { place: path.display().to_string() });
        }
        // Commits are not synced to disk, so a power failure may lose the last few seconds of
        // metrics.
        connection
            .batch_execute(&format!(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY;
                 PRAGMA journal_size_limit=16777216; PRAGMA application_id={APPLICATION_ID};"
            ))
            .map_err(sound)?;
        if !is_new {
            check(&mut connection, path)?;
        }
        let unknown = unknown_migrations(&mut connection);
        if let Some(newest) = unknown.map_err(|error| StoreError::file(path, error))? {
            return Err(StoreError::Newer { place: path.display().to_string(), newest });
        }
        connection
            .run_pending_migrations(MIGRATIONS)
            .map_err(|error| StoreError::file(path, error))?;
        Ok(Self(connection))
    }

    /// Returns the step, the start and the size of each stored frame of a source.
    pub(super) fn frame_sizes(&mut self, source: &str) -> QueryResult<Vec<(i32, i64, i32)>> {
        let length = diesel::dsl::sql::<Integer>("length(frame)");
        let kept = dsl::tessera_history.filter(dsl::source.eq(source));
        kept.select((dsl::step, dsl::start, length)).load(&mut self.0)
    }

    /// Returns the next rows, in order.
    pub(super) fn rows(&mut self, next: NextRows<'_>) -> QueryResult<Vec<Row>> {
        let NextRows { source, step, after, most } = next;
        dsl::tessera_history
            .filter(dsl::source.eq(source).and(dsl::step.eq(step)).and(dsl::start.gt(after)))
            .order(dsl::start)
            .limit(most)
            .select((dsl::source, dsl::step, dsl::start, dsl::shape, dsl::frame))
            .load(&mut self.0)
    }

    /// Stores rows and removes the rows of each source and step before a start, in one
    /// transaction.
    pub(super) fn write(&mut self, rows: &[Row], forget: &[(String, i32, i64)]) -> QueryResult<()> {
        self.0.immediate_transaction(|connection| {
            for row in rows {
                diesel::insert_into(dsl::tessera_history)
                    .values(row)
                    .on_conflict((dsl::source, dsl::step, dsl::start))
                    .do_update()
                    .set((dsl::shape.eq(excluded(dsl::shape)), dsl::frame.eq(excluded(dsl::frame))))
                    .execute(connection)?;
            }
            for (source, step, before) in forget {
                let old = dsl::source.eq(source).and(dsl::step.eq(step)).and(dsl::start.lt(before));
                diesel::delete(dsl::tessera_history.filter(old)).execute(connection)?;
            }
            Ok(())
        })
    }

    /// Renames the sources of stored rows, unless there are rows with one of the new names already.
    pub(super) fn rename(&mut self, sources: &[SourceRename; 2]) -> QueryResult<()> {
        self.0.immediate_transaction(|connection| {
            let [frames, counted] = sources;
            let is_own = dsl::source.eq(&*frames.to).or(dsl::source.eq(&*counted.to));
            let own = dsl::tessera_history.filter(is_own);
            let is_stored: bool = diesel::select(exists(own)).get_result(connection)?;
            if is_stored {
                return Ok(());
            }
            for SourceRename { from, to } in sources {
                diesel::update(dsl::tessera_history.filter(dsl::source.eq(from)))
                    .set(dsl::source.eq(to))
                    .execute(connection)?;
            }
            Ok(())
        })
    }

    /// Removes rows of a source and step that are newer than `after`.
    pub(super) fn forget_new(&mut self, source: &str, step: i32, after: i64) -> QueryResult<()> {
        let new = dsl::source.eq(source).and(dsl::step.eq(step)).and(dsl::start.gt(after));
        diesel::delete(dsl::tessera_history.filter(new)).execute(&mut self.0).map(drop)
    }

    /// Removes rows of any source that are older than `before`, also of sources that no longer
    /// exist.
    pub(super) fn forget_old(&mut self, step: i32, before: i64) -> QueryResult<()> {
        let old = dsl::step.eq(step).and(dsl::start.lt(before));
        diesel::delete(dsl::tessera_history.filter(old)).execute(&mut self.0).map(drop)
    }
}

/// Creates a missing file that only this user can read, or checks an existing one. Returns true if
/// the file is new.
fn prepare(path: &Path) -> Result<bool, StoreError> {
    let failed = |error: std::io::Error| StoreError::file(path, error);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(StoreError::file(path, "it is not a file"));
    }
    file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(failed)?;
    if head.is_empty() || head == MAGIC {
        return Ok(head.is_empty());
    }
    Err(StoreError::Damaged {
        place: path.display().to_string(),
        cause: "it is not a database".to_owned(),
    })
}

/// Runs SQLite's check of the file, and fails with the damage that it finds. This must be called
/// before any row is read.
fn check(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Text)]
        quick_check: String,
    }
    let found: Vec<Found> = diesel::sql_query("PRAGMA quick_check(1)")
        .load(connection)
        .map_err(|error| broken(path, &error))?;
    match found.first() {
        Some(found) if found.quick_check == "ok" => Ok(()),
        Some(Found { quick_check }) => Err(StoreError::Damaged {
            place: path.display().to_string(),
            cause: quick_check.lines().next().unwrap_or_default().to_owned(),
        }),
        None => Ok(()),
    }
}

/// Converts an error of SQLite. Only the error of a damaged file becomes [`StoreError::Damaged`]; a
/// busy file or a full disk is not damage.
fn broken(path: &Path, error: &diesel::result::Error) -> StoreError {
    let cause = error.to_string();
    let is_damage =
        ["malformed", "not a database", "corrupt"].iter().any(|word| cause.contains(word));
    if is_damage {
        return StoreError::Damaged { place: path.display().to_string(), cause };
    }
    StoreError::file(path, cause)
}

fn number(connection: &mut SqliteConnection, query: &str) -> QueryResult<i32> {
    diesel::dsl::sql::<Integer>(query).get_result(connection)
}

/// Returns the name of a migration that was applied to the file and is unknown to this program;
/// `None` if all are known.
fn unknown_migrations(
    connection: &mut SqliteConnection,
) -> diesel::migration::Result<Option<String>> {
    use diesel::migration::{Migration, MigrationSource};
    let known: Vec<Box<dyn Migration<Sqlite>>> = MIGRATIONS.migrations()?;
    let had = connection.applied_migrations()?;
    let is_known = |version: &diesel::migration::MigrationVersion<'_>| {
        known.iter().any(|known| known.name().version() == *version)
    };
    Ok(had.into_iter().find(|version| !is_known(version)).map(|version| version.to_string()))
}

/// Renames the file and the files that SQLite keeps beside it.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside =
        (1..).map(|number| beside(&format!(".damaged-{number}"))).find(|aside| !aside.exists());
    let aside = aside.unwrap_or_else(|| beside(".damaged"));
    fs::rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        let mut name = aside.as_os_str().to_owned();
        name.push(suffix);
        match fs::rename(beside(suffix), name) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(aside)
}
