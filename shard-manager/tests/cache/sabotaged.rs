//! Checks that the cache tests can fail: some of them run again in a separate process in which
//! entries are not checked for freshness, and must detect that.

use std::process::Command;

use shard_manager::sabotage::{Mutation, VARIABLE};

use crate::redis_server::Server;

#[test]
fn tests_detect_a_cache_that_serves_unchecked_entries() {
    if Server::start(&[]).is_none() {
        return;
    }
    for story in [
        "races::after_a_lost_invalidation_an_entry_serves_no_client_that_has_seen_the_write",
        "races::an_entry_of_another_timeline_is_never_served",
        "cluster::a_client_that_has_read_never_reads_older_from_the_cache",
    ] {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.env(VARIABLE, Mutation::CacheSetWithoutVersion.name()).args(["--exact", story]);
        let ended = tests.output().unwrap();
        let stdout = String::from_utf8_lossy(&ended.stdout);
        assert!(stdout.contains("running 1 test"), "{stdout}");
        assert!(!ended.status.success(), "{story}: {stdout}");
    }
}
