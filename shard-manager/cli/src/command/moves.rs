//! `move`: begins, shows and controls moves of slots from one shard to another, while clients read
//! and write the rows.
//!
//! A router carries out a move. The commands only begin it, show it, and give it orders: pause,
//! resume, cancel, rollback and settle. If no router serves a data directory, an order is stored
//! for the next router, and a command that begins a move or waits for one carries the move out
//! itself.
//!
//! **Invariant:** a move that a router carries out continues when the command that began it or
//! waits for it ends; a move that a command carries out can be continued by a later command or
//! router.
//! **Not here:** sending a request to a router (`place`), the steps of a move (`cluster`).

mod place;
mod wait;

use clap::{ArgGroup, Args, Subcommand};
use engine::move_record::MoveOrder;
use engine::move_view::MoveView;
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;
use sqlite::control::move_command::MoveCommand;

use self::place::MovePlace;
use super::route::NAME_PARTITION;
use super::{ClusterSource, CommandError};
use crate::terminal::Terminal;

/// Part of the refusal of a key without its partition.
const PARTITION_MISSING: &str = "is missing: it names the partition";
const START_EXAMPLES: &str = "\
The command returns as soon as the move is listed; with --wait, or with `shard-manager move wait`
afterwards, it waits until the target owns the slots. Writes of the slots wait for a few
milliseconds then. The source is kept for a while afterwards, so that `shard-manager move rollback`
takes the slots back with all later writes. On the files of a stopped cluster, --wait and
`shard-manager move wait` carry the move out themselves; otherwise the next router does.

Examples:
  shard-manager move start --slots 0-63 --to shard4 --wait
  shard-manager move start --key user_123 --to shard4 --rate 20 --url http://127.0.0.1:3000
  shard-manager move start --key user_123 --table transactions --to shard3";
const LIST_EXAMPLES: &str = "\
Examples:
  shard-manager move list
  shard-manager move list --url http://127.0.0.1:3000 --json";
const ID_EXAMPLE: &str = "\
`shard-manager move list` shows the ids of the moves.";

const ORDER_EXAMPLE: &str = "\
On the files of a stopped cluster the order is stored, and `shard-manager move wait` or the next
router carries it out.
`shard-manager move list` shows the ids of the moves.";

/// Operation on moves.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Begins a move of slots to another shard
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// Lists the running moves, and the latest ones that have ended
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Shows a move
    #[command(after_help = ID_EXAMPLE)]
    Show(MoveArgs),
    /// Waits until the target owns the slots, or the move has ended
    #[command(after_help = wait::EXAMPLES)]
    Wait(wait::WaitArgs),
    /// Pauses a move; nothing is undone
    #[command(after_help = ORDER_EXAMPLE)]
    Pause(MoveArgs),
    /// Resumes a paused move
    #[command(after_help = ORDER_EXAMPLE)]
    Resume(MoveArgs),
    /// Cancels a move whose target does not own the slots yet
    #[command(after_help = ORDER_EXAMPLE)]
    Cancel(MoveArgs),
    /// Moves the slots back to the source, with all later writes
    #[command(after_help = ORDER_EXAMPLE)]
    Rollback(MoveArgs),
    /// Ends the time for a rollback: the source deletes its rows of the slots
    #[command(after_help = ORDER_EXAMPLE)]
    Settle(MoveArgs),
    /// Begins a move again that was cancelled or rolled back, or that has failed
    #[command(after_help = ID_EXAMPLE)]
    Retry(MoveArgs),
}

/// Move that begins, on the command line.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["slots", "key"]))]
struct StartArgs {
    /// Slots and ranges of slots of one shard, 64 at most: 0-63
    #[arg(long, value_name = "SLOTS")]
    slots: Option<String>,
    /// Shard key whose slot moves
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Table of the key, whose table group determines the slot [default: the group main]
    #[arg(long, value_name = "TABLE", requires = "key")]
    table: Option<String>,
    /// Partition of the key's row, in a keyspace by a column: the value of that column
    #[arg(long, value_name = "NAME", requires = "key")]
    partition: Option<String>,
    /// Shard that owns the slots [default: their owner]
    #[arg(long, value_name = "SHARD")]
    from: Option<String>,
    /// Shard that is to own the slots
    #[arg(long, value_name = "SHARD")]
    to: String,
    /// Highest rate of the copy in MiB/s [default: no limit]
    #[arg(long, value_name = "MIB")]
    rate: Option<u32>,
    /// Seconds for which the source is kept for a rollback [default: 900]
    #[arg(long, value_name = "SECONDS")]
    keep: Option<u64>,
    /// Wait until the target owns the slots; Ctrl-C ends the wait only
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    source: ClusterSource,
}

/// Moves of a cluster, on the command line.
#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    source: ClusterSource,
}

