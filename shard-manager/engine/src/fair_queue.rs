//! Fair queue: waiting operations, taken in turns from the tenants that they belong to.
//!
//! Deficit round robin ("Efficient Fair Queuing Using Deficit Round-Robin", Shreedhar and Varghese
//! 1995): the waiting tenants stand in a ring. At its turn a tenant gets credit in proportion to
//! its weight, and its operations are taken until the credit is used up. The last operation of a
//! turn may cost more than the credit that is left; later turns repay the debt. So an operation of
//! any size is taken at the first turn of a tenant without debts.
//!
//! In one round, all tenants together get credit for about one batch, so each waiting tenant has a
//! share in each batch.
//!
//! **Invariant:** operations of one tenant are taken in the order in which they came. A barrier is
//! taken after everything that came before it; nothing is added after it until it has been taken.
//! **Not here:** the channel from which operations come (`fair_channel`).

use std::collections::{HashMap, VecDeque};

use model::fair_share::FairShare;

/// Number of parts of one unit of credit, so that small weights among large ones are not rounded to
/// zero.
const UNIT: i64 = 1 << 10;
/// Maximum number of tenants whose memory stays allocated while no tenant waits.
const TENANTS_KEPT: usize = 64;
/// Maximum number of operations for which a tenant's memory stays allocated while it does not wait.
const OPERATIONS_KEPT: usize = 64;

/// Operations that wait, by tenant, and at most one barrier behind them.
pub struct FairQueue<T> {
    tenants: Vec<Tenant<T>>,
    /// Indices in `tenants` that no waiting tenant uses.
    unused: Vec<usize>,
    by_number: HashMap<u64, usize>,
    /// Indices of the tenants that wait or have debts; the first one has its turn.
    ring: VecDeque<usize>,
    /// True if the first tenant of the ring has already received the credit for its turn.
    in_turn: bool,
    /// Sum of the weights of the tenants in the ring.
    weights: u64,
    operations: usize,
    barrier: Option<T>,
    /// Number of units of credit that are given in one round.
    round: u64,
}

/// Waiting operations of one tenant, with their costs.
struct Tenant<T> {
    number: u64,
    weight: u32,
    /// Credit in parts of a unit; negative while the tenant repays a debt.
    credit: i64,
    operations: VecDeque<(u64, T)>,
}

impl<T> FairQueue<T> {
    /// Creates an empty queue. In one round, operations of about this total cost are taken.
    pub fn new(round: u64) -> Self {
        Self {
            tenants: Vec::new(),
            unused: Vec::new(),
            by_number: HashMap::new(),
            ring: VecDeque::new(),
            in_turn: false,
            weights: 0,
            operations: 0,
            barrier: None,
            round: round.max(1),
        }
    }

    /// Returns the number of waiting operations; the barrier counts as one.
    #[inline]
    pub fn len(&self) -> usize {
        self.operations + usize::from(self.barrier.is_some())
    }

    /// Returns true if nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns true if a barrier waits, behind which nothing is added.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.barrier.is_some()
    }

    /// Returns true if more than one tenant waits or repays a debt.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.ring.len() > 1
    }

    /// Returns the number of the tenant, if only one waits or repays a debt.
    pub fn only_tenant(&self) -> Option<u64> {
        let first = self.ring.front().filter(|_| self.ring.len() == 1)?;
        Some(self.tenants[*first].number)
    }

    /// Adds an operation of this cost. The queue must not be closed.
    pub fn push(&mut self, share: FairShare, cost: u64, operation: T) {
        debug_assert!(!self.is_closed(), "nothing passes a barrier");
        let known = self.by_number.get(&share.number()).copied();
        let index = known.unwrap_or_else(|| self.begin(share.number()));
        let tenant = &mut self.tenants[index];
        // The weight of the tenant's role may have changed.
        self.weights += u64::from(share.weight());
        self.weights -= u64::from(tenant.weight);
        tenant.weight = share.weight();
        tenant.operations.push_back((cost.max(1), operation));
        self.operations += 1;
    }

    /// Adds a barrier. The queue must not be closed.
    pub fn close(&mut self, barrier: T) {
        debug_assert!(!self.is_closed(), "nothing passes a barrier");
        self.barrier = Some(barrier);
    }

    /// Takes the next operation, or the barrier if no operation is left before it.
    pub fn pop(&mut self) -> Option<T> {
        if self.operations == 0 {
            return self.barrier.take();
        }
        let operation = self.pop_operation()?;
        self.operations -= 1;
        if self.operations == 0 {
            self.forget_all();
        }
        Some(operation)
    }

    fn pop_operation(&mut self) -> Option<T> {
        loop {
            let index = *self.ring.front()?;
            let is_alone = self.ring.len() == 1;
            let tenant = &mut self.tenants[index];
            if !self.in_turn {
                self.in_turn = true;
                tenant.credit += credit_of_turn(self.round, tenant.weight, self.weights);
            }
            if tenant.credit <= 0 && !is_alone {
                self.ring.rotate_left(1);
                self.in_turn = false;
                continue;
            }
            let Some((cost, operation)) = tenant.operations.pop_front() else {
                // Credit is not saved for later.
                self.ring.pop_front();
                self.in_turn = false;
                self.forget(index);
                continue;
            };
            if !is_alone {
                let cost = i64::try_from(cost).unwrap_or(i64::MAX).saturating_mul(UNIT);
                tenant.credit = tenant.credit.saturating_sub(cost);
            }
            return Some(operation);
        }
    }

    /// Adds a tenant to the ring, whose weight is set by the first operation.
    fn begin(&mut self, number: u64) -> usize {
        if let [only] = self.ring.make_contiguous() {
            // It received the credit for its turn while no other tenant was waiting.
            let only = &mut self.tenants[*only];
            only.credit = only.credit.min(0);
            self.in_turn = false;
        }
        let index = self.unused.pop().unwrap_or_else(|| {
            let operations = VecDeque::new();
            self.tenants.push(Tenant { number, weight: 0, credit: 0, operations });
            self.tenants.len() - 1
        });
        let tenant = &mut self.tenants[index];
        (tenant.number, tenant.weight, tenant.credit) = (number, 0, 0);
        self.by_number.insert(number, index);
        self.ring.push_back(index);
        index
    }

    /// Forgets a tenant that has left the ring.
    fn forget(&mut self, index: usize) {
        let tenant = &mut self.tenants[index];
        tenant.operations.shrink_to(OPERATIONS_KEPT);
        self.weights -= u64::from(tenant.weight);
        self.by_number.remove(&tenant.number);
        self.unused.push(index);
    }

    /// Forgets all tenants and their debts: no other tenant is waiting for a repayment.
    fn forget_all(&mut self) {
        self.in_turn = false;
        while let Some(index) = self.ring.pop_front() {
            self.forget(index);
        }
        if self.tenants.len() > TENANTS_KEPT {
            (self.tenants, self.unused) = (Vec::new(), Vec::new());
            self.by_number = HashMap::new();
        }
    }
}

/// Returns the credit of a turn: the share of the weight in a round, and at least one unit, so that
/// no tenant waits for several rounds.
fn credit_of_turn(round: u64, weight: u32, weights: u64) -> i64 {
    let unit = UNIT.unsigned_abs();
    let share = round.saturating_mul(unit).saturating_mul(u64::from(weight)) / weights.max(1);
    i64::try_from(share.max(unit)).unwrap_or(i64::MAX)
}
