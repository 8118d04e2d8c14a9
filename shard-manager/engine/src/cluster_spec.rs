//! Cluster spec: the settings of a cluster, as an operator requests them and as a catalog stores
//! them.
//!
//! **Invariant:** the settings never change an existing cluster, except for the number of replicas
//! and additional table groups. A start with another keyspace is refused, because rows would be
//! searched where they are not stored. The other settings apply only to new clusters; if they
//! differ, a start logs a warning.
//! **Not here:** the storage of the catalog row (`sqlite::catalog`, `postgres::catalog`), the rows
//! of shards and owners (`catalog_rows`).

use std::collections::BTreeMap;

use chrono::Utc;
use diesel::prelude::*;
use model::keyspace::{Keyspace, SLOT_COUNT};
use model::placement::{Placement, contradiction};
use model::shard_map::partitions::divided_partition;
use model::shard_map::{ShardMap, SlotOwner, SlotRange};
use model::table_group::{GroupNumber, GroupSpec, TableGroup};
use model::token::TokenKey;
use model::topology::{ShardNumber, ShardSpec, Topology};
use model::value::format_timestamp;

use super::catalog_rows::{ShardRow, topology};
use super::group_rows::{self, GroupRow, group_differences, with_first_groups};
use super::open_error::OpenError;
use super::system_tables::tessera_cluster;

/// Number of shards of a new cluster, unless another number is requested.
pub const SHARDS_DEFAULT: usize = 3;

/// Number of replicas of each shard of a new cluster, unless another number is requested.
pub const REPLICAS_DEFAULT: usize = 1;

/// Settings that the operator requests. `None` stands for the setting in the catalog, or for the
/// default when the cluster is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Keyspace: the rule that maps a shard key to its slot.
    pub keyspace: Option<Keyspace>,
    /// Placement: the rule that assigns slots to shards.
    pub placement: Option<Placement>,
    /// Number of shards.
    pub shards: Option<usize>,
    /// Weights of the shards, in their order: one for each shard.
    pub weights: Option<Vec<u32>>,
    /// Number of replicas of each shard. Unlike the other settings it may change at each start.
    pub replicas: Option<usize>,
    /// Table groups. A start creates each group that does not exist yet.
    pub groups: Vec<GroupSpec>,
}

/// Content of the columns `shards` and `ranges` in a catalog that keeps its shards and slot owners
/// in separate tables. An earlier version of the program expects lists in these columns, and
/// refuses the catalog with an error that quotes this sentence.
pub const IN_OWN_TABLES: &str =
    "\"this catalog needs a newer version of Tessera, which keeps its shards in tessera_shards\"";

/// Single row of the catalog with the settings of the cluster.
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
    /// Names and weights of the shards as JSON, in catalogs of earlier versions; else
    /// [`IN_OWN_TABLES`].
    pub shards: String,
    /// Ranges of slots and their shards as JSON, in catalogs of earlier versions; else
    /// [`IN_OWN_TABLES`].
    pub ranges: String,
    /// Creation time of the cluster.
    pub created_at: String,
    /// 1 once all shards have been created, else 0.
    pub ready: i64,
    /// Number of replicas of each shard.
    pub replicas: i64,
    /// Latest timeline that the primary of each shard has begun, as JSON.
    pub timelines: String,
    /// Secret that signs session tokens.
    pub secret: String,
    /// Parameters of the placement.
    pub placement_parameters: String,
}

impl ClusterRow {
    /// Creates the row of a new cluster. Its shards have these names; without names they are called
    /// `shard1`, `shard2`, ….
    ///
    /// # Errors
    /// [`OpenError::Conflict`] if such a cluster is impossible.
    pub fn new(
        spec: &ClusterSpec,
        names: Option<&[String]>,
    ) -> Result<(Self, ShardMap), OpenError> {
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
        if let Some(contradiction) = contradiction(&keyspace, &placement) {
            return Err(OpenError::Conflict(contradiction));
        }
        let map =
            ShardMap::first(keyspace, placement, topology).map_err(|error| conflict(&error))?;
        let map = with_first_groups(map, &spec.groups).map_err(|fault| conflict(&fault))?;
        if let Some(contradiction) = divided_partition(&map, GroupNumber::MAIN) {
            return Err(OpenError::Conflict(contradiction));
        }
        let keyspace = map.keyspace();
        let row = Self {
            id: 1,
            cluster_id: uuid::Uuid::now_v7().to_string(),
            epoch: 1,
            keyspace: keyspace.name().to_owned(),
            hash: hash_name(keyspace).to_owned(),
            parameters: keyspace.parameters(),
            slots: i64::from(SLOT_COUNT),
            placement: map.placement().name().to_owned(),
            shards: IN_OWN_TABLES.to_owned(),
            ranges: IN_OWN_TABLES.to_owned(),
            created_at: format_timestamp(Utc::now()),
            ready: 0,
            replicas: spec.replicas.unwrap_or(REPLICAS_DEFAULT) as i64,
            timelines: "{}".to_owned(),
            // Version 4: 122 random bits.
            secret: uuid::Uuid::new_v4().simple().to_string(),
            placement_parameters: map.placement().parameters(),
        };
        Ok((row, map))
    }

    /// Refuses a cluster in which this program would compute other slots for the stored rows.
    /// `place` names the cluster in the message.
    ///
    /// # Errors
    /// [`OpenError::Conflict`].
    pub fn check_hash(&self, place: &str) -> Result<(), OpenError> {
        check_hash(self, place)
    }

