//! `slots`: fences slots, which means that their writes wait for a limited time, and ends fences
//! early.
//!
//! For a data directory, the command sends the change to the control socket of the process that
//! holds the directory. PostgreSQL servers are changed directly, and notify their routers.
//!
//! **Not here:** the effect of a fence on writes (`cluster`), changing the slots (the engines).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use engine::operator_queue::SlotAction;
use engine::refusal_code::{RefusalCode, with_code};
use engine::slot_change::{FENCE_MAX, SlotStep};
use model::keyspace::SLOT_COUNT;
use model::slot_set::{SlotSet, SlotSetError};
use postgres::node_address::ClusterAddress;
use postgres::shard_listing;
use postgres::slot_session::SlotSession;
use serde_json::json;
use sqlite::control::client::{ControlError, change_slots};
use sqlite::offline_view::DirView;

use super::CommandError;
use super::access::catalog_place::{
    DIR_DEFAULT, DIR_VARIABLE, SHARDS_VARIABLE, variable, with_runtime,
};
use super::cluster_place::servers;
use crate::terminal::Terminal;

/// Operation on slots.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Fences slots: their writes wait for a short time; reads continue
    #[command(after_help = "\
Routers keep the writes within their deadlines and carry them out when the fence ends. It ends by
itself after the given time, also if this command or a router dies. A second fence of the same
slots replaces the first.

Examples:
  shard-manager slots fence --slots 0-63,100 --seconds 2 --data-dir ./data
  SHARD_URLS=postgres://app@db1/app,postgres://app@db2/app \\
    shard-manager slots fence --slots 0-63 --seconds 2")]
    Fence(FenceArgs),
    /// Ends the fence of slots, so that their writes continue
    #[command(after_help = "\
Example:
  shard-manager slots release --slots 0-63,100 --data-dir ./data")]
    Release(SlotArgs),
}

