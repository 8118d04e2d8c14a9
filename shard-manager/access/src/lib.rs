//! Access control: API keys, tokens and roles, and the rows, columns and rates that they permit.
//!
//! A request passes four steps, each of which works only on values that are passed to it:
//! 1. [`authenticator`] turns the credentials of a request into a [`caller`].
//! 2. The [`rights`] of the caller allow or deny operations on columns of a table. A single grant
//!    of the role must allow the whole request.
//! 3. The grant that allows the request restricts it to shard keys: [`grant::KeyBinding`].
//! 4. [`limit`] counts the request, and refuses it if a limit of the caller is exceeded.
//!
//! **Invariant:** this crate never reads a clock, a file or the network, and runs nothing in the
//! background. Time and random bytes are parameters, so a test can repeat every decision.
//! **Not here:** storage of keys and roles, HTTP, and the queries that a binding restricts.
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
