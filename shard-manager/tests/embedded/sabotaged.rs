//! Checks that the tests of sessions and of slots without an owner can fail: some of them run again
//! in a separate process in which a guarantee is violated, and must detect that.

use std::process::Command;

use shard_manager::sabotage::{Mutation, VARIABLE};

#[test]
fn tests_detect_tokens_without_an_epoch() {
    assert_detected(
        Mutation::TokenWithoutEpoch,
        &[
            "session_epoch::responses_carry_the_epoch_of_their_map",
            "session_epoch::without_the_catalog_a_read_ahead_of_the_map_is_proven_by_the_primary",
            "session_epoch::a_change_that_an_earlier_owner_lost_is_reported_by_the_new_owner",
        ],
    );
}

#[test]
fn tests_detect_answers_that_are_merged_without_a_look_at_their_slots() {
    let story = "scatter_gaps::a_read_of_all_shards_fails_while_a_slot_has_no_owner";
    assert_detected(Mutation::ScatterUnchecked, &[story]);
}

#[test]
fn tests_detect_slots_that_are_taken_before_their_commit_is_confirmed() {
    let story = "moves::a_target_takes_no_slots_before_the_commit_is_on_a_majority_of_the_source";
    assert_detected(Mutation::ActivateUnconfirmed, &[story]);
}

#[test]
fn tests_detect_copies_that_are_not_compared_with_their_source() {
    let story = "moves::a_copy_with_a_damaged_row_does_not_become_the_owner";
    assert_detected(Mutation::Unverified, &[story]);
}

/// Runs tests with a mutation, and fails if one of them passes.
fn assert_detected(mutation: Mutation, stories: &[&str]) {
    for story in stories {
        let program = std::env::current_exe().expect("this test has a path");
        let mut tests = Command::new(program);
        tests.env(VARIABLE, mutation.name()).args(["--exact", *story]);
        let ended = tests.output().expect("it starts");
        let stdout = String::from_utf8_lossy(&ended.stdout);
        assert!(stdout.contains("running 1 test"), "{stdout}");
        assert!(!ended.status.success(), "{story}: {stdout}");
    }
}
