//! Property: on PostgreSQL too a caller learns the same, whatever the rows of others are.

use std::cell::Cell;

use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::bound_specs::{Script, script};
use crate::bound_steps::{create_tables, learnt_on_both};
use crate::cluster::{Databases, connect};
use crate::compared_callers::equal_pages;
use crate::server::runtime;

#[test]
fn no_answer_depends_on_rows_of_others() {
    let runtime = runtime();
    let databases = [0, 1].map(|_| runtime.block_on(Databases::new(3)));
    let [one, other] = databases.each_ref().map(|databases| connect(&databases.address()));
    runtime.block_on(create_tables(&one));
    runtime.block_on(create_tables(&other));
    let rng_seed = RngSeed::Fixed(0x7e55e4b);
    let cases = Config { cases: 50, failure_persistence: None, rng_seed, ..Config::default() };
    let (case, found) = (Cell::new(0), Cell::new(0));
    let ran = TestRunner::new(cases).run(&script(), |script: Script| {
        case.set(case.get() + 1);
        let prefix = format!("c{}-", case.get());
        let learnt = runtime.block_on(learnt_on_both([&one, &other], &script, &prefix));
        found.set(found.get() + equal_pages(&script, learnt)?);
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(found.get() > 30, "only {} pages had rows", found.get());
}
