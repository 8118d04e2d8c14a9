//! Checks that the cache tests can fail: some of them run again in a separate process in which a
//! guarantee is violated, and must detect that.

use std::process::Command;

use shard_manager::sabotage::{Mutation, VARIABLE};

use crate::redis_server::Server;

/// Runs tests under a mutation: each must fail.
fn assert_detected(mutation: Mutation, stories: &[&str]) {
    if Server::start(&[]).is_none() {
        return;
    }
    for story in stories {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.env(VARIABLE, mutation.name()).args(["--exact", story]);
        let ended = tests.output().unwrap();
        let stdout = String::from_utf8_lossy(&ended.stdout);
        assert!(stdout.contains("running 1 test"), "{stdout}");
        assert!(!ended.status.success(), "{story}: {stdout}");
    }
}

#[test]
fn tests_detect_a_cache_that_serves_unchecked_entries() {
    let stories = [
        "races::after_a_lost_invalidation_an_entry_serves_no_client_that_has_seen_the_write",
        "races::an_entry_of_another_timeline_is_never_served",
        "cluster::a_client_that_has_read_never_reads_older_from_the_cache",
    ];
    assert_detected(Mutation::CacheSetWithoutVersion, &stories);
}

#[test]
fn tests_detect_a_cache_that_keeps_the_entries_of_a_slot_that_moved() {
    let stories = [
        "races::a_slot_that_moved_leaves_its_entries_behind",
        "races::an_entry_that_the_old_owner_fills_after_the_move_is_not_found",
        "cluster::a_move_invalidates_the_entries_of_its_slots_only",
    ];
    assert_detected(Mutation::CacheKeepsSlot, &stories);
}
