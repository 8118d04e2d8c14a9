//! New shard check: decides whether a database can become a shard of an open cluster.
//!
//! The server must meet the requirements that a router checks when it starts, and the database must
//! be empty. A database that was claimed for the same shard passes, so that an interrupted join can
//! be repeated. So does the database of a shard that the catalog has lost in a failover, if the
//! shard has no slots and takes part in no move.
//!
//! **Invariant:** nothing is changed on the servers; no password is sent to a host that is not in
//! the settings of the router.
//! **Not here:** the claim of the database (`shard_opening`), the row of the shard in the catalog
//! (`catalog`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::new_shard::{NewShard, NewShardRefusal};
use model::topology::{ShardNumber, ShardState};

use super::ConnectError;
use super::catalog::StoredMap;
use super::citus::setup;
use super::discovery::{ConnectionAttempt, ask_all, best};
use super::free_connections;
use super::node_address::{ClusterAddress, NodeAddress, NodeAddressError, ServerEngine};
use super::requirements;
use super::session::Session;
use super::shard_addresses;
use super::shard_database::{has_rows, signature};
use super::statement::{Statement, load};

/// Query for the names of some tables, views and sequences that belong neither to PostgreSQL nor to
/// an extension.
const CONTENTS: &str = "SELECT n.nspname || '.' || c.relname
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
        AND NOT EXISTS (SELECT FROM pg_depend AS d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1 LIMIT 3";

/// True if a router has begun to prepare the database for a shard.
const IS_BEGUN: &str = "SELECT to_regnamespace('tessera') IS NOT NULL
    AND to_regclass('tessera.tessera_cluster') IS NULL";

/// Selects true if a shard owns slots.
const OWNS_SLOTS: &str =
    "SELECT EXISTS (SELECT FROM tessera.tessera_slots WHERE state IN ('owned', 'fenced'))";
/// Selects true if a shard owns or imports slots.
const HAS_SLOTS: &str = "SELECT EXISTS (SELECT FROM tessera.tessera_slots WHERE state <> 'moved')";

/// Cluster that a shard is to join.
pub(super) struct JoinedCluster<'c> {
    /// Settings of this router.
    pub(super) settings: &'c ClusterAddress,
    /// Id of the cluster.
    pub(super) cluster_id: &'c str,
    /// Map and shards of the catalog.
    pub(super) stored: &'c StoredMap,
    /// Smallest number of replicas of a shard of the cluster.
    pub(super) replicas: usize,
}

/// Reads the address of a new shard.
///
/// # Errors
/// [`NewShardRefusal`] if it is missing, or contains more than hosts, ports and the database.
pub(super) fn location(shard: &NewShard) -> Result<NodeAddress, NewShardRefusal> {
    let url = shard.url.as_ref().ok_or(NewShardRefusal::UrlMissing)?;
    NodeAddress::parse_location(url).map_err(|error| {
        if matches!(error, NodeAddressError::PasswordGiven) {
            NewShardRefusal::PasswordInUrl
        } else {
            NewShardRefusal::UrlInvalid(error.to_string())
        }
    })
}

/// Checks that the database at this address can become the shard, and returns its address for the
/// catalog, the primary first.
///
/// # Errors
/// [`NewShardRefusal`].
pub(super) async fn check(
    name: &str,
    location: &NodeAddress,
    cluster: &JoinedCluster<'_>,
) -> Result<String, NewShardRefusal> {
    let known = cluster.known_member(name, location)?;
    if known == Some(ShardState::Serving) {
        // The request is repeated. A check of the free connections could fail, because the routers
        // have taken theirs.
        return Ok(location.location());
    }
    let nodes = shard_addresses::nodes(location, cluster.settings);
    let nodes = nodes.map_err(|host| NewShardRefusal::NoCredentials { host: host.to_string() })?;
    let mut sessions = reach(&nodes, cluster.settings).await?;
    check_replicas(&sessions, cluster.replicas)?;
    let replicas = sessions.len() - 1;
    for session in &mut sessions {
        check_node(session, replicas).await?;
    }
    check_contents(&sessions[0], name, (known, cluster)).await?;
    let hosts = sessions.iter().flat_map(|session| session.address.hosts.iter().cloned());
    Ok(NodeAddress { hosts: hosts.collect(), ..location.clone() }.location())
}

