//! Checks that the tests can detect defects that only a loss of power or of a file reveals: each
//! test below runs again in a separate process in which one guarantee is violated on purpose, and
//! must fail.

use std::process::Command;

use shard_manager::sabotage::{Mutation, VARIABLE};

fn finds(mutation: Mutation, story: &str) {
    let mut tests = Command::new(std::env::current_exe().expect("the tests themselves"));
    tests.env(VARIABLE, mutation.name()).args(["--exact", story]);
    let ended = tests.output().expect("they run");
    let stdout = String::from_utf8_lossy(&ended.stdout);
    assert!(stdout.contains("running 1 test"), "{stdout}");
    let lost = "an acknowledged change is not there, nor a newer one";
    assert!(!ended.status.success() && stdout.contains(lost), "{mutation:?}: {stdout}");
}

#[test]
fn a_disk_that_is_never_synced_loses_what_was_acknowledged() {
    let story = "a_start_or_stop_that_is_cut_short_loses_nothing_and_can_be_done_again";
    finds(Mutation::SqliteSyncOff, story);
}

#[test]
fn a_write_that_waited_for_no_replica_is_lost_with_its_primary() {
    let story =
        "what_every_node_confirmed_is_on_the_replicas_when_the_primaries_are_lost_with_the_power";
    finds(Mutation::QuorumWithoutWaiting, story);
}
