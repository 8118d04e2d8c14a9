//! Shard addresses: finds the servers of every shard when a router starts, from the settings and
//! from the catalog.
//!
//! Each database records to which shard of which cluster it belongs, so servers may change their
//! host and their order in the settings. For a new cluster, the settings name every shard; for an
//! existing one, they may leave out shards whose address is in the catalog.
//!
//! **Invariant:** nothing is changed here, and no database joins a cluster by being listed.
//! **Not here:** the primary of a shard (`discovery`), claiming and checking databases (`open`,
//! `shard_database`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::open_error::OpenError;
use futures_util::future::{join, join_all};

use super::catalog::{KnownShard, KnownShards};
use super::discovery::{
    CATALOG_NODE, ConnectionAttempt, OpenedSessions, ask_all, best, no_primary,
};
use super::node_address::{ClusterAddress, Host, NodeAddress, ShardAddress};
use super::session::Identity;
use super::shard_database::signature;

/// Addresses of a cluster.
pub(super) struct ShardAddresses {
    /// Addresses of the shards in the order of the catalog, each with its name. Those of the
    /// settings if there is no cluster yet.
    pub(super) cluster: ClusterAddress,
    /// True if a catalog was found.
    pub(super) is_made: bool,
    /// Failure of the first server that may have the catalog and does not answer, if no catalog was
    /// found.
    pub(super) unanswered: Option<OpenError>,
    /// Index of the shard whose database holds the catalog, unless that has an address of its own.
    pub(super) catalog_shard: usize,
    /// Sentences about settings that are not in force.
    pub(super) differences: Vec<String>,
    /// Sessions with the servers that answered.
    pub(super) opened: OpenedSessions,
}

/// Shards whose join was interrupted, and how a start treats them.
#[derive(Debug, Default)]
pub(super) struct JoiningShards {
    /// Names of those that the catalog lists.
    pub(super) names: Vec<String>,
    /// True if they are not opened.
    pub(super) are_left_out: bool,
}

/// Shard in the settings, and the state of its database.
struct Listed<'a> {
    address: &'a ShardAddress,
    /// Label in messages: the given name, or the one of its place in the list.
    label: String,
    found: Option<FoundDatabase>,
}

/// Facts about a database that answered.
struct FoundDatabase {
    identity: Identity,
    /// Id of its cluster and name of its shard, if it belongs to one.
    signature: Option<(String, String)>,
    /// Contents of the catalog that it holds, if it holds one.
    catalog: Option<KnownShards>,
}

/// Finds the address of every shard, and records the names of those that are joining.
///
/// # Errors
/// [`OpenError`] if a database belongs to another cluster, or a shard has no address.
pub(super) async fn find(
    address: &ClusterAddress,
    joining: &mut JoiningShards,
) -> Result<ShardAddresses, OpenError> {
    let opened = OpenedSessions::default();
    let of_shards = address.shards.iter().map(async |shard| {
        let hosts = [&shard.primary].into_iter().chain(&shard.replicas);
        examine(ask_all(hosts, address).await, &opened).await
    });
    let of_replicas = address
        .replicas
        .iter()
        .map(async |at| examine(ask_all([at], address).await, &opened).await);
    let (of_shards, of_replicas) = join(join_all(of_shards), join_all(of_replicas)).await;
    let of_replicas: Vec<Option<FoundDatabase>> = of_replicas.into_iter().map(Result::ok).collect();
    let (listed, unanswered) = listed(address, of_shards);
    check_distinct(&listed)?;
    let (catalog, unanswered) = match &address.catalog {
        Some(at) => match examine(ask_all([at], address).await, &opened).await {
            Ok(found) => (found.catalog, None),
            Err(error) => (None, Some(error)),
        },
        None => {
            let found = listed.iter().map(|shard| &shard.found).chain(&of_replicas).flatten();
            (found.into_iter().find_map(|found| found.catalog.clone()), unanswered)
        }
    };
    let Some(known) = catalog else {
        let (cluster, differences) = (address.clone(), Vec::new());
        let (is_made, catalog_shard) = (false, 0);
        return Ok(ShardAddresses {
            cluster,
            is_made,
            unanswered,
            catalog_shard,
            differences,
            opened,
        });
    };
    let members = known.members.map_err(|cause| OpenError::node("the catalog", cause))?;
    let (members, left_out) = joining.divide(members);
    if members.is_empty() {
        let cause = "the catalog is damaged: it lists no shards";
        return Err(OpenError::node("the catalog", cause));
    }
    let others = (&*left_out, &*known.retired);
    let mut choice = Choice::new((&known.cluster_id, known.ready), &members, others);
    choice.take_listed(&listed)?;
    let shards = choice.complete(address)?;
    let strays = choice.strays;
    let is_of_stray =
        |found: &FoundDatabase| strays.iter().any(|stray| same(stray, &found.identity));
    let is_of_left_out = |replica: &NodeAddress| {
        left_out.iter().any(|shard| shard.location.as_ref().is_some_and(|at| at.overlaps(replica)))
    };
    let replicas = address.replicas.iter().zip(&of_replicas);
    let of_members = replicas.filter(|(replica, found)| {
        !found.as_ref().is_some_and(is_of_stray) && !is_of_left_out(replica)
    });
    let replicas: Vec<NodeAddress> = of_members.map(|(replica, _)| replica.clone()).collect();
    let catalog_shard = known
        .held_by
        .as_ref()
        .and_then(|held_by| members.iter().position(|member| member.name == *held_by));
    let cluster = ClusterAddress { shards, replicas, ..address.clone() };
    let (catalog_shard, differences) = (catalog_shard.unwrap_or(0), choice.differences);
    let (is_made, unanswered) = (true, None);
    Ok(ShardAddresses { cluster, is_made, unanswered, catalog_shard, differences, opened })
}

