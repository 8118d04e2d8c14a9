//! Holdings: the number and bytes of the messages of each tenant that wait in one channel.
//!
//! A count-min sketch ("An Improved Data Stream Summary", Cormode and Muthukrishnan 2005): each
//! tenant counts in one cell of each row, and the lowest of its cells is its number. Senders need
//! neither a lock nor an allocation. A number is too high only if a tenant shares all of its cells
//! with others: one in 65 536 tenants shares both cells with a given one.
//!
//! **Invariant:** a number is never too low.
//! **Not here:** the limits (`fair_channel`).

use std::sync::atomic::{AtomicU64, Ordering};

use model::fair_share::FairShare;

const CELLS: usize = 256;
const ROWS: usize = 2;
/// Number of bits of a cell that count bytes; the others count messages.
const BYTES_BITS: u32 = 40;
const BYTES_MAX: u64 = (1 << BYTES_BITS) - 1;

/// Waiting messages of all tenants.
#[derive(Debug)]
pub(super) struct Holdings([[AtomicU64; CELLS]; ROWS]);

/// Waiting messages of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) operations: usize,
    pub(super) bytes: usize,
}

impl Default for Holdings {
    fn default() -> Self {
        Self([const { [const { AtomicU64::new(0) }; CELLS] }; ROWS])
    }
}

impl Holdings {
    /// Adds a message, and returns the messages of its tenant, this one included.
    pub(super) fn enter(&self, share: FairShare, bytes: usize) -> Held {
        let message = packed(bytes);
        // Relaxed: the numbers protect no other memory.
        let cells = self.cells(share).map(|cell| cell.fetch_add(message, Ordering::Relaxed));
        let [first, second] = cells.map(|cell| cell.wrapping_add(message));
        Held {
            operations: (first >> BYTES_BITS).min(second >> BYTES_BITS) as usize,
            bytes: (first & BYTES_MAX).min(second & BYTES_MAX) as usize,
        }
    }

    /// Removes a message that was added.
    pub(super) fn leave(&self, share: FairShare, bytes: usize) {
        for cell in self.cells(share) {
            cell.fetch_sub(packed(bytes), Ordering::Relaxed);
        }
    }

    /// Returns the cells of a tenant. The bytes of its number are random and independent.
    fn cells(&self, share: FairShare) -> [&AtomicU64; ROWS] {
        let [.., second, first] = share.number().to_be_bytes();
        let [first_row, second_row] = &self.0;
        [&first_row[usize::from(first)], &second_row[usize::from(second)]]
    }
}

fn packed(bytes: usize) -> u64 {
    // A message of 1 GiB is larger than any body.
    1 << BYTES_BITS | (bytes as u64).min(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tenant_adds_is_its_own_until_it_is_removed() {
        let holdings = Holdings::default();
        let (one, other) = (FairShare::new(0x0102, 1), FairShare::new(0x0103, 1));
        for count in 1..=3 {
            let held = holdings.enter(one, 100);
            assert_eq!(held, Held { operations: count, bytes: 100 * count });
        }
        // The second row has the same cell for both, and the first does not.
        assert_eq!(holdings.enter(other, 7), Held { operations: 1, bytes: 7 });
        holdings.leave(one, 100);
        holdings.leave(other, 7);
        assert_eq!(holdings.enter(one, 1), Held { operations: 3, bytes: 201 });
    }
}
