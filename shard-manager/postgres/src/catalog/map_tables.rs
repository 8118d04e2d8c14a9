//! Map tables: the shards and the owners of slots in a catalog that all routers share.
//!
//! **Invariant:** these tables and the epoch change in one transaction, which holds the lock of the
//! cluster's row; a map is read as of one moment.
//! **Not here:** the rules of changes (`model::map_change`), the other settings of the cluster
//! (`engine::cluster_spec`).

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use engine::catalog_rows::{
    GROUP, MapChangeError, MapStep, OwnerStep, ShardRow, slot_owner, topology,
};
use engine::cluster_spec::{ClusterRow, ClusterSpec, IN_OWN_TABLES, differences};
use engine::group_rows::{GroupRow, with_new_groups};
use engine::open_error::OpenError;
use engine::system_tables::tessera_listed_moves::dsl as listed;
use engine::system_tables::{tessera_cluster, tessera_groups, tessera_shards};
use model::keyspace::Slot;
use model::map_change::MapChange;
use model::position::Position;
use model::shard_map::{ShardMap, SlotOwner, followed_by};
use model::table_group::GroupNumber;
use model::topology::ShardNumber;
use model::value::{ColumnType, Value};

use super::{PLACE, or_rollback, refused};
use crate::db_error::unreadable;
use crate::statement::{Bind, Statement, for_each_row, load, run};

/// Begins a transaction whose statements see one snapshot.
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Begins a transaction that excludes other changes of the map.
const BEGIN_CHANGING: &str = "BEGIN; SELECT FROM tessera_cluster FOR UPDATE";
/// Selects the owners that have changed after an epoch, by slot.
const OWNERS: &str = "SELECT slot, shard, since FROM tessera_owners
    WHERE group_name = $1 AND since > $2 ORDER BY slot";
/// Selects, for each shard that has accepted slots after an epoch and for each of its timelines,
/// the highest position at which it accepted them.
const ARRIVALS: &str = "SELECT shard, floor_timeline, max(floor_position) FROM tessera_owners
    WHERE group_name = $1 AND since > $2 AND floor_position IS NOT NULL
    GROUP BY shard, floor_timeline";
/// Inserts the first owner of every slot.
const FILL_OWNERS: &str = "INSERT INTO tessera_owners (group_name, slot, shard, since)
    SELECT $1, slot - 1, shard, 1 FROM unnest($2) WITH ORDINALITY AS owner (shard, slot)";
/// Inserts the first owner of each slot of new table groups. The first of these slots is `$2`.
const ADD_OWNERS: &str = "INSERT INTO tessera_owners (group_name, slot, shard, since)
    SELECT $1, $2 + slot - 1, shard, $3 FROM unnest($4) WITH ORDINALITY AS owner (shard, slot)";
/// Changes the owner of some slots.
const SET_OWNERS: &str = "UPDATE tessera_owners
    SET shard = $1, since = $2, floor_timeline = $3, floor_position = $4, came_from = $5
    WHERE group_name = $6 AND slot = ANY ($7)";

/// Map of a catalog, with the rows of its shards.
pub struct StoredMap {
    /// The map.
    pub map: ShardMap,
    /// Rows of the shards, by number.
    pub shards: Vec<ShardRow>,
}

/// Access to the shards and slot owners of a catalog, over one of its sessions.
#[derive(Clone, Copy)]
pub struct MapTables<'c>(pub(super) &'c AsyncPgConnection);

