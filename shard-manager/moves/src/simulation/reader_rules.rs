//! Rules of readers and their tokens, which the routers follow: each prevents a fault.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReaderRule {
    /// A response about a slot whose owner the catalog does not name adds the position of the
    /// commit to the token.
    HomeInToken,
    /// A token contains the epoch of the router. A router with an earlier epoch reads the catalog
    /// first.
    EpochInToken,
    /// A router that stays behind the token's epoch reads only from a primary that a majority
    /// follows.
    ProofWhenBehind,
    /// Scans leave out rows of slots that the shard does not own.
    ScanOwnedOnly,
    /// If two responses cover the same slot, the former owner is queried again in full.
    OlderOwnerAgain,
    /// Ownership is read in the snapshot of the rows.
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
