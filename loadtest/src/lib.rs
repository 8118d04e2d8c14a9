//! Library of Tessera's load tester: the parts that need no router, which are the recorder of a run
//! and the command that checks a recorded run.
//!
//! **Invariant:** this library imports no package of this workspace except the checker, because all
//! tests go over HTTP.
//! **Not here:** sending requests, which the program does.

#![forbid(unsafe_code)]

pub mod check;
pub mod recorder;

pub use checker;
