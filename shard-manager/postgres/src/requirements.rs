//! Requirements: checks of a node before it serves.
//!
//! A node is refused if a setting would break a guarantee. A setting that may only cause problems
//! is a warning. Each message names the setting to change.
//!
//! **Invariant:** the checks change nothing on the node.
//! **Not here:** connecting (`session`), the tables (the migrations).

use std::time::{Duration, SystemTime};

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::hazards::{Hazards, TableHazard};
use super::session::{Identity, Session};

/// Number of routers for which a node should have connections: a new one starts before the old one
/// ends.
const ROUTERS: u32 = 3;

/// Oldest minor version, by the major version, without a known defect that matters here.
const MINORS: [(u32, u32); 3] = [(15, 14), (16, 10), (17, 6)];

/// Difference of clocks above which a warning is logged, and the one above which a node is refused:
/// routers set the times of rows, and times that two routers set could not be compared.
const CLOCK_WARNING: Duration = Duration::from_millis(500);
const CLOCK_REFUSAL: Duration = Duration::from_secs(10);

/// Warning for the operator about a node that may serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// A minor version with known defects.
    #[error(
        "{node} runs PostgreSQL {major}.{minor}, which has known defects: upgrade to {major}.{wanted}"
    )]
    Outdated {
        /// Name of the node.
        node: String,
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
        /// Oldest minor version without the defects.
        wanted: u32,
    },
    /// A crash of the machine can lose all data.
    #[error("{node} HAS fsync=off: A CRASH OF ITS MACHINE CAN COST EVERY ROW; set fsync=on")]
    NoFsync {
        /// Name of the node.
        node: String,
    },
    /// A crash of the machine can tear a page.
    #[error(
        "{node} has full_page_writes=off: a crash of its machine can damage rows; set it to on"
    )]
    NoFullPages {
        /// Name of the node.
        node: String,
    },
    /// Other programs that write to this database may lose acknowledged writes.
    #[error(
        "{node} has synchronous_commit=off: Tessera's own sessions use on, but commits of other programs may be lost"
    )]
    AsynchronousCommit {
        /// Name of the node.
        node: String,
    },
    /// The node has connections for few routers.
    #[error(
        "{node} takes {room} connections, enough for {} router(s) of {each}: raise max_connections",
        room / each
    )]
    FewConnections {
        /// Name of the node.
        node: String,
        /// Connections that the node accepts from the user of Tessera.
        room: u32,
        /// Connections of one router.
        each: u32,
    },
    /// Tables can be used but not created.
    #[error(
        "{node}: {user} may not create tables: POST /api/tables will fail; GRANT CREATE ON SCHEMA public TO {user}"
    )]
    NoNewTables {
        /// Name of the node.
        node: String,
        /// User of Tessera.
        user: String,
    },
    /// A replica hides part of its state.
    #[error(
        "{node} hides its WAL receiver from {user}, so it confirms no `quorum` or `all` write and is not used after a \
         failover: GRANT pg_monitor TO {user}, on the primary"
    )]
    HiddenReceiver {
        /// Name of the node.
        node: String,
        /// User of Tessera.
        user: String,
    },
    /// A rule or trigger of the database may change rows.
    #[error("{node}: {found}")]
    Interference {
        /// Name of the node.
        node: String,
        /// Rule or trigger.
        found: TableHazard,
    },
    /// The clocks differ.
    #[error("the clock of {node} is {} ms {} ours: run NTP on both", offset.as_millis(), side(*ahead))]
    Clock {
        /// Name of the node.
        node: String,
        /// Difference.
        offset: Duration,
        /// True if the node's clock is ahead.
        ahead: bool,
    },
}

