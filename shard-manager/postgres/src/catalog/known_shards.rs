//! Known shards: the shards in a catalog, as a router reads them at its start, before it locks and
//! migrates the catalog.
//!
//! **Invariant:** the catalog is not changed; catalogs of earlier versions can be read.
//! **Not here:** the shard map (`map_tables`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::cluster_spec::{IN_OWN_TABLES, listed_names};
use model::topology::ShardState;

use crate::node_address::NodeAddress;
use crate::shard_database::has_rows;
use crate::statement::{RowView, Statement, load};

/// Shards of a catalog.
#[derive(Clone, Debug)]
pub struct KnownShards {
    /// Id of the cluster.
    pub cluster_id: String,
    /// True if every shard was claimed.
    pub ready: bool,
    /// The shards that are not retired, by number. The error describes the damage of the catalog.
    pub members: Result<Vec<KnownShard>, String>,
    /// Names of the shards that have retired.
    pub retired: Vec<String>,
    /// Name of the shard whose database holds the catalog; `None` if no shard's database does.
    pub held_by: Option<String>,
}

/// Shard of a catalog.
#[derive(Clone, Debug)]
pub struct KnownShard {
    /// Name of the shard.
    pub name: String,
    /// Addresses of the shard's servers without user and password, if the catalog has them.
    pub location: Option<NodeAddress>,
    /// True if the shard is still joining the cluster.
    pub is_joining: bool,
}

impl KnownShards {
    /// Reads the catalog in a database, which may be the database of the shard `held_by`. Returns
    /// `None` if the database has no catalog.
    ///
    /// # Errors
    /// The error of a query.
    pub async fn read(
        connection: &AsyncPgConnection,
        held_by: Option<String>,
    ) -> QueryResult<Option<Self>> {
        if !has_rows(connection, "tessera_cluster").await? {
            return Ok(None);
        }
        let sql = "SELECT cluster_id, shards, ready FROM tessera.tessera_cluster";
        let rows = load(connection, Statement { sql, binds: &[], cached: false }).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let Some((cluster_id, column)) = row.text(0).zip(row.text(1)) else { return Ok(None) };
        let (members, retired) = if column == IN_OWN_TABLES {
            let sql = "SELECT name, address, state FROM tessera.tessera_shards ORDER BY number";
            let rows = load(connection, Statement { sql, binds: &[], cached: false }).await?;
            let (retired, members): (Vec<&RowView>, Vec<&RowView>) =
                rows.iter().partition(|row| is_in(row, ShardState::Retired));
            let retired = retired.into_iter().filter_map(|row| row.text(0)).collect();
            (Ok(members.into_iter().filter_map(member).collect()), retired)
        } else {
            let unlocated = |name| KnownShard { name, location: None, is_joining: false };
            let members = listed_names(&column);
            (members.map(|names| names.into_iter().map(unlocated).collect()), Vec::new())
        };
        let ready = row.bigint(2) == Some(1);
        Ok(Some(Self { cluster_id, ready, members, retired, held_by }))
    }
}

fn member(row: &RowView) -> Option<KnownShard> {
    let location = row.text(1).and_then(|address| NodeAddress::parse_location(&address).ok());
    let is_joining = is_in(row, ShardState::Joining);
    Some(KnownShard { name: row.text(0)?, location, is_joining })
}

/// Returns true if the shard of a row is in this state.
fn is_in(row: &RowView, state: ShardState) -> bool {
    row.text(2).as_deref() == Some(state.name())
}
