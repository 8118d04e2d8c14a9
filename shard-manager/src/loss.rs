//! Loss: why the files of a shard must not be written any more, though this process has them open.
//!
//! **Not here:** how that is found out (`store/sqlite/footing`, `store/sqlite/guard`).

/// Why a shard that is open takes no writes until its cluster is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// What is written to a file without a name is gone with the process.
    #[error(
        "its files were removed or replaced while the router had them open; put them back and \
         restart the router"
    )]
    Files,
    /// Two processes that write one directory undo each other's work.
    #[error(
        "the lock of the data directory was removed or replaced, so that another process may write \
         there; restart the router"
    )]
    Lock,
}

/// Told of a cluster that works, but does not start again as it is.
pub const CATALOG_GONE: &str = "the catalog of the data directory was removed: put it back, because \
    the router does not start without it";
