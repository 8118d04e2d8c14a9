//! Replica: one replica of a shard, whatever its engine.
//!
//! **Not here:** which replica answers a read (`replica_set`), how it gets its rows (the engines).

use std::sync::Arc;

use super::postgres::replica::Replica as StreamingReplica;
use super::readers::Readers;
use super::sqlite::replica::Replica as FileReplica;
use crate::brake::Brake;
use crate::node_address::NodeAddress;

/// A replica.
#[derive(Clone)]
pub enum Replica {
    /// A file that this process keeps.
    Sqlite(Arc<FileReplica>),
    /// A server that follows its primary.
    Postgres(Arc<StreamingReplica>),
}

impl Replica {
    /// What the node was called when the cluster was opened.
    pub fn node(&self) -> &str {
        match self {
            Self::Sqlite(replica) => replica.node(),
            Self::Postgres(replica) => replica.node(),
        }
    }

    /// What it is called now, and where it is if it is not a file of this process.
    pub fn called(&self) -> (&str, Option<&NodeAddress>) {
        match self {
            Self::Sqlite(replica) => (replica.node(), None),
            Self::Postgres(replica) => {
                let (node, at) = replica.called();
                (node, Some(at))
            }
        }
    }

    /// Who reads it, while it can be read.
    pub fn readers(&self) -> Option<Readers> {
        match self {
            Self::Sqlite(replica) => replica.readers().map(Readers::Sqlite),
            Self::Postgres(replica) => Some(Readers::Postgres(replica.readers())),
        }
    }

    /// What holds it back, if that can be done here.
    pub fn brake(&self) -> Option<&Brake> {
        match self {
            Self::Sqlite(replica) => Some(&replica.brake),
            Self::Postgres(_) => None,
        }
    }

    /// Whether it can be reached, as far as is known.
    pub fn is_reachable(&self) -> bool {
        match self {
            Self::Sqlite(replica) => replica.is_reachable(),
            Self::Postgres(replica) => replica.is_reachable(),
        }
    }

    /// Whether it gets what the primary writes, as far as is known.
    pub fn is_streaming(&self) -> bool {
        match self {
            Self::Sqlite(replica) => replica.is_reachable(),
            Self::Postgres(replica) => replica.is_streaming(),
        }
    }

    /// Told when a read failed: it is looked at before it is used again.
    pub fn suspect(&self) {
        match self {
            Self::Sqlite(replica) => replica.suspect(),
            Self::Postgres(replica) => replica.suspect(),
        }
    }

    /// Told when it did not answer to whoever asked how it is: a server is asked again before a read has to find out. A
    /// file is looked at only when a read of it failed.
    pub fn missed(&self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(replica) => replica.suspect(),
        }
    }

    /// Ends what follows it. Blocks.
    pub fn stop(&self) {
        match self {
            Self::Sqlite(replica) => replica.stop(),
            Self::Postgres(replica) => replica.stop(),
        }
    }
}
