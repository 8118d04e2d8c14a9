//! Joining: reads the description of a node that is to join a Citus cluster, and checks its server
//! through the coordinator.
//!
//! **Invariant:** the coordinator connects with its own credentials; this router connects to no
//! worker.
//! **Not here:** adding the node (`backend::nodes`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::new_shard::{NewShard, NewShardRefusal};
use engine::node_distributor::DistributorError;

use super::members::Members;
use super::needs::{REPORT, Report};
use crate::node_address::{Host, NodeAddress, NodeAddressError};
use crate::statement::{Bind, Statement, load};

/// Reads the group number of the next node, and the database of the cluster.
const NEXT: &str =
    "SELECT last_value + is_called::integer, current_database()::text FROM pg_dist_groupid_seq";

/// Lets the coordinator run a command on a server that need not be a node yet.
const ON_SERVER: &str = "SELECT success, result
    FROM master_run_on_worker(ARRAY[$1], ARRAY[$2], ARRAY[$3], false)";

/// Weight of every node.
const WEIGHT: u32 = 1;

/// Node that is to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoiningNode {
    /// Group of nodes that it will lead.
    pub(crate) group: i64,
    /// Host of its server.
    pub(crate) host: Host,
    /// Database on its server.
    database: String,
}

impl JoiningNode {
    /// Reads a description.
    ///
    /// # Errors
    /// [`DistributorError`], which names the member that cannot be used.
    pub(crate) fn read(node: &NewShard) -> Result<Self, DistributorError> {
        let bad = |member, cause: String| Err(DistributorError::BadNode { member, cause });
        let digits = node.name.strip_prefix("worker");
        let group = digits.filter(|digits| !digits.starts_with(['0', '+'])).map(str::parse::<u32>);
        let Some(Ok(group)) = group else {
            let cause = "Citus numbers its nodes: worker and the number, such as worker4";
            return bad("name", cause.to_owned());
        };
        if node.weight != WEIGHT {
            return bad(
                "weight",
                "all nodes of Citus have the same weight: leave it out".to_owned(),
            );
        }
        let url = node.url.as_ref().ok_or(NewShardRefusal::UrlMissing)?;
        let location = NodeAddress::parse_location(url).map_err(|error| {
            if matches!(error, NodeAddressError::PasswordGiven) {
                NewShardRefusal::PasswordInUrl
            } else {
                NewShardRefusal::UrlInvalid(error.to_string())
            }
        })?;
        let NodeAddress { mut hosts, database, .. } = location;
        match hosts.pop() {
            Some(host) if hosts.is_empty() && !host.is_socket() => {
                Ok(Self { group: group.into(), host, database })
            }
            _ => {
                bad("url", "it must name one host: Citus identifies a node by its host".to_owned())
            }
        }
    }

    /// Checks that no other node has its name or server. Returns true if the node is already
    /// listed.
    ///
    /// # Errors
    /// [`DistributorError::NodeState`] if the name or the server is that of another node, or the
    /// node is being drained.
    pub(crate) fn is_listed(&self, members: &Members) -> Result<bool, DistributorError> {
        let refused = |cause| Err(DistributorError::NodeState(cause));
        let Self { group, host, .. } = self;
        let name = super::members::name_of(*group);
        let Some(known) = members.at(&host.host, host.port.into()) else {
            if members.find(&name).is_some() {
                return refused(format!("{name} is another server: use the next number"));
            }
            return Ok(false);
        };
        if known.group != *group {
            return refused(format!("{host} is {} already", known.name()));
        }
        if !known.is_active {
            let cause = "is not active: call citus_activate_node() on the coordinator";
            return refused(format!("{name} {cause}"));
        }
        if !known.gets_rows {
            return refused(format!("{name} is being drained: remove it, and add it again"));
        }
        Ok(true)
    }

    /// Checks that Citus will give the node its number, and that its database has the same name as
    /// the cluster's.
    fn check_next(&self, next: i64, database: &str) -> Result<(), DistributorError> {
        if self.database != database {
            let cause = format!("the database on each node must have the name {database}");
            return Err(DistributorError::BadNode { member: "url", cause });
        }
        if self.group != next {
            let next = super::members::name_of(next);
            let cause = format!("Citus numbers its nodes, and the next one is {next}");
            return Err(DistributorError::BadNode { member: "name", cause });
        }
        Ok(())
    }

    /// Checks the server: it must answer the coordinator, and have the same versions and
    /// `wal_level = logical`.
    fn check_server(
        &self,
        answer: Result<&str, &str>,
        coordinator: Option<&Report>,
    ) -> Result<(), DistributorError> {
        let Self { host, database, .. } = self;
        let place = format!("{host}/{database}");
        let unsuitable = |cause| {
            let place = place.clone();
            Err(NewShardRefusal::Unsuitable { place, cause }.into())
        };
        let text = answer.map_err(|cause| {
            let (place, cause) = (place.clone(), cause.to_owned());
            DistributorError::from(NewShardRefusal::Unreachable { place, cause })
        })?;
        let Some(report) = Report::parse(text) else {
            return unsuitable(
                "it has no extension citus: CREATE EXTENSION citus there".to_owned(),
            );
        };
        if let Some(difference) = coordinator.and_then(|other| report.difference(other)) {
            return unsuitable(format!("it {difference}"));
        }
        if report.decodes() {
            return Ok(());
        }
        let level = report.wal_level;
        Err(DistributorError::Need(format!(
            "{place} has wal_level = {level}: set wal_level = logical there and restart it, so that \
             its rows can move without blocking writes"
        )))
    }
}

