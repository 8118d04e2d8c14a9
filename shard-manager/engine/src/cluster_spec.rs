//! Cluster spec: the settings of a cluster, as an operator requests and a catalog stores them.
//!
//! **Invariant:** keyspace, hash, slot count, placement and shards of a cluster never change by
//! configuration: a start that requests others is refused with the reason, because rows would be
//! searched where they are not.
//! **Not here:** the storage of the catalog row (`sqlite::catalog`, `postgres::catalog`).

use std::collections::BTreeMap;

use chrono::Utc;
use diesel::prelude::*;
use model::keyspace::{Keyspace, SLOT_COUNT};
use model::placement::Placement;
use model::shard_map::{ShardMap, SlotRange};
use model::token::TokenKey;
use model::topology::{ShardNumber, ShardSpec, Topology};
use model::value::format_timestamp;

use super::open_error::OpenError;
use super::system_tables::tessera_cluster;

/// Shards of a new cluster unless a number is requested.
pub const SHARDS_DEFAULT: usize = 3;

/// Replicas of each shard of a new cluster unless a number is requested.
pub const REPLICAS_DEFAULT: usize = 1;

/// Settings that the operator requests. `None` stands for the setting in the catalog, or for the
/// default when the cluster is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Keyspace: the way from a key to its slot.
    pub keyspace: Option<Keyspace>,
    /// Placement: the way from a slot to its shard.
    pub placement: Option<Placement>,
    /// Number of shards.
    pub shards: Option<usize>,
    /// Weights of the shards, in order; as many as there are shards.
    pub weights: Option<Vec<u32>>,
    /// Number of replicas of each shard. Unlike the other settings it may change at each start.
    pub replicas: Option<usize>,
}

/// The catalog's one row.
#[derive(Queryable, Insertable)]
#[diesel(table_name = tessera_cluster)]
pub struct ClusterRow {
    /// Primary key: always 1.
    pub id: i64,
    /// UUID of the cluster.
    pub cluster_id: String,
    /// Version of the shard map.
    pub epoch: i64,
    /// Name of the keyspace.
    pub keyspace: String,
    /// Name of the hash, or `none`.
    pub hash: String,
    /// Parameters of the keyspace.
    pub parameters: String,
    /// Number of slots.
    pub slots: i64,
    /// Name of the placement.
    pub placement: String,
    /// Names and weights of the shards, as JSON.
    pub shards: String,
    /// Ranges of slots and their shards, as JSON.
    pub ranges: String,
    /// Creation time of the cluster.
    pub created_at: String,
    /// 1 once all shards have been created, else 0.
    pub ready: i64,
    /// Number of replicas of each shard.
    pub replicas: i64,
    /// Timeline that the primary of each shard began last, as JSON.
    pub timelines: String,
    /// Secret that signs session tokens.
    pub secret: String,
    /// Parameters of the placement.
    pub placement_parameters: String,
}

impl ClusterRow {
    /// Creates the row of a new cluster, whose shards have these names, or `shard1`, `shard2`, ….
    ///
    /// # Errors
    /// [`OpenError::Conflict`] if such a cluster is impossible.
    pub fn new(spec: &ClusterSpec, names: Option<&[String]>) -> Result<Self, OpenError> {
        let conflict = |error: &dyn std::fmt::Display| OpenError::Conflict(error.to_string());
        let count = spec.shards.or(spec.weights.as_ref().map(Vec::len)).unwrap_or(SHARDS_DEFAULT);
        let weights = spec.weights.clone().unwrap_or_else(|| vec![1; count]);
        if weights.len() != count {
            let (given, shards) = (weights.len(), count);
            return Err(OpenError::Conflict(format!(
                "{given} weights are given for {shards} shards"
            )));
        }
        let topology = match names {
            Some(names) => {
                let shards = names.iter().zip(&weights);
                let spec = |(name, weight): (&String, &u32)| ShardSpec::new(name.clone(), *weight);
                Topology::new(shards.map(spec).collect())
            }
            None => Topology::with_weights(&weights),
        };
        let topology = topology.map_err(|error| conflict(&error))?;
        let keyspace = spec.keyspace.clone().unwrap_or_default();
        let placement = spec.placement.clone().unwrap_or_default();
        let map =
            ShardMap::first(keyspace, placement, topology).map_err(|error| conflict(&error))?;
        if let Some(contradiction) = map.contradiction() {
            return Err(OpenError::Conflict(contradiction));
        }
        let keyspace = map.keyspace();
        Ok(Self {
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
            replicas: spec.replicas.unwrap_or(REPLICAS_DEFAULT) as i64,
            timelines: "{}".to_owned(),
            // Version 4: 122 random bits.
            secret: uuid::Uuid::new_v4().simple().to_string(),
            placement_parameters: map.placement().parameters(),
        })
    }

