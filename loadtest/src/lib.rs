//! The parts of Tessera's load tester that judge: what a run recorded, and whether any promise was
//! broken.
//!
//! **Invariant:** no crate of the workspace is imported; what is tested is the wire.
//! **Not here:** sending requests. That is the program.

#![forbid(unsafe_code)]

pub mod check;
pub mod checker;
pub mod history;