/// Reason why a node must not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// The encoding of the database would change text.
    #[error("{node}: the database is encoded in {encoding}: create one with ENCODING 'UTF8'")]
    Encoding {
        /// Name of the node.
        node: String,
        /// Encoding of the database.
        encoding: String,
    },
    /// There is no schema `tessera`, and the user may not create it.
    #[error(
        "{node}: {user} may not create the schema tessera: GRANT CREATE ON DATABASE {database} TO {user}"
    )]
    NoSchema {
        /// Name of the node.
        node: String,
        /// The database.
        database: String,
        /// User of Tessera.
        user: String,
    },
    /// There is a schema `tessera`, and the user may not use it.
    #[error(
        "{node}: {user} may not use the schema tessera: GRANT USAGE ON SCHEMA tessera TO {user}"
    )]
    NoUsage {
        /// Name of the node.
        node: String,
        /// User of Tessera.
        user: String,
    },
    /// The user may not create the first tables.
    #[error("{node}: {user} may not create tables: GRANT CREATE ON SCHEMA public TO {user}")]
    NoTables {
        /// Name of the node.
        node: String,
        /// User of Tessera.
        user: String,
    },
    /// A table cannot be read.
    #[error(
        "{node}: {user} may not read {table}: GRANT SELECT ON {table} TO {user}, on the primary"
    )]
    Unreadable {
        /// Name of the node.
        node: String,
        /// User of Tessera.
        user: String,
        /// The first such table.
        table: String,
    },
    /// The primary hides the positions of its replicas.
    #[error(
        "{node} hides the positions of its replicas from {user}, so none confirms writes: GRANT pg_monitor TO {user}"
    )]
    HiddenReplicas {
        /// Name of the node.
        node: String,
        /// User of Tessera.
        user: String,
    },
    /// The node has too few connections for one router.
    #[error(
        "{node} takes {room} connections of our user, and a router takes {each}: raise max_connections \
         or the limit of the role or the database"
    )]
    Connections {
        /// Name of the node.
        node: String,
        /// Connections that the node accepts.
        room: u32,
        /// Connections of one router.
        each: u32,
    },
    /// The primary accepts no writes.
    #[error(
        "{node} has default_transaction_read_only=on and must accept writes: set it to off for this user"
    )]
    ReadOnly {
        /// Name of the node.
        node: String,
    },
    /// The log of the primary is insufficient for replicas.
    #[error(
        "{node} has wal_level={level}, which supports no replicas: set wal_level=replica and restart it"
    )]
    WalLevel {
        /// Name of the node.
        node: String,
        /// The `wal_level` of the node.
        level: String,
    },
    /// A crash would lose rows.
    #[error("{node}: {found}")]
    Unlogged {
        /// Name of the node.
        node: String,
        /// Table, and the statement that repairs it.
        found: TableHazard,
    },
    /// The clocks differ too much.
    #[error(
        "the clock of {node} is {} s {} ours, and row timestamps come from ours: run NTP on both",
        offset.as_secs(),
        side(*ahead)
    )]
    Clock {
        /// Name of the node.
        node: String,
        /// Difference.
        offset: Duration,
        /// True if the node's clock is ahead.
        ahead: bool,
    },
    /// The check failed.
    #[error("{node} could not be checked: {cause}")]
    CheckFailed {
        /// Name of the node.
        node: String,
        /// Error of the node.
        cause: String,
    },
}

fn side(ahead: bool) -> &'static str {
    if ahead { "ahead of" } else { "behind" }
}