    /// Refuses a cluster whose rows this program would search in other places. `place` names the
    /// cluster in the message.
    ///
    /// # Errors
    /// [`OpenError::Conflict`].
    pub fn check_hash(&self, place: &str) -> Result<(), OpenError> {
        check_hash(self, place)
    }

    /// Returns the shard map.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn map(&self) -> Result<ShardMap, String> {
        restore(self)
    }

    /// Returns the timeline that the primary of each shard began last, by the name of the shard.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn begun_timelines(&self) -> Result<BTreeMap<String, u32>, String> {
        serde_json::from_str(&self.timelines).map_err(|error| error.to_string())
    }

    /// Returns the key that signs session tokens.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn token_key(&self) -> Result<TokenKey, String> {
        let secret = uuid::Uuid::try_parse(&self.secret);
        let secret = secret.map_err(|_| "the catalog lacks its secret".to_owned())?;
        Ok(TokenKey::new(secret.into_bytes()))
    }
}

fn json<T: serde::Serialize>(list: Vec<T>) -> String {
    serde_json::to_string(&list).expect("names and numbers always serialise")
}

/// Returns the text of the column `hash`, which is never empty.
fn hash_name(keyspace: &Keyspace) -> &'static str {
    keyspace.algorithm().unwrap_or("none")
}

/// Algorithms and slot count are constants of the program, so that a difference means another
/// program wrote the files.
fn check_hash(row: &ClusterRow, place: &str) -> Result<(), OpenError> {
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
        "{place} was made with keyspace {}, hash {} {} and {} slots; this program has {has} and \
         {SLOT_COUNT} slots, and would look for rows in other places",
        row.keyspace, row.hash, row.parameters, row.slots
    )))
}

fn restore(row: &ClusterRow) -> Result<ShardMap, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the catalog is damaged: {error}");
    let keyspace =
        Keyspace::restore(&row.keyspace, &row.parameters).map_err(|error| failed(&error))?;
    let placement = Placement::restore(&row.placement, &row.placement_parameters)
        .map_err(|error| failed(&error))?;
    let shards: Vec<(String, u32)> =
        serde_json::from_str(&row.shards).map_err(|error| failed(&error))?;
    let shards = shards.into_iter().map(|(name, weight)| ShardSpec::new(name, weight)).collect();
    let topology = Topology::restore(shards).map_err(|error| failed(&error))?;
    let ranges: Vec<(u16, u16, u16)> =
        serde_json::from_str(&row.ranges).map_err(|error| failed(&error))?;
    let ranges: Vec<SlotRange> = ranges
        .into_iter()
        .map(|(first, last, shard)| SlotRange { first, last, shard: ShardNumber(shard) })
        .collect();
    let epoch = u64::try_from(row.epoch).map_err(|error| failed(&error))?;
    ShardMap::restore(epoch, keyspace, placement, topology, &ranges).map_err(|error| failed(&error))
}

/// Refuses settings that differ from those of the cluster, which `place` names.
///
/// # Errors
/// [`OpenError::Conflict`].
pub fn check_spec(map: &ShardMap, spec: &ClusterSpec, place: &str) -> Result<(), OpenError> {
    let refuse = |what: &str, requested: String, found: String| {
        Err(OpenError::Conflict(format!(
            "{what} {requested} was asked for, but {place} was made with {found}: rows would be looked for where they \
             are not. Leave the setting out, or begin with an empty one"
        )))
    };
    if let Some(keyspace) = spec.keyspace.as_ref().filter(|asked| *asked != map.keyspace()) {
        return refuse("keyspace", keyspace.to_string(), map.keyspace().to_string());
    }
    if let Some(placement) = spec.placement.as_ref().filter(|asked| *asked != map.placement()) {
        return refuse("placement", placement.to_string(), map.placement().to_string());
    }
    let shards = map.topology().len();
    if let Some(count) = spec.shards.filter(|count| *count != shards) {
        return refuse("the number of shards", count.to_string(), shards.to_string());
    }
    let weights: Vec<u32> = map.topology().shards().iter().map(|shard| shard.weight).collect();
    match &spec.weights {
        Some(asked) if *asked != weights => {
            refuse("weights", format!("{asked:?}"), format!("{weights:?}"))
        }
        Some(_) | None => Ok(()),
    }
}
