//! Shard counts: measures the same queries on the same users in clusters with different numbers of
//! shards.
//!
//! **Not here:** the comparison with a single database (`run`), adding a shard during traffic
//! (`grow`).

use std::time::Instant;

use import::demo_data::Plan;

use crate::chart::{BarChart, Chart};
use crate::clients::Timings;
use crate::databases::{Databases, ServerDatabases};
use crate::dataset;
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::LabCluster;
use crate::lab_error::LabError;
use crate::report::{Cell, Report, ReportTable, shards_in_words};
use crate::run::queries::{QUERIES, Query, measure};
use crate::run::{self, RunOptions};

/// Maximum number of shard counts that one run tries.
pub const COUNTS_MAX: usize = 12;

/// Results of all kinds of requests on a cluster with this number of shards.
struct Counted {
    shards: usize,
    timings: Vec<(Query, Timings)>,
}

/// Carries out the experiment in the databases on servers, or in files if there are none. The
/// options apply to each number of shards in `counts`.
///
/// # Errors
/// [`LabError::Impossible`] before anything is created; otherwise the error of the step that
/// failed.
pub fn run(
    options: &RunOptions,
    counts: &[usize],
    servers: Option<&ServerDatabases>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    check(options, counts)?;
    let of = |shards| RunOptions { shards, ..options.clone() };
    let plan = dataset::plan(options.users, options.seed)?;
    let databases = Databases::new(servers, options.work_folder.as_deref())?;
    let mut all = Vec::new();
    for (number, shards) in counts.iter().enumerate() {
        observer.report(&shards_in_words(*shards));
        // Each cluster is closed before the next one is opened, so that they do not compete for
        // memory.
        let cluster = databases.open((number, *shards), None)?;
        dataset::generate(&cluster, &plan, observer)?;
        all.push(count(&of(*shards), &plan, &cluster, observer)?);
    }
    let names: Vec<String> = counts.iter().map(usize::to_string).collect();
    let mut report = databases
        .report("shards", options.seed)?
        .set("counts", names.join(" "))
        .set("users", options.users)
        .set("clients", options.clients)
        .set("operations", options.operations)
        .set("seconds", options.at_most.as_secs());
    report.tables.push(table(&all));
    report.charts.push(chart(&all));
    report.explanation = explanation(&all, report.machine.cores);
    Ok(report.ended(began.elapsed()))
}

/// Checks the settings before anything is created.
///
/// # Errors
/// [`LabError::Impossible`].
pub fn check(options: &RunOptions, counts: &[usize]) -> Result<(), LabError> {
    if !(1..=COUNTS_MAX).contains(&counts.len()) {
        let line = format!("there may be 1 to {COUNTS_MAX} counts, not {}", counts.len());
        return Err(LabError::Impossible(line));
    }
    let repeated = counts.iter().enumerate().find(|(at, count)| counts[..*at].contains(count));
    if let Some((_, count)) = repeated {
        let line = format!("--counts has {count} twice: give each number of shards once");
        return Err(LabError::Impossible(line));
    }
    let of = |shards| RunOptions { shards, ..options.clone() };
    counts.iter().try_for_each(|shards| run::check(&of(*shards)))
}

fn count(
    options: &RunOptions,
    plan: &Plan,
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<Counted, LabError> {
    let measured = |query| Ok((query, measure(query, (options, plan), cluster, observer)?));
    let timings = QUERIES.into_iter().map(measured).collect::<Result<_, LabError>>()?;
    Ok(Counted { shards: options.shards, timings })
}

/// Returns the rate of one kind of request, as a multiple of its rate with the first number of
/// shards.
fn ratio(all: &[Counted], one: &Counted, index: usize) -> f64 {
    let rate = |counted: &Counted| counted.timings.get(index).map_or(0.0, |(_, own)| own.rate());
    let first = all.first().map_or(0.0, rate);
    if first > 0.0 { rate(one) / first } else { 0.0 }
}

fn table(all: &[Counted]) -> ReportTable {
    let columns = ["query", "shards", "requests", "p50", "p99", "rate", "ratio"];
    let mut table = ReportTable::new("Queries by number of shards", &columns);
    for (index, query) in QUERIES.into_iter().enumerate() {
        for one in all {
            let Some((_, timings)) = one.timings.get(index) else { continue };
            table.push([
                query.name().into(),
                Cell::Count(one.shards as u64),
                Cell::Count(timings.count()),
                Cell::Millis(timings.quantile_ms(0.5)),
                Cell::Millis(timings.quantile_ms(0.99)),
                Cell::Rate(timings.rate()),
                Cell::Ratio(ratio(all, one, index)),
            ]);
        }
    }
    table
}

fn chart(all: &[Counted]) -> Chart {
    let ratios = |index| all.iter().map(|one| ratio(all, one, index)).collect();
    let groups = QUERIES.into_iter().enumerate();
    Chart::Bars(BarChart {
        title: "Rate, as a multiple of that with the first number of shards".to_owned(),
        unit: "times",
        series: all.iter().map(|one| shards_in_words(one.shards)).collect(),
        groups: groups.map(|(index, query)| (query.name().to_owned(), ratios(index))).collect(),
    })
}

fn explanation(all: &[Counted], cores: usize) -> String {
    let Some(last) = all.last() else { return String::new() };
    let by_ratio = |a: &(usize, Query), b: &(usize, Query)| {
        ratio(all, last, a.0).total_cmp(&ratio(all, last, b.0))
    };
    let named = || QUERIES.into_iter().enumerate();
    let text = |found: Option<(usize, Query)>| {
        let (index, query) = found.unwrap_or((0, Query::Point));
        (query.name(), ratio(all, last, index))
    };
    let change = match all.first() {
        Some(first) if all.len() > 1 => {
            let (most, best) = text(named().max_by(by_ratio));
            let (least, worst) = text(named().min_by(by_ratio));
            format!(
                "From {} to {} the rate of `{most}` is {best:.2} times the original rate, and that of `{least}` is \
                 {worst:.2} times",
                first.shards,
                shards_in_words(last.shards)
            )
        }
        Some(_) | None => format!(
            "These are the rates with {}, and another number in --counts would be compared with it",
            shards_in_words(last.shards)
        ),
    };
    format!(
        "{change}. All shards share the disk and {cores} cores of this machine, so more shards than cores only divide \
         the work; shards on separate machines add disks and cores."
    )
}
