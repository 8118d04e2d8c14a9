//! `rebalance`: moves slots until each shard has its share of slots, bytes or requests, or each
//! slot is where a placement puts it.
//!
//! A router carries out a rebalance. The commands only plan it, begin it, show it, and give it
//! orders: pause, resume and cancel. If no router serves a data directory, a command that begins a
//! rebalance, gives it an order or waits for it carries it out itself.
//!
//! **Invariant:** `rebalance` begins nothing without `--yes`. A rebalance that a router carries out
//! continues when the command ends; a rebalance that a command carries out can be continued by a
//! later command or router.
//! **Not here:** sending a request (`place`), the steps of a rebalance (`cluster`).

mod paper;
pub(super) mod place;
mod wait;

use clap::{Args, Subcommand};
use engine::rebalance_record::RebalanceOrder;
use engine::rebalance_view::{PlanView, RebalanceView, StepView};
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;
use sqlite::control::rebalance_command::{RebalanceCommand, RebalanceWish};

use self::place::{RebalanceAnswer, RebalancePlace};
use super::{ClusterSource, CommandError};
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
A rebalance may be cancelled at any time; slots that have moved stay where they are. By slots each
move improves the cluster by itself. --yes begins the plan that --dry-run shows; by load or size the
plan is made again, from the present requests or sizes. If the shard map changes while --yes plans,
nothing begins. On the files of a stopped cluster, --wait and `shard-manager rebalance wait` carry
the rebalance out themselves; otherwise the next router does.

Examples:
  shard-manager rebalance --dry-run
  shard-manager rebalance --yes --wait
  shard-manager rebalance --by placement --placement ring:160 --dry-run --json
  shard-manager rebalance --by load --yes --rate 20 --url http://127.0.0.1:3000
  shard-manager rebalance --by size --group ledger --yes
  shard-manager rebalance --simulate shards=1000,add=1,bytes=10T
  shard-manager rebalance list";
const ID_EXAMPLE: &str = "\
`shard-manager rebalance list` shows the ids of the rebalances.";
/// Maximum number of moves of a plan or rebalance that are shown without `--json`.
const SHOWN_MAX: usize = 40;

/// Rebalance, on the command line.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    begin: BeginArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists the running rebalance, and the latest ones that have ended
    List(ListArgs),
    /// Shows a rebalance with its moves
    #[command(after_help = ID_EXAMPLE)]
    Show(IdArgs),
    /// Waits until a rebalance has ended
    #[command(after_help = wait::EXAMPLES)]
    Wait(IdArgs),
    /// Pauses a rebalance with its moves; nothing is undone
    #[command(after_help = ID_EXAMPLE)]
    Pause(IdArgs),
    /// Resumes a paused rebalance
    #[command(after_help = ID_EXAMPLE)]
    Resume(IdArgs),
    /// Begins no more moves, and cancels those whose target does not own the slots yet
    #[command(after_help = ID_EXAMPLE)]
    Cancel(IdArgs),
}

/// Rebalance that is planned or begins.
#[derive(Args, Clone, Debug)]
struct BeginArgs {
    /// Quantity that the shards share by weight: slots, size, load or placement [default: slots]
    #[arg(long, value_name = "WHAT")]
    by: Option<String>,
    /// Placement that slots go to, with --by placement [default: that of the cluster]
    #[arg(long, value_name = "PLACEMENT")]
    placement: Option<String>,
    /// Table group whose slots move [default: all groups]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    how: HowArgs,
    /// Begin the rebalance
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Plan a cluster on paper instead: shards=N,add=N,bytes=SIZE
    #[arg(
        long,
        value_name = "CLUSTER",
        value_parser = paper::parse,
        conflicts_with_all = ["by", "placement", "group", "yes", "wait", "keep"]
    )]
    simulate: Option<model::slot_plan::paper::HypotheticalCluster>,
    #[command(flatten)]
    source: ClusterSource,
}

/// Way in which a rebalance is carried out, on the command line.
#[derive(Args, Clone, Debug)]
pub(in crate::command) struct HowArgs {
    /// Show the plan, and begin nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait for the end; Ctrl-C ends the wait only
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Highest rate of the copy of each move in MiB/s [default: no limit]
    #[arg(long, value_name = "MIB")]
    rate: Option<u32>,
    /// Seconds for which the source of each move is kept for a rollback [default: 900]
    #[arg(long, value_name = "SECONDS")]
    keep: Option<u64>,
}

/// Rebalances of a cluster, on the command line.
#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    source: ClusterSource,
}