impl MapTables<'_> {
    /// Returns the current shard map, as of one moment.
    ///
    /// # Errors
    /// The error of a query, or the damage of the rows.
    pub async fn map(self) -> QueryResult<ShardMap> {
        Ok(self.stored_map().await?.map)
    }

    /// Returns the current shard map and the rows of the shards, as of one moment.
    ///
    /// # Errors
    /// Errors of [`MapTables::map`].
    pub async fn stored_map(self) -> QueryResult<StoredMap> {
        let read = async {
            run(self.0, BEGIN_READING).await?;
            let row: ClusterRow = tessera_cluster::table.first(&mut &*self.0).await?;
            let stored = self.read_map(&row).await?;
            run(self.0, "COMMIT").await?;
            Ok(stored)
        };
        or_rollback(self.0, read.await).await
    }

    /// Returns the current shard map, reading only the owners that have changed after a known map
    /// of this catalog.
    ///
    /// # Errors
    /// Errors of [`MapTables::map`].
    pub async fn map_after(self, known: &ShardMap) -> QueryResult<ShardMap> {
        let read = async {
            run(self.0, BEGIN_READING).await?;
            let stored = map_since(self, known).await?;
            run(self.0, "COMMIT").await?;
            Ok(stored.map)
        };
        or_rollback(self.0, read.await).await
    }

    /// Reads the map of a catalog. If the tables of the map are still empty, the map is read from
    /// the columns that an earlier version has stored.
    async fn read_map(self, row: &ClusterRow) -> QueryResult<StoredMap> {
        let damaged = |cause: String| unreadable(&cause);
        let shards = self.load_shards().await?;
        if row.has_own_tables() {
            let groups = tessera_groups::table.order(tessera_groups::number);
            let groups: Vec<GroupRow> = groups.load(&mut &*self.0).await?;
            let owners = self.load_owners(0).await?;
            let map = row.map(&shards, &groups, owners).map_err(damaged)?;
            return Ok(StoredMap { map, shards });
        }
        if !shards.is_empty() {
            let cause =
                "the catalog is damaged: both tessera_cluster and tessera_shards list the shards";
            return Err(damaged(cause.to_owned()));
        }
        let map = row.map_of_columns().map_err(damaged)?;
        let shards = ShardRow::of(map.topology(), &[]);
        Ok(StoredMap { map, shards })
    }

    /// Reads an existing cluster and adds the new groups of the settings, in one transaction.
    /// Returns `None` if there is no cluster.
    pub(super) async fn read_and_add_groups(
        self,
        spec: &ClusterSpec,
    ) -> Result<Option<(ClusterRow, StoredMap)>, OpenError> {
        let failed = |error| OpenError::node(PLACE, error);
        let found = async {
            // The first epoch of a new group succeeds the epoch that is read here, so no other
            // change of the map may come between.
            run(self.0, BEGIN_CHANGING).await.map_err(failed)?;
            let row = tessera_cluster::table.first(&mut &*self.0).await.optional();
            let row: Option<ClusterRow> = row.map_err(failed)?;
            let (found, has_changed) = match row {
                None => (None, false),
                Some(row) => {
                    let (stored, has_changed) = self.with_groups(&row, spec).await?;
                    (Some((row, stored)), has_changed)
                }
            };
            // Once a row was locked, even the commit of a transaction without changes waits for a
            // synchronous standby. A rollback does not.
            let end = if has_changed { "COMMIT" } else { "ROLLBACK" };
            run(self.0, end).await.map_err(failed)?;
            Ok(found)
        };
        or_rollback(self.0, found.await).await
    }

    /// Reads the map of a cluster and adds the new groups of the settings. If an earlier version
    /// has stored the map in columns of the cluster's row, copies it into its own tables. Also
    /// returns true if anything was stored. Runs in the open transaction.
    async fn with_groups(
        self,
        row: &ClusterRow,
        spec: &ClusterSpec,
    ) -> Result<(StoredMap, bool), OpenError> {
        let failed = |error| OpenError::node(PLACE, error);
        row.check_hash(PLACE)?;
        let mut stored = self.read_map(row).await.map_err(failed)?;
        let mut has_changed = !row.has_own_tables();
        if has_changed {
            self.fill(&stored).await.map_err(failed)?;
        }
        // If the settings do not fit the cluster, the start is refused here, before any group is
        // added.
        differences(&stored.map, spec, PLACE)?;
        if let Some(next) = with_new_groups(&stored.map, &spec.groups)? {
            self.add_groups(&stored.map, &next).await.map_err(failed)?;
            stored.map = next;
            has_changed = true;
        }
        Ok((stored, has_changed))
    }

    /// Stores a new cluster in empty tables, in one transaction.
    pub(super) async fn make(self, row: &ClusterRow, stored: &StoredMap) -> QueryResult<()> {
        let filled = async {
            run(self.0, "BEGIN").await?;
            let inserted = diesel::insert_into(tessera_cluster::table).values(row);
            inserted.execute(&mut &*self.0).await?;
            self.fill(stored).await?;
            run(self.0, "COMMIT").await
        };
        or_rollback(self.0, filled.await).await
    }

    /// Fills the empty tables of the map. Each owner is stored as the owner since the first epoch.
    async fn fill(self, stored: &StoredMap) -> QueryResult<()> {
        let mut connection = self.0;
        let shards = diesel::insert_into(tessera_shards::table).values(&stored.shards);
        shards.execute(&mut connection).await?;
        let owners: Vec<i32> = stored.map.owners().map(|owner| i32::from(owner.shard.0)).collect();
        let binds = [Bind::text(GROUP), Bind::integers(owners.into_iter())];
        load(connection, Statement { sql: FILL_OWNERS, binds: &binds, cached: false }).await?;
        store_groups(connection, &stored.map, 0).await?;
        let own =
            (tessera_cluster::shards.eq(IN_OWN_TABLES), tessera_cluster::ranges.eq(IN_OWN_TABLES));
        let moved = diesel::update(tessera_cluster::table).set(own);
        moved.execute(&mut connection).await.map(drop)
    }

    /// Stores the groups of a map that the catalog lacks, with the owners of their slots and the
    /// epoch of the map, and notifies all routers. Runs in the open transaction, in which the known
    /// map was read.
    async fn add_groups(self, known: &ShardMap, next: &ShardMap) -> QueryResult<()> {
        let (count, epoch) = (known.groups().slot_count(), next.epoch().cast_signed());
        let owners = next.owners().skip(count).map(|owner| i32::from(owner.shard.0));
        let binds = [
            Bind::text(GROUP),
            Bind::bigint(count as i64),
            Bind::bigint(epoch),
            Bind::integers(owners.collect::<Vec<_>>().into_iter()),
        ];
        load(self.0, Statement { sql: ADD_OWNERS, binds: &binds, cached: false }).await?;
        store_groups(self.0, next, known.groups().count()).await?;
        let set = diesel::update(tessera_cluster::table).set(tessera_cluster::epoch.eq(epoch));
        set.execute(&mut &*self.0).await?;
        run(self.0, "NOTIFY tessera").await
    }

    async fn load_shards(self) -> QueryResult<Vec<ShardRow>> {
        let shards = tessera_shards::table.order(tessera_shards::number);
        shards.load(&mut &*self.0).await
    }

    async fn load_owners(self, after: u64) -> QueryResult<Vec<SlotOwner>> {
        let binds = [Bind::text(GROUP), Bind::bigint(after.cast_signed())];
        let mut owners = Vec::new();
        let statement = Statement { sql: OWNERS, binds: &binds, cached: false };
        for_each_row(self.0, statement, |row| {
            let numbers = row.bigint(0).zip(row.bigint(1)).zip(row.bigint(2));
            let owner = numbers.and_then(|((slot, shard), since)| slot_owner(slot, shard, since));
            let cause = "a number in tessera_owners is out of range";
            owners.push(owner.ok_or_else(|| unreadable(&cause))?);
            Ok(())
        })
        .await?;
        Ok(owners)
    }

    /// Records the addresses of shards that differ from the stored ones.
    ///
    /// # Errors
    /// The error of a statement.
    pub async fn keep_addresses(self, addresses: &[(i64, String)]) -> QueryResult<()> {
        for (number, address) in addresses {
            let row = tessera_shards::table.find(number);
            let other = tessera_shards::address.is_distinct_from(address);
            let kept = diesel::update(row.filter(other)).set(tessera_shards::address.eq(address));
            kept.execute(&mut &*self.0).await?;
        }
        Ok(())
    }

    /// Changes the map in one transaction, if its epoch is the expected one, and notifies all
    /// routers. `known` is a map that was read from this catalog, on the present timeline, if there
    /// is one: then only the owners that have changed after it are read.
    ///
    /// # Errors
    /// [`MapChangeError`].
    pub async fn change_map(
        self,
        change: (&MapChange, u64),
        known: Option<&ShardMap>,
    ) -> Result<ShardMap, MapChangeError> {
        let failed = |error: DieselError| MapChangeError::Failed(refused(&error));
        let read = async {
            run(self.0, BEGIN_CHANGING).await?;
            if let Some(known) = known {
                return map_since(self, known).await;
            }
            let row: ClusterRow = tessera_cluster::table.first(&mut &*self.0).await?;
            self.read_map(&row).await
        };
        let StoredMap { map, shards } = or_rollback(self.0, read.await).await.map_err(failed)?;
        let checked = match MapStep::of(&map, &shards, change) {
            Ok(step) => {
                let in_move = self.move_of(&map, change.0).await;
                let in_move = or_rollback(self.0, in_move).await.map_err(failed)?;
                in_move.map_or(Ok(step), Err)
            }
            Err(refusal) => Err(refusal),
        };
        let step = match checked {
            Ok(step) => step,
            Err(refusal) => {
                run(self.0, "ROLLBACK").await.map_err(failed)?;
                return Err(refusal);
            }
        };
        let stored = self.store(&step).await;
        or_rollback(self.0, stored).await.map_err(failed)?;
        let committed = run(self.0, "NOTIFY tessera; COMMIT").await;
        committed.map_err(|error| MapChangeError::Unknown(refused(&error)))?;
        Ok(step.map)
    }

    /// Returns a refusal if the change retires a shard that takes part in a move that has not
    /// ended: without the shard, the move could neither continue nor end.
    async fn move_of(
        self,
        map: &ShardMap,
        change: &MapChange,
    ) -> QueryResult<Option<MapChangeError>> {
        let Some(shard) = change.retired() else { return Ok(None) };
        let number = i64::from(shard.0);
        let open = listed::tessera_listed_moves.filter(listed::ended_at.is_null());
        let open = open.filter(listed::source.eq(number).or(listed::target.eq(number)));
        let found: Option<String> =
            open.select(listed::id).first(&mut &*self.0).await.optional()?;
        let shard = map.topology().name(shard).to_owned();
        Ok(found.map(|move_name| MapChangeError::InMove { shard, move_name }))
    }

    async fn store(self, step: &MapStep) -> QueryResult<()> {
        let mut connection: &AsyncPgConnection = self.0;
        if let Some(row) = &step.shard {
            let stored = diesel::insert_into(tessera_shards::table).values(row);
            let stored = stored.on_conflict(tessera_shards::number).do_update().set(row);
            stored.execute(&mut connection).await?;
        }
        let epoch = step.map.epoch().cast_signed();
        if let Some(OwnerStep { slots, from, to, floor }) = &step.owners {
            let number = |number: Option<i64>| {
                Bind::value(ColumnType::Bigint, &number.map_or(Value::Null, Value::Int))
            };
            let slots: Vec<Value> =
                slots.iter().map(|slot| Value::Int(i64::from(Slot::number(slot)))).collect();
            let binds = [
                Bind::bigint(i64::from(to.0)),
                Bind::bigint(epoch),
                number(floor.map(|at| i64::from(at.timeline))),
                number(floor.map(|at| at.sequence.cast_signed())),
                Bind::bigint(i64::from(from.0)),
                Bind::text(GROUP),
                Bind::values(ColumnType::Bigint, slots.iter()),
            ];
            load(connection, Statement { sql: SET_OWNERS, binds: &binds, cached: false }).await?;
        }
        let next = diesel::update(tessera_cluster::table).set(tessera_cluster::epoch.eq(epoch));
        next.execute(&mut connection).await.map(drop)
    }
}

