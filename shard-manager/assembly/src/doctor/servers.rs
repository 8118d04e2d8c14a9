//! Servers: checks every PostgreSQL node of a configuration.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join_all;
use model::topology::{ShardNumber, ShardSpec};
use postgres::node_address::{ClusterAddress, NodeAddress, ServerEngine, TlsMode};
use postgres::open::{CheckedAddresses, check_members};
use postgres::requirements;
use postgres::session::{self, NodeRole, Session};
use postgres::shard_listing;

use super::{Finding, Severity, workers};

/// Value of `application_name` in the doctor's sessions, which `pg_stat_activity` shows.
const PURPOSE: &str = "tessera doctor";

/// Queries all configured nodes, then checks that they form shards.
pub async fn servers(address: &ClusterAddress) -> Vec<Finding> {
    let of_shards =
        address.shards.iter().flat_map(|shard| [&shard.primary].into_iter().chain(&shard.replicas));
    let named = of_shards.chain(&address.replicas).chain(&address.catalog);
    let hosts = named.flat_map(|at| at.hosts.iter().map(|host| at.at(host)));
    let mut nodes: Vec<NodeAddress> = Vec::new();
    for node in hosts {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    let found = join_all(nodes.iter().map(|at| node(at, address))).await;
    let mut found: Vec<Finding> = found.into_iter().flatten().collect();
    // Without this condition, `check_members` would report faults of nodes a second time.
    if found.iter().all(|finding| finding.severity < Severity::Fault) {
        match check_members(address).await {
            Ok(CheckedAddresses { differences, catalog: at }) => {
                let shards = "each has one primary, and every replica is one's";
                found.push(Finding::good("the shards", shards));
                found.extend(differences.iter().map(|text| Finding::warning("the settings", text)));
                if let Some(at) = at {
                    found.extend(catalog(&at).await);
                }
            }
            Err(error) => found.push(Finding::fault("the shards", error)),
        }
    }
    found
}

/// Describes the shards that a catalog lists; `None` if the catalog cannot be read, for example
/// because it has an older schema.
async fn catalog(at: &NodeAddress) -> Option<Finding> {
    let (map, _) = shard_listing::read(at).await.ok()?;
    let shard = |(number, shard): (ShardNumber, &ShardSpec)| {
        let (name, state, weight) = (&shard.name, shard.state.name(), shard.weight);
        format!("{name} (number {}, {state}, weight {weight})", number.0)
    };
    let shards: Vec<String> = map.topology().members().map(shard).collect();
    let text = format!("epoch {}, shards {}", map.epoch(), shards.join(", "));
    Some(Finding::good("the catalog", text))
}

async fn node(at: &NodeAddress, cluster: &ClusterAddress) -> Vec<Finding> {
    let about = at.to_string();
    let mut session = match session::connect(at, PURPOSE, NodeRole::Any, &cluster.timeouts).await {
        Ok(session) => session,
        Err(error) => return vec![Finding::fault(&about, plain(&about, error))],
    };
    let mut found = Vec::new();
    let each = cluster.engine.connections_of_router();
    match requirements::check(&mut session, cluster.replica_count(), each).await {
        Ok(warnings) => {
            found.extend(
                warnings.iter().map(|warning| Finding::warning(&about, plain(&about, warning))),
            );
        }
        Err(unfit) => found.push(Finding::fault(&about, plain(&about, unfit))),
    }
    match server_settings(&mut session.connection).await {
        Ok(settings) => found.extend(judge(&about, at, &session, &settings)),
        Err(error) => found.push(Finding::fault(&about, error)),
    }
    if cluster.engine == ServerEngine::Citus {
        found.extend(workers::examine(&mut session.connection, &about).await);
    }
    found
}

/// Removes the name of a node from the start of a message, because the finding names the node
/// itself.
fn plain(about: &str, said: impl ToString) -> String {
    let said = said.to_string();
    let rest = said.strip_prefix(about).unwrap_or(&said);
    rest.trim_start_matches([':', ' ']).to_owned()
}

/// Settings and state of a server that do not prevent a router from using it, but that its operator
/// should know.
#[derive(QueryableByName)]
struct ServerSettings {
    #[diesel(sql_type = Bool)]
    rewindable: bool,
    #[diesel(sql_type = Bool)]
    checksums: bool,
    #[diesel(sql_type = Bool)]
    vacuums: bool,
    #[diesel(sql_type = Bool)]
    keeps_for_ever: bool,
    #[diesel(sql_type = BigInt)]
    idle_slots: i64,
    #[diesel(sql_type = Bool)]
    receives: bool,
    #[diesel(sql_type = Bool)]
    encrypted: bool,
    #[diesel(sql_type = Text)]
    position: String,
}

async fn server_settings(
    connection: &mut AsyncPgConnection,
) -> diesel::QueryResult<ServerSettings> {
    diesel::sql_query(
        "SELECT current_setting('wal_log_hints')::boolean AS rewindable,
                current_setting('data_checksums')::boolean AS checksums,
                current_setting('autovacuum')::boolean AS vacuums,
                current_setting('max_slot_wal_keep_size') = '-1' AS keeps_for_ever,
                (SELECT count(*) FROM pg_replication_slots WHERE NOT active) AS idle_slots,
                EXISTS (SELECT FROM pg_stat_wal_receiver) AS receives,
                coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
                CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text
                    AS position",
    )
    .get_result(connection)
    .await
}

/// Returns one finding that describes the server, and a warning for each setting or state that may
/// cause problems later, for example after a failover.
fn judge(
    about: &str,
    at: &NodeAddress,
    session: &Session,
    settings: &ServerSettings,
) -> Vec<Finding> {
    let identity = &session.identity;
    let (role, encrypted) = (identity.role(), if settings.encrypted { "TLS" } else { "no TLS" });
    let reported = format!(
        "PostgreSQL {}.{}, {role} on timeline {}, at {}, {encrypted}",
        identity.version / 10_000,
        identity.version % 10_000,
        identity.timeline,
        settings.position
    );
    let far = !at.hosts.iter().all(postgres::node_address::Host::is_local);
    let checked = matches!(at.tls, TlsMode::VerifyCa | TlsMode::VerifyFull);
    let idle = format!(
        "{} replication slot(s) without a reader retain all WAL from now on, until the disk is full: drop \
         them, or set max_slot_wal_keep_size",
        settings.idle_slots
    );
    let doubts = [
        (
            !(settings.rewindable || settings.checksums),
            "after a failover pg_rewind cannot make it a replica: set wal_log_hints=on, or create it with \
             checksums",
        ),
        (
            !settings.checksums,
            "data_checksums is off: damage by its disk is not detected; stop it and run pg_checksums --enable",
        ),
        (!settings.vacuums, "has autovacuum=off: tables only grow; set it to on"),
        (
            far && !settings.encrypted,
            "rows and passwords pass the network unencrypted: ask for it with sslmode=verify-full",
        ),
        (
            far && settings.encrypted && !checked,
            "is encrypted, but anybody could be at the other end: ask for sslmode=verify-full",
        ),
        (
            identity.in_recovery && !settings.receives,
            "is a replica that receives nothing now: check primary_conninfo and its log",
        ),
        (settings.keeps_for_ever && settings.idle_slots > 0, &idle),
    ];
    let doubts = doubts.into_iter().filter(|(so, _)| *so);
    [Finding::good(about, reported)]
        .into_iter()
        .chain(doubts.map(|(_, text)| Finding::warning(about, text)))
        .collect()
}
