//! Rules of readers and their tokens, which the routers carry out: each prevents a fault.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReaderRule {
    /// A response about a slot whose owner the catalog does not name adds the position of the
    /// commit to the token.
    HomeInToken,
    /// A token has the epoch of the router, and a router behind it reads the catalog first.
    EpochInToken,
    /// A router that stays behind the token's epoch reads from a primary that has proved itself.
    ProofWhenBehind,
    /// Scans leave out rows of slots that the shard does not own.
    ScanOwnedOnly,
    /// If two answers have the same slot, the older owner is asked again as a whole.
    OlderOwnerAgain,
    /// Ownership is read in the snapshot of the rows.
    OwnershipInSnapshot,
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
