//! Property: a caller learns the same, whatever the rows of others are.

use std::cell::Cell;

use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::bound_specs::{Script, script};
use crate::bound_steps::{create_tables, learnt_on_both};
use crate::compared_callers::equal_pages;
use crate::redis_server::Server;
use crate::shop::Shop;

/// Configuration for this many cases, the same in each run.
fn cases(count: u32) -> Config {
    let rng_seed = RngSeed::Fixed(0x7e55e4a);
    Config { cases: count, failure_persistence: None, rng_seed, ..Config::default() }
}

#[test]
fn no_answer_depends_on_rows_of_others() {
    check(250, &Shop::open(), &Shop::open());
}

#[test]
fn no_answer_of_a_cache_depends_on_rows_of_others() {
    let Some(redis) = Server::start(&[]) else { return };
    // Each cluster has a name of its own in Redis.
    let [one, other] = [(), ()].map(|()| Shop::with_cache(redis.settings()));
    check(100, &one, &other);
    for shop in [&one, &other] {
        let stats = shop.manager.status().cache_stats().expect("there is a cache");
        assert!(stats.hits > 10 && stats.invalidations > 20, "{stats:?}");
    }
}

/// Runs this number of random scripts on two clusters that differ only in the rows of others.
fn check(count: u32, one: &Shop, other: &Shop) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(create_tables(&one.manager));
    runtime.block_on(create_tables(&other.manager));
    let (case, found) = (Cell::new(0), Cell::new(0_u32));
    let ran = TestRunner::new(cases(count)).run(&script(), |script: Script| {
        case.set(case.get() + 1);
        let prefix = format!("c{}-", case.get());
        let both = [&one.manager, &other.manager];
        let learnt = runtime.block_on(learnt_on_both(both, &script, &prefix));
        found.set(found.get() + equal_pages(&script, learnt)? as u32);
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(found.get() > count * 4 / 5, "only {} pages had rows", found.get());
}
