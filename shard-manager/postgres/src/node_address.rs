//! Node address: host, login and TLS mode of a PostgreSQL node.
//!
//! An address is spelled as libpq spells it:
//! `postgres://user:password@host:port,host:port/database?sslmode=verify-full`. Only the default of
//! `sslmode` differs. libpq's default, `prefer`, sends rows unencrypted if the server offers no
//! encryption, and accepts any server. Here `prefer` is the default for this machine only; for
//! every other host it is `verify-full`.
//!
//! **Invariant:** no `Debug`, `Display` or error shows a password.
//! **Not here:** connecting (`postgres::session`), the number of shards (`topology`).

mod password;
mod url;

pub use password::{Password, PasswordError};
pub use url::NodeAddressError;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Default port of PostgreSQL.
pub const PORT_DEFAULT: u16 = 5432;

/// Value of `sslrootcert` for the root certificates of the system.
pub const SYSTEM_ROOTS: &str = "system";

/// One of the hosts of a node address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name, an IP address without brackets, or the directory of a Unix socket (it begins with
    /// `/`).
    pub host: String,
    /// Port of the server.
    pub port: u16,
}

impl Host {
    /// Returns true if connections to the host do not leave this machine.
    pub fn is_local(&self) -> bool {
        let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
        self.is_socket() || self.host == "localhost" || self.host.parse().is_ok_and(loopback)
    }

    /// Returns true if the host is the directory of a Unix socket.
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

/// Encryption and verification of connections to a node: libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server offers it, with any certificate.
    Prefer,
    /// Encrypted. The certificate is checked as by [`TlsMode::VerifyCa`] if a file of root
    /// certificates is given, and otherwise not at all.
    Require,
    /// Encrypted, and the certificate is issued by a trusted authority.
    VerifyCa,
    /// Encrypted, and the certificate is issued by a trusted authority for the host of the address.
    VerifyFull,
}

impl TlsMode {
    /// All modes, from the weakest to the strictest.
    pub const ALL: [Self; 5] =
        [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// Returns the value of `sslmode` for this mode.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Returns the mode of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Returns true if the mode verifies the certificate even without a file of root certificates.
    pub fn always_verifies(self) -> bool {
        match self {
            Self::Disable | Self::Prefer | Self::Require => false,
            Self::VerifyCa | Self::VerifyFull => true,
        }
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

/// Settings for all nodes whose addresses do not set them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDefaults {
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Password>,
    /// TLS mode.
    pub tls: Option<TlsMode>,
    /// File of trusted root certificates, or [`SYSTEM_ROOTS`].
    pub root_certificates: Option<PathBuf>,
}

/// Address of a node: one host, or several of which one is the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Hosts, at least one, tried in this order.
    pub hosts: Vec<Host>,
    /// Name of the database.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password, if the server may require one.
    pub password: Option<Password>,
    /// TLS mode.
    pub tls: TlsMode,
    /// File of trusted root certificates; `None` for those of the system.
    pub root_certificates: Option<PathBuf>,
    /// Longest wait for one host; `None` for the setting of the cluster.
    pub connect_timeout: Option<Duration>,
    /// First part of the `application_name` of connections; `None` for `tessera`.
    pub application: Option<String>,
}

impl NodeAddress {
    /// Parses `postgres://…`, and reads the password file that the address may name.
    ///
    /// # Errors
    /// [`NodeAddressError`], which never repeats text that may be part of the password.
    pub fn parse(text: &str, defaults: &NodeDefaults) -> Result<Self, NodeAddressError> {
        url::parse(text, defaults)
    }

    /// Parses the hosts and the database of a new shard, `postgres://host:port/database`. The user
    /// is empty. Reads no file.
    ///
    /// # Errors
    /// [`NodeAddressError`] if the text contains anything else, such as a user.
    pub fn parse_location(text: &str) -> Result<Self, NodeAddressError> {
        url::parse_location(text)
    }

    /// Returns the address with only this one of its hosts.
    pub fn at(&self, host: &Host) -> Self {
        Self { hosts: vec![host.clone()], ..self.clone() }
    }

