//! Doubted: requests that a shard refuses while rows of its primary are known to be wrong.
//!
//! Replicas have the right rows then. Requests that would show the wrong ones, or build on them and
//! so bring them to the replicas, are refused; writes of whole rows go on, and repair the rows that
//! they replace.
//!
//! **Not here:** how wrong rows are found (the engines).

use model::error::Error;
use model::row_change::WriteRequest;

use super::Shard;

impl Shard {
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
        self.primary.check_writable()
    }
}
