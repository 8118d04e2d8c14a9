//! Catalog: the durable shard map of an embedded cluster, in a file of its own.
//!
//! **Invariant:** keyspace, hash, slot count, placement and shards of a cluster never change by configuration: a
//! start that asks for others is refused with the reason, because rows would be looked for where they
//! are not.
//! **Not here:** the rows (`shard_file`).

mod look;

use std::collections::BTreeMap;
use std::path::Path;

use chrono::Utc;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::OpenError;
use super::connection::open;
use super::schema::tessera_cluster::{self, dsl};
use crate::keyspace::{Keyspace, SLOT_COUNT};
use crate::placement::Placement;
use crate::shard_map::{ShardMap, SlotRange};
use crate::token::TokenKey;
use crate::topology::{ShardIndex, ShardSpec, Topology};
use crate::value::format_timestamp;

pub(super) use look::{Looked, look};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations/sqlite/catalog");

/// Shards of a new cluster when nobody says how many.
pub const SHARDS_DEFAULT: usize = 3;

/// Replicas of each shard of a new cluster when nobody says how many.
pub const REPLICAS_DEFAULT: usize = 1;

/// What the operator asks for. What is `None` is taken from the catalog, or from the defaults when the
/// cluster is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How keys become slots.
    pub keyspace: Option<Keyspace>,
    /// How slots are dealt out.
    pub placement: Option<Placement>,
    /// How many shards.
    pub shards: Option<usize>,
    /// Their weights, in order; as many as there are shards.
    pub weights: Option<Vec<u32>>,
    /// How many replicas each shard has. Unlike the others it may be another at each start.
    pub replicas: Option<usize>,
}

/// An open catalog.
pub struct Catalog {
    connection: SqliteConnection,
    /// Who this cluster is: every file of it says the same.
    pub cluster_id: String,
    /// The map in force.
    pub map: ShardMap,
    /// Whether every shard's file has been made.
    pub ready: bool,
    /// How many replicas each shard has.
    pub replicas: usize,
    /// The timeline that each shard's primary began last, by the shard's name.
    pub timelines: BTreeMap<String, u32>,
    /// What session tokens are signed with.
    pub token_key: TokenKey,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = tessera_cluster)]
struct ClusterRow {
    id: i64,
    cluster_id: String,
    epoch: i64,
    keyspace: String,
    hash: String,
    parameters: String,
    slots: i64,
    placement: String,
    shards: String,
    ranges: String,
    created_at: String,
    ready: i64,
    replicas: i64,
    timelines: String,
    secret: String,
    placement_parameters: String,
}

impl Catalog {
    /// Opens the catalog, or makes it for a new cluster as wanted.
    ///
    /// # Errors
    /// [`OpenError::Conflict`] if the cluster is another than wanted; the others if the file cannot be
    /// used.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<Self, OpenError> {
        let mut connection = open(path, "")?;
        let migrated = connection.run_pending_migrations(MIGRATIONS);
        migrated.map_err(|error| OpenError::file(path, error))?;
        let found: Option<ClusterRow> = dsl::tessera_cluster
            .first(&mut connection)
            .optional()
            .map_err(|error| OpenError::file(path, error))?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = new_cluster(wanted)?;
                let stored = diesel::insert_into(dsl::tessera_cluster).values(&row);
                stored.execute(&mut connection).map_err(|error| OpenError::file(path, error))?;
                row
            }
        };
        check_hash(&row)?;
        let map = restore(&row).map_err(|cause| OpenError::foreign(path, cause))?;
        check_wanted(&map, wanted)?;
        let replicas = match wanted.replicas {
            Some(replicas) => {
                let kept = diesel::update(dsl::tessera_cluster)
                    .set(dsl::replicas.eq(replicas as i64))
                    .execute(&mut connection);
                kept.map_err(|error| OpenError::file(path, error))?;
                replicas
            }
            None => row.replicas as usize,
        };
        let timelines = serde_json::from_str(&row.timelines);
        let timelines = timelines.map_err(|error| OpenError::foreign(path, error.to_string()))?;
        let secret = uuid::Uuid::try_parse(&row.secret);
        let secret =
            secret.map_err(|_| OpenError::foreign(path, "the catalog lacks its secret"))?;
        let token_key = TokenKey::new(secret.into_bytes());
        let (cluster_id, ready) = (row.cluster_id, row.ready == 1);
        Ok(Self { connection, cluster_id, map, ready, replicas, timelines, token_key })
    }

    /// Notes that every shard's file is there, and which timeline each primary has begun.
    ///
    /// # Errors
    /// [`OpenError::Database`] if it cannot be written.
    pub fn set_ready(
        &mut self,
        path: &Path,
        timelines: BTreeMap<String, u32>,
    ) -> Result<(), OpenError> {
        let text = serde_json::to_string(&timelines).expect("names and numbers always serialise");
        let noted =
            diesel::update(dsl::tessera_cluster).set((dsl::ready.eq(1), dsl::timelines.eq(text)));
        noted.execute(&mut self.connection).map_err(|error| OpenError::file(path, error))?;
        (self.ready, self.timelines) = (true, timelines);
        Ok(())
    }
}

