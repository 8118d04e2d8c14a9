//! Property: a caller learns the same, whatever the rows of others are.

use std::cell::Cell;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use crate::bound_specs::{Script, script};
use crate::bound_steps::{create_tables, learnt_on_both};
use crate::shop::Shop;

/// Configuration for this many cases, the same in each run.
fn cases(count: u32) -> Config {
    let rng_seed = RngSeed::Fixed(0x7e55e4a);
    Config { cases: count, failure_persistence: None, rng_seed, ..Config::default() }
}

#[test]
fn no_answer_depends_on_rows_of_others() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (one, other) = (Shop::open(), Shop::open());
    runtime.block_on(create_tables(&one.manager));
    runtime.block_on(create_tables(&other.manager));
    let (case, found) = (Cell::new(0), Cell::new(0));
    let ran = TestRunner::new(cases(250)).run(&script(), |script: Script| {
        case.set(case.get() + 1);
        let prefix = format!("c{}-", case.get());
        let both = [&one.manager, &other.manager];
        let learnt = runtime.block_on(learnt_on_both(both, &script, &prefix));
        for (step, [one, other]) in script.steps.iter().zip(learnt) {
            found.set(found.get() + one.iter().filter(|line| line.starts_with("[\"")).count());
            if one != other {
                let shown = format!("{step:#?}\n one   {one:#?}\n other {other:#?}");
                return Err(TestCaseError::fail(shown));
            }
        }
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(found.get() > 200, "only {} pages had rows", found.get());
}