/// Reads the current map in the open transaction, but of the owners only those that have changed
/// after a known map of this catalog. The whole map is read if a router has added table groups, or
/// if the catalog has lost the known epoch.
async fn map_since(tables: MapTables<'_>, known: &ShardMap) -> QueryResult<StoredMap> {
    let mut connection = tables.0;
    let epoch = tessera_cluster::table.select(tessera_cluster::epoch);
    let epoch: i64 = epoch.first(&mut connection).await?;
    let further = tessera_groups::table.filter(tessera_groups::number.gt(0));
    let further: i64 = further.count().get_result(&mut connection).await?;
    let has_new_groups = 1 + further > known.groups().count() as i64;
    if has_new_groups || epoch.cast_unsigned() < known.epoch() {
        let row: ClusterRow = tessera_cluster::table.first(&mut connection).await?;
        return tables.read_map(&row).await;
    }
    let shards = tables.load_shards().await?;
    let changed = tables.load_owners(known.epoch()).await?;
    let topology = topology(&shards).map_err(|cause| unreadable(&cause))?;
    let map = followed_by(known, epoch.cast_unsigned(), topology, changed);
    Ok(StoredMap { map: map.map_err(|cause| unreadable(&cause))?, shards })
}

async fn store_groups(
    mut connection: &AsyncPgConnection,
    map: &ShardMap,
    from: usize,
) -> QueryResult<()> {
    let rows = GroupRow::of(map, from);
    let stored = diesel::insert_into(tessera_groups::table).values(&rows);
    stored.execute(&mut connection).await.map(drop)
}

