//! Configuration: the settings in force, and the origin of each value.
//!
//! A value is searched for in this order: flag, environment variable, `.env` file, configuration
//! file, default. Reading the configuration creates no file and binds no port.
//!
//! **Invariant:** an unknown name is an error in every source, so a typo cannot silently mean the
//! default. No output and no error contains a password.
//! **Not here:** the use of the values (`app`, `main`).

mod access;
mod analytics;
mod audit;
mod cache;
mod certificate;
mod file;
mod postgres;
mod sources;
mod tls_files;
mod trusted_proxies;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ::analytics::health_probe::HealthQuery;
use ::analytics::settings::{self, Layer, Settings, Shown, within};
use ::analytics::store::StoreAddress;
use clap::Parser;
use shard_manager::cache::CacheSettings;
use shard_manager::engine::cluster_spec::{ClusterSpec, REPLICAS_DEFAULT, SHARDS_DEFAULT};
use shard_manager::keyspace::Keyspace;
use shard_manager::node_address::ClusterAddress;
use shard_manager::placement::Placement;
use shard_manager::topology::Topology;

use crate::tls;

use sources::Sources;

pub use self::access::{AccessConfig, AccessMode};
pub use self::audit::{AuditConfig, AuditTarget};
pub use self::certificate::{CertificateConfig, NameKind, SubjectName};
pub use self::trusted_proxies::TrustedProxies;
pub use ::analytics::settings::{ConfigError, Origin};

/// Maximum number of HTTP workers: each is a thread with a runtime of its own.
const WORKERS_MAX: usize = 256;

/// One REST API in front of many databases.
///
/// Without flags: three embedded SQLite shards in ./data, served on http://127.0.0.1:3000.
#[derive(Default, Parser)]
#[command(
    name = "api-router",
    version,
    after_help = "\
Each setting is also an environment variable (TESSERA_BIND, TESSERA_DATA_DIR, …), a line of a .env
file, and a key of the configuration file (bind, data_dir, …). SHARD_URLS, REPLICA_URLS and
MAINDB_URL have no prefix, REDIS_URL needs none. Flags win over the environment, that over .env,
that over the file.

