//! Fair share: the tenant on whose behalf an operation runs, as a number, and its weight relative
//! to other tenants that wait for the same queue.
//!
//! **Invariant:** a number denotes the same tenant as long as the process lives. All clients of a
//! cluster without access control share the number 0, because they cannot be distinguished.
//! **Not here:** assigning numbers to tenants (`access::limit`), the queues that use them
//! (`engine`).

/// Tenant of an operation, and its weight while operations of several tenants wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FairShare {
    number: u64,
    weight: u32,
}

impl FairShare {
    /// Share of all clients that cannot be distinguished.
    pub const COMMON: Self = Self { number: 0, weight: 1 };
    /// Highest tenant number. Queues use a few numbers above it for other purposes.
    pub const NUMBER_MAX: u64 = u64::MAX - 16;

    /// Returns the share of the tenant with this number. A number of 0 becomes 1, because 0 is
    /// reserved, and a weight of 0 becomes 1.
    #[inline]
    pub fn new(number: u64, weight: u32) -> Self {
        Self { number: number.clamp(1, Self::NUMBER_MAX), weight: weight.max(1) }
    }

    /// Returns the number of the tenant.
    #[inline]
    pub fn number(self) -> u64 {
        self.number
    }

    /// Returns the weight: while both wait, a tenant of weight 3 gets three times as much as one of
    /// weight 1.
    #[inline]
    pub fn weight(self) -> u32 {
        self.weight
    }

    /// Returns true for the common share of all clients that cannot be distinguished.
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
