//! Tests with simulated servers: a server that keeps all guarantees is never accused, and each
//! violation of a guarantee is found.

use checker::history::OperationHistory;
use checker::{Check, Report, check};
use proptest::prelude::*;

use crate::server::{BrokenPromise, Settings, run};

fn settings(seed: u64, broken: BrokenPromise) -> Settings {
    Settings { seed, operations: 20_000, sessions: 20, hot: 16, cold: 500, broken }
}

fn report_text(report: &Report, history: &OperationHistory) -> String {
    report.violations.iter().flat_map(|one| one.lines(history)).collect::<Vec<_>>().join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_correct_server_has_no_violations(
        seed in any::<u64>(),
        operations in 10_usize..4_000,
        sessions in 1_u32..24,
        hot in 1_u64..8,
        cold in 1_u64..200,
    ) {
        let broken = BrokenPromise::Nothing;
        let history = run(Settings { seed, operations, sessions, hot, cold, broken });
        let report = check(&history);
        prop_assert!(report.passed(), "{}", report_text(&report, &history));
        prop_assert_eq!(report.rows_not_read_back, 0);
    }
}

/// Asserts that in every one of several runs against a server that breaks this promise, at least
/// one of these checks finds a violation.
fn is_found(broken: BrokenPromise, by: &[Check]) {
    for seed in 0..5 {
        let history = run(settings(seed, broken));
        let report = check(&history);
        let found = by.iter().any(|&check| report.count(check) > 0);
        assert!(
            found,
            "{broken:?}, seed {seed}, is missed by {by:?}:\n{}",
            report_text(&report, &history)
        );
    }
}

#[test]
fn ten_clean_runs_pass() {
    for seed in 0..10 {
        let history = run(settings(seed, BrokenPromise::Nothing));
        let report = check(&history);
        assert!(report.passed(), "seed {seed}:\n{}", report_text(&report, &history));
    }
}

#[test]
fn a_lost_write_is_found() {
    is_found(BrokenPromise::LosesWrites, &[Check::Linearizable]);
    is_found(BrokenPromise::LosesWrites, &[Check::FinalState, Check::Sets]);
}

#[test]
fn a_refused_write_that_happened_is_found() {
    is_found(BrokenPromise::StoresRefused, &[Check::Corruption]);
}

#[test]
fn a_write_applied_twice_is_found() {
    is_found(BrokenPromise::AppliesTwice, &[Check::Identity]);
}

#[test]
fn a_forgotten_answer_is_found() {
    is_found(BrokenPromise::ForgetsAnswers, &[Check::Identity]);
}

#[test]
fn a_version_given_twice_is_found() {
    is_found(BrokenPromise::VersionsTwice, &[Check::Identity]);
    is_found(BrokenPromise::VersionsTwice, &[Check::Linearizable]);
}

#[test]
fn a_value_in_another_row_is_found() {
    is_found(BrokenPromise::MixesRows, &[Check::Corruption]);
}

#[test]
fn a_stale_strong_read_is_found() {
    is_found(BrokenPromise::StrongFromReplica, &[Check::Linearizable]);
}

#[test]
fn a_session_that_goes_back_is_found() {
    is_found(BrokenPromise::IgnoresTokens, &[Check::Sessions]);
}

#[test]
fn a_read_older_than_its_bound_is_found() {
    is_found(BrokenPromise::IgnoresBounds, &[Check::Bounded]);
}

#[test]
fn a_lost_update_is_found() {
    is_found(BrokenPromise::IgnoresConditions, &[Check::Ledger]);
}

#[test]
fn a_torn_bank_is_found() {
    is_found(BrokenPromise::TearsTotals, &[Check::Bank]);
}

#[test]
fn a_ledger_that_does_not_add_up_is_found() {
    is_found(BrokenPromise::LosesLedgerRows, &[Check::Ledger]);
}

#[test]
fn a_row_that_comes_back_is_found() {
    is_found(BrokenPromise::Resurrects, &[Check::Linearizable, Check::Sets]);
}

#[test]
fn a_row_met_twice_is_found() {
    is_found(BrokenPromise::WalksTwice, &[Check::Sets]);
}
