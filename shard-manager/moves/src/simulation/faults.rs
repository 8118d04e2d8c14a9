//! Faults that each rule prevents: with all rules the scenario holds, and without one of them the
//! simulation finds its fault.

use super::reader_rules::ReaderRule;
use super::scenario::Scenario;
use super::world::Violation;
use super::{find, number, run};
use crate::rules::MoveRule;

/// Seeds in which the scenario must hold.
const HOLDS: u64 = 1_000;
/// Seeds in which the fault must appear once the rule is taken away.
const APPEARS: u64 = 50_000;

const REPLAY: &str = "MOVES_SEED=<seed> cargo test -p moves <name of this test> -- --nocapture";

/// Asserts that the scenario holds, and that one of these faults appears in the broken one.
fn check(scenario: Scenario, broken: Scenario, expected: &[Violation]) {
    if let Some(seed) = number("MOVES_SEED") {
        assert_eq!(run(seed, scenario, true), None);
        return;
    }
    assert_eq!(find(0..HOLDS, scenario), None, "{REPLAY}");
    let finds =
        |seed: &u64| run(*seed, broken, false).is_some_and(|found| expected.contains(&found));
    let seed = (0..APPEARS).find(finds);
    assert!(seed.is_some(), "the fault is not found in {APPEARS} seeds");
}

fn check_rule(rule: MoveRule, scenario: Scenario, expected: &[Violation]) {
    check(scenario, scenario.without(rule), expected);
}

fn check_reader(rule: ReaderRule, scenario: Scenario, expected: &[Violation]) {
    check(scenario, scenario.without_reader(rule), expected);
}

/// Rows that differ are found by the comparison before the fence, or as a lost write.
const ROWS: [Violation; 2] = [Violation::CopyDiffers, Violation::LostWrite];

#[test]
fn a_reused_transaction_makes_a_lost_change_look_applied() {
    check_rule(MoveRule::OwnFeed, Scenario::FAILOVERS, &ROWS);
}

#[test]
fn the_target_is_repaired_from_a_deposed_source() {
    check_rule(MoveRule::NoOlderTimeline, Scenario::FAILOVERS, &ROWS);
}

#[test]
fn a_late_commit_gives_the_slots_to_a_target_that_copies_again() {
    check_rule(MoveRule::NoCommitInTerm, Scenario::COPIES, &[Violation::LostWrite]);
}

#[test]
fn a_late_request_to_copy_again_empties_a_target_that_has_the_slots() {
    check_rule(MoveRule::NextTerm, Scenario::COPIES, &[Violation::LostWrite]);
}

#[test]
fn a_late_fence_and_commit_after_a_cancel_leave_no_owner() {
    let expected = [Violation::NoOwner, Violation::LostWrite];
    let scenario = Scenario { events: 260, delivery: 3, goal: 4, late: 350, ..Scenario::LATE };
    check_rule(MoveRule::LiftDeletesRow, scenario, &expected);
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
fn recorded_changes_are_deleted_before_the_target_has_flushed() {
    check_rule(MoveRule::TrimConfirmed, Scenario::FAILOVERS, &ROWS);
}

#[test]
fn rows_in_transit_are_counted_twice() {
    let expected = [Violation::ScatteredTwice, Violation::ScatterLost];
    check_reader(ReaderRule::ScanOwnedOnly, Scenario::SCANS, &expected);
}

#[test]
fn a_replica_answers_before_it_has_the_activation() {
    check_reader(ReaderRule::OwnershipInSnapshot, Scenario::READS, &[Violation::TokenBack]);
}

#[test]
fn an_unconfirmed_activation_is_lost_after_a_rollback_began() {
    let expected = [Violation::NoOwner, Violation::NeverEnds, Violation::LostWrite];
    check_rule(MoveRule::ActivationConfirmed, Scenario::FAILOVERS, &expected);
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
