//! Doubted: requests that a shard refuses while rows of its primary are known to be wrong.
//!
//! Replicas have the right rows then. Requests that would show the wrong ones, or build on them and
//! so bring them to the replicas, are refused; writes of whole rows go on, and repair the rows that
//! they replace.
//!
//! **Not here:** how wrong rows are found (`manager/comparing`).

use std::sync::Arc;

use super::Shard;
use crate::doubts::Doubts;
use crate::error::Error;
use crate::row_change::WriteRequest;
use crate::store::replica::Replica;
use crate::store::sqlite::replica::Replica as FileReplica;

impl Shard {
    /// Doubts about its copies.
    pub fn doubts(&self) -> &Arc<Doubts> {
        &self.doubts
    }

    /// Replicas that are files of this process.
    pub fn file_replicas(&self) -> Vec<Arc<FileReplica>> {
        let files = self.replicas.replicas().filter_map(|replica| match replica {
            Replica::Sqlite(replica) => Some(Arc::clone(replica)),
            Replica::Postgres(_) => None,
        });
        files.collect()
    }

    /// Refuses a read of the primary while its rows are wrong.
    pub(super) fn check_readable(&self) -> Result<(), Error> {
        if self.doubts.is_primary_wrong() {
            return Err(Error::WrongRows { shard: self.name.clone() });
        }
        self.check_reachable()
    }

    /// Refuses changes that build on rows of the primary while these are wrong.
    pub(super) fn check_writable(&self, request: &WriteRequest) -> Result<(), Error> {
        if self.doubts.is_primary_wrong() && request.rows.iter().any(|row| row.builds_on_stored()) {
            return Err(Error::WrongRows { shard: self.name.clone() });
        }
        self.check_reachable()?;
        self.footing().map_or(Ok(()), |footing| footing.check_writable())
    }
}
