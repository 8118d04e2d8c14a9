//! `check`: checks that every row of a cluster is on its shard, and that replicas equal their
//! primaries.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use engine::audit_report::{AuditOptions, AuditReport, Discrepancy};
use sqlite::offline_view::DirView;

use super::CommandError;
use super::access::with_runtime;
use super::cluster_place::{ClusterArgs, ClusterPlace};
use crate::terminal::{Terminal, say};

/// Options of `check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each row must be in the slot and on the shard of its key, contain its key, and be no newer than
its shard. The counters of the shards must be right, their slots those of the map, and replicas
equal to their primaries in tables, slots and counters. It follows that a row is in the cluster
only once. Works beside a running router. In a stopped cluster a replica that is missing or behind
is not a fault but a note: the next start of the router completes it. On servers, indexes and
constraints must be valid too, and a replica that lags by more than ten seconds is noted.

Examples:
  shard-manager check
  shard-manager check --deep --data-dir /var/lib/tessera
  shard-manager check --json | jq '.findings[]'
  SHARD_URLS=postgres://app@db1/app,postgres://app@db2/app shard-manager check

Exit code 1: faults were found, one per line; 2: the check could not be carried out.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    place: ClusterArgs,
    /// Also check the structure of every page (PRAGMA quick_check; files only)
    #[arg(long)]
    deep: bool,
    /// Number of shards checked concurrently [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// Checks a cluster.
pub(super) fn run(args: &CheckArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let place = args.place.place()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(cores, usize::from);
    let options = AuditOptions { deep: args.deep, threads };
    let began = std::time::Instant::now();
    let report = audit(&place, &options, terminal)?;
    let shown = terminal.show(&report, |terminal| text(&report, terminal));
    if !terminal.is_json() {
        let seconds = began.elapsed().as_secs_f64();
        let speed = report.rows as f64 / seconds.max(1e-6);
        say(format_args!("{} rows in {seconds:.2} s, {speed:.0} rows/s", report.rows));
    }
    match report.found {
        0 => Ok(shown?),
        1 => Err(CommandError::Found("one fault was found".to_owned())),
        found => Err(CommandError::Found(format!("{found} faults were found"))),
    }
}

/// Checks all rows, and shows the progress as a bar.
fn audit(
    place: &ClusterPlace,
    options: &AuditOptions,
    terminal: &Terminal,
) -> Result<AuditReport, CommandError> {
    let passed = AtomicU64::new(0);
    let (bar, work): (_, Box<AuditWork<'_>>) = match place {
        ClusterPlace::Files(data_dir) => {
            let view = DirView::open(data_dir)?;
            let bar = terminal.progress("check", expected_rows(&view));
            (bar, Box::new(move |passed| Ok(sqlite::audit::audit(&view, options, passed)?)))
        }
        ClusterPlace::Servers(address) => (
            terminal.progress("check", 0),
            Box::new(move |passed| {
                with_runtime(async {
                    Ok(postgres::audit::audit(address, options, &|rows| passed(rows)).await?)
                })
            }),
        ),
    };
    let report = work(&|rows| {
        bar.set_position(passed.fetch_add(rows, Ordering::Relaxed) + rows);
    });
    bar.finish_and_clear();
    report
}

/// Function that checks a cluster, and calls its argument with the number of rows checked since the
/// last call.
type AuditWork<'a> = dyn FnOnce(&(dyn Fn(u64) + Sync)) -> Result<AuditReport, CommandError> + 'a;

/// Returns the number of rows on all nodes according to their counters, which is exact enough for a
/// progress bar. Nodes that cannot be read are left out.
fn expected_rows(view: &DirView) -> u64 {
    let nodes = view.map.topology().numbers().flat_map(|shard| view.nodes(shard));
    let rows = nodes.filter_map(|file| Some(view.node(&file).ok()?.file_state().ok()?.rows()));
    rows.sum::<i64>() as u64
}

fn text(report: &AuditReport, terminal: &Terminal) -> String {
    let mut lines: Vec<String> = report.findings.iter().map(line).collect();
    let more = report.found - report.findings.len() as u64;
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    let rows: Vec<Vec<String>> = report
        .shards
        .iter()
        .map(|shard| {
            let replicas = shard.replicas.join(" ");
            let tables = shard.tables.iter().filter(|(_, rows)| **rows > 0);
            let tables: Vec<String> =
                tables.map(|(table, rows)| format!("{table} {rows}")).collect();
            let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            vec![
                shard.shard.clone(),
                shard.position.to_string(),
                shard.tables.values().sum::<u64>().to_string(),
                or_none(replicas),
                or_none(tables.join(", ")),
            ]
        })
        .collect();
    lines.push(terminal.table(&["shard", "position", "rows", "equal replicas", "tables"], &rows));
    if report.found == 0 {
        lines.push("no fault was found: each row is on its shard, once".to_owned());
    }
    lines.join("\n")
}

fn line(finding: &Discrepancy) -> String {
    let mut line = finding.node.clone();
    if let Some(table) = &finding.table {
        let _ = write!(line, " {table}");
    }
    if let Some(key) = &finding.key {
        let _ = write!(line, " {key:?}");
    }
    if let Some(id) = finding.id.as_ref().filter(|id| Some(*id) != finding.key.as_ref()) {
        let _ = write!(line, " {id:?}");
    }
    let _ = write!(line, ": {}; expected: {}", finding.what, finding.expected);
    line
}
