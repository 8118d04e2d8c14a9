//! Readers: the reading half of one node, whatever its engine.
//!
//! **Invariant:** what is answered was read from one snapshot of the node; when the deadline passes, nobody waits
//! any more.
//! **Not here:** which node (`shard`, `replica_set`).

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::postgres::readers::Readers as NodeReaders;
use super::sqlite::footing::Footing;
use super::sqlite::reader::Readers as FileReaders;
use super::sqlite::threads;
use super::{CitusNode, NodeRows, Scope, TableSize};
use crate::error::Error;
use crate::keyspace::Slot;
use crate::position::Position;
use crate::query::ReadQuery;
use crate::stats::{PoolStats, SizeEstimate};

/// Who reads a node.
#[derive(Clone)]
pub enum Readers {
    /// Connections to a file.
    Sqlite(Arc<FileReaders>),
    /// Connections to a server.
    Postgres(Arc<NodeReaders>),
}

impl Readers {
    /// Proof that the file of a primary is in its place.
    pub fn footing(&self) -> Option<&Arc<Footing>> {
        match self {
            Self::Sqlite(readers) => readers.footing(),
            Self::Postgres(_) => None,
        }
    }

    /// The rows of one shard key. A server is asked whether it has come as far as `floor`; of a file that is known.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], [`Error::PoolExhausted`], [`Error::ShardUnavailable`] or [`Error::AnswerTooLarge`].
    pub async fn read_key(
        &self,
        query: &ReadQuery,
        (slot, key): (Slot, &str),
        (floor, deadline): (u64, Instant),
    ) -> Result<NodeRows, Error> {
        match self {
            Self::Sqlite(readers) => threads::read_key(readers, query, (slot, key), deadline).await,
            Self::Postgres(readers) => {
                readers.read_key(query, (slot, key), (floor, deadline)).await
            }
        }
    }

    /// Rows of all keys, each with the values it is merged by.
    ///
    /// # Errors
    /// As [`Readers::read_key`].
    pub async fn read_all(
        &self,
        query: &Arc<ReadQuery>,
        (floor, deadline): (u64, Instant),
    ) -> Result<NodeRows, Error> {
        match self {
            Self::Sqlite(readers) => {
                let (readers, query) = (Arc::clone(readers), Arc::clone(query));
                let read = move |wait| readers.read(&query, Scope::Shard, (wait, deadline));
                threads::blocking(deadline, read).await
            }
            Self::Postgres(readers) => readers.read_all(query, (floor, deadline)).await,
        }
    }

    /// A position of the primary, committed after this was called: that a majority has it proves that it leads.
    ///
    /// # Errors
    /// As [`Readers::read_key`]; of a file there is nothing to prove.
    pub async fn mark(&self, deadline: Instant) -> Result<Position, Error> {
        match self {
            Self::Sqlite(_) => Err(Error::Internal),
            Self::Postgres(readers) => readers.mark(deadline).await,
        }
    }

    /// True if a timeline is later than all that are known here, because another router may have
    /// promoted a node. Always false for files: only this process promotes those.
    pub fn is_ahead(&self, timeline: u32) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(readers) => readers.is_ahead(timeline),
        }
    }

    /// Asks all nodes of the shard which of them leads. The leader among files is known.
    pub async fn look(&self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(readers) => readers.look().await,
        }
    }

    /// Asks the node for next to nothing. That it is busy is told as such: busy is not down.
    ///
    /// # Errors
    /// As [`Readers::read_key`].
    pub async fn probe(&self, deadline: Instant) -> Result<(), Error> {
        match self {
            Self::Sqlite(readers) => {
                let readers = Arc::clone(readers);
                threads::blocking(deadline, move |wait| readers.probe(wait)).await
            }
            Self::Postgres(readers) => readers.probe(deadline).await,
        }
    }

    /// How many connections there are, and how many of them read now.
    pub fn vitals(&self) -> PoolStats {
        match self {
            Self::Sqlite(readers) => readers.vitals(),
            Self::Postgres(readers) => readers.vitals(),
        }
    }

    /// Rows and bytes of each table. The turn is given back when the work has ended, also if nobody waits for it any
    /// more.
    ///
    /// # Errors
    /// As [`Readers::read_key`].
    pub async fn sizes(
        &self,
        turn: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Result<Vec<TableSize>, Error> {
        match self {
            Self::Sqlite(readers) => {
                let readers = Arc::clone(readers);
                let sizes = move |wait| {
                    let _turn = turn;
                    readers.sizes(wait)
                };
                threads::blocking(deadline, sizes).await
            }
            Self::Postgres(readers) => readers.sizes(turn, deadline).await,
        }
    }

    /// About how much the node holds, without looking at rows.
    ///
    /// # Errors
    /// As [`Readers::read_key`].
    pub async fn size_estimate(&self, deadline: Instant) -> Result<SizeEstimate, Error> {
        match self {
            Self::Sqlite(readers) => {
                let readers = Arc::clone(readers);
                threads::blocking(deadline, move |wait| readers.size_estimate(wait)).await
            }
            Self::Postgres(readers) => readers.size_estimate(deadline).await,
        }
    }

    /// The nodes of Citus; none if the node is something else.
    ///
    /// # Errors
    /// As [`Readers::read_key`].
    pub async fn citus_nodes(&self, deadline: Instant) -> Result<Vec<CitusNode>, Error> {
        match self {
            Self::Sqlite(_) => Ok(Vec::new()),
            Self::Postgres(readers) => readers.citus_nodes(deadline).await,
        }
    }

    /// Rows of each table.
    ///
    /// # Errors
    /// As [`Readers::read_key`].
    pub async fn counts(&self, deadline: Instant) -> Result<Vec<(String, i64)>, Error> {
        match self {
            Self::Sqlite(readers) => {
                let readers = Arc::clone(readers);
                threads::blocking(deadline, move |wait| readers.counts(wait)).await
            }
            Self::Postgres(readers) => {
                let sizes = readers.sizes((), deadline).await?;
                Ok(sizes.into_iter().map(|size| (size.table, size.rows)).collect())
            }
        }
    }
}