/// One rebalance, on the command line.
#[derive(Args, Clone, Debug)]
struct IdArgs {
    /// Id of the rebalance
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    source: ClusterSource,
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        None => begin(&options.begin, terminal),
        Some(Verb::List(args)) => list(args, terminal),
        Some(Verb::Show(args)) => {
            let shown = RebalancePlace::of(&args.source)?.show(&args.id)?;
            Ok(terminal.show(&shown, |terminal| details(&shown, terminal))?)
        }
        Some(Verb::Wait(args)) => {
            wait::run(&mut RebalancePlace::of(&args.source)?, &args.id, terminal)
        }
        Some(Verb::Pause(args)) => order(args, RebalanceOrder::Pause, terminal),
        Some(Verb::Resume(args)) => order(args, RebalanceOrder::Resume, terminal),
        Some(Verb::Cancel(args)) => order(args, RebalanceOrder::Cancel, terminal),
    }
}

fn begin(args: &BeginArgs, terminal: &Terminal) -> Result<(), CommandError> {
    if let Some(cluster) = &args.simulate {
        return paper::run(*cluster, args.how.rate, terminal);
    }
    let wish = RebalanceWish {
        by: args.by.clone(),
        placement: args.placement.clone(),
        group: args.group.clone(),
        ..RebalanceWish::default()
    };
    carry_out(&args.source, wish, (&args.how, args.yes), terminal)
}

/// Begins a rebalance that moves all slots of a shard to the others, after which the shard retires.
pub(super) fn drain(
    source: &ClusterSource,
    shard: String,
    how: &HowArgs,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let wish = RebalanceWish { drain: Some(shard), ..RebalanceWish::default() };
    carry_out(source, wish, (how, true), terminal)
}

/// Plans a rebalance, and begins it if `begins` is true.
fn carry_out(
    source: &ClusterSource,
    wish: RebalanceWish,
    (how, begins): (&HowArgs, bool),
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let mut place = RebalancePlace::of(source)?;
    let wish = RebalanceWish { rate: how.rate, keep: how.keep, ..wish };
    let plan = place.plan(wish.clone())?;
    if how.dry_run || (plan.moves.is_empty() && wish.drain.is_none()) {
        return Ok(terminal.show(&plan, |terminal| planned(&plan, terminal))?);
    }
    if !begins {
        let line = format!("{}; add --yes to begin, or --dry-run to see the moves", effect(&plan));
        return Err(CommandError::Refused(line));
    }
    let bound = RebalanceWish { epoch: plan.epoch, ..wish };
    place.serve_if_stopped()?;
    let begun = match place.send(RebalanceCommand::Begin(bound))? {
        RebalanceAnswer::Plan(plan) => {
            return Ok(terminal.show(&plan, |terminal| planned(&plan, terminal))?);
        }
        RebalanceAnswer::Rebalances(views) => views.into_iter().next(),
    };
    let begun = begun.ok_or_else(place::no_rebalance)?;
    if how.wait {
        let first = place.poll(&begun.id)?;
        return wait::follow(&place, first, terminal);
    }
    Ok(terminal.show(&begun, |_| {
        let (id, flags, effect) = (&begun.id, place.flags(), effect(&plan));
        let waits = match place.is_own() {
            true => "carries it out, or the next router does",
            false => "waits for its end",
        };
        format!("{effect}: {id}\n`shard-manager rebalance wait {id}{flags}` {waits}")
    })?)
}

fn order(args: &IdArgs, order: RebalanceOrder, terminal: &Terminal) -> Result<(), CommandError> {
    let (id, order) = (args.id.clone(), order.name().to_owned());
    let mut place = RebalancePlace::of(&args.source)?;
    place.serve_if_stopped()?;
    let ordered = place.one(RebalanceCommand::Order { id, order })?;
    Ok(terminal.show(&ordered, |terminal| details(&ordered, terminal))?)
}

fn list(args: &ListArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let rebalances = RebalancePlace::of(&args.source)?.list()?;
    let shown = terminal.show(&json!({"rebalances": rebalances}), |terminal| {
        let rows: Vec<Vec<String>> = rebalances.iter().map(cells).collect();
        terminal.table(&["id", "by", "state", "slots", "skew", "began"], &rows)
    });
    Ok(shown?)
}

fn cells(shown: &RebalanceView) -> Vec<String> {
    vec![
        shown.id.clone(),
        goal(&shown.goal),
        state(shown),
        format!("{} of {}", shown.slots_moved, shown.slots),
        skew(shown),
        or_none(&shown.began_at),
    ]
}

fn goal(goal: &engine::rebalance_view::GoalView) -> String {
    let of = goal.placement.as_ref().or(goal.shard.as_ref());
    of.map_or_else(|| goal.by.clone(), |of| format!("{} {of}", goal.by))
}

/// Returns the state of a rebalance, with a note if it is stalled: it has made no progress for some
/// time.
fn state(shown: &RebalanceView) -> String {
    let note = if shown.stalled { " (stalled)" } else { "" };
    format!("{}{note}", shown.state)
}