Examples:
  api-router                                     three shards in ./data
  api-router --shards 5 --data-dir /var/lib/tessera
  api-router --weights 50,25,25                  shard1 carries half
  api-router --keyspace list:A=30,B=20 --placement 'partitions:A=30>shard1,B=20>shard2' --shards 2
                                                 keys A:… on shard1, keys B:… on shard2
  SHARD_URLS=postgres://app@db1/app,postgres://app@db2/app api-router
                                                 two shards on servers of PostgreSQL
  SHARD_URLS=postgres://app@coordinator/app api-router --engine citus
                                                 a cluster of Citus, which places the rows
  REDIS_URL=redis://127.0.0.1:6379 api-router    reads of one key may be answered from a cache
  api-router --doctor                            what is wrong with the set-up, and what to do
  api-router --print-config                      what is in force, and why"
)]
pub struct Flags {
    /// Address and port to serve on [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<String>,
    /// Folder of the embedded shards; created if it does not exist [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Storage engine: sqlite, postgres or citus [default: sqlite, or postgres if shards are named
    /// by URLs]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Servers of PostgreSQL, one a shard, separated by commas: postgres://user@host:5432/database,… Other users of
    /// this machine can see flags: give passwords in SHARD_URLS, PGPASSWORD or a file
    #[arg(long, value_name = "URL,URL,…")]
    shard_urls: Option<String>,
    /// Replicas of these servers, in any order
    #[arg(long, value_name = "URL,URL,…")]
    replica_urls: Option<String>,
    /// Server that keeps the shard map [default: that of the first shard]
    #[arg(long, value_name = "URL")]
    maindb_url: Option<String>,
    /// Bytes that the database of each shard may take on its servers, 1073741824 to
    /// 1125899906842624, or none: slots for which a shard has too little room do not move to it
    /// [default: none]
    #[arg(long, value_name = "BYTES|none")]
    shard_disk_bytes: Option<String>,
    /// Number of shards of a new cluster, 1 to 256 [default: 3; an existing data directory keeps
    /// its own]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Weights of the shards of a new cluster, such as 50,25,25; means --placement weighted, if not
    /// ring or rendezvous
    #[arg(long, value_name = "W,W,…")]
    weights: Option<String>,
    /// Replicas of each shard, 0 to 5 [default: 1; an existing data directory keeps its own number]
    #[arg(long, value_name = "N")]
    replicas: Option<String>,
    /// Distribution of slots in a new cluster: even, weighted, modulo, ring (also ring:VNODES),
    /// rendezvous, jump, partitions:NAME=WEIGHT>SHARD,… or manual:FIRST-LAST=SHARD,… [default:
    /// even]
    #[arg(long, value_name = "NAME[:…]")]
    placement: Option<String>,
    /// Mapping of keys to slots in a new cluster: hash, modulo, range:10,20,…, range-text:g,n,…,
    /// list:NAME=WEIGHT,…, matrix:id or matrix:server; by a column of the row list(COLUMN):… and
    /// range(COLUMN):… [default: hash]
    #[arg(long, value_name = "NAME[:…]")]
    keyspace: Option<String>,
    /// HTTP worker threads, 1 to 256 [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Least severe messages to log: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Serve https with the certificate in this file (PEM: the certificate of the router, then
    /// intermediate ones); read again every ten seconds and on SIGHUP
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Certificates of the authorities that issue those of clients (PEM): clients may then present
    /// one; read again like the certificate
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<String>,
    /// Lists of revoked certificates of clients (PEM), one for each authority; read again like the
    /// certificate
    #[arg(long, value_name = "FILE")]
    tls_client_crl: Option<String>,
    /// Refuse connections of clients without a certificate
    #[arg(long)]
    tls_client_required: bool,
    /// TLS ends at a proxy in front of the router: pages of https://HOST count as the router's own,
    /// and on a loopback address the router also accepts requests that name the host of the proxy
    #[arg(long)]
    behind_tls: bool,
    /// Serve on an address that others can reach although access control is off
    #[arg(long)]
    insecure: bool,
    /// Serve /api/lab/nodes, with which any client can pause, delay and cut nodes, and
    /// /api/lab/levels, which creates small clusters in a temporary folder: for development and
    /// teaching
    #[arg(long)]
    lab: bool,
    /// Serve changes of shards and slots although access control is off, so that anybody who
    /// reaches the router can make them
    #[arg(long)]
    operate: bool,
    /// Folder into which POST /api/backup makes backups; created if it does not exist [default:
    /// none, so that no backups can be made]
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<String>,
    /// Record requests, for metrics and the dashboard: on or off [default: on]
    #[arg(long, value_name = "on|off")]
    analytics: Option<String>,
    /// Store that keeps metrics over restarts: a file of SQLite, postgres://…, or none [default:
    /// analytics.db in the folder of embedded shards, none with servers]. Give passwords in
    /// TESSERA_ANALYTICS_STORE or a file
    #[arg(long, value_name = "FILE|URL|none")]
    analytics_store: Option<String>,
    /// Collector of traces, by OTLP over HTTP: http://127.0.0.1:4318 (only if built with the
    /// feature otlp)
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    access: access::AccessFlags,
    #[command(flatten)]
    cache: cache::CacheFlags,
    /// A TOML file with any of these settings, and sections for servers [default: tessera.toml, if
    /// it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check all that a start needs, and possible later problems, change nothing, and end: exit
    /// code 1 if something must be corrected
    #[arg(long, conflicts_with = "print_config")]
    pub doctor: bool,
    /// Print the settings in force with their origins, and end
    #[arg(long)]
    pub print_config: bool,
    /// Request /live or /ready of the router that runs with these settings on this machine, and
    /// end: exit code 0 if the answer is 200
    #[arg(long, value_name = "live|ready")]
    pub probe: Option<HealthQuery>,
}

/// Storage engine, with the location of its data.
#[derive(Clone, Debug)]
pub enum Engine {
    /// SQLite files on this machine.
    Embedded {
        /// Folder that contains the files of the shards.
        data_dir: PathBuf,
    },
    /// Servers of PostgreSQL, or the coordinator of a Citus cluster.
    Postgres(Box<ClusterAddress>),
}

/// Settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to serve on.
    pub bind: SocketAddr,
    /// Files with the certificate and its key; `None` if the router serves plain HTTP.
    pub tls: Option<tls::TlsFiles>,
    /// True if a proxy in front of the router terminates TLS.
    pub behind_tls: bool,
    /// Storage engine, with the location of its data.
    pub engine: Engine,
    /// Properties that a new cluster gets. An existing cluster keeps those in its catalog; a
    /// keyspace that differs from its own is refused.
    pub wanted: ClusterSpec,
    /// Number of HTTP worker threads.
    pub workers: usize,
    /// Lowest severity of the messages that are logged.
    pub log: tracing::Level,
    /// True if other machines may reach the router although access control is off.
    pub insecure: bool,
    /// True if nodes can be paused, delayed and cut off through the API.
    pub lab: bool,
    /// True if shards and slots can be changed through the API without access control.
    pub operate: bool,
    /// Folder for backups, if one is set.
    pub backup_dir: Option<PathBuf>,
    /// True if requests are recorded.
    pub analytics: bool,
    /// Store that keeps metrics over restarts, if there is one.
    pub analytics_store: Option<StoreAddress>,
    /// Collector of traces, if there is one: `http://host:port`, with or without a path.
    pub otlp_endpoint: Option<String>,
    /// Settings of access control.
    pub access: AccessConfig,
    /// Cache from which reads may be served, if there is one.
    pub cache: Option<CacheSettings>,
    shown: Vec<Shown>,
}

