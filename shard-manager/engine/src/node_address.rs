//! Node address: host, login and TLS mode of a PostgreSQL node.
//!
//! Spelled as libpq spells it: `postgres://user:password@host:port,host:port/database?sslmode=verify-full`. One thing
//! is decided otherwise. libpq's own default, `sslmode=prefer`, sends rows in the clear if the server says so, and to
//! whoever answers: here that is the default only for this machine, and `verify-full` for every other.
//!
//! **Invariant:** no `Debug`, `Display` or error shows a password.
//! **Not here:** connecting (`postgres::session`); how many shards there may be (`topology`).

mod password;
mod url;

pub use password::{Password, PasswordError};
pub use url::AddressError;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The port of PostgreSQL where none is named.
pub const PORT_DEFAULT: u16 = 5432;

/// A server among those that may be the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name, an IP address without brackets, or the folder of a Unix socket (it begins with `/`).
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Host {
    /// Whether only this machine is on the way there.
    pub fn is_local(&self) -> bool {
        let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
        self.is_socket() || self.host == "localhost" || self.host.parse().is_ok_and(loopback)
    }

    /// Whether it is the folder of a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How the way to a node is secured: libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server offers it, by whatever certificate.
    Prefer,
    /// Encrypted. The certificate is checked as by [`TlsMode::VerifyCa`] if a file of roots is named, else not at all.
    Require,
    /// Encrypted, and the certificate comes from an authority that is trusted.
    VerifyCa,
    /// The same, and the certificate is for the host that was asked for.
    VerifyFull,
}

impl TlsMode {
    /// Every mode, from the least to the most that it checks.
    pub const ALL: [Self; 5] =
        [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// As `sslmode` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// The mode of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    fn default_for(hosts: &[Host]) -> Self {
        if hosts.iter().all(Host::is_local) { Self::Prefer } else { Self::VerifyFull }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What holds for every node whose address says nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDefaults {
    /// As whom.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<Password>,
    /// How secured.
    pub tls: Option<TlsMode>,
    /// The authorities that are trusted.
    pub root_certificates: Option<PathBuf>,
}

/// Where a node is: one server, or several of which one is it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// At least one; asked in this order.
    pub hosts: Vec<Host>,
    /// The database.
    pub database: String,
    /// As whom.
    pub user: String,
    /// With which password, if the server may ask for one.
    pub password: Option<Password>,
    /// How the way there is secured.
    pub tls: TlsMode,
    /// The file of the authorities that are trusted; without it, those of the system.
    pub root_certificates: Option<PathBuf>,
    /// How long to wait for one host, if not as long as for all others.
    pub connect_timeout: Option<Duration>,
    /// What the server shows before the purpose of a connection, if not `tessera`.
    pub application: Option<String>,
}

impl NodeAddress {
    /// Reads `postgres://…`, and the file of passwords that it may name.
    ///
    /// # Errors
    /// [`AddressError`] says what is wrong, and never repeats what may be a part of the password.
    pub fn parse(text: &str, defaults: &NodeDefaults) -> Result<Self, AddressError> {
        url::parse(text, defaults)
    }

    /// The same node, at one of its hosts only.
    pub fn at(&self, host: &Host) -> Self {
        Self { hosts: vec![host.clone()], ..self.clone() }
    }

    /// Whether one server may be both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.database == other.database && self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// The whole address as it is spelled, with `***` for the password.
    pub fn redacted(&self) -> String {
        url::redacted(self)
    }
}

impl std::str::FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, &NodeDefaults::default())
    }
}

/// Where it is, without anything that need not be told: `127.0.0.1:5432/shard1`.
impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, host) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{host}")?;
        }
        write!(f, "/{}", self.database)
    }
}

/// Where a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAddress {
    /// What it is called, if not `shardN`.
    pub name: Option<String>,
    /// Its share of the load, if one was given with it.
    pub weight: Option<u32>,
    /// Who takes its writes; of several hosts, whichever is the primary.
    pub primary: NodeAddress,
    /// Who may answer reads.
    pub replicas: Vec<NodeAddress>,
}

/// What the servers of a cluster are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerEngine {
    /// Each shard is a database of PostgreSQL, and Tessera decides which rows it holds.
    #[default]
    Postgres,
    /// The only shard is a coordinator of Citus, which decides on which of its workers rows lie.
    Citus,
}

impl ServerEngine {
    /// As `engine` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Citus => "citus",
        }
    }

    /// Most connections that one router takes of one node: to a coordinator it has more lanes, and reads only there.
    pub fn connections_of_router(self) -> u32 {
        match self {
            Self::Postgres => 8,
            Self::Citus => 18,
        }
    }
}

/// Where a cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAddress {
    /// What its servers are.
    pub engine: ServerEngine,
    /// Its shards, in their order.
    pub shards: Vec<ShardAddress>,
    /// Replicas of which it is not told whose they are: they are asked.
    pub replicas: Vec<NodeAddress>,
    /// Who keeps the shard map, if not the first shard.
    pub catalog: Option<NodeAddress>,
    /// How long to wait.
    pub timeouts: Timeouts,
}

impl ClusterAddress {
    /// How many nodes follow others: each host of an address that lists several is a node, and of a shard's one leads.
    pub fn replica_count(&self) -> usize {
        let of_shard = |shard: &ShardAddress| {
            let listed = shard.replicas.iter().map(|at| at.hosts.len()).sum::<usize>();
            shard.primary.hosts.len() - 1 + listed
        };
        self.replicas.len() + self.shards.iter().map(of_shard).sum::<usize>()
    }
}

/// How long to wait for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For one host: until it is reached, knows us and has told who it is.
    pub connect: Duration,
    /// For one statement, by the server's clock; zero is no limit.
    pub statement: Duration,
    /// For an acknowledgement of what was sent, by this machine's TCP.
    pub acknowledgement: Duration,
}

impl Timeouts {
    /// The default of [`Timeouts::connect`].
    pub const CONNECT_DEFAULT: Duration = Duration::from_secs(2);
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Self::CONNECT_DEFAULT,
            statement: Duration::from_secs(30),
            acknowledgement: Duration::from_secs(3),
        }
    }
}