/// Checks that a node may serve, in its present role, for a shard with this number of replicas.
/// `each` is the number of connections that a router opens to it.
///
/// # Errors
/// [`Unsuitable`] with the first reason.
pub async fn check(
    session: &mut Session,
    replicas: usize,
    each: u32,
) -> Result<Vec<Warning>, Unsuitable> {
    let node = session.address.to_string();
    let check_failed = |error: diesel::result::Error| Unsuitable::CheckFailed {
        node: node.clone(),
        cause: error.to_string(),
    };
    let facts = facts(&mut session.connection).await.map_err(check_failed)?;
    let mut warnings = versions(&node, &session.identity);
    if facts.encoding != "UTF8" {
        return Err(Unsuitable::Encoding { node, encoding: facts.encoding });
    }
    warnings.extend(room(&node, facts.room.cast_unsigned(), each)?);
    if session.identity.in_recovery {
        warnings.extend(replica(&node, &facts)?);
    } else {
        warnings.extend(primary(&node, &facts, &session.identity, replicas)?);
        let hazards = Hazards::of_database(&session.connection).await.map_err(check_failed)?;
        for found in hazards.found().cloned() {
            let node = node.clone();
            warnings.push(match found {
                TableHazard::Unlogged { .. } => return Err(Unsuitable::Unlogged { node, found }),
                TableHazard::Interference { .. } => Warning::Interference { node, found },
            });
        }
    }
    let (offset, uncertainty) = clock(&mut session.connection).await.map_err(check_failed)?;
    warnings.extend(judge_clock(&node, offset, uncertainty)?);
    Ok(warnings)
}

/// Settings and rights that a node reports.
#[derive(QueryableByName)]
struct Facts {
    #[diesel(sql_type = Text)]
    user: String,
    #[diesel(sql_type = Text)]
    encoding: String,
    #[diesel(sql_type = Integer)]
    room: i32,
    #[diesel(sql_type = Bool)]
    fsync: bool,
    #[diesel(sql_type = Bool)]
    full_page_writes: bool,
    #[diesel(sql_type = Bool)]
    asynchronous: bool,
    #[diesel(sql_type = Bool)]
    read_only: bool,
    #[diesel(sql_type = Text)]
    wal_level: String,
    #[diesel(sql_type = Bool)]
    sees_statistics: bool,
    #[diesel(sql_type = Bool)]
    may_create_schema: bool,
    #[diesel(sql_type = Nullable<Bool>)]
    may_use_schema: Option<bool>,
    #[diesel(sql_type = Bool)]
    may_create_tables: bool,
    #[diesel(sql_type = Nullable<Text>)]
    unreadable: Option<String>,
}

async fn facts(connection: &mut AsyncPgConnection) -> diesel::QueryResult<Facts> {
    diesel::sql_query(
        "SELECT quote_ident(current_user) AS \"user\",
                current_setting('server_encoding') AS encoding,
                least(current_setting('max_connections')::integer
                          - current_setting('superuser_reserved_connections')::integer
                          - coalesce(current_setting('reserved_connections', true)::integer, 0),
                      (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
                      (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
                     ) AS room,
                current_setting('fsync')::boolean AS fsync,
                current_setting('full_page_writes')::boolean AS full_page_writes,
                (SELECT reset_val = 'off' FROM pg_settings WHERE name = 'synchronous_commit') AS asynchronous,
                current_setting('default_transaction_read_only')::boolean AS read_only,
                current_setting('wal_level') AS wal_level,
                pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_statistics,
                has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
                (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'tessera'
                ) AS may_use_schema,
                coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'public'),
                         false) AS may_create_tables,
                (SELECT format('%I.%I', 'tessera', min(c.relname))
                 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE n.nspname = 'tessera' AND c.relkind IN ('r', 'p', 'v')
                   AND NOT has_table_privilege(c.oid, 'SELECT')
                 HAVING count(*) > 0) AS unreadable",
    )
    .get_result(connection)
    .await
}

fn versions(node: &str, identity: &Identity) -> Vec<Warning> {
    let (major, minor) = (identity.version / 10_000, identity.version % 10_000);
    let known = MINORS.into_iter().find(|(known, wanted)| *known == major && minor < *wanted);
    let outdated = |(_, wanted)| Warning::Outdated { node: node.to_owned(), major, minor, wanted };
    known.map(outdated).into_iter().collect()
}

fn room(node: &str, room: u32, each: u32) -> Result<Option<Warning>, Unsuitable> {
    let node = node.to_owned();
    if room < each {
        return Err(Unsuitable::Connections { node, room, each });
    }
    Ok((room < ROUTERS * each).then_some(Warning::FewConnections { node, room, each }))
}

