//! Library of Tessera's load tester: the parts that need no router, which are the recorder of a run
//! and the command that checks a recorded run.
//!
//! **Invariant:** of the packages of this workspace only the checker is imported, because the tests
//! go over HTTP.
//! **Not here:** sending requests (the program).

#![forbid(unsafe_code)]

pub mod check;
pub mod recorder;

pub use checker;