impl Config {
    /// Reads the settings from flags, environment variables, the file `.env` in the working
    /// directory, and the configuration file, which is the one that they name or else
    /// `tessera.toml`.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting, its origin and the allowed values.
    pub fn read(flags: &Flags) -> Result<Self, ConfigError> {
        let sources = Sources::read(flags)?;
        let mut settings = Settings::new(&sources.layers).with_servers_by("SHARD_URLS");
        let bind = settings.address("bind", "127.0.0.1:3000")?;
        let tls = tls_files::tls_files(&mut settings)?;
        let behind_tls = settings.truth("behind_tls")?;
        let engine = engine(&mut settings, &sources)?;
        let groups = sources.sections.groups.clone();
        let wanted = ClusterSpec { groups, ..wanted(&mut settings, &engine)? };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers =
            settings.parse("workers", &cores.to_string(), |text| within(text, 1, WORKERS_MAX))?;
        let log = settings.level("log")?;
        let insecure = settings.truth("insecure")?;
        let lab = settings.truth("lab")?;
        let operate = settings.truth("operate")?;
        let backup_dir = backup_dir(&mut settings)?;
        let analytics = analytics::is_on(&mut settings)?;
        let analytics_store = analytics::store(&mut settings, &engine, analytics)?;
        let otlp_endpoint = analytics::otlp_endpoint(&mut settings)?;
        let mut access = access::access(&mut settings, &sources)?;
        access.is_tls = tls.is_some() || behind_tls;
        let has_authority = tls.as_ref().is_some_and(|files| files.clients.is_some());
        if !access.certificates.is_empty() && !has_authority {
            let at = sources.sections.path.display();
            return Err(ConfigError(format!(
                "access.certificate[1] (from {at}) needs tls_client_ca: the authority of the certificates"
            )));
        }
        let cache = cache::cache(&mut settings, &sources)?;
        let shown = settings.shown();
        Ok(Self {
            bind,
            tls,
            behind_tls,
            engine,
            wanted,
            workers,
            log,
            insecure,
            lab,
            operate,
            backup_dir,
            analytics,
            analytics_store,
            otlp_endpoint,
            access,
            cache,
            shown,
        })
    }

    /// Returns the data directory; `None` if the shards are on PostgreSQL servers.
    pub fn data_dir(&self) -> Option<&Path> {
        match &self.engine {
            Engine::Embedded { data_dir } => Some(data_dir),
            Engine::Postgres(_) => None,
        }
    }

    /// Refuses an address that other machines can reach, unless a flag allows it, or access control
    /// is on and TLS protects the keys.
    ///
    /// # Errors
    /// [`ConfigError`] names the address and the flag.
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        match self.access.mode {
            AccessMode::Off | AccessMode::Observe => {
                settings::check_exposure(self.bind, self.insecure).map_err(|error| {
                    ConfigError(format!("{error}; or turn access control on by --access on"))
                })
            }
            AccessMode::On => access::check_transport(self.bind, self.access.is_tls),
        }
    }

    /// Returns the settings in force, one per line, each with its origin.
    pub fn table(&self) -> String {
        settings::table(&self.shown)
    }
}

/// Returns the folder for backups, if one is set.
fn backup_dir(settings: &mut Settings<'_>) -> Result<Option<PathBuf>, ConfigError> {
    settings.parse("backup_dir", "none", |text| match text {
        "" => Err("a folder, or none".to_owned()),
        "none" => Ok(None),
        _ => Ok(Some(PathBuf::from(text))),
    })
}

/// Returns the chosen engine, with the location of its shards.
fn engine(settings: &mut Settings<'_>, sources: &Sources) -> Result<Engine, ConfigError> {
    if let Some(servers) = postgres::chosen_server_engine(settings, sources)? {
        return Ok(Engine::Postgres(Box::new(postgres::cluster(servers, settings, sources)?)));
    }
    let data_dir = settings.parse("data_dir", "./data", |text| match text {
        "" => Err("a folder, and not be empty".to_owned()),
        _ if text.contains("://") => Err("a folder".to_owned()),
        _ => Ok(PathBuf::from(text)),
    })?;
    for name in ["shard_urls", "replica_urls", "maindb_url", "shard_disk_bytes"] {
        settings.show(name, "none".to_owned(), Origin::Default);
    }
    Ok(Engine::Embedded { data_dir })
}