fn new_cluster(wanted: &Wanted) -> Result<ClusterRow, OpenError> {
    let conflict = |error: &dyn std::fmt::Display| OpenError::Conflict(error.to_string());
    let count = wanted.shards.or(wanted.weights.as_ref().map(Vec::len)).unwrap_or(SHARDS_DEFAULT);
    let weights = wanted.weights.clone().unwrap_or_else(|| vec![1; count]);
    if weights.len() != count {
        let (given, shards) = (weights.len(), count);
        return Err(OpenError::Conflict(format!("{given} weights are given for {shards} shards")));
    }
    let topology = Topology::with_weights(&weights).map_err(|error| conflict(&error))?;
    let keyspace = wanted.keyspace.clone().unwrap_or_default();
    let placement = wanted.placement.clone().unwrap_or_default();
    let map = ShardMap::first(keyspace, placement, topology).map_err(|error| conflict(&error))?;
    let keyspace = map.keyspace();
    Ok(ClusterRow {
        id: 1,
        cluster_id: uuid::Uuid::now_v7().to_string(),
        epoch: 1,
        keyspace: keyspace.name().to_owned(),
        hash: hash_name(keyspace).to_owned(),
        parameters: keyspace.parameters(),
        slots: i64::from(SLOT_COUNT),
        placement: map.placement().name().to_owned(),
        shards: json(map.topology().shards().iter().map(|s| (&s.name, s.weight)).collect()),
        ranges: json(map.ranges().iter().map(|r| (r.first, r.last, r.shard.0)).collect()),
        created_at: format_timestamp(Utc::now()),
        ready: 0,
        replicas: wanted.replicas.unwrap_or(REPLICAS_DEFAULT) as i64,
        timelines: "{}".to_owned(),
        // Version 4: 122 random bits.
        secret: uuid::Uuid::new_v4().simple().to_string(),
        placement_parameters: map.placement().parameters(),
    })
}

fn json<T: serde::Serialize>(list: Vec<T>) -> String {
    serde_json::to_string(&list).expect("names and numbers always serialise")
}

/// What stands in the column `hash`, which is never empty.
fn hash_name(keyspace: &Keyspace) -> &'static str {
    keyspace.algorithm().unwrap_or("none")
}

/// Algorithms and slot count are constants of the program, so that a difference means another program wrote the files.
fn check_hash(row: &ClusterRow) -> Result<(), OpenError> {
    let has = match Keyspace::restore(&row.keyspace, &row.parameters) {
        Ok(known) if row.hash == hash_name(&known) && row.slots == i64::from(SLOT_COUNT) => {
            return Ok(());
        }
        Ok(known) => {
            format!("keyspace {}, hash {} {}", known.name(), hash_name(&known), known.parameters())
        }
        Err(error) => format!("no such keyspace ({error})"),
    };
    Err(OpenError::Conflict(format!(
        "the data directory was made with keyspace {}, hash {} {} and {} slots; this program has {has} and \
         {SLOT_COUNT} slots, and would look for rows in other places",
        row.keyspace, row.hash, row.parameters, row.slots
    )))
}

fn restore(row: &ClusterRow) -> Result<ShardMap, String> {
    let told = |error: &dyn std::fmt::Display| format!("the catalog is damaged: {error}");
    let keyspace =
        Keyspace::restore(&row.keyspace, &row.parameters).map_err(|error| told(&error))?;
    let placement = Placement::restore(&row.placement, &row.placement_parameters)
        .map_err(|error| told(&error))?;
    let shards: Vec<(String, u32)> =
        serde_json::from_str(&row.shards).map_err(|error| told(&error))?;
    let shards = shards.into_iter().map(|(name, weight)| ShardSpec { name, weight }).collect();
    let topology = Topology::new(shards).map_err(|error| told(&error))?;
    let ranges: Vec<(u16, u16, u16)> =
        serde_json::from_str(&row.ranges).map_err(|error| told(&error))?;
    let ranges: Vec<SlotRange> = ranges
        .into_iter()
        .map(|(first, last, shard)| SlotRange { first, last, shard: ShardIndex(shard) })
        .collect();
    let epoch = u64::try_from(row.epoch).map_err(|error| told(&error))?;
    ShardMap::restore(epoch, keyspace, placement, topology, &ranges).map_err(|error| told(&error))
}

fn check_wanted(map: &ShardMap, wanted: &Wanted) -> Result<(), OpenError> {
    let refuse = |what: &str, wanted: String, found: String| {
        Err(OpenError::Conflict(format!(
            "{what} {wanted} was asked for, but the data directory was made with {found}: rows would be \
             looked for where they are not. Leave the setting out, or use another data directory"
        )))
    };
    if let Some(keyspace) = wanted.keyspace.as_ref().filter(|asked| *asked != map.keyspace()) {
        return refuse("keyspace", keyspace.to_string(), map.keyspace().to_string());
    }
    if let Some(placement) = wanted.placement.as_ref().filter(|asked| *asked != map.placement()) {
        return refuse("placement", placement.to_string(), map.placement().to_string());
    }
    let shards = map.topology().len();
    if let Some(count) = wanted.shards.filter(|count| *count != shards) {
        return refuse("the number of shards", count.to_string(), shards.to_string());
    }
    let weights: Vec<u32> = map.topology().shards().iter().map(|shard| shard.weight).collect();
    match &wanted.weights {
        Some(asked) if *asked != weights => {
            refuse("weights", format!("{asked:?}"), format!("{weights:?}"))
        }
        Some(_) | None => Ok(()),
    }
}
