//! Findings: the table, the chart and the explanation in the report of the experiment `network`.

use super::{NetworkCondition, Tried};
use crate::chart::{BarChart, Chart};
use crate::clients::Timings;
use crate::report::{Cell, ReportTable};

pub(super) fn table(tried: &[Tried]) -> ReportTable {
    let columns = [
        "network",
        "stored",
        "refused",
        "unknown",
        "unknown and stored",
        "write p50",
        "write p99",
        "reads",
        "failed",
        "read p50",
        "read p99",
        "first failure",
    ];
    let mut table = ReportTable::new("Requests while the network is disturbed", &columns);
    for one in tried {
        let time = |timings: &Timings, share| match timings.count() {
            0 => Cell::Absent,
            _ => Cell::Millis(timings.quantile_ms(share)),
        };
        let cause = one.writes.first_failure.as_ref().or(one.reads.first_failure.as_ref());
        table.push([
            one.condition.name().into(),
            Cell::Count(one.outcomes.acknowledged),
            Cell::Count(one.outcomes.refused),
            Cell::Count(one.outcomes.unknown),
            Cell::Count(one.outcomes.unknown_stored),
            time(&one.writes, 0.5),
            time(&one.writes, 0.99),
            Cell::Count(one.reads.count()),
            Cell::Count(one.reads.failed),
            time(&one.reads, 0.5),
            time(&one.reads, 0.99),
            cause.map_or(Cell::Absent, |cause| cause.as_str().into()),
        ]);
    }
    table
}

pub(super) fn chart(tried: &[Tried]) -> Chart {
    let series = ["write p50", "write p99", "read p50", "read p99"];
    let times = |one: &Tried| {
        [(&one.writes, 0.5), (&one.writes, 0.99), (&one.reads, 0.5), (&one.reads, 0.99)]
            .map(|(timings, share)| timings.quantile_ms(share))
            .to_vec()
    };
    Chart::Bars(BarChart {
        title: "Times of the requests that were answered".to_owned(),
        unit: "ms",
        series: series.map(ToOwned::to_owned).to_vec(),
        groups: tried.iter().map(|one| (one.condition.name(), times(one))).collect(),
    })
}

pub(super) fn explanation(tried: &[Tried]) -> String {
    let of = |condition| tried.iter().find(|one| one.condition == condition);
    let p50 = |one: Option<&Tried>| one.map_or(0.0, |one| one.writes.quantile_ms(0.5));
    let slowest = tried.iter().rev().find_map(|one| {
        let NetworkCondition::Latency(ms) = one.condition else { return None };
        Some((ms, one))
    });
    let latency = slowest.map_or_else(String::new, |(ms, one)| {
        format!(", and {:.2} ms when every node answers with a delay of {ms} ms", p50(Some(one)))
    });
    let cut = of(NetworkCondition::PrimaryCut);
    let outcomes = cut.map(|one| one.outcomes).unwrap_or_default();
    let sum = |number: fn(&Tried) -> u64| tried.iter().map(number).sum::<u64>();
    format!(
        "Half of the writes take {:.2} ms on an undisturbed network{latency}; with a replica of each shard cut off, {} of {} reads fail, because \
         the other nodes answer. While the primary of shard1 is cut off, {} writes to its slots are refused or end with an unknown \
         outcome, and {} to the other slots are stored; once the network is restored, all {} acknowledged writes are there, none of \
         {} refused ones, and {} of {} with an unknown outcome.",
        p50(of(NetworkCondition::Calm)),
        of(NetworkCondition::ReplicasCut).map_or(0, |one| one.reads.failed),
        of(NetworkCondition::ReplicasCut).map_or(0, |one| one.reads.count() + one.reads.failed),
        outcomes.refused + outcomes.unknown,
        outcomes.acknowledged,
        sum(|one| one.outcomes.acknowledged),
        sum(|one| one.outcomes.refused),
        sum(|one| one.outcomes.unknown_stored),
        sum(|one| one.outcomes.unknown),
    )
}
