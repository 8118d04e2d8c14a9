//! Discovery: finds the nodes of each shard, and its primary, when a router starts.
//!
//! Each host of each configured address is queried for its role. The configuration does not
//! determine which node is the primary, so after a failover the same configuration still leads to
//! the shard, whichever node accepts writes now.
//!
//! **Invariant:** the primary of a shard is the node on the highest timeline among those that
//! accept writes; two such nodes on the same timeline are an error, and so is a shard without any.
//! **Not here:** later changes of the primary (`primary_tracker`).

use std::sync::{Mutex, PoisonError};

use engine::open_error::OpenError;
use futures_util::future::join_all;

use super::ConnectError;
use super::node::Node;
use super::node_address::{ClusterAddress, NodeAddress, Timeouts};
use super::requirements;
use super::session::{self, Identity, NodeRole as Role, Session};

/// Timeline of a node that has not answered. Real timelines of PostgreSQL begin with 1.
const UNKNOWN_TIMELINE: u32 = 0;
/// Name, in `pg_stat_activity`, of the sessions that discovery opens.
const OPENING: &str = "tessera opening";
/// Name of the catalog's node in errors.
pub(super) const CATALOG_NODE: &str = "catalog";

/// The nodes of a shard.
pub(super) struct Members {
    /// A session with the primary.
    pub(super) session: Session,
    /// The primary first, then the others in the order of the configuration.
    pub(super) nodes: Vec<Node>,
}

/// A host, and the result of connecting to it.
pub(super) struct ConnectionAttempt {
    pub(super) at: NodeAddress,
    pub(super) found: Result<Session, ConnectError>,
}

/// Sessions that an earlier search has opened and the next search reuses, because opening a session
/// takes long.
#[derive(Default)]
pub(super) struct OpenedSessions(Mutex<Vec<Session>>);

impl OpenedSessions {
    /// Keeps the sessions that were opened.
    pub(super) fn keep(&self, sessions: impl IntoIterator<Item = Session>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(sessions);
    }

    /// Takes an open session with the only host of an address, if there is one and the host
    /// answers. The identity of the node is queried again, because its role may have changed.
    async fn take(&self, at: &NodeAddress, timeouts: &Timeouts) -> Option<Session> {
        let mut found = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let place = kept.iter().position(|session| session.address == *at)?;
            kept.swap_remove(place)
        };
        let wait = at.connect_timeout.unwrap_or(timeouts.connect);
        let identified = session::identify(&mut found.connection);
        found.identity = tokio::time::timeout(wait, identified).await.ok()?.ok()?;
        Some(found)
    }

    /// Takes all open sessions.
    pub(super) fn take_all(&self) -> Vec<Session> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the sessions that were not used.
    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl ConnectionAttempt {
    fn identity(&self) -> Option<&Identity> {
        self.found.as_ref().ok().map(|session| &session.identity)
    }

    fn writable(&self) -> Option<&Identity> {
        self.identity().filter(|identity| !identity.in_recovery)
    }
}

/// Finds the nodes of all shards, and their primaries. Reuses the sessions that an earlier search
/// has opened, and closes those that are not needed.
///
/// # Errors
/// [`OpenError`] of the first shard without a primary, or of a node with another role or another
/// database than expected.
pub(super) async fn find(
    address: &ClusterAddress,
    names: &[String],
    opened: &OpenedSessions,
) -> Result<Vec<Members>, OpenError> {
    let own = address.shards.iter().map(async |shard| {
        let listed = [&shard.primary].into_iter().chain(&shard.replicas);
        ask_again(listed, address, opened).await
    });
    let others = ask_again(&address.replicas, address, opened);
    let (mut shards, others) = futures_util::future::join(join_all(own), others).await;
    opened.close();
    for other in others {
        let shard = match other.identity() {
            Some(identity) => shard_by_identity(&shards, identity).ok_or_else(|| {
                let cause =
                    "it is a replica of none of the shards: check REPLICA_URLS and SHARD_URLS";
                OpenError::node(&other.at.to_string(), cause)
            })?,
            None => shard_by_database_name(address, &other.at)?,
        };
        shards[shard].push(other);
    }
    let mut found = Vec::with_capacity(shards.len());
    for (asked, name) in shards.into_iter().zip(names) {
        found.push(members(asked, name, address).await?);
    }
    Ok(found)
}

