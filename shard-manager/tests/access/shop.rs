//! Test harness: an embedded cluster, callers with roles, and requests that take the way of a
//! route: the table is looked up, the request is parsed against it, and then carried out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use shard_manager::access::operation::RowOperations;
use shard_manager::access::rights::{CompiledRole, Rights};
use shard_manager::access::role::AccessRole;
use shard_manager::access::tenant::Tenants;
use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::cache::CacheSettings;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::error::{Error, Failure};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkRow, Data, Manager, ReadDone, RequestOptions, WriteReceipt};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::{Operation, RowWrite};
use shard_manager::shard_map::KeyLocation;
use tempfile::TempDir;

use crate::scratch;

/// A grant of all operations on the rows of the tenant, in all columns of these tables.
pub(crate) const OWN: &str = r#"{"tables":["users","orders","kv"],
    "may":["read","insert","update","delete"],"keys":"$tenant"}"#;

/// A running cluster of three shards.
pub(crate) struct Shop {
    pub(crate) manager: Manager,
    _dir: TempDir,
}

/// Deadline of requests. Generous: a test that reaches it has found a defect.
pub(crate) fn options() -> RequestOptions {
    RequestOptions::by(Instant::now() + Duration::from_secs(30))
}

/// The rights of a caller with these tenants, whose role has these grants.
pub(crate) fn caller(grants: &str, tenants: &[&str]) -> Rights {
    let role = format!(r#"{{"role":"shop","grants":[{grants}]}}"#);
    let role = AccessRole::parse(&role).expect("a role");
    let tenants = Tenants::parse(tenants.iter().copied()).expect("tenants");
    Rights::of(Arc::new(CompiledRole::new(role)), tenants)
}

/// Checks and routes a change as a route does for this caller.
pub(crate) fn change(
    manager: &Manager,
    rights: &Rights,
    (table, operation, key): (&str, Operation, &str),
    json: &str,
) -> Result<(KeyLocation, RowWrite), Error> {
    let schema = manager.schema(rights);
    let table = schema.usable_for(schema.table(table)?, operation.into())?;
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).expect("an object");
    let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
    Data::prepare(&manager.map(), &table, operation, ShardKey::parse(key)?, &fields)
}

impl Shop {
    pub(crate) fn open() -> Self {
        Self::open_as(ClusterSpec { shards: Some(3), replicas: Some(0), ..ClusterSpec::default() })
    }

    /// Opens a cluster with these settings.
    pub(crate) fn open_as(wanted: ClusterSpec) -> Self {
        let dir = scratch::folder();
        let cluster = EmbeddedCluster { data_dir: dir.path().to_owned(), wanted };
        Self { manager: assembly::open(&cluster).expect("a new cluster starts"), _dir: dir }
    }

    /// Opens a cluster with a cache.
    pub(crate) fn with_cache(settings: CacheSettings) -> Self {
        let Self { manager, _dir } = Self::open();
        Self { manager: manager.with_cache(settings), _dir }
    }

    pub(crate) async fn write(
        &self,
        rights: &Rights,
        change_of: (&str, Operation, &str),
        json: &str,
    ) -> Result<WriteReceipt, Failure> {
        let rejected = |error| Failure::rejected(error, None);
        let (place, row) = change(&self.manager, rights, change_of, json).map_err(rejected)?;
        self.manager.data(rights).write(place, row, &options()).await
    }

    /// Writes rows without bounds.
    pub(crate) async fn fill(&self, table: &str, rows: &[(&str, &str)]) {
        for (key, json) in rows {
            let written = self.write(Rights::ALL, (table, Operation::Upsert, key), json).await;
            written.expect("stored");
        }
    }

    /// The rows of a bulk write, each with its key, which are checked without bounds.
    pub(crate) fn bulk(&self, table: &str, rows: &[(&str, &str)]) -> Vec<BulkRow> {
        let rows = rows.iter().enumerate().map(|(index, (key, json))| {
            let change_of = (table, Operation::Upsert, *key);
            let prepared = change(&self.manager, Rights::ALL, change_of, json);
            let (place, row) = prepared.expect("a row of the table");
            BulkRow { index, place, row }
        });
        rows.collect()
    }

    /// The query of a read of all columns that a caller may read.
    pub(crate) fn query(&self, rights: &Rights, table: &str) -> Result<ReadQuery, Error> {
        let schema = self.manager.schema(rights);
        let table = schema.usable_for(schema.table(table)?, RowOperations::READ)?;
        Ok(ReadQuery::unselected(&table))
    }

    pub(crate) async fn read(
        &self,
        rights: &Rights,
        query: ReadQuery,
        key: Option<&str>,
    ) -> Result<ReadDone, Failure> {
        let key = key.map(|key| ShardKey::parse(key).expect("a good key"));
        self.manager.data(rights).read(query, key, &options()).await
    }

    /// The rows of a table that a caller reads without a filter, as JSON.
    pub(crate) async fn rows(
        &self,
        rights: &Rights,
        table: &str,
        key: Option<&str>,
    ) -> Result<Vec<serde_json::Value>, Error> {
        let query = self.query(rights, table)?;
        let read = self.read(rights, query, key).await.map_err(|failure| failure.error)?;
        let row = |row| serde_json::from_slice(read.rows.row(row)).expect("JSON");
        Ok((0..read.rows.len()).map(row).collect())
    }

    pub(crate) fn place(&self, key: &str) -> KeyLocation {
        let key = ShardKey::parse(key).expect("a good key");
        self.manager.map().place(key).expect("a place")
    }
}

/// The missing right that an error names.
#[track_caller]
pub(crate) fn lack(error: &Error) -> &str {
    let Error::Forbidden { lack, .. } = error else { panic!("no right is missing: {error:?}") };
    lack
}

/// The texts of a member of rows.
pub(crate) fn texts<'r>(rows: &'r [serde_json::Value], member: &str) -> Vec<&'r str> {
    rows.iter().filter_map(|row| row[member].as_str()).collect()
}