/// Returns the properties that a new cluster gets. With PostgreSQL servers, the number of shards is
/// the number of their addresses.
fn wanted(settings: &mut Settings<'_>, engine: &Engine) -> Result<ClusterSpec, ConfigError> {
    let (in_catalog, shards, replicas) = match engine {
        Engine::Embedded { .. } => {
            let known = "what the data directory has, else";
            let shards = format!("{known} {SHARDS_DEFAULT}");
            (known, shards, format!("{known} {REPLICAS_DEFAULT}"))
        }
        Engine::Postgres(cluster) => {
            let shards = cluster.shards.len().to_string();
            ("what the catalog has, else", shards, "those that are named".to_owned())
        }
    };
    let shards = settings.optional("shards", &shards, |t| within(t, 1, Topology::SHARDS_MAX))?;
    let replicas =
        settings.optional("replicas", &replicas, |t| within(t, 0, Topology::REPLICAS_MAX))?;
    let weights = settings.optional("weights", &format!("{in_catalog} all 1"), parse_weights)?;
    let placement = settings.optional("placement", &format!("{in_catalog} even"), |text| {
        text.parse::<Placement>().map_err(|error| format!("{} ({error})", Placement::FORMS))
    })?;
    let keyspace = settings.optional("keyspace", &format!("{in_catalog} hash"), |text| {
        text.parse::<Keyspace>().map_err(|error| format!("{} ({error})", Keyspace::FORMS))
    })?;
    let (shards, replicas, weights) = match engine {
        Engine::Embedded { .. } => (shards, replicas, weights),
        Engine::Postgres(cluster) => {
            postgres::check_counts(settings, cluster, shards, replicas)?;
            (Some(cluster.shards.len()), None, postgres::weights(settings, cluster)?.or(weights))
        }
    };
    let placement = check_weights(placement, weights.as_deref(), shards)?;
    let groups = Vec::new();
    Ok(ClusterSpec { keyspace, placement, shards, weights, replicas, groups })
}

fn parse_weights(text: &str) -> Result<Vec<u32>, String> {
    let weights: Result<Vec<u32>, _> =
        text.split(',').map(|weight| weight.trim().parse()).collect();
    let ok = |weights: &Vec<u32>| {
        weights.len() <= Topology::SHARDS_MAX
            && weights.iter().all(|weight| (1..=Topology::WEIGHT_MAX).contains(weight))
    };
    weights.ok().filter(ok).ok_or_else(|| {
        format!("1 to {} numbers from 1 to {}", Topology::SHARDS_MAX, Topology::WEIGHT_MAX)
    })
}

/// Returns the placement to use with these weights: the given one, or a weighted placement if only
/// weights are given. Weights together with a placement that ignores them are refused.
fn check_weights(
    placement: Option<Placement>,
    weights: Option<&[u32]>,
    shards: Option<usize>,
) -> Result<Option<Placement>, ConfigError> {
    let Some(weights) = weights else { return Ok(placement) };
    if let Some(unweighted) = placement.as_ref().filter(|placement| !placement.is_weighted()) {
        let name = unweighted.name();
        return Err(ConfigError(format!(
            "placement {name} ignores weights: leave one of them out"
        )));
    }
    match shards {
        Some(shards) if shards != weights.len() => Err(ConfigError(format!(
            "weights names {} shards, shards says {shards}: leave one of them out",
            weights.len()
        ))),
        Some(_) | None => Ok(Some(placement.unwrap_or(Placement::Weighted))),
    }
}

impl Flags {
    fn layer(&self) -> Layer {
        let texts = [
            ("bind", &self.bind),
            ("data_dir", &self.data_dir),
            ("engine", &self.engine),
            ("shard_urls", &self.shard_urls),
            ("replica_urls", &self.replica_urls),
            ("maindb_url", &self.maindb_url),
            ("shard_disk_bytes", &self.shard_disk_bytes),
            ("shards", &self.shards),
            ("replicas", &self.replicas),
            ("weights", &self.weights),
            ("placement", &self.placement),
            ("keyspace", &self.keyspace),
            ("workers", &self.workers),
            ("log", &self.log),
            ("backup_dir", &self.backup_dir),
            ("analytics", &self.analytics),
            ("analytics_store", &self.analytics_store),
            ("otlp_endpoint", &self.otlp_endpoint),
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
            ("tls_client_ca", &self.tls_client_ca),
            ("tls_client_crl", &self.tls_client_crl),
        ];
        let texts = texts.into_iter().chain(self.access.texts()).chain(self.cache.texts());
        let switches = [
            ("behind_tls", self.behind_tls),
            ("tls_client_required", self.tls_client_required),
            ("insecure", self.insecure),
            ("lab", self.lab),
            ("operate", self.operate),
        ];
        settings::flags(texts, switches)
    }
}