/// Returns the shards of the settings with the facts about their databases, and the failure of the
/// first shard that does not answer.
fn listed(
    address: &ClusterAddress,
    found: Vec<Result<FoundDatabase, OpenError>>,
) -> (Vec<Listed<'_>>, Option<OpenError>) {
    let (mut listed, mut unanswered) = (Vec::with_capacity(found.len()), None);
    for ((index, shard), found) in address.shards.iter().enumerate().zip(found) {
        let label = shard.name.clone().unwrap_or_else(|| format!("shard{}", index + 1));
        let found = match found {
            Ok(found) => Some(found),
            Err(error) => {
                unanswered = unanswered.or(Some(error));
                None
            }
        };
        listed.push(Listed { address: shard, label, found });
    }
    (listed, unanswered)
}

impl JoiningShards {
    /// Returns the shards to open, and those that are left out.
    fn divide(&mut self, members: Vec<KnownShard>) -> (Vec<KnownShard>, Vec<KnownShard>) {
        let joining = members.iter().filter(|member| member.is_joining);
        self.names = joining.map(|member| member.name.clone()).collect();
        members.into_iter().partition(|member| !(self.are_left_out && member.is_joining))
    }
}

/// Reads the facts about the database of some hosts, from its primary if that answers, and keeps
/// their sessions.
///
/// # Errors
/// [`OpenError`] if no host answers.
async fn examine(
    mut attempts: Vec<ConnectionAttempt>,
    opened: &OpenedSessions,
) -> Result<FoundDatabase, OpenError> {
    let first = best(&attempts).or_else(|| attempts.iter().position(|at| at.found.is_ok()));
    let Some(first) = first else { return Err(no_primary(attempts, CATALOG_NODE)) };
    let session = attempts.swap_remove(first).found;
    let session = session.map_err(|error| OpenError::node(CATALOG_NODE, error))?;
    // A database that cannot be read is refused with the reason when it is opened.
    let facts = facts(&session.connection).await.ok();
    let (signature, catalog) = facts.unwrap_or_default();
    let identity = session.identity.clone();
    let others = attempts.into_iter().filter_map(|attempt| attempt.found.ok());
    opened.keep(others.chain([session]));
    Ok(FoundDatabase { identity, signature, catalog })
}

type Facts = (Option<(String, String)>, Option<KnownShards>);

async fn facts(connection: &AsyncPgConnection) -> QueryResult<Facts> {
    let signature = signature(connection).await?;
    let held_by = signature.as_ref().map(|(_, shard)| shard.clone());
    Ok((signature, KnownShards::read(connection, held_by).await?))
}

fn same(one: &Identity, other: &Identity) -> bool {
    one.system == other.system && one.database == other.database
}

/// Refuses two shards in one database, which would mix their rows, and a copy beside its original.
fn check_distinct(listed: &[Listed<'_>]) -> Result<(), OpenError> {
    for (index, Listed { label, found, .. }) in listed.iter().enumerate() {
        let Some(found) = found else { continue };
        for before in &listed[..index] {
            let Some(other) = &before.found else { continue };
            if same(&found.identity, &other.identity) {
                return Err(OpenError::Conflict(format!(
                    "{} and {label} are the same database: give each shard its own",
                    before.label
                )));
            }
            if let Some((_, shard)) =
                found.signature.as_ref().filter(|_| found.signature == other.signature)
            {
                return Err(OpenError::Conflict(format!(
                    "{} and {label} are both the database of {shard}: leave the copy out",
                    before.label
                )));
            }
        }
    }
    Ok(())
}

/// Assignment of addresses to the shards of a catalog.
struct Choice<'k> {
    cluster_id: &'k str,
    /// True if every shard was claimed.
    ready: bool,
    members: &'k [KnownShard],
    /// Members that are not opened.
    left_out: &'k [KnownShard],
    /// Names of the shards that have retired.
    retired: &'k [String],
    /// Address of each member, by its index in `members`.
    chosen: Vec<Option<ShardAddress>>,
    /// Databases that are listed and belong to no shard.
    strays: Vec<Identity>,
    differences: Vec<String>,
}