fn skew(shown: &RebalanceView) -> String {
    let measured = shown.skew_measured.map(|skew| format!(", {skew:.2} measured"));
    let measured = measured.unwrap_or_default();
    match (shown.skew_before, shown.skew_planned) {
        (Some(before), Some(planned)) => format!("{before:.2}, {planned:.2} planned{measured}"),
        (_, _) => "-".to_owned(),
    }
}

/// Returns the effect of a plan, as a part of a sentence.
fn effect(plan: &PlanView) -> String {
    let rows = plan.rows.map(|rows| format!(", about {} rows", HumanCount(rows)));
    let bytes = plan.bytes.map(|bytes| format!(", {}", HumanBytes(bytes)));
    let (rows, bytes) = (rows.unwrap_or_default(), bytes.unwrap_or_default());
    let (slots, moves) = (plan.slots, plan.moves.len());
    format!(
        "{slots} slots in {moves} moves{rows}{bytes}, skew {:.2} to {:.2}",
        plan.skew_before, plan.skew_planned
    )
}

fn epoch(plan: &PlanView) -> String {
    plan.epoch.map(|epoch| format!("  epoch {epoch}")).unwrap_or_default()
}

/// Formats a plan as text for a terminal.
pub(super) fn planned(plan: &PlanView, terminal: &Terminal) -> String {
    let shards = plan.shards.iter().map(|shard| {
        vec![
            shard.shard.clone(),
            shard.state.clone(),
            shard.weight.to_string(),
            shard.slots.to_string(),
            shard.slots_after.to_string(),
            format!("{:.1}", shard.fair_slots),
        ]
    });
    let shards: Vec<Vec<String>> = shards.collect();
    let heads = ["shard", "state", "weight", "slots", "after", "fair"];
    let mut lines =
        vec![format!("{}{}", effect(plan), epoch(plan)), terminal.table(&heads, &shards)];
    if let Some(seconds) = plan.seconds {
        lines.insert(1, format!("the moves take about {seconds:.0} s"));
    }
    let moves = plan
        .moves
        .iter()
        .map(|planned| vec![planned.from.clone(), planned.to.clone(), shortened(&planned.slots)]);
    let moves: Vec<Vec<String>> = moves.take(SHOWN_MAX).collect();
    if !moves.is_empty() {
        lines.push(terminal.table(&["from", "to", "slots"], &moves));
    }
    lines.extend(more(plan.moves.len()));
    lines.extend(plan.note.iter().map(|note| format!("note: {note}")));
    lines.extend(plan.refusals.iter().map(|refusal| format!("not now: {refusal}")));
    lines.join("\n")
}

fn more(moves: usize) -> Option<String> {
    let more = moves.checked_sub(SHOWN_MAX).filter(|more| *more > 0)?;
    Some(format!("and {more} more moves; --json shows all of them"))
}

/// Shortens a list of slot ranges to fit in a column. With the placement `ring` there are many
/// short ranges.
fn shortened(slots: &str) -> String {
    const WIDTH: usize = 40;
    match slots.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &slots[..end]),
        None => slots.to_owned(),
    }
}

fn details(shown: &RebalanceView, terminal: &Terminal) -> String {
    let limit = shown.rate.map_or_else(|| "none".to_owned(), |rate| format!("{rate} MiB/s"));
    let moves = format!(
        "{} of {}, {} ended otherwise",
        shown.moved_count, shown.move_count, shown.failed_count
    );
    let lines = [
        ("id", shown.id.clone()),
        ("by", goal(&shown.goal)),
        ("state", state(shown)),
        ("slots", format!("{} of {}", shown.slots_moved, shown.slots)),
        ("moves", moves),
        ("rows", or_none(&shown.rows.map(|rows| HumanCount(rows).to_string()))),
        ("bytes", or_none(&shown.bytes.map(|bytes| HumanBytes(bytes).to_string()))),
        ("skew", skew(shown)),
        ("rate limit", limit),
        ("kept for", format!("{} s", shown.keep)),
        ("reason", or_none(&shown.reason)),
        ("began", or_none(&shown.began_at)),
        ("changed", or_none(&shown.changed_at)),
        ("ended", or_none(&shown.ended_at)),
        ("orders", shown.actions.join(", ")),
    ]
    .map(|(name, value)| format!("{name:<14}{value}"));
    let mut lines = lines.to_vec();
    if let Some(moves) = shown.moves.as_ref().filter(|moves| !moves.is_empty()) {
        let rows: Vec<Vec<String>> = moves.iter().take(SHOWN_MAX).map(step_cells).collect();
        lines.push(terminal.table(&["from", "to", "slots", "state", "move", "reason"], &rows));
        lines.extend(more(moves.len()));
    }
    lines.join("\n")
}

fn or_none(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

fn step_cells(step: &StepView) -> Vec<String> {
    vec![
        step.planned.from.clone(),
        step.planned.to.clone(),
        shortened(&step.planned.slots),
        step.state.clone(),
        or_none(&step.move_id),
        or_none(&step.reason),
    ]
}
