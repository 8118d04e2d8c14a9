//! C8, bank: each read of all accounts of a bank returns the same sum and the same number of
//! accounts, on primaries and on replicas, even while transfers are in progress.
//!
//! A bank is a group of account rows with one shard key; transfers move amounts between them. All
//! accounts are read in one statement on one shard, so the total comes from one snapshot. A total
//! that includes half of a transfer is a fractured read (Bailis et al. 2014), and a sum that is
//! changed permanently is a lost update.
//!
//! **Invariant:** a history is checked only if its header contains the constants of a bank.
//! **Not here:** finding the transfer that was torn; it happened after the last correct total.

use crate::findings::Findings;
use crate::history::{BankConstants, OperationHistory, Total};
use crate::violation::{Check, Evidence, Violation};

pub(crate) fn check(history: &OperationHistory, found: &mut Findings) {
    let Some(constants) = history.header.bank else { return };
    let mut order: Vec<u32> = (0..history.totals.len() as u32).collect();
    let total = |index: u32| &history.totals[index as usize];
    order.sort_by(|&one, &other| {
        let by = |index: u32| (total(index).bank.as_str(), total(index).start);
        by(one).cmp(&by(other))
    });
    let mut right: Option<u32> = None;
    for &index in &order {
        if holds(total(index), constants) {
            right = Some(index);
            continue;
        }
        let wrong = total(index);
        let before = right.filter(|&right| total(right).bank == wrong.bank);
        found.add(Check::Bank, wrong.start, || {
            let promise = "transfers change no total, and no read sees half of one";
            let what = format!(
                "bank {} had {} in {} accounts instead of {} in {}",
                wrong.bank, wrong.sum, wrong.accounts, constants.total, constants.accounts
            );
            let evidence = before.into_iter().chain([index]).map(Evidence::Total).collect();
            Violation { promise, what, ..Violation::of(evidence) }
        });
    }
}

fn holds(total: &Total, constants: BankConstants) -> bool {
    total.sum == constants.total && total.accounts == constants.accounts
}
