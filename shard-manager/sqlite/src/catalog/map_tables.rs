//! Map tables: the shards and the owners of slots in the catalog of an embedded cluster.
//!
//! **Invariant:** the tables of shards and owners change in the same transaction as the epoch.
//! **Not here:** the rules of changes (`model::map_change`), the other settings of the cluster
//! (`engine::cluster_spec`).

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::catalog_rows::{GROUP, MapChangeError, MapStep, OwnerStep, ShardRow, slot_owner};
use engine::cluster_spec::{ClusterRow, IN_OWN_TABLES, listed_names};
use engine::group_rows::GroupRow;
use engine::system_tables::tessera_listed_moves::dsl as listed;
use engine::system_tables::{tessera_cluster, tessera_groups, tessera_shards};
use model::keyspace::Slot;
use model::map_change::MapChange;
use model::shard_map::{ShardMap, SlotOwner};
use model::table_group::GroupNumber;

use super::super::OpenError;
use super::super::connection::{Bind, DbErrorKind, Statement, for_each_row};
use super::super::sql;
use super::PLACE;

/// Reason why the map of a catalog cannot be used.
pub(in super::super) enum MapFault {
    /// The database reported an error.
    Database(DieselError),
    /// The stored rows do not form a valid map.
    Damaged(String),
    /// The cluster cannot be used with these settings or by this program.
    Refused(OpenError),
}

