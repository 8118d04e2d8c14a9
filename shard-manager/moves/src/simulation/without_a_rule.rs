//! Without a rule: the fault that each rule prevents appears in a simulation that lacks the rule.
//! Each test is named after its fault. With all rules, no fault appears in the same scenario with
//! the same seed.

use super::coverage::CoverageSum;
use super::reader_rules::ReaderRule;
use super::scenario::Scenario;
use super::world::Violation;
use super::{find, number, run};
use crate::rules::MoveRule;

/// Number of seeds with which no fault may appear while all rules are in force.
const HOLDS: u64 = 250;
/// Number of seeds among which the fault must appear once the rule is removed.
const APPEARS: u64 = 50_000;

const REPLAY: &str = "MOVES_SEED=<seed> cargo test -p moves <name of this test> -- --nocapture";

/// Asserts that the scenario shows no fault with all rules, that one of the expected violations
/// appears in the scenario that lacks a rule, and that the seed of this violation shows no fault
/// with all rules. The search for the violation begins at the seed `first`. For a rare fault,
/// `first` is near a seed that is known to show it.
fn check(first: u64, scenario: Scenario, broken: Scenario, expected: &[Violation]) {
    if let Some(seed) = number("MOVES_SEED") {
        assert_eq!(run(seed, scenario, true).0, None);
        return;
    }
    assert_eq!(find(0..HOLDS, |_| scenario, &mut CoverageSum::default()), None, "{REPLAY}");
    let finds =
        |seed: &u64| run(*seed, broken, false).0.is_some_and(|found| expected.contains(&found));
    let seed = (first..first + APPEARS).find(finds);
    eprintln!("the fault appears with seed {seed:?}");
    assert!(seed.is_some(), "the fault is not found in {APPEARS} seeds");
    assert_eq!(seed.and_then(|seed| run(seed, scenario, false).0), None, "{seed:?}: {REPLAY}");
}

fn check_rule(rule: MoveRule, scenario: Scenario, expected: &[Violation]) {
    check_rare_rule(0, rule, scenario, expected);
}

fn check_rare_rule(first: u64, rule: MoveRule, scenario: Scenario, expected: &[Violation]) {
    check(first, scenario, scenario.without(rule), expected);
}

fn check_reader(first: u64, rule: ReaderRule, scenario: Scenario, expected: &[Violation]) {
    check(first, scenario, scenario.without_reader(rule), expected);
}

/// Violations that show wrong rows on the target: a difference in the comparison before the fence,
/// or a lost write.
const ROWS: [Violation; 2] = [Violation::CopyDiffers, Violation::LostWrite];

#[test]
fn a_reused_transaction_makes_a_lost_change_look_applied() {
    check_rule(MoveRule::OwnFeed, Scenario::FAILOVERS, &ROWS);
}

#[test]
fn the_target_is_repaired_from_a_deposed_source() {
    check_rule(MoveRule::NoOlderTimeline, Scenario::REPAIRS, &[Violation::LostWrite]);
}

#[test]
fn a_late_commit_gives_the_slots_to_a_target_that_copies_again() {
    check_rare_rule(1_500, MoveRule::NoCommitInTerm, Scenario::COPIES, &[Violation::LostWrite]);
}

#[test]
fn a_late_request_to_copy_again_empties_a_target_that_has_the_slots() {
    check_rule(MoveRule::NextTerm, Scenario::COPIES, &[Violation::LostWrite]);
}

#[test]
fn a_late_fence_and_commit_after_a_cancel_leave_no_owner() {
    let expected = [Violation::NoOwner, Violation::LostWrite];
    check_rare_rule(1_600, MoveRule::LiftDeletesRow, Scenario::CANCELS, &expected);
}

#[test]
fn a_round_that_timed_out_arrives_after_the_activation() {
    let broken = Scenario::LATE.without(MoveRule::RoundWhileImporting);
    let broken = broken.without(MoveRule::RoundInOrder);
    check(0, Scenario::LATE, broken, &[Violation::OwnerOverwritten]);
}

#[test]
fn rounds_arrive_in_another_order() {
    check_rule(MoveRule::RoundInOrder, Scenario::LATE, &ROWS);
}