    /// Returns true if the catalog keeps its shards and slot owners in separate tables. Earlier
    /// versions stored them in this row.
    pub fn has_own_tables(&self) -> bool {
        self.shards == IN_OWN_TABLES && self.ranges == IN_OWN_TABLES
    }

    /// Returns the shard map that an earlier version stored in this row. The separate tables of
    /// such a catalog are still empty.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn map_of_columns(&self) -> Result<ShardMap, String> {
        restore(self).map_err(damaged)
    }

    /// Returns the shard map that the rows of shards, groups and owners describe. The owners must
    /// be in slot order.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn map(
        &self,
        shards: &[ShardRow],
        groups: &[GroupRow],
        owners: impl IntoIterator<Item = SlotOwner>,
    ) -> Result<ShardMap, String> {
        let map = || {
            let (keyspace, placement) = self.recipe()?;
            let (topology, epoch) = (topology(shards)?, self.map_epoch()?);
            let (main, further) =
                group_rows::groups(TableGroup::main(keyspace, placement), groups)?;
            ShardMap::from_owners(epoch, main, further, topology, owners)
                .map_err(|error| error.to_string())
        };
        map().map_err(damaged)
    }

    /// Returns keyspace and placement.
    fn recipe(&self) -> Result<(Keyspace, Placement), String> {
        let keyspace = Keyspace::restore(&self.keyspace, &self.parameters);
        let placement = Placement::restore(&self.placement, &self.placement_parameters);
        let keyspace = keyspace.map_err(|error| error.to_string())?;
        Ok((keyspace, placement.map_err(|error| error.to_string())?))
    }

    fn map_epoch(&self) -> Result<u64, String> {
        u64::try_from(self.epoch).map_err(|error| error.to_string())
    }

    /// Returns the latest timeline that the primary of each shard has begun, by the name of the
    /// shard.
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

fn damaged(cause: String) -> String {
    format!("the catalog is damaged: {cause}")
}

/// Returns the text of the column `hash`, which is never empty.
fn hash_name(keyspace: &Keyspace) -> &'static str {
    keyspace.algorithm().unwrap_or("none")
}

/// Refuses a cluster with another hash or slot count. Both are constants of the program, so a
/// difference means that another program created the cluster.
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
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let (keyspace, placement) = row.recipe()?;
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
    let epoch = row.map_epoch()?;
    ShardMap::restore(epoch, keyspace, placement, topology, &ranges).map_err(|error| failed(&error))
}

/// Reads the names of the shards in the column `shards` of a catalog of an earlier version.
///
/// # Errors
/// A description of the damage.
pub fn listed_names(column: &str) -> Result<Vec<String>, String> {
    let shards: Vec<(String, u32)> =
        serde_json::from_str(column).map_err(|error| damaged(error.to_string()))?;
    Ok(shards.into_iter().map(|(name, _)| name).collect())
}

/// Compares the requested settings with those of the cluster, and returns a sentence for each one
/// that differs. A setting that differs has no effect. `place` names the cluster in messages.
///
/// # Errors
/// [`OpenError::Conflict`] if the keyspace differs: it never changes.
pub fn differences(
    map: &ShardMap,
    spec: &ClusterSpec,
    place: &str,
) -> Result<Vec<String>, OpenError> {
    if let Some(keyspace) = spec.keyspace.as_ref().filter(|wanted| *wanted != map.keyspace()) {
        return Err(OpenError::Conflict(format!(
            "keyspace {keyspace} was requested, but {place} was made with {}: rows would be searched where they are \
             not. Leave the setting out, or begin with an empty one",
            map.keyspace()
        )));
    }
    let mut found = Vec::new();
    let members: Vec<&ShardSpec> = map.topology().members().map(|(_, shard)| shard).collect();
    if let Some(count) = spec.shards.filter(|count| *count != members.len()) {
        let remedy = if count > members.len() {
            "`shard-manager shard add NAME` lets one join"
        } else {
            "`shard-manager shard drain NAME` empties one and retires it"
        };
        found.push(format!("shards is {count}, and the cluster has {}: {remedy}", members.len()));
    }
    let weights: Vec<u32> = members.iter().map(|shard| shard.weight).collect();
    if let Some(wanted) = spec.weights.as_ref().filter(|wanted| **wanted != weights) {
        found.push(format!(
            "weights is {}, and the shards have {}: `shard-manager shard weight NAME WEIGHT` changes one",
            comma_separated(wanted),
            comma_separated(&weights)
        ));
    }
    if let Some(placement) = spec.placement.as_ref().filter(|wanted| *wanted != map.placement()) {
        found.push(format!(
            "placement is {placement}, and the cluster was made with {}: leave the setting out; `shard-manager rebalance \
             --by placement --placement '{placement}'` moves the slots to the shards of that placement",
            map.placement()
        ));
    }
    found.extend(group_differences(map, &spec.groups, place)?);
    Ok(found)
}

/// Logs one warning about all requested settings that have no effect, if there are any.
pub fn warn_of_differences(differences: &[String]) {
    if !differences.is_empty() {
        tracing::warn!(
            differences = differences.join("; "),
            "some settings describe only new clusters, and differ from this one, which starts as the catalog has it"
        );
    }
}

fn comma_separated(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