/// Slots, on the command line.
#[derive(Args, Clone, Debug)]
struct SlotArgs {
    /// Slots and ranges of slots, of any shards: 0-63,100
    #[arg(long, value_name = "SLOTS")]
    slots: String,
    /// Data directory of the embedded shards [env: TESSERA_DATA_DIR] [default: the servers of
    /// SHARD_URLS, else ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Fence, on the command line.
#[derive(Args, Clone, Debug)]
struct FenceArgs {
    #[command(flatten)]
    slots: SlotArgs,
    /// Time after which the fence ends by itself: up to 60 seconds, fractions are allowed
    #[arg(long, value_name = "SECONDS")]
    seconds: f64,
}

/// Databases of the shards that own the slots.
enum SlotOwners {
    Files(PathBuf),
    Servers(Box<ClusterAddress>),
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    let (args, action) = match &options.verb {
        Verb::Fence(FenceArgs { slots, seconds }) => {
            (slots, SlotAction::Fence { hold: hold(*seconds)? })
        }
        Verb::Release(slots) => (slots, SlotAction::Release),
    };
    let owners = args.owners()?;
    let slots = parse(&args.slots, &owners);
    let slots = slots.map_err(|error| bad_fence(&format!("--slots: {error}")))?;
    change(&owners, &slots, action)?;
    let count = slots.len();
    let (document, line) = match action {
        SlotAction::Fence { hold } => (
            json!({"fenced": slots.to_string(), "slots": count, "seconds": hold.as_secs_f64()}),
            format!("writes of {count} slots wait for {} s at most", hold.as_secs_f64()),
        ),
        SlotAction::Release => (
            json!({"released": slots.to_string(), "slots": count}),
            format!("writes of {count} slots go on"),
        ),
    };
    Ok(terminal.show(&document, |_| line)?)
}

/// Parses slots and ranges of slots. The error for a number that is too high for any cluster names
/// the last slot of this cluster.
fn parse(text: &str, owners: &SlotOwners) -> Result<SlotSet, SlotSetError> {
    text.parse::<SlotSet>().map_err(|error| match error {
        SlotSetError::NoSuchSlot { number, .. } => {
            let slot_count = slot_count(owners).unwrap_or(usize::from(SLOT_COUNT));
            let last = u16::try_from(slot_count - 1).unwrap_or(u16::MAX);
            SlotSetError::NoSuchSlot { number, last }
        }
        error @ (SlotSetError::Form(_) | SlotSetError::Backwards(_)) => error,
    })
}

/// Returns the number of slots of all table groups; `None` if the catalog cannot be read.
fn slot_count(owners: &SlotOwners) -> Option<usize> {
    match owners {
        SlotOwners::Files(data_dir) => {
            let view = DirView::open(data_dir).ok()?;
            Some(view.map.groups().slot_count())
        }
        SlotOwners::Servers(cluster) => {
            let first = cluster.shards.first().map(|shard| &shard.primary);
            let at = cluster.catalog.as_ref().or(first)?;
            let read = with_runtime(async { Ok(shard_listing::read(at).await?) });
            let (map, _) = read.ok()?;
            Some(map.groups().slot_count())
        }
    }
}

/// Returns the duration of a fence; fails unless it is from 1 ms to `FENCE_MAX`.
fn hold(seconds: f64) -> Result<Duration, CommandError> {
    let hold = Duration::try_from_secs_f64(seconds).ok();
    let fits = |hold: &Duration| (Duration::from_millis(1)..=FENCE_MAX).contains(hold);
    hold.filter(fits).ok_or_else(|| {
        let most = FENCE_MAX.as_secs();
        bad_fence(&format!("--seconds: a fence lasts from 0.001 to {most} seconds, not {seconds}"))
    })
}

/// Returns the error for a fence with invalid slots or an invalid duration, with its error code.
fn bad_fence(sentence: &str) -> CommandError {
    CommandError::Refused(with_code(&sentence, Some(RefusalCode::BadFence)))
}

impl SlotArgs {
    /// Returns the databases that the flag names, or else the environment variables, or else the
    /// default.
    fn owners(&self) -> Result<SlotOwners, CommandError> {
        if let Some(data_dir) = &self.data_dir {
            return Ok(SlotOwners::Files(data_dir.clone()));
        }
        let dir = std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty());
        let Some(urls) = variable(SHARDS_VARIABLE)? else {
            return Ok(SlotOwners::Files(dir.map_or_else(|| DIR_DEFAULT.into(), PathBuf::from)));
        };
        if dir.is_some() {
            return Err(CommandError::Refused(format!(
                "{DIR_VARIABLE} is a folder of embedded shards, {SHARDS_VARIABLE} names servers of PostgreSQL: leave \
                 one of them out, or give --data-dir"
            )));
        }
        Ok(SlotOwners::Servers(Box::new(servers(&urls)?)))
    }
}

fn change(owners: &SlotOwners, slots: &SlotSet, action: SlotAction) -> Result<(), CommandError> {
    match owners {
        SlotOwners::Files(data_dir) => {
            let changed = change_slots(data_dir, slots, action);
            changed.map(drop).map_err(|error| match error {
                ControlError::NoListener => CommandError::Refused(format!(
                    "no router serves {}: a stopped cluster has no writes that could wait",
                    data_dir.display()
                )),
                error @ (ControlError::Unreachable(_)
                | ControlError::Refused(_)
                | ControlError::Broken(_)) => CommandError::Refused(error.to_string()),
            })
        }
        SlotOwners::Servers(cluster) => with_runtime(async {
            let step = match action {
                SlotAction::Fence { hold } => SlotStep::Fence { hold },
                SlotAction::Release => SlotStep::Release,
            };
            let session = SlotSession::open(cluster).await?;
            let changed = session.change(slots, step).await;
            changed.map_err(|error| CommandError::Refused(with_code(&error, error.code())))
        }),
    }
}
