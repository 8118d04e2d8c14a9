//! Access: API keys, tokens, roles, and the rows, columns and rates that they permit.
//!
//! A request passes four steps, each of which is a function of plain values:
//! 1. [`authenticator`] turns the credentials of a request into a [`caller`].
//! 2. [`rights`] of the caller allow an operation on a table's columns, or deny it. Exactly one
//!    grant of the role must allow all of a request.
//! 3. The allowing grant binds the request to shard keys: [`grant::KeyBinding`].
//! 4. [`limit`] counts the request.
//!
//! **Invariant:** nothing here reads a clock, a file or the network, or runs in the background.
//! Time and random bytes are parameters, so every decision can be repeated in a test.
//! **Not here:** storage of keys and roles, HTTP, and the queries to which a binding is added.
#![forbid(unsafe_code)]

pub mod audit;
pub mod auth_error;
pub mod authenticator;
pub mod caller;
pub mod check;
pub mod denial;
pub mod grant;
mod hex;
pub mod json_member;
pub mod jwt;
pub mod key;
pub mod key_record;
pub mod keys_file;
pub mod limit;
pub mod operation;
pub mod rights;
pub mod role;
pub mod scope;
pub mod session;
pub mod snapshot;
pub mod tenant;
pub mod unix_time;