impl<'k> Choice<'k> {
    fn new(
        (cluster_id, ready): (&'k str, bool),
        members: &'k [KnownShard],
        (left_out, retired): (&'k [KnownShard], &'k [String]),
    ) -> Self {
        let (chosen, strays, differences) = (vec![None; members.len()], Vec::new(), Vec::new());
        Self { cluster_id, ready, members, left_out, retired, chosen, strays, differences }
    }

    /// Assigns the addresses of the settings: first those whose databases name their shard.
    fn take_listed(&mut self, listed: &[Listed<'_>]) -> Result<(), OpenError> {
        let mut unsigned = Vec::new();
        for shard in listed {
            let Some((cluster, name)) =
                shard.found.as_ref().and_then(|found| found.signature.as_ref())
            else {
                unsigned.push(shard);
                continue;
            };
            if *cluster != self.cluster_id {
                let cause = "the database belongs to another cluster: use an empty one, or the catalog of that cluster";
                return Err(OpenError::node(&format!("{}-primary", shard.label), cause));
            }
            let place = self.members.iter().position(|member| member.name == *name);
            match place {
                Some(place) => self.take(place, shard),
                None if self.left_out.iter().any(|member| member.name == *name) => {
                    self.leave_out(shard, &format!("is the database of {name}, which is joining"));
                }
                None => self.leave_out(shard, &self.remedy_of_unlisted(name)),
            }
        }
        // If the creation of a cluster was interrupted, the database of its first shard may hold
        // the catalog and name no shard yet.
        let holds_catalog =
            |shard: &&Listed<'_>| shard.found.as_ref().is_some_and(|found| found.catalog.is_some());
        unsigned.sort_by_key(|shard| !holds_catalog(shard));
        for shard in unsigned {
            if holds_catalog(&shard) && self.chosen.first().is_some_and(Option::is_none) {
                self.take(0, shard);
                continue;
            }
            match self.place_of_unsigned(shard) {
                Some(place) => self.take(place, shard),
                None if self.left_out.iter().any(|member| is_at(member, shard)) => {
                    self.leave_out(shard, "is the address of a shard that is joining");
                }
                None if shard.found.is_none() => {
                    self.leave_out(
                        shard,
                        "does not answer, and the catalog has no shard there: check it",
                    );
                }
                None => {
                    self.leave_out(
                        shard,
                        "is the database of no shard: `shard-manager shard add NAME --database URL` lets it join",
                    );
                }
            }
        }
        Ok(())
    }

    /// Returns the remedy for the database of a shard that the catalog does not list.
    fn remedy_of_unlisted(&self, name: &str) -> String {
        if self.retired.iter().any(|retired| retired == name) {
            return format!(
                "is the database of {name}, which the cluster has retired: leave it out"
            );
        }
        format!(
            "is the database of {name}, which the catalog has lost in a failover: `shard-manager \
             shard add {name} --database URL` lets it join again if it has no slots, and else says \
             what to do"
        )
    }

    /// Returns the place of a shard whose database does not name it: the database does not answer,
    /// was emptied, or is that of a cluster whose creation was interrupted.
    fn place_of_unsigned(&self, shard: &Listed<'_>) -> Option<usize> {
        let mut free = (0..self.chosen.len()).filter(|place| self.chosen[*place].is_none());
        let lies_there = |place: &usize| is_at(&self.members[*place], shard);
        if let Some(place) = free.clone().find(lies_there) {
            return Some(place);
        }
        // An empty database takes the place of a shard by its label only in a new cluster, or if
        // the catalog, of an earlier version, has no address of the shard. In that case it is
        // refused later, because the shard held rows.
        let may_be_there =
            |member: &KnownShard| shard.found.is_none() || !self.ready || member.location.is_none();
        let is_called = |place: &usize| {
            let member = &self.members[*place];
            member.name == shard.label && may_be_there(member)
        };
        if let Some(place) = free.clone().find(is_called) {
            return Some(place);
        }
        match (free.next(), free.next()) {
            (Some(place), None) if shard.found.is_none() || !self.ready => Some(place),
            (_, _) => None,
        }
    }

    fn take(&mut self, place: usize, shard: &Listed<'_>) {
        let name = &self.members[place].name;
        if let Some(given) = shard.address.name.as_ref().filter(|given| *given != name) {
            self.differences.push(format!(
                "the database of {name} is called {given}: a shard keeps its name, change the setting"
            ));
        }
        let address = ShardAddress { name: Some(name.clone()), ..shard.address.clone() };
        self.chosen[place] = Some(address);
    }

    fn leave_out(&mut self, shard: &Listed<'_>, remedy: &str) {
        self.differences.push(format!("{} {remedy}", shard.address.primary));
        self.strays.extend(shard.found.as_ref().map(|found| found.identity.clone()));
    }

    /// Returns the address of every member. Addresses that are not in the settings come from the
    /// catalog.
    fn complete(&mut self, settings: &ClusterAddress) -> Result<Vec<ShardAddress>, OpenError> {
        let mut shards = Vec::with_capacity(self.chosen.len());
        for (member, chosen) in self.members.iter().zip(std::mem::take(&mut self.chosen)) {
            if let Some(address) = chosen {
                shards.push(address);
                continue;
            }
            let name = &member.name;
            let Some(location) = &member.location else {
                return Err(OpenError::Conflict(format!(
                    "the cluster has the shard {name}, whose address is neither in the settings nor in the catalog: add \
                     it to SHARD_URLS"
                )));
            };
            let primary = reachable(location, settings).ok_or_else(|| {
                OpenError::Conflict(format!(
                    "the cluster has the shard {name} at {location}, and no setting has a user for that host and port: \
                     add its address to SHARD_URLS"
                ))
            })?;
            self.differences.push(format!(
                "no address of {name} is given: it is used at {location}, where the catalog has it"
            ));
            let name = Some(name.clone());
            shards.push(ShardAddress { name, weight: None, primary, replicas: Vec::new() });
        }
        Ok(shards)
    }
}

/// Returns true if the settings have a shard at the address where the catalog has this one.
fn is_at(member: &KnownShard, shard: &Listed<'_>) -> bool {
    member.location.as_ref().is_some_and(|location| location.overlaps(&shard.address.primary))
}

/// Returns an address of the settings with exactly this host and port, whose user, password and TLS
/// mode apply to every database there.
fn login<'s>(host: &Host, settings: &'s ClusterAddress) -> Option<&'s NodeAddress> {
    let of_shards = settings
        .shards
        .iter()
        .flat_map(|shard| [&shard.primary].into_iter().chain(&shard.replicas));
    let mut given = of_shards.chain(&settings.replicas).chain(&settings.catalog);
    given.find(|address| address.hosts.contains(host))
}

