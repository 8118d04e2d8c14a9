//! Rebalance id: the identity of a rebalance, which is also part of the records of its moves.
//!
//! **Not here:** the rebalance (`rebalance_record`).

use uuid::Uuid;

/// Identity of a rebalance: a random UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RebalanceId(pub u128);

impl RebalanceId {
    /// Parses an identity; returns `None` if the string is not a UUID.
    pub fn parse(name: &str) -> Option<Self> {
        Uuid::try_parse(name).ok().map(|id| Self(id.as_u128()))
    }

    /// Returns the identity as a string.
    pub fn name(self) -> String {
        Uuid::from_u128(self.0).to_string()
    }
}
