//! Session: one connection to one node, and who that node is.
//!
//! What a session must be like is sent with the first packet, so that it costs no round trip. The commit of a session
//! is never weaker than durable: where the database or the role says `synchronous_commit=off`, `local` or
//! `remote_write`, the session says `on`, because an acknowledged write must not be lost; `remote_apply` stays.
//!
//! **Invariant:** a session is handed out only if its node is in the role that was asked for at that moment.
//! **Not here:** whether the node is fit to serve (`store/postgres/requirements`), pools, statements.

use std::fmt;
use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{NoTls, Socket};

use super::connect_error::ConnectError;
use super::tls;
use crate::node_address::{NodeAddress, Timeouts, TlsMode};
use crate::topology::Role;

/// The oldest PostgreSQL that Tessera speaks to.
pub const VERSION_MIN: u32 = 15;

/// After this long in an open transaction without a statement, a writer has lost its router: its locks are freed.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// A connection that says nothing is asked after this long, and then so often, whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;

/// Which node of an address will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// The one that takes writes.
    Primary,
    /// One in recovery.
    Replica,
    /// Whichever answers.
    Any,
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Any => "node",
        })
    }
}

/// Who a node says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What a primary and its replicas have in common, and nobody else has.
    pub system: u64,
    /// Changes whenever a replica becomes the primary.
    pub timeline: u32,
    /// The database of the session.
    pub database: String,
    /// Whether it is a replica now.
    pub in_recovery: bool,
    /// Such as 150018 for 15.18.
    pub version: u32,
}

impl Identity {
    /// What the node is to its shard now.
    pub fn role(&self) -> Role {
        if self.in_recovery { Role::Replica } else { Role::Primary }
    }
}

/// One connection to one node.
pub struct Session {
    /// Runs statements. Its socket is driven by a task of the runtime that connected it.
    pub connection: AsyncPgConnection,
    /// Who the node was when the session began.
    pub identity: Identity,
    /// The one host of the address that it is.
    pub address: NodeAddress,
}

/// Connects to the first host of an address that answers and is in the role that is wanted.
///
/// The driver of the connection is spawned on the runtime that this is called in, which must have its I/O and time
/// drivers enabled; the session lives no longer than that. `purpose` is what `pg_stat_activity` shows, such as
/// `tessera lane`. A session with [`NodeRole::Primary`] is meant to write: it may not idle in a transaction.
///
/// # Errors
/// [`ConnectError`] of the one host, or all of them in [`ConnectError::NoneOfThem`].
pub async fn connect(
    address: &NodeAddress,
    purpose: &str,
    role: NodeRole,
    timeouts: &Timeouts,
) -> Result<Session, ConnectError> {
    let wait = address.connect_timeout.unwrap_or(timeouts.connect);
    let mut tried = Vec::new();
    for host in &address.hosts {
        let one = address.at(host);
        let settings = settings(&one, purpose, role, wait, timeouts);
        match tokio::time::timeout(wait, attempt(&one, settings, role)).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => tried.push(error),
            Err(_) => tried.push(ConnectError::TimedOut { node: one.to_string(), waited: wait }),
        }
    }
    if tried.len() == 1 {
        return Err(tried.remove(0));
    }
    Err(ConnectError::NoneOfThem { node: address.to_string(), tried })
}

async fn attempt(
    address: &NodeAddress,
    mut settings: tokio_postgres::Config,
    role: NodeRole,
) -> Result<Session, ConnectError> {
    let tls_error = |error: tls::RootsError| ConnectError::Tls {
        node: address.to_string(),
        mode: address.tls,
        cause: error.to_string(),
    };
    // A Unix socket leads nowhere but to this machine: libpq knows no TLS there, nor does anybody.
    let local = address.hosts.iter().all(crate::node_address::Host::is_socket);
    let secured = if local { None } else { tls::connector(address).map_err(tls_error)? };
    let Some(connector) = secured else {
        settings.ssl_mode(SslMode::Disable);
        return open(address, &settings, NoTls, role).await;
    };
    if address.tls != TlsMode::Prefer {
        settings.ssl_mode(SslMode::Require);
        return open(address, &settings, connector, role).await;
    }
    settings.ssl_mode(SslMode::Prefer);
    match open(address, &settings, connector, role).await {
        Err(error) if error.may_be_due_to_tls() => {
            settings.ssl_mode(SslMode::Disable);
            // If that fails too, the first reason is the better one to tell.
            open(address, &settings, NoTls, role).await.map_err(|_| error)
        }
        done => done,
    }
}

