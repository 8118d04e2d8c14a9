//! New shard: the description of a shard that is to join an open cluster, and the reasons why a
//! database cannot become a shard.
//!
//! **Not here:** the check of a database and its preparation (the engines), the steps of a join
//! (`cluster`).

use model::error::Error;

/// Shard that is to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewShard {
    /// Name: a letter, then letters, digits, `-` and `_`.
    pub name: String,
    /// Weight, from 0.
    pub weight: u32,
    /// URL of its servers without password; `None` for an engine that makes the files itself.
    pub url: Option<String>,
}

/// Reason why a shard cannot join. Nothing was changed, unless the reason is
/// [`NewShardRefusal::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewShardRefusal {
    /// The engine needs no URL.
    #[error(
        "the shards of this cluster are files, which are made beside the others: leave the URL out"
    )]
    UrlUnexpected,
    /// The engine needs a URL.
    #[error("the URL of the new shard's database is missing: postgres://host:port/database")]
    UrlMissing,
    /// The URL cannot be read.
    #[error("the URL of the new shard cannot be used: {0}")]
    UrlInvalid(String),
    /// The URL has a password, which would end up in logs and in the command histories of clients.
    #[error(
        "the URL contains a password: leave it out, and list the server in the router's own \
         settings, which have the password of each host and port"
    )]
    PasswordInUrl,
    /// No setting of this router has a user for the server.
    #[error(
        "this router has no user and password for {host}: add the server to its settings \
         (SHARD_URLS or REPLICA_URLS) and start it again"
    )]
    NoCredentials {
        /// Host and port.
        host: String,
    },
    /// The server does not answer.
    #[error("{place} does not answer: {cause}")]
    Unreachable {
        /// Address without user and password.
        place: String,
        /// Error of the connection.
        cause: String,
    },
    /// The database cannot be a shard because of its version, rights, settings, replicas or free
    /// space.
    #[error("{place} cannot be a shard: {cause}")]
    Unsuitable {
        /// Address, or folder.
        place: String,
        /// A sentence with the remedy.
        cause: String,
    },
    /// The database, or the file, contains rows or tables.
    #[error("{place} is not empty: {contents}. A new shard needs an empty database")]
    NotEmpty {
        /// Address, or file.
        place: String,
        /// Some of the contents.
        contents: String,
    },
    /// The database belongs to another cluster.
    #[error("{place} belongs to another cluster: use an empty database")]
    OtherCluster {
        /// Address.
        place: String,
    },
    /// The catalog has another address for the shard of this name.
    #[error("{shard} is in the catalog with the address {address}: use that, or another name")]
    OtherAddress {
        /// Name of the shard.
        shard: String,
        /// Address in the catalog.
        address: String,
    },
    /// The database is that of another shard of this cluster.
    #[error("{place} is the database of {shard}: give each shard its own")]
    OtherShard {
        /// Address.
        place: String,
        /// Name of the shard.
        shard: String,
    },
    /// The database is that of a shard that the catalog has lost in a failover, and the cluster
    /// still needs it, because the shard has slots or takes part in a move.
    #[error(
        "{place} is the database of {shard}, which the catalog has lost in a failover and which \
         still has slots or a part of a move: keep it, stop all routers, and enter {shard} in the \
         catalog again: see `A shard that the catalog has lost` in the chapter PostgreSQL"
    )]
    Lost {
        /// Address.
        place: String,
        /// Name of the shard.
        shard: String,
    },
    /// The engine distributes rows by itself.
    #[error("this cluster distributes its rows itself: add a node to it with its own commands")]
    Unsupported,
    /// The work failed after it had begun. It may be repeated.
    #[error("{0}")]
    Failed(Error),
}