impl JoinedCluster<'_> {
    /// Returns the state of the member with this name; `None` if there is none. Compares the
    /// addresses of all members with that of the new shard.
    fn known_member(
        &self,
        name: &str,
        location: &NodeAddress,
    ) -> Result<Option<ShardState>, NewShardRefusal> {
        let topology = self.stored.map.topology();
        let known = topology.find(name);
        let address = known.and_then(|number| self.address_of(number));
        if let Some(address) = address.filter(|address| !address.overlaps(location)) {
            let (shard, address) = (name.to_owned(), address.location());
            return Err(NewShardRefusal::OtherAddress { shard, address });
        }
        for (number, member) in topology.members().filter(|(_, member)| member.name != name) {
            if self.address_of(number).is_some_and(|at| at.overlaps(location)) {
                let (place, shard) = (location.to_string(), member.name.clone());
                return Err(NewShardRefusal::OtherShard { place, shard });
            }
        }
        Ok(known.map(|number| topology.shards()[number.index()].state))
    }

    /// Returns true if a shard of this name has retired.
    fn has_retired(&self, name: &str) -> bool {
        let mut shards = self.stored.map.topology().shards().iter();
        shards.any(|shard| shard.name == name && shard.state == ShardState::Retired)
    }

    /// Returns true if a shard of this name has retired, and no later shard has the name.
    fn is_retired(&self, name: &str) -> bool {
        self.has_retired(name) && self.stored.map.topology().find(name).is_none()
    }

    fn address_of(&self, number: ShardNumber) -> Option<NodeAddress> {
        let address = self.stored.shards.get(number.index())?.address.as_ref()?;
        NodeAddress::parse_location(address).ok()
    }
}

/// Opens a session with each node, the primary first. All must answer.
///
/// # Errors
/// [`NewShardRefusal`] if a node does not answer, or none accepts writes.
async fn reach(
    nodes: &[NodeAddress],
    settings: &ClusterAddress,
) -> Result<Vec<Session>, NewShardRefusal> {
    let attempts = ask_all(nodes, settings).await;
    let primary = best(&attempts);
    let mut sessions = Vec::with_capacity(attempts.len());
    for ConnectionAttempt { at, found } in attempts {
        sessions.push(found.map_err(|error| unreachable(&at, &error))?);
    }
    let Some(primary) = primary else {
        let cause = "none of its servers accepts writes: name the primary too";
        return Err(unsuitable(&sessions[0], cause));
    };
    sessions.swap(0, primary);
    Ok(sessions)
}

/// Returns the refusal of a server on which no session can be opened.
pub(super) fn unreachable(at: &NodeAddress, error: &ConnectError) -> NewShardRefusal {
    let place = at.to_string();
    let cause = cause_at(&place, &error.to_string());
    if error.is_transient() {
        NewShardRefusal::Unreachable { place, cause }
    } else {
        NewShardRefusal::Unsuitable { place, cause }
    }
}

/// Returns a message without the address with which it begins.
fn cause_at(place: &str, message: &str) -> String {
    match message.strip_prefix(place) {
        Some(rest) => match rest.strip_prefix(": ") {
            Some(cause) => cause.to_owned(),
            None => format!("it{rest}"),
        },
        None => message.to_owned(),
    }
}

fn unsuitable(session: &Session, cause: impl std::fmt::Display) -> NewShardRefusal {
    let place = session.address.to_string();
    let cause = cause_at(&place, &cause.to_string());
    NewShardRefusal::Unsuitable { place, cause }
}

/// Checks that all nodes but the first are replicas of the first, and that there are enough.
fn check_replicas(sessions: &[Session], least: usize) -> Result<(), NewShardRefusal> {
    let primary = &sessions[0].identity;
    for replica in &sessions[1..] {
        let identity = &replica.identity;
        if identity.system != primary.system || !identity.in_recovery {
            let cause = format!("it is not a replica of {}", sessions[0].address);
            return Err(unsuitable(replica, cause));
        }
    }
    let found = sessions.len() - 1;
    if found < least {
        let cause = format!(
            "it has {found} replicas, and every other shard has {least} or more: name their hosts in the URL, such \
             as postgres://host1,host2/database"
        );
        return Err(unsuitable(&sessions[0], cause));
    }
    Ok(())
}

