//! Rules for reads and session tokens, which the routers follow. Each rule prevents a fault.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReaderRule {
    /// If the catalog that the router has read does not name the responding shard as owner of the
    /// slot, the router also adds the position of the commit to the token.
    HomeInToken,
    /// A token contains the epoch of the router. A router with an earlier epoch reads the catalog
    /// first.
    EpochInToken,
    /// If a router cannot reach the epoch of the token, it reads only from a primary that a
    /// majority of the nodes follows.
    ProofWhenBehind,
    /// Scans omit rows of slots that the shard does not own.
    ScanOwnedOnly,
    /// If the responses of two shards contain the same slot, the router repeats the whole query on
    /// the former owner.
    OlderOwnerAgain,
    /// The owner of a slot is read in the same snapshot as the rows.
    OwnershipInSnapshot,
    /// If the slot has moved more than once since the router has read the catalog, the response
    /// adds the position of each commit to the token, not only that of the last one.
    EveryHomeInToken,
}

#[derive(Clone, Copy)]
pub(super) struct ReaderRules(u32);

impl ReaderRules {
    pub(super) const ALL: Self = Self(u32::MAX);

    pub(super) fn demand(self, rule: ReaderRule) -> bool {
        self.0 >> (rule as u32) & 1 == 1
    }

    pub(super) fn without(self, rule: ReaderRule) -> Self {
        Self(self.0 & !(1 << (rule as u32)))
    }
}
