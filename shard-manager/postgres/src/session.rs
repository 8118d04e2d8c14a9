//! Session: one connection to one node, and the identity of that node.
//!
//! Settings of a session are sent with the first packet, so that they cost no round trip. A commit
//! is never weaker than durable: where the database or the role sets `synchronous_commit` to `off`,
//! `local` or `remote_write`, the session sets it to `on`, because an acknowledged write must not
//! be lost; `remote_apply` stays.
//!
//! **Invariant:** a session is returned only if its node had the requested role at that moment.
//! **Not here:** requirements of a node (`requirements`), pools, statements.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use model::topology::Role;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{NoTls, Socket};

use super::connect_error::{ConnectError, VERSION_MIN};
use super::node_address::{NodeAddress, Timeouts, TlsMode};
pub use super::node_role::NodeRole;
use super::tls;

/// Time after which the server ends a session that is idle in a transaction: its router is gone,
/// and its locks must be released.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// Idle time before TCP keep-alive probes a connection, and the interval of the probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;

/// Identity that a node reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// System identifier, which a primary shares with its replicas and with no other node.
    pub system: u64,
    /// Timeline, which changes whenever a replica becomes the primary.
    pub timeline: u32,
    /// The database of the session.
    pub database: String,
    /// True if the node is a replica.
    pub in_recovery: bool,
    /// Version of the server, such as 150018 for 15.18.
    pub version: u32,
}

impl Identity {
    /// Returns the role of the node in its shard.
    pub fn role(&self) -> Role {
        if self.in_recovery { Role::Replica } else { Role::Primary }
    }
}

/// One connection to one node.
pub struct Session {
    /// Connection. A task on the runtime that opened it drives its socket.
    pub connection: AsyncPgConnection,
    /// Identity of the node when the session began.
    pub identity: Identity,
    /// Address of the one host that was reached.
    pub address: NodeAddress,
}

/// Connects to the first host of an address that answers and has the required role.
///
/// The driver of the connection is spawned on the current runtime, which must have its I/O and time
/// drivers enabled; the session ends with it. `purpose` is the name in `pg_stat_activity`, such as
/// `tessera lane`. A session with [`NodeRole::Primary`] is meant to write: it may not idle in a
/// transaction.
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
    // A Unix socket leads only to this machine; libpq uses no TLS there either.
    let local = address.hosts.iter().all(super::node_address::Host::is_socket);
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
            // If that fails too, the first error is the more useful one.
            open(address, &settings, NoTls, role).await.map_err(|_| error)
        }
        done => done,
    }
}

/// Returns the settings of the first packet and of the socket.
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
    let other = |error: &dyn std::fmt::Display| ConnectError::Other {
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

/// Returns true if a version such as `15.18 (Debian 15.18-1)` or `9.6.24` is too old.
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
    #[expect(dead_code, reason = "it is selected because setting it is a function")]
    synchronous_commit: String,
}

/// Queries the identity of a node and makes its commits durable.
///
/// On a replica the timeline is the one that it receives. A replica that receives nothing, or hides
/// its WAL receiver, reports the timeline of its last checkpoint, which may be an older one for
/// some minutes after a failover.
///
/// # Errors
/// The error of the connection.
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
