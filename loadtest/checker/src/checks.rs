//! Checks: one module for each of the nine promises that are checked, C1 to C9, and one for the
//! report on availability, C10.
//!
//! **Invariant:** a check reads the history and adds to the findings; no check depends on another.
//! **Not here:** calling the checks for each row (the crate's function `check`), helpers that
//! several checks share (`row`, `version_bound`, `acknowledged_watermark`).

pub(crate) mod availability;
pub(crate) mod bank;
pub(crate) mod bounded;
pub(crate) mod corruption;
pub(crate) mod identity;
pub(crate) mod ledger;
pub(crate) mod linearizable;
pub(crate) mod lost_writes;
pub(crate) mod sessions;
pub(crate) mod sets;