/// Connects to every host of some addresses.
pub(super) async fn ask_all<'a>(
    listed: impl IntoIterator<Item = &'a NodeAddress>,
    cluster: &ClusterAddress,
) -> Vec<ConnectionAttempt> {
    ask_again(listed, cluster, &OpenedSessions::default()).await
}

/// Queries every host of some addresses, over a session that is open or else over a new one.
async fn ask_again<'a>(
    listed: impl IntoIterator<Item = &'a NodeAddress>,
    cluster: &ClusterAddress,
    opened: &OpenedSessions,
) -> Vec<ConnectionAttempt> {
    let hosts = listed.into_iter().flat_map(|at| at.hosts.iter().map(|host| at.at(host)));
    let asked = hosts.map(async |at| {
        let found = match opened.take(&at, &cluster.timeouts).await {
            Some(found) => Ok(found),
            None => session::connect(&at, OPENING, Role::Any, &cluster.timeouts).await,
        };
        ConnectionAttempt { at, found }
    });
    join_all(asked).await
}

/// Returns the index of the shard that a node with this identity belongs to.
fn shard_by_identity(shards: &[Vec<ConnectionAttempt>], identity: &Identity) -> Option<usize> {
    let same = |asked: &ConnectionAttempt| {
        asked.identity().is_some_and(|found| {
            found.system == identity.system && found.database == identity.database
        })
    };
    let known = shards.iter().position(|shard| shard.iter().any(same));
    // If no listed host of a shard answers, its replicas are recognised by the name of their
    // database.
    let silent = |shard: &&Vec<ConnectionAttempt>| shard.iter().all(|asked| asked.found.is_err());
    let alike = |shard: &Vec<ConnectionAttempt>| {
        shard.iter().any(|asked| asked.at.database == identity.database)
    };
    let mut gone = shards.iter().enumerate().filter(|(_, shard)| silent(shard) && alike(shard));
    known.or_else(|| match (gone.next(), gone.next()) {
        (Some((shard, _)), None) => Some(shard),
        (None, _) | (Some(_), Some(_)) => None,
    })
}

/// Returns the index of the shard of a replica that does not answer: the only shard whose database
/// has the same name. The replica is counted although it does not answer, because the guarantees of
/// `quorum` and `all` must not depend on which nodes were up when the router started.
fn shard_by_database_name(address: &ClusterAddress, at: &NodeAddress) -> Result<usize, OpenError> {
    let alike = address.shards.iter().enumerate();
    let mut alike = alike.filter(|(_, shard)| shard.primary.database == at.database);
    match (alike.next(), alike.next()) {
        (Some((shard, _)), None) => Ok(shard),
        (None, _) | (Some(_), Some(_)) => Err(OpenError::node(
            &at.to_string(),
            "this replica does not answer, so its shard is unknown: start it, or list it with its \
             shard in tessera.toml ([[shard]] replicas)",
        )),
    }
}

/// Chooses the primary among the nodes of a shard, and checks the others.
async fn members(
    mut asked: Vec<ConnectionAttempt>,
    name: &str,
    cluster: &ClusterAddress,
) -> Result<Members, OpenError> {
    let primary_name = format!("{name}-primary");
    let Some(best) = best(&asked) else { return Err(no_primary(asked, &primary_name)) };
    let primary = asked.remove(best);
    let session = primary.found.map_err(|error| OpenError::node(&primary_name, error))?;
    let session = check_fit(session, &primary_name, cluster).await?;
    let identity = session.identity.clone();
    let mut nodes = vec![node(primary_name, primary.at, cluster, &identity)];
    for ConnectionAttempt { at, found } in asked {
        let (shard, name) = (name, format!("{name}-replica{}", nodes.len()));
        let found = match found {
            Ok(session) => {
                check_replica(session, &at, (shard, &name), (&identity, cluster)).await?
            }
            Err(error) => {
                tracing::warn!(node = name, %error, "a node does not answer");
                None
            }
        };
        // Nothing is known about the timeline of a node that has not answered: its rows may belong
        // to an abandoned timeline.
        let unseen = || Identity { timeline: UNKNOWN_TIMELINE, ..identity.clone() };
        nodes.push(node(name, at, cluster, &found.unwrap_or_else(unseen)));
    }
    Ok(Members { session, nodes })
}