impl From<DieselError> for MapFault {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

impl From<OpenError> for MapFault {
    fn from(error: OpenError) -> Self {
        Self::Refused(error)
    }
}

impl MapFault {
    /// Converts the fault to an error about the catalog in this file.
    pub(in super::super) fn of_file(self, path: &std::path::Path) -> OpenError {
        match self {
            Self::Database(error) => OpenError::file(path, error),
            Self::Damaged(cause) => OpenError::foreign(path, cause),
            Self::Refused(error) => error,
        }
    }
}

/// Shard map of a catalog, with the stored rows of its shards.
pub(in super::super) struct StoredMap {
    /// The map.
    pub(in super::super) map: ShardMap,
    /// Rows of the shards, by number.
    pub(in super::super) shards: Vec<ShardRow>,
}

/// Reads the shard map of a catalog. A catalog of an earlier version has the map in columns of
/// `tessera_cluster`, and its separate tables for it are still empty.
pub(in super::super) fn read(
    connection: &mut SqliteConnection,
    row: &ClusterRow,
) -> Result<StoredMap, MapFault> {
    row.check_hash(PLACE)?;
    let shards = load_shards(connection)?;
    if row.has_own_tables() {
        let (groups, owners) = (load_groups(connection)?, load_owners(connection)?);
        let map = row.map(&shards, &groups, owners).map_err(MapFault::Damaged)?;
        return Ok(StoredMap { map, shards });
    }
    if !shards.is_empty() {
        let cause =
            "the catalog is damaged: both tessera_cluster and tessera_shards list the shards";
        return Err(MapFault::Damaged(cause.to_owned()));
    }
    let map = row.map_of_columns().map_err(MapFault::Damaged)?;
    let shards = ShardRow::of(map.topology(), &[]);
    Ok(StoredMap { map, shards })
}

/// Fills the empty tables with the map of a new cluster or of an earlier version. In both cases all
/// slots have had their owners since the first epoch. Must run in a transaction.
pub(super) fn fill(connection: &mut SqliteConnection, stored: &StoredMap) -> QueryResult<()> {
    diesel::insert_into(tessera_shards::table).values(&stored.shards).execute(connection)?;
    let shards: Vec<u16> = stored.map.owners().map(|owner| owner.shard.0).collect();
    let shards = serde_json::to_string(&shards).expect("numbers always serialise");
    let binds = [Bind::Text(GROUP), Bind::Text(&shards)];
    Statement { sql: sql::FILL_OWNERS, binds: &binds, cached: false }.execute(connection)?;
    store_groups(connection, &stored.map, 0)?;
    let own =
        (tessera_cluster::shards.eq(IN_OWN_TABLES), tessera_cluster::ranges.eq(IN_OWN_TABLES));
    diesel::update(tessera_cluster::table).set(own).execute(connection).map(drop)
}

/// Stores those table groups of the map `next` that the catalog does not have yet, with the owners
/// of their slots, and the epoch of `next`. Must run in a transaction.
pub(super) fn add_groups(
    connection: &mut SqliteConnection,
    (known, next): (&ShardMap, &ShardMap),
) -> QueryResult<()> {
    let count = known.groups().slot_count();
    let owners: Vec<(u16, u16)> =
        next.owners().skip(count).map(|owner| (owner.slot, owner.shard.0)).collect();
    let owners = serde_json::to_string(&owners).expect("numbers always serialise");
    let epoch = next.epoch() as i64;
    let binds = [Bind::Text(GROUP), Bind::Text(&owners), Bind::Int(epoch)];
    Statement { sql: sql::ADD_OWNERS, binds: &binds, cached: false }.execute(connection)?;
    store_groups(connection, next, known.groups().count())?;
    let set = diesel::update(tessera_cluster::table).set(tessera_cluster::epoch.eq(epoch));
    set.execute(connection).map(drop)
}

fn store_groups(connection: &mut SqliteConnection, map: &ShardMap, from: usize) -> QueryResult<()> {
    let rows = GroupRow::of(map, from);
    diesel::insert_into(tessera_groups::table).values(&rows).execute(connection).map(drop)
}

fn load_groups(connection: &mut SqliteConnection) -> QueryResult<Vec<GroupRow>> {
    tessera_groups::table.order(tessera_groups::number).load(connection)
}

/// Returns the groups whose slots may not yet be recorded as owned in the files of the shards.
pub(super) fn unready_groups(connection: &mut SqliteConnection) -> QueryResult<Vec<GroupNumber>> {
    let unready = tessera_groups::table.filter(tessera_groups::ready.eq(0));
    let numbers: Vec<i64> = unready.select(tessera_groups::number).load(connection)?;
    let group = |number: i64| GroupNumber::new(usize::try_from(number).ok()?);
    Ok(numbers.into_iter().filter_map(group).collect())
}

/// Records that the files of the shards now record the owned slots of all groups.
pub(super) fn set_groups_ready(connection: &mut SqliteConnection) -> QueryResult<()> {
    let unready = tessera_groups::table.filter(tessera_groups::ready.eq(0));
    diesel::update(unready).set(tessera_groups::ready.eq(1)).execute(connection).map(drop)
}

fn load_shards(connection: &mut SqliteConnection) -> QueryResult<Vec<ShardRow>> {
    tessera_shards::table.order(tessera_shards::number).load(connection)
}

/// Returns the names of the shards of a catalog, whatever version its schema has. `column` is the
/// value of its column `shards`: a list of names, or a marker that the names are in a table. Shards
/// that are joining are left out.
pub(in super::super) fn shard_names(
    connection: &mut SqliteConnection,
    column: &str,
) -> Result<Vec<String>, MapFault> {
    if column == IN_OWN_TABLES {
        let mut names = Vec::new();
        let statement = Statement { sql: sql::SHARD_NAMES, binds: &[], cached: false };
        for_each_row(connection, statement, |row| {
            names.extend(row.text(0, str::to_owned));
            Ok(())
        })?;
        return Ok(names);
    }
    listed_names(column).map_err(MapFault::Damaged)
}

fn load_owners(connection: &mut SqliteConnection) -> QueryResult<Vec<SlotOwner>> {
    let mut owners = Vec::new();
    let statement = Statement { sql: sql::OWNERS, binds: &[Bind::Text(GROUP)], cached: false };
    for_each_row(connection, statement, |row| {
        let number = |column| row.int(column).unwrap_or(-1);
        let owner = slot_owner(number(0), number(1), number(2));
        owners.push(owner.ok_or_else(|| out_of_range("tessera_owners"))?);
        Ok(())
    })?;
    Ok(owners)
}

fn out_of_range(table: &str) -> DieselError {
    DieselError::DeserializationError(format!("a number in {table} is out of range").into())
}

/// Changes the map in one transaction, if the map still has the expected epoch.
///
/// # Errors
/// [`MapChangeError`]; the transaction is rolled back then.
pub(in super::super) fn change(
    connection: &mut SqliteConnection,
    change: (&MapChange, u64),
) -> Result<ShardMap, MapChangeError> {
    connection
        .immediate_transaction(|connection| {
            let row: ClusterRow = tessera_cluster::table.first(connection)?;
            let StoredMap { map, shards } = read(connection, &row)?;
            let step = MapStep::of(&map, &shards, change).map_err(ChangeFault::Change)?;
            check_moves(connection, &map, change.0)?;
            store(connection, &step)?;
            Ok(step.map)
        })
        .map_err(ChangeFault::error)
}

/// Checks that a shard that is to be retired takes part in no open move, because that move could
/// neither continue nor end without the shard.
fn check_moves(
    connection: &mut SqliteConnection,
    map: &ShardMap,
    change: &MapChange,
) -> Result<(), ChangeFault> {
    let Some(shard) = change.retired() else { return Ok(()) };
    let number = i64::from(shard.0);
    let open = listed::tessera_listed_moves.filter(listed::ended_at.is_null());
    let open = open.filter(listed::source.eq(number).or(listed::target.eq(number)));
    let found: Option<String> = open.select(listed::id).first(connection).optional()?;
    let Some(move_name) = found else { return Ok(()) };
    let shard = map.topology().name(shard).to_owned();
    Err(ChangeFault::Change(MapChangeError::InMove { shard, move_name }))
}

/// Reason for rolling back a change of the map.
enum ChangeFault {
    Map(MapFault),
    Change(MapChangeError),
}

impl From<DieselError> for ChangeFault {
    fn from(error: DieselError) -> Self {
        Self::Map(error.into())
    }
}

impl From<MapFault> for ChangeFault {
    fn from(fault: MapFault) -> Self {
        Self::Map(fault)
    }
}

impl ChangeFault {
    fn error(self) -> MapChangeError {
        let fault = match self {
            Self::Change(error) => return error,
            Self::Map(fault) => fault,
        };
        let (cause, error) = match fault {
            MapFault::Database(error) => {
                (error.to_string(), DbErrorKind::of(&error).error("the catalog"))
            }
            MapFault::Damaged(cause) => (cause, model::error::Error::Internal),
            MapFault::Refused(error) => (error.to_string(), model::error::Error::Internal),
        };
        tracing::error!(cause, "the shard map cannot be changed");
        MapChangeError::Failed(error)
    }
}

fn store(connection: &mut SqliteConnection, step: &MapStep) -> QueryResult<()> {
    if let Some(row) = &step.shard {
        let stored = diesel::insert_into(tessera_shards::table).values(row);
        stored.on_conflict(tessera_shards::number).do_update().set(row).execute(connection)?;
    }
    let epoch = step.map.epoch() as i64;
    if let Some(OwnerStep { slots, from, to, floor }) = &step.owners {
        let slots: Vec<u16> = slots.iter().map(Slot::number).collect();
        let slots = serde_json::to_string(&slots).expect("numbers always serialise");
        let floor_timeline = floor.map_or(Bind::Null, |at| Bind::Int(i64::from(at.timeline)));
        let floor_position = floor.map_or(Bind::Null, |at| Bind::Int(at.sequence as i64));
        let (to, from) = (Bind::Int(i64::from(to.0)), Bind::Int(i64::from(from.0)));
        let (group, slots) = (Bind::Text(GROUP), Bind::Text(&slots));
        let binds = [to, Bind::Int(epoch), floor_timeline, floor_position, from, group, slots];
        Statement { sql: sql::SET_OWNERS, binds: &binds, cached: false }.execute(connection)?;
    }
    let next = diesel::update(tessera_cluster::table).set(tessera_cluster::epoch.eq(epoch));
    next.execute(connection).map(drop)
}