/// Report of the coordinator about a node that is to join.
pub(crate) struct JoinCheck {
    next: i64,
    database: String,
    coordinator: Option<Report>,
    server: Option<String>,
}

impl JoinCheck {
    /// Lets the coordinator inspect the server of a node.
    ///
    /// # Errors
    /// The error of a query.
    pub(crate) async fn read(
        connection: &AsyncPgConnection,
        node: &JoiningNode,
    ) -> QueryResult<Self> {
        let rows = load(connection, Statement { sql: NEXT, binds: &[], cached: false }).await?;
        let row = rows.first();
        let next = row.and_then(|row| row.bigint(0)).unwrap_or(0);
        let database = row.and_then(|row| row.text(1)).unwrap_or_default();
        let rows = load(connection, Statement { sql: REPORT, binds: &[], cached: false }).await?;
        let coordinator = rows.first().and_then(|row| row.text(0));
        let coordinator = coordinator.and_then(|text| Report::parse(&text));
        let binds =
            [Bind::text(&node.host.host), Bind::integer(node.host.port.into()), Bind::text(REPORT)];
        let rows =
            load(connection, Statement { sql: ON_SERVER, binds: &binds, cached: false }).await?;
        let answer = rows.first().filter(|row| row.boolean(0).unwrap_or(false));
        let server = answer.and_then(|row| row.text(1));
        Ok(Self { next, database, coordinator, server })
    }

    /// Checks the report against the requirements of a new node.
    ///
    /// # Errors
    /// [`DistributorError`], which names the unmet requirement.
    pub(crate) fn judge(&self, node: &JoiningNode) -> Result<(), DistributorError> {
        node.check_next(self.next, &self.database)?;
        let silent = "the coordinator cannot connect to it, or the database is missing";
        let answer = self.server.as_deref().ok_or(silent);
        node.check_server(answer, self.coordinator.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::super::members::Member;
    use super::*;

    fn described(name: &str, url: &str) -> NewShard {
        NewShard { name: name.to_owned(), weight: WEIGHT, url: Some(url.to_owned()) }
    }

    fn joining() -> JoiningNode {
        JoiningNode::read(&described("worker4", "postgres://db4:5433/app")).expect("it is complete")
    }

    #[test]
    fn a_description_names_the_number_and_one_server() {
        let node = joining();
        assert_eq!((node.group, &*node.host.host, node.host.port), (4, "db4", 5433));
        let named = |name, url| match JoiningNode::read(&described(name, url)) {
            Err(DistributorError::BadNode { member, .. }) => member.to_owned(),
            Err(error) => error.to_string(),
            Ok(node) => format!("{node:?}"),
        };
        for name in ["shard4", "worker", "worker04", "worker+4", "worker-1", "worker99999999999"] {
            assert_eq!(named(name, "postgres://db4/app"), "name", "{name}");
        }
        assert_eq!(named("worker4", "postgres://db4,db5/app"), "url");
        assert!(named("worker4", "postgres://a:b@db4/app").contains("contains a password"));
        let heavy = NewShard { weight: 2, ..described("worker4", "postgres://db4/app") };
        let heavy = JoiningNode::read(&heavy);
        assert!(matches!(heavy, Err(DistributorError::BadNode { member: "weight", .. })));
        let nowhere = NewShard { url: None, ..described("worker4", "") };
        let nowhere = JoiningNode::read(&nowhere);
        assert_eq!(nowhere, Err(NewShardRefusal::UrlMissing.into()));
    }

    #[test]
    fn a_node_is_added_once_under_one_name() {
        let listed = |group, host: &str, gets_rows| {
            let host = host.to_owned();
            Members::of(vec![Member { id: 1, group, host, port: 5433, is_active: true, gets_rows }])
        };
        let node = joining();
        assert_eq!(node.is_listed(&listed(3, "db3", true)), Ok(false));
        assert_eq!(node.is_listed(&listed(4, "db4", true)), Ok(true));
        for (members, sentence) in [
            (listed(3, "db4", true), "db4:5433 is worker3 already"),
            (listed(4, "db3", true), "worker4 is another server"),
            (listed(4, "db4", false), "worker4 is being drained"),
        ] {
            let refused = node.is_listed(&members).expect_err("it is refused").to_string();
            assert!(refused.starts_with(sentence), "{refused}");
        }
    }

    #[test]
    fn a_server_that_lacks_something_is_refused_with_the_reason() {
        let judged = |next, database: &str, server: Option<&str>| {
            let (database, server) = (database.to_owned(), server.map(str::to_owned));
            let coordinator = Report::parse("13.2-1 logical 15");
            JoinCheck { next, database, coordinator, server }.judge(&joining())
        };
        assert_eq!(judged(4, "app", Some("13.2-1 logical 15")), Ok(()));
        for (next, database, server, sentence) in [
            (
                5,
                "app",
                Some("13.2-1 logical 15"),
                "name: Citus numbers its nodes, and the next one is worker5",
            ),
            (
                4,
                "shop",
                Some("13.2-1 logical 15"),
                "url: the database on each node must have the name shop",
            ),
            (4, "app", None, "db4:5433/app does not answer"),
            (
                4,
                "app",
                Some("logical 15"),
                "db4:5433/app cannot be a shard: it has no extension citus",
            ),
            (
                4,
                "app",
                Some("12.1-1 logical 15"),
                "db4:5433/app cannot be a shard: it has Citus 12.1-1",
            ),
            (4, "app", Some("13.2-1 replica 15"), "db4:5433/app has wal_level = replica"),
        ] {
            let refused = judged(next, database, server).expect_err("it is refused").to_string();
            assert!(refused.starts_with(sentence), "{refused}");
        }
    }
}