fn replica(node: &str, facts: &Facts) -> Result<Vec<Warning>, Unsuitable> {
    let node = || node.to_owned();
    let user = || facts.user.clone();
    if facts.may_use_schema == Some(false) {
        return Err(Unsuitable::NoUsage { node: node(), user: user() });
    }
    if let Some(table) = facts.unreadable.clone() {
        return Err(Unsuitable::Unreadable { node: node(), user: user(), table });
    }
    let hidden = Warning::HiddenReceiver { node: node(), user: user() };
    Ok(if facts.sees_statistics { Vec::new() } else { vec![hidden] })
}

fn primary(
    node: &str,
    facts: &Facts,
    identity: &Identity,
    replicas: usize,
) -> Result<Vec<Warning>, Unsuitable> {
    let node = || node.to_owned();
    let user = || facts.user.clone();
    if facts.read_only {
        return Err(Unsuitable::ReadOnly { node: node() });
    }
    if facts.may_use_schema.is_none() && !facts.may_create_schema {
        let database = identity.database.clone();
        return Err(Unsuitable::NoSchema { node: node(), database, user: user() });
    }
    if facts.may_use_schema == Some(false) {
        return Err(Unsuitable::NoUsage { node: node(), user: user() });
    }
    if facts.may_use_schema.is_none() && !facts.may_create_tables {
        return Err(Unsuitable::NoTables { node: node(), user: user() });
    }
    if let Some(table) = facts.unreadable.clone() {
        return Err(Unsuitable::Unreadable { node: node(), user: user(), table });
    }
    if replicas > 0 && facts.wal_level == "minimal" {
        return Err(Unsuitable::WalLevel { node: node(), level: facts.wal_level.clone() });
    }
    if replicas > 0 && !facts.sees_statistics {
        return Err(Unsuitable::HiddenReplicas { node: node(), user: user() });
    }
    let warnings = [
        (!facts.fsync, Warning::NoFsync { node: node() }),
        (!facts.full_page_writes, Warning::NoFullPages { node: node() }),
        (facts.asynchronous, Warning::AsynchronousCommit { node: node() }),
        (!facts.may_create_tables, Warning::NoNewTables { node: node(), user: user() }),
    ];
    Ok(warnings.into_iter().filter_map(|(so, warning)| so.then_some(warning)).collect())
}

#[derive(QueryableByName)]
struct Clock {
    #[diesel(sql_type = BigInt)]
    micros: i64,
}

/// Returns the microseconds by which the node's clock is ahead, and the uncertainty of that number.
async fn clock(connection: &mut AsyncPgConnection) -> diesel::QueryResult<(i64, Duration)> {
    let sent = SystemTime::now();
    let waited = std::time::Instant::now();
    let reported: Clock = diesel::sql_query(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros",
    )
    .get_result(connection)
    .await?;
    let half = waited.elapsed() / 2;
    let ours = (sent + half).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ours = i64::try_from(ours.as_micros()).unwrap_or(i64::MAX);
    Ok((reported.micros.saturating_sub(ours), half))
}

/// Judges a difference of clocks in microseconds, less the part that the round trip may explain.
///
/// # Errors
/// [`Unsuitable::Clock`].
pub fn judge_clock(
    node: &str,
    offset: i64,
    uncertainty: Duration,
) -> Result<Option<Warning>, Unsuitable> {
    let (node, ahead) = (node.to_owned(), offset > 0);
    let offset = Duration::from_micros(offset.unsigned_abs());
    let sure = offset.saturating_sub(uncertainty);
    if sure > CLOCK_REFUSAL {
        return Err(Unsuitable::Clock { node, offset, ahead });
    }
    Ok((sure > CLOCK_WARNING).then_some(Warning::Clock { node, offset, ahead }))
}
