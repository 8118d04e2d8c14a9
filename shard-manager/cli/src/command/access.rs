//! `access`: the mode that the catalog remembers.
//!
//! **Not here:** audit logs (`audit`), keys (`key`), roles (`role`), the place of the catalog
//! (`catalog_place`).

pub(super) mod audit;
mod catalog_place;
mod expiry;
pub(super) mod key;
pub(super) mod role;

use clap::{Args, Subcommand};
use engine::access_store::{AccessChange, AccessMode};
use serde_json::json;

use self::catalog_place::CatalogArgs;
use super::CommandError;
use crate::terminal::Terminal;

/// Operation on the mode.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lets routers serve the cluster that check no keys; the keys stay
    #[command(after_help = "\
A cluster that was once served with `--access on` is served in no other mode, because one such
router would open it to everyone. This takes that back. A running router keeps its mode.

Example:
  shard-manager access off --data-dir ./data")]
    Off(CatalogArgs),
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    let Verb::Off(catalog) = &options.verb;
    let change = AccessChange::SetMode(AccessMode::Off);
    catalog.place()?.change(&change, |_| "")?;
    let document = json!({"mode": AccessMode::Off.name()});
    let shown = terminal.show(&document, |_| {
        "access is off: routers of any mode may serve the cluster from their next start".to_owned()
    });
    Ok(shown?)
}