#[test]
fn a_cleaning_that_the_catalog_forgot_meets_a_rollback() {
    check_rule(MoveRule::CleaningMarked, Scenario::FORGETFUL_CATALOG, &ROWS);
}

#[test]
fn a_token_goes_back_between_activation_and_publication() {
    check_reader(0, ReaderRule::HomeInToken, Scenario::TOKENS, &[Violation::TokenBack]);
}

#[test]
fn a_token_goes_back_at_a_router_behind_its_epoch() {
    check_reader(
        10_000,
        ReaderRule::EpochInToken,
        Scenario::DEPOSED_READS,
        &[Violation::TokenBack],
    );
}

#[test]
fn a_token_goes_back_through_a_deposed_primary() {
    check_reader(
        10_000,
        ReaderRule::ProofWhenBehind,
        Scenario::DEPOSED_READS,
        &[Violation::TokenBack],
    );
}

#[test]
fn a_page_that_is_cut_at_its_limit_loses_a_row() {
    check_reader(0, ReaderRule::OlderOwnerAgain, Scenario::SLOW_SCANS, &[Violation::ScatterLost]);
}

#[test]
fn the_first_round_of_an_earlier_copy_arrives_in_the_next() {
    check_rule(MoveRule::NextPass, Scenario::LATE, &ROWS);
}

#[test]
fn a_late_request_to_discard_empties_a_target_that_has_the_slots() {
    check_rule(MoveRule::NextTerm, Scenario::CHANGES_OF_MIND, &[Violation::NoOwner]);
}

#[test]
fn a_delayed_activation_meets_a_later_leg() {
    check_rule(MoveRule::ActivationNamesLeg, Scenario::CHANGES_OF_MIND, &[Violation::TwoOwners]);
}

#[test]
fn a_delayed_activation_meets_the_move_when_it_has_begun_again() {
    let expected = [Violation::TwoOwners];
    check_rule(MoveRule::ActivationNamesBeginning, Scenario::CHANGES_OF_MIND, &expected);
}

#[test]
fn recorded_changes_are_deleted_before_the_target_has_flushed() {
    check_rule(MoveRule::TrimConfirmed, Scenario::FAILOVERS, &ROWS);
}

#[test]
fn rows_in_transit_are_counted_twice() {
    let expected = [Violation::ScatteredTwice, Violation::ScatterLost];
    check_reader(0, ReaderRule::ScanOwnedOnly, Scenario::SCANS, &expected);
}

#[test]
fn a_replica_answers_before_it_has_the_activation() {
    check_reader(0, ReaderRule::OwnershipInSnapshot, Scenario::READS, &[Violation::TokenBack]);
}

#[test]
fn an_unconfirmed_activation_is_lost_after_a_rollback_began() {
    let expected = [Violation::NoOwner, Violation::NeverEnds, Violation::LostWrite];
    check_rare_rule(5_400, MoveRule::ActivationConfirmed, Scenario::FAILOVERS, &expected);
}

#[test]
fn a_move_ends_on_a_deposed_node_only() {
    check_rule(MoveRule::EndConfirmed, Scenario::FAILOVERS, &[Violation::EndedTooEarly]);
}

#[test]
fn a_term_is_raised_on_a_deposed_node_only() {
    check_rule(MoveRule::RaiseAgain, Scenario::FAILOVERS, &[Violation::NeverEnds]);
}

#[test]
fn a_commit_that_trusts_its_fence_loses_changes() {
    check_rule(MoveRule::ChangesDecide, Scenario::ALL, &ROWS);
}

#[test]
fn a_target_loses_rows_that_were_not_confirmed_before_the_commit() {
    check_rule(MoveRule::DrainConfirmed, Scenario::FAILOVERS, &[Violation::LostWrite]);
}

#[test]
fn a_source_forgets_a_commit_that_was_not_confirmed_before_the_activation() {
    let expected = [Violation::TwoOwners, Violation::LostWrite];
    check_rule(MoveRule::CommitConfirmed, Scenario::FAILOVERS, &expected);
}