/// Returns the shards that have accepted slots after an epoch, with the highest position at which
/// each accepted them on each of its timelines.
///
/// # Errors
/// The error of the query.
pub async fn arrivals_after(
    connection: &AsyncPgConnection,
    epoch: u64,
) -> QueryResult<Vec<(ShardNumber, Position)>> {
    let binds = [Bind::text(GROUP), Bind::bigint(epoch.cast_signed())];
    let mut arrivals = Vec::new();
    for_each_row(connection, Statement { sql: ARRIVALS, binds: &binds, cached: false }, |row| {
        let shard = row.bigint(0).and_then(|number| u16::try_from(number).ok()).map(ShardNumber);
        let timeline = row.bigint(1).and_then(|timeline| u32::try_from(timeline).ok());
        let position = timeline
            .zip(row.bigint(2))
            .map(|(timeline, sequence)| Position { timeline, sequence: sequence.cast_unsigned() });
        arrivals.extend(shard.zip(position));
        Ok(())
    })
    .await?;
    Ok(arrivals)
}

/// Raises the epoch of the catalog to this one, unless it is at least as high already, and notifies
/// all routers. The shards and the owners stay unchanged.
///
/// # Errors
/// The error of a statement. The epoch is unchanged, unless the connection is lost.
pub async fn raise_epoch(connection: &AsyncPgConnection, epoch: u64) -> QueryResult<()> {
    let epoch = epoch.cast_signed();
    let raised = async {
        run(connection, BEGIN_CHANGING).await?;
        let lower = tessera_cluster::table.filter(tessera_cluster::epoch.lt(epoch));
        let set = diesel::update(lower).set(tessera_cluster::epoch.eq(epoch));
        set.execute(&mut &*connection).await?;
        run(connection, "NOTIFY tessera; COMMIT").await
    };
    or_rollback(connection, raised.await).await
}

/// Returns the groups for which it is not certain yet that the shards own their slots.
pub(super) async fn unready_groups(
    mut connection: &AsyncPgConnection,
) -> QueryResult<Vec<GroupNumber>> {
    let unready = tessera_groups::table.filter(tessera_groups::ready.eq(0_i64));
    let numbers = unready.select(tessera_groups::number);
    let numbers: Vec<i64> = numbers.load(&mut connection).await?;
    let group = |number: i64| GroupNumber::new(usize::try_from(number).ok()?);
    Ok(numbers.into_iter().filter_map(group).collect())
}

/// Records that each shard owns its slots of all groups.
pub(super) async fn set_groups_ready(mut connection: &AsyncPgConnection) -> QueryResult<()> {
    let unready = tessera_groups::table.filter(tessera_groups::ready.eq(0_i64));
    let set = diesel::update(unready).set(tessera_groups::ready.eq(1_i64));
    set.execute(&mut connection).await.map(drop)
}