/// What is sent with the first packet, and what the socket must be like.
fn settings(
    address: &NodeAddress,
    purpose: &str,
    role: NodeRole,
    wait: Duration,
    timeouts: &Timeouts,
) -> tokio_postgres::Config {
    let mut settings = tokio_postgres::Config::new();
    for host in &address.hosts {
        if host.is_socket() {
            settings.host_path(&host.host);
        } else {
            settings.host(&host.host);
        }
        settings.port(host.port);
    }
    settings.dbname(&address.database).user(&address.user);
    if let Some(password) = &address.password {
        settings.password(password.secret());
    }
    let name = address.application.as_ref();
    settings
        .application_name(name.map_or_else(|| purpose.into(), |name| format!("{name} {purpose}")));
    settings.connect_timeout(wait).tcp_user_timeout(timeouts.acknowledgement);
    settings.keepalives(true).keepalives_idle(KEEPALIVE_IDLE);
    settings.keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(KEEPALIVE_RETRIES);
    let mut options = format!(
        "-c search_path=tessera,public -c TimeZone=UTC -c client_min_messages=warning -c jit=off \
         -c plan_cache_mode=force_generic_plan -c default_transaction_isolation=read\\ committed \
         -c statement_timeout={}",
        timeouts.statement.as_millis()
    );
    if role == NodeRole::Primary {
        let limit = IDLE_IN_TRANSACTION.as_millis();
        options.push_str(&format!(" -c idle_in_transaction_session_timeout={limit}"));
    }
    settings.options(options);
    settings
}

async fn open<T>(
    address: &NodeAddress,
    settings: &tokio_postgres::Config,
    tls: T,
    role: NodeRole,
) -> Result<Session, ConnectError>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let node = address.to_string();
    let (client, driver) =
        settings.connect(tls).await.map_err(|error| ConnectError::of(address, &error))?;
    if let Some(found) = driver.parameter("server_version").filter(|found| is_too_old(found)) {
        return Err(ConnectError::TooOld { node, found: found.to_owned() });
    }
    let other = |error: &dyn fmt::Display| ConnectError::Other {
        node: address.to_string(),
        cause: error.to_string(),
    };
    let mut connection = AsyncPgConnection::try_from_client_and_connection(client, driver)
        .await
        .map_err(|error| other(&error))?;
    let identity = identify(&mut connection).await.map_err(|error| other(&error))?;
    let fits = match role {
        NodeRole::Primary => !identity.in_recovery,
        NodeRole::Replica => identity.in_recovery,
        NodeRole::Any => true,
    };
    if !fits {
        let in_recovery = identity.in_recovery;
        return Err(ConnectError::WrongRole { node, wanted: role, in_recovery });
    }
    Ok(Session { connection, identity, address: address.clone() })
}

/// Whether a version such as `15.18 (Debian 15.18-1)` or `9.6.24` is too old.
fn is_too_old(version: &str) -> bool {
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().is_ok_and(|major: u32| major < VERSION_MIN)
}

#[derive(QueryableByName)]
struct IdentityRow {
    #[diesel(sql_type = BigInt)]
    system: i64,
    #[diesel(sql_type = Integer)]
    timeline: i32,
    #[diesel(sql_type = Text)]
    database: String,
    #[diesel(sql_type = Bool)]
    in_recovery: bool,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Text)]
    #[expect(dead_code, reason = "it is asked for because setting it is a function")]
    synchronous_commit: String,
}

/// Asks a node who it is, and makes its commits durable.
///
/// On a replica the timeline is that of what it receives; one that receives nothing, or does not let us see it, tells
/// that of its last checkpoint, which may be an older one for some minutes after a failover.
///
/// # Errors
/// The connection's.
pub async fn identify(connection: &mut AsyncPgConnection) -> diesel::QueryResult<Identity> {
    let row: IdentityRow = diesel::sql_query(
        "SELECT s.system_identifier AS system,
                CASE WHEN r.recovery
                     THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver),
                                   (SELECT timeline_id FROM pg_control_checkpoint()))
                     ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
                END AS timeline,
                current_database()::text AS database,
                r.recovery AS in_recovery,
                current_setting('server_version_num')::integer AS version,
                set_config('synchronous_commit',
                           CASE current_setting('synchronous_commit')
                                WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END,
                           false) AS synchronous_commit
         FROM pg_control_system() AS s, (SELECT pg_is_in_recovery() AS recovery OFFSET 0) AS r",
    )
    .get_result(connection)
    .await?;
    Ok(Identity {
        system: row.system.cast_unsigned(),
        timeline: row.timeline.cast_unsigned(),
        database: row.database,
        in_recovery: row.in_recovery,
        version: row.version.cast_unsigned(),
    })
}