/// Move, on the command line.
#[derive(Args, Clone, Debug)]
struct MoveArgs {
    /// Id of the move
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    source: ClusterSource,
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::Start(args) => start(args, terminal),
        Verb::List(args) => list(args, terminal),
        Verb::Show(args) => {
            let shown = MovePlace::of(&args.source)?.show(&args.id)?;
            Ok(terminal.show(&shown, |_| details(&shown))?)
        }
        Verb::Wait(args) => wait::run(args, terminal),
        Verb::Pause(args) => order(args, MoveOrder::Pause, terminal),
        Verb::Resume(args) => order(args, MoveOrder::Resume, terminal),
        Verb::Cancel(args) => order(args, MoveOrder::Cancel, terminal),
        Verb::Rollback(args) => order(args, MoveOrder::Rollback, terminal),
        Verb::Settle(args) => order(args, MoveOrder::Settle, terminal),
        Verb::Retry(args) => {
            let retried = MoveCommand::Retry { id: args.id.clone() };
            let mut place = MovePlace::of(&args.source)?;
            place.serve_if_stopped()?;
            let begun = place.one(retried)?;
            Ok(terminal.show(&begun, |_| beginning(&begun, &place))?)
        }
    }
}

fn start(args: &StartArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let StartArgs { slots, key, table, partition, from, to, rate, keep, wait, source } =
        args.clone();
    let command = MoveCommand::Begin { slots, key, table, partition, from, to, rate, keep };
    let mut place = MovePlace::of(&source)?;
    place.serve_if_stopped()?;
    let begun = place.one(command);
    let begun = begun.map_err(|error| error.with_remedy(PARTITION_MISSING, NAME_PARTITION))?;
    if wait {
        return wait::follow(&place, begun, false, terminal);
    }
    Ok(terminal.show(&begun, |_| beginning(&begun, &place))?)
}

fn order(args: &MoveArgs, order: MoveOrder, terminal: &Terminal) -> Result<(), CommandError> {
    let (id, order) = (args.id.clone(), order.name().to_owned());
    let ordered = MovePlace::of(&args.source)?.one(MoveCommand::Order { id, order })?;
    Ok(terminal.show(&ordered, |_| details(&ordered))?)
}

fn list(args: &ListArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let moves = MovePlace::of(&args.source)?.send(MoveCommand::List)?;
    let shown = terminal.show(&json!({"moves": moves}), |terminal| {
        let rows: Vec<Vec<String>> = moves.iter().map(cells).collect();
        let columns = ["id", "slots", "from", "to", "phase", "rows", "bytes", "lag", "began"];
        terminal.table(&columns, &rows)
    });
    Ok(shown?)
}

fn cells(shown: &MoveView) -> Vec<String> {
    vec![
        shown.id.clone(),
        shown.slots.clone(),
        shown.from.clone(),
        shown.to.clone(),
        phase(shown),
        HumanCount(shown.rows).to_string(),
        HumanBytes(shown.bytes).to_string(),
        lag(shown),
        shown.began_at.clone(),
    ]
}

/// Returns the phase of a move, with a note if the move is paused, or is stalled: it has made no
/// progress for some time.
fn phase(shown: &MoveView) -> String {
    let notes = [(shown.paused, "paused"), (shown.stalled, "stalled")];
    let notes: Vec<&str> = notes.into_iter().filter(|(holds, _)| *holds).map(|it| it.1).collect();
    if notes.is_empty() {
        return shown.phase.clone();
    }
    format!("{} ({})", shown.phase, notes.join(", "))
}

/// Returns the number and the age of the changes that the receiving side lacks; `-` if unknown. The
/// receiving side is the target or, after the target owns the slots, the source.
fn lag(shown: &MoveView) -> String {
    match (shown.changes_behind, shown.lag_ms) {
        (Some(0), _) => "0".to_owned(),
        (Some(changes), Some(ms)) => format!("{} in {:.1} s", HumanCount(changes), ms / 1_000.0),
        _ => "-".to_owned(),
    }
}

/// Returns an estimate with its unit; `-` if it is not known.
fn known(estimate: Option<u64>, unit: &str) -> String {
    let known = estimate.map(|number| format!("about {}{unit}", HumanCount(number)));
    known.unwrap_or_else(|| "-".to_owned())
}

fn beginning(shown: &MoveView, place: &MovePlace) -> String {
    let MoveView { id, slot_count, from, to, .. } = shown;
    let plural = if *slot_count == 1 { "" } else { "s" };
    let (flags, effect) = (place.flags(), place.effect_of_waiting());
    format!(
        "{slot_count} slot{plural} of {from} move to {to}: {id}\n\
         `shard-manager move wait {id}{flags}` {effect}"
    )
}

fn details(shown: &MoveView) -> String {
    let limit = shown.rate.map_or_else(|| "none".to_owned(), |rate| format!("{rate} MiB/s"));
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        ("id", shown.id.clone()),
        ("slots", format!("{} ({})", shown.slots, shown.slot_count)),
        ("from", shown.from.clone()),
        ("to", shown.to.clone()),
        ("phase", phase(shown)),
        ("goal", shown.goal.clone()),
        ("rate limit", limit),
        ("kept for", format!("{} s", shown.keep)),
        ("rows", HumanCount(shown.rows).to_string()),
        ("rows expected", known(shown.rows_expected, "")),
        ("bytes", HumanBytes(shown.bytes).to_string()),
        ("time left", known(shown.seconds_left, " s")),
        ("behind", lag(shown)),
        ("longest hold", format!("{:.1} ms", shown.longest_hold_ms)),
        ("reason", or_none(&shown.reason)),
        ("began", shown.began_at.clone()),
        ("changed", shown.changed_at.clone()),
        ("owned", or_none(&shown.owned_at)),
        ("ended", or_none(&shown.ended_at)),
        ("orders", shown.actions.join(", ")),
    ]
    .map(|(name, value)| format!("{name:<14}{value}"))
    .join("\n")
}
