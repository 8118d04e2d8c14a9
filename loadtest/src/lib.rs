//! Parts of Tessera's load tester that need no router: the recorder of a run, and the command that
//! judges a recorded run.
//!
//! **Invariant:** of the workspace only the checker is imported; what is tested is HTTP.
//! **Not here:** sending requests. That is the program.

#![forbid(unsafe_code)]

pub mod check;
pub mod recorder;

pub use checker;