/// Checks that a node meets the requirements of a start, and has room for the connections of a
/// router.
async fn check_node(session: &mut Session, replicas: usize) -> Result<(), NewShardRefusal> {
    let each = ServerEngine::Postgres.connections_of_router();
    let warnings = match requirements::check(session, replicas, each).await {
        Ok(warnings) => warnings,
        Err(unfit) => return Err(unsuitable(session, unfit)),
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let failed = |error: diesel::result::Error| unsuitable(session, error);
    let mismatch = setup::mismatch(&session.connection, ServerEngine::Postgres);
    if let Some(cause) = mismatch.await.map_err(failed)? {
        return Err(unsuitable(session, cause));
    }
    let free = free_connections::read(&session.connection).await.map_err(failed)?.of_server;
    if free < i64::from(each) {
        let cause = format!(
            "it has {free} free connections, and a router takes {each}: raise max_connections"
        );
        return Err(unsuitable(session, cause));
    }
    Ok(())
}

/// Checks that the database is empty, or claimed for this shard of this cluster. `known` is the
/// state of the shard in the catalog.
async fn check_contents(
    session: &Session,
    name: &str,
    (known, cluster): (Option<ShardState>, &JoinedCluster<'_>),
) -> Result<(), NewShardRefusal> {
    let (connection, place) = (&session.connection, session.address.to_string());
    let failed = |error| unsuitable(session, error);
    match signature(connection).await.map_err(failed)? {
        Some((signed, _)) if signed != cluster.cluster_id => {
            return Err(NewShardRefusal::OtherCluster { place });
        }
        Some((_, shard)) if shard != name && cluster.is_retired(&shard) => {
            return check_unlisted(session, shard, cluster).await;
        }
        Some((_, shard)) if shard != name => {
            return Err(NewShardRefusal::OtherShard { place, shard });
        }
        Some(_) if known.is_some() => return Ok(()),
        Some((_, shard)) => return check_unlisted(session, shard, cluster).await,
        None => {}
    }
    // An interrupted claim leaves tables without rows.
    let is_joining = known == Some(ShardState::Joining);
    if is_joining && is_begun(connection).await.map_err(failed)? {
        return Ok(());
    }
    let contents = Statement { sql: CONTENTS, binds: &[], cached: false };
    let contents = load(connection, contents).await.map_err(failed)?;
    let contents: Vec<String> = contents.iter().filter_map(|row| row.text(0)).collect();
    if contents.is_empty() {
        return Ok(());
    }
    let contents = format!("it contains {}", contents.join(", "));
    Err(NewShardRefusal::NotEmpty { place, contents })
}

/// Checks the database of a shard of this cluster that the catalog does not list: the shard has
/// retired, or the catalog has lost it in a failover. A lost shard without slots may join again.
async fn check_unlisted(
    session: &Session,
    shard: String,
    cluster: &JoinedCluster<'_>,
) -> Result<(), NewShardRefusal> {
    let place = session.address.to_string();
    let has_retired = cluster.has_retired(&shard);
    let found = is_needed(&session.connection, has_retired).await;
    if found.map_err(|error| unsuitable(session, error))? {
        return Err(NewShardRefusal::Lost { place, shard });
    }
    if has_retired {
        let contents = format!("it was the database of {shard}, which has retired");
        return Err(NewShardRefusal::NotEmpty { place, contents });
    }
    tracing::warn!(shard, place, "the catalog has lost a shard without slots: it joins again");
    Ok(())
}

/// Returns true if the cluster needs a shard that the catalog does not list: the shard owns slots,
/// or, if no shard of its name has retired, imports slots or takes part in a move. A copy that a
/// move has left on a shard that has retired is not needed.
async fn is_needed(connection: &AsyncPgConnection, has_retired: bool) -> QueryResult<bool> {
    if !has_retired && has_rows(connection, "tessera_slot_moves").await? {
        return Ok(true);
    }
    let sql = if has_retired { OWNS_SLOTS } else { HAS_SLOTS };
    Ok(has_rows(connection, "tessera_slots").await? && is_true(connection, sql).await?)
}

async fn is_begun(connection: &AsyncPgConnection) -> QueryResult<bool> {
    is_true(connection, IS_BEGUN).await
}

/// Returns the result of a query for one boolean.
async fn is_true(connection: &AsyncPgConnection, sql: &str) -> QueryResult<bool> {
    let rows = load(connection, Statement { sql, binds: &[], cached: false }).await?;
    Ok(rows.first().and_then(|row| row.boolean(0)) == Some(true))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_server_that_is_too_old_is_unsuitable_and_a_silent_one_unreachable() {
        let at = NodeAddress::parse_location("postgres://db1/app").expect("an address");
        let place = at.to_string();
        let old = ConnectError::TooOld { node: place.clone(), found: "14.9".to_owned() };
        let cause = "it runs PostgreSQL 14.9: upgrade it to 15 or later".to_owned();
        let unsuitable = NewShardRefusal::Unsuitable { place: place.clone(), cause };
        assert_eq!(unreachable(&at, &old), unsuitable);
        let silent = ConnectError::TimedOut { node: place, waited: Duration::from_secs(5) };
        assert!(matches!(unreachable(&at, &silent), NewShardRefusal::Unreachable { .. }));
    }
}
