//! Fair share: the tenant of an operation, as a number, and its weight relative to other tenants.
//!
//! **Invariant:** a number denotes the same tenant as long as the process lives. The number 0 is
//! shared by all callers of a cluster without access control, which are not distinguished.
//! **Not here:** the number of a caller (`access::limit`), the queues that use it (`engine`).

/// Tenant of an operation, and its share while several tenants wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FairShare {
    number: u64,
    weight: u32,
}

impl FairShare {
    /// Share of callers that are not distinguished.
    pub const COMMON: Self = Self { number: 0, weight: 1 };
    /// Highest number of a tenant. A few numbers above it have other meanings in queues.
    pub const NUMBER_MAX: u64 = u64::MAX - 16;

    /// Returns the share of the tenant with this number. A number of 0 counts as 1, and so does a
    /// weight of 0.
    #[inline]
    pub fn new(number: u64, weight: u32) -> Self {
        Self { number: number.clamp(1, Self::NUMBER_MAX), weight: weight.max(1) }
    }

    /// Returns the number of the tenant.
    #[inline]
    pub fn number(self) -> u64 {
        self.number
    }

    /// Returns the weight: a tenant of weight 3 gets three times as much as one of weight 1.
    #[inline]
    pub fn weight(self) -> u32 {
        self.weight
    }

    /// Returns true for the share of callers that are not distinguished.
    #[inline]
    pub fn is_common(self) -> bool {
        self.number == 0
    }
}

impl Default for FairShare {
    fn default() -> Self {
        Self::COMMON
    }
}
