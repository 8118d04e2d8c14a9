//! What the stories of the cache are worth: some run once more in a process of its own where entries need not prove
//! themselves, and must find that out.

use std::process::Command;

use shard_manager::sabotage::{Mutation, VARIABLE};

#[test]
fn stories_find_a_cache_that_gives_what_does_not_prove_itself() {
    for story in [
        "races::an_entry_whose_void_was_lost_serves_nobody_who_has_seen_the_write",
        "races::an_entry_of_another_timeline_serves_nobody",
        "cluster::a_client_that_has_read_never_reads_older_from_the_cache",
    ] {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.env(VARIABLE, Mutation::CacheSetWithoutVersion.name()).args(["--exact", story]);
        let ended = tests.output().unwrap();
        let told = String::from_utf8_lossy(&ended.stdout);
        assert!(told.contains("running 1 test"), "{told}");
        let is_passed_over = String::from_utf8_lossy(&ended.stderr).contains("PASSED OVER");
        assert!(is_passed_over || !ended.status.success(), "{story}: {told}");
    }
}