/// Checks that a node is a replica of the primary, and returns its identity; `None` if it does not
/// meet the requirements of a node.
async fn check_replica(
    session: Session,
    at: &NodeAddress,
    (shard, name): (&str, &str),
    (primary, cluster): (&Identity, &ClusterAddress),
) -> Result<Option<Identity>, OpenError> {
    let Identity { system, timeline, in_recovery, .. } = session.identity;
    if system != primary.system || session.identity.database != primary.database {
        let cause = format!("it is not a replica of {shard}: it copies another database");
        return Err(OpenError::node(name, cause));
    }
    if !in_recovery && timeline == primary.timeline {
        let (node, wanted) = (at.to_string(), Role::Replica);
        return Err(OpenError::node(name, ConnectError::WrongRole { node, wanted, in_recovery }));
    }
    if !in_recovery {
        tracing::warn!(
            node = name,
            %at,
            "this node was deposed and still accepts writes: it is not used; make it a replica"
        );
    }
    let unfit = |error: &OpenError| tracing::warn!(%error, "a replica may not serve");
    let fit = check_fit(session, name, cluster).await.inspect_err(unfit);
    Ok(fit.ok().map(|session| session.identity))
}

/// Creates the error of a shard or catalog without a primary, with the reason for each node.
pub(super) fn no_primary(asked: Vec<ConnectionAttempt>, name: &str) -> OpenError {
    let hosts: Vec<String> = asked.iter().map(|asked| asked.at.to_string()).collect();
    let reported = asked.into_iter().map(|ConnectionAttempt { at, found }| match found {
        Ok(_) => ConnectError::WrongRole {
            node: at.to_string(),
            wanted: Role::Primary,
            in_recovery: true,
        },
        Err(error) => error,
    });
    let mut tried: Vec<ConnectError> = reported.collect();
    if hosts.len() > 1 {
        let node = hosts.join(", ");
        return OpenError::node(name, ConnectError::NoneOfThem { node, tried });
    }
    OpenError::node(name, tried.remove(0))
}

/// Creates a node of a cluster.
pub(super) fn node(
    name: String,
    address: NodeAddress,
    cluster: &ClusterAddress,
    identity: &Identity,
) -> Node {
    Node { name, address, timeouts: cluster.timeouts, identity: identity.clone() }
}

/// Connects to the catalog's primary, and returns the addresses of all its hosts, the primary
/// first.
///
/// # Errors
/// [`OpenError`] if there is no primary, or if it does not meet the requirements of a node.
pub(super) async fn connect_catalog(
    at: &NodeAddress,
    cluster: &ClusterAddress,
) -> Result<(Session, Vec<NodeAddress>), OpenError> {
    connect_primary(at, CATALOG_NODE, cluster).await
}

/// Connects to the primary among the hosts of an address, and returns the addresses of all hosts,
/// the primary first. Errors contain `name`.
///
/// # Errors
/// [`OpenError`] if there is no primary, or if it does not meet the requirements of a node.
pub(super) async fn connect_primary(
    at: &NodeAddress,
    name: &str,
    cluster: &ClusterAddress,
) -> Result<(Session, Vec<NodeAddress>), OpenError> {
    let mut asked = ask_all([at], cluster).await;
    let Some(best) = best(&asked) else { return Err(no_primary(asked, name)) };
    let primary = asked.remove(best);
    let others = asked.into_iter().map(|other| other.at);
    let hosts = [primary.at].into_iter().chain(others).collect();
    let session = primary.found.map_err(|error| OpenError::node(name, error))?;
    Ok((check_fit(session, name, cluster).await?, hosts))
}

/// Returns the index of the primary: the node on the highest timeline among those that accept
/// writes, and the first listed one if there are several.
pub(super) fn best(asked: &[ConnectionAttempt]) -> Option<usize> {
    let writable = asked.iter().enumerate();
    let writable = writable.filter_map(|(at, node)| Some((at, node.writable()?.timeline)));
    writable.rev().max_by_key(|(_, timeline)| *timeline).map(|(at, _)| at)
}

async fn check_fit(
    mut session: Session,
    name: &str,
    cluster: &ClusterAddress,
) -> Result<Session, OpenError> {
    let each = cluster.engine.connections_of_router();
    let warnings = requirements::check(&mut session, cluster.replica_count(), each).await;
    for warning in warnings.map_err(|unfit| OpenError::node(name, unfit))? {
        tracing::warn!(node = name, "{warning}");
    }
    Ok(session)
}