    /// Returns true if one server may have both addresses.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.database == other.database && self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// Returns hosts and database as an address without user and password.
    pub fn location(&self) -> String {
        url::location(self)
    }

    /// Returns the whole address, with `***` for the password.
    pub fn redacted(&self) -> String {
        url::redacted(self)
    }
}

impl std::str::FromStr for NodeAddress {
    type Err = NodeAddressError;

    fn from_str(text: &str) -> Result<Self, NodeAddressError> {
        Self::parse(text, &NodeDefaults::default())
    }
}

/// Shows the hosts and the database only: `127.0.0.1:5432/shard1`.
impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, host) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{host}")?;
        }
        write!(f, "/{}", self.database)
    }
}

/// Addresses of the nodes of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAddress {
    /// Name of the shard; `None` for `shardN`.
    pub name: Option<String>,
    /// Weight of the shard, if the address sets one.
    pub weight: Option<u32>,
    /// Address of the primary. If it has several hosts, one of them is the primary.
    pub primary: NodeAddress,
    /// Addresses of replicas, which may answer reads.
    pub replicas: Vec<NodeAddress>,
}

/// Kind of servers of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerEngine {
    /// Each shard is a PostgreSQL database, and Tessera decides which rows it holds.
    #[default]
    Postgres,
    /// The only shard is a Citus coordinator, which decides which of its workers hold which rows.
    Citus,
}

impl ServerEngine {
    /// Returns the value of the setting `engine`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Citus => "citus",
        }
    }

    /// Returns the highest number of connections of one router to one node. A Citus coordinator
    /// needs more: it has more lanes, and all reads go to it.
    pub fn connections_of_router(self) -> u32 {
        match self {
            Self::Postgres => 8,
            Self::Citus => 18,
        }
    }
}

/// Addresses of all nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAddress {
    /// Kind of the servers.
    pub engine: ServerEngine,
    /// The shards, in order.
    pub shards: Vec<ShardAddress>,
    /// Replicas listed without a shard: the identity that each reports determines its shard.
    pub replicas: Vec<NodeAddress>,
    /// Node that stores the shard map; `None` for the primary of the first shard.
    pub catalog: Option<NodeAddress>,
    /// Timeouts of connections and statements.
    pub timeouts: Timeouts,
    /// Bytes that the database of each shard may take on the disk of each of its servers; `None`
    /// if they are not known.
    pub disk_bytes: Option<u64>,
}

impl ClusterAddress {
    /// Least value of [`ClusterAddress::disk_bytes`]: a lower one is probably meant in another
    /// unit.
    pub const DISK_BYTES_LEAST: u64 = 1 << 30;
    /// Highest value of [`ClusterAddress::disk_bytes`].
    pub const DISK_BYTES_MOST: u64 = 1 << 50;

    /// Returns the address of a cluster of which only the catalog, or one shard, is known.
    pub fn of_node(at: &NodeAddress) -> Self {
        let (shards, replicas, timeouts) = (Vec::new(), Vec::new(), Timeouts::default());
        let (engine, catalog) = (ServerEngine::Postgres, Some(at.clone()));
        Self { engine, shards, replicas, catalog, timeouts, disk_bytes: None }
    }

    /// Returns the number of replicas: each host of an address that lists several is a node, and
    /// one node of each shard is its primary.
    pub fn replica_count(&self) -> usize {
        let of_shard = |shard: &ShardAddress| {
            let listed = shard.replicas.iter().map(|at| at.hosts.len()).sum::<usize>();
            shard.primary.hosts.len() - 1 + listed
        };
        self.replicas.len() + self.shards.iter().map(of_shard).sum::<usize>()
    }
}

/// Timeouts of connections to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest time to connect to one host, authenticate, and identify the server.
    pub connect: Duration,
    /// Longest duration of a statement, enforced by the server; zero for no limit.
    pub statement: Duration,
    /// Longest wait for a TCP acknowledgement of sent data, enforced by this machine.
    pub acknowledgement: Duration,
}

impl Timeouts {
    /// Default of [`Timeouts::connect`].
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
