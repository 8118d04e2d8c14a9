//! `access`: switches off the access control that the catalog requires, or ends all browser
//! sessions.
//!
//! **Not here:** audit logs (`audit`), keys (`key`), roles (`role`), finding the catalog
//! (`catalog_place`).

pub(super) mod audit;
pub(super) mod catalog_place;
mod expiry;
pub(super) mod key;
pub(super) mod role;

use access::session::SessionSeed;
use clap::{Args, Subcommand};
use engine::access_store::{AccessChange, AccessMode, make_session_secret};
use serde_json::json;

pub(super) use self::catalog_place::{CatalogArgs, CatalogPlace, with_runtime};
use super::CommandError;
use crate::terminal::Terminal;

/// Operation on the mode or the sessions.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lets routers that check no keys serve the cluster; the keys stay
    #[command(after_help = "\
A cluster that was once served with `--access on` is served in no other mode, because one such
router would open it to everyone. This takes that back. A running router keeps its mode.

Example:
  shard-manager access off --data-dir ./data")]
    Off(CatalogArgs),
    /// Ends the sessions of all browsers; the keys stay
    #[command(after_help = "\
A browser that has logged in holds a cookie, which the secret of sessions signs. This replaces the
secret, for example after the catalog was read by others. Routers follow within a second.

Example:
  shard-manager access end-sessions --data-dir ./data")]
    EndSessions(CatalogArgs),
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    let (catalog, change, document, line) = match &options.verb {
        Verb::Off(catalog) => (
            catalog,
            AccessChange::SetMode(AccessMode::Off),
            json!({"mode": AccessMode::Off.name()}),
            "access is off: routers of any mode may serve the cluster from their next start",
        ),
        Verb::EndSessions(catalog) => (
            catalog,
            AccessChange::ReplaceSessionSecret(new_secret()?),
            json!({"sessions": "ended"}),
            "the sessions of all browsers were ended: they log in again with a key",
        ),
    };
    catalog.place()?.change(&change, |_| "")?;
    Ok(terminal.show(&document, |_| line.to_owned())?)
}

fn new_secret() -> Result<SessionSeed, CommandError> {
    make_session_secret().map_err(|error| CommandError::Refused(error.to_string()))
}