/// Returns the address of each host of a new shard, with user, password and TLS of the settings for
/// exactly that host and port.
///
/// # Errors
/// The first host that is not in the settings: no password may be sent there.
pub(super) fn nodes(
    location: &NodeAddress,
    settings: &ClusterAddress,
) -> Result<Vec<NodeAddress>, Host> {
    let node = |host: &Host| {
        let access = login(host, settings).ok_or_else(|| host.clone())?;
        let (hosts, database) = (vec![host.clone()], location.database.clone());
        Ok(NodeAddress { hosts, database, ..access.clone() })
    };
    location.hosts.iter().map(node).collect()
}

/// Returns the addresses of one shard that the catalog has at this location, as a cluster of its
/// own; `None` if no setting has a user for one of its hosts.
pub(super) fn cluster_of(
    (name, location): (&str, &NodeAddress),
    settings: &ClusterAddress,
) -> Option<ClusterAddress> {
    let (name, primary) = (Some(name.to_owned()), reachable(location, settings)?);
    let shard = ShardAddress { name, weight: None, primary, replicas: Vec::new() };
    let listed = settings.replicas.iter().filter(|replica| replica.overlaps(location));
    let replicas = listed.cloned().collect();
    Some(ClusterAddress { shards: vec![shard], replicas, catalog: None, ..settings.clone() })
}

/// Returns an address of the catalog with user, password and TLS of the settings for exactly that
/// host and port.
fn reachable(location: &NodeAddress, settings: &ClusterAddress) -> Option<NodeAddress> {
    let access = location.hosts.iter().find_map(|host| login(host, settings))?;
    // Replicas that are listed by themselves are found through their primary.
    let is_listed = |host: &&Host| {
        let mut replicas = settings.replicas.iter();
        replicas.any(|at| at.database == location.database && at.hosts.contains(host))
    };
    let hosts = location.hosts.iter().filter(|host| !is_listed(host)).cloned().collect::<Vec<_>>();
    let hosts = if hosts.is_empty() { location.hosts.clone() } else { hosts };
    Some(NodeAddress { hosts, database: location.database.clone(), ..access.clone() })
}
