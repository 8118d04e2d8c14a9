//! Slot families: the metrics about writes that wait for slots, about moves of slots, and about
//! rebalances.
//!
//! **Not here:** the slots that each shard owns (`openmetrics`).

use std::fmt;

use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::{Families, Scrape};
use crate::cluster::RebalanceNow;

impl Scrape {
    pub(super) fn parked(&self, families: &mut Families<'_>) -> fmt::Result {
        let parked = &self.now.parked;
        let (rows, bytes) = (parked.rows as f64, parked.bytes as f64);
        let help = "Rows of writes that wait until a shard accepts their slots.";
        families.gauge("tessera_parked_rows", help, None, rows)?;
        let help = "Bytes of rows that wait until a shard accepts their slots.";
        families.gauge("tessera_parked", help, Some(Unit::Bytes), bytes)?;
        let help = "Longest wait for a shard to accept a slot.";
        families.gauge("tessera_parked_longest", help, Some(Unit::Seconds), parked.longest_s)?;
        let ends = [("waited", parked.total), ("no_room", parked.refused)];
        let ends = ends.into_iter().map(|(end, count)| ([("result", end)], count));
        let help = "Rows that a shard has refused for their slots.";
        families.counters("tessera_parked_refusals", help, ends)?;
        if parked.waits.is_empty() {
            // A histogram without buckets would lack the mandatory last bucket, which counts all
            // rows.
            return Ok(());
        }
        let help = "Time that rows waited because their slots were fenced or moving.";
        let (unit, kind) = (Some(Unit::Seconds), MetricType::Histogram);
        families.family("tessera_parked_wait", help, unit, kind, |family| {
            let bound = |bound: Option<u32>| bound.map_or(f64::INFINITY, |ms| f64::from(ms) / 1e3);
            let waits = parked.waits.iter();
            let waits: Vec<_> = waits.map(|count| (bound(count.up_to_ms), count.rows)).collect();
            let rows = waits.iter().map(|(_, rows)| rows).sum();
            family.encode_histogram::<NoLabelSet>(parked.waited_s, rows, &waits, None)
        })
    }

    pub(super) fn moves(&self, families: &mut Families<'_>) -> fmt::Result {
        let (open, moved) = (&self.now.moves, &self.now.moved);
        let stalled = open.iter().filter(|open| open.stalled).count();
        let help = "Moves of slots that have not ended, on the router that carries them out.";
        families.gauge("tessera_move_open", help, None, open.len() as f64)?;
        let help = "Moves of slots without progress for a minute.";
        families.gauge("tessera_move_stalled", help, None, stalled as f64)?;
        let behind = open.iter().filter_map(|open| open.changes_behind).sum::<u64>();
        let help =
            "Changed rows that the copies of open moves lacked when their sources were last read.";
        families.gauge("tessera_move_changes_behind", help, None, behind as f64)?;
        let lags = open.iter().filter_map(|open| open.lag_ms);
        let lag_s = lags.fold(0.0, f64::max) / 1e3;
        let help = "Age of the oldest change that the copy of an open move lacks, at most.";
        families.gauge("tessera_move_lag", help, Some(Unit::Seconds), lag_s)?;
        let rows = std::iter::once(([], moved.rows));
        families.counters::<0>("tessera_move_rows", "Rows that moves have copied.", rows)?;
        let bytes = std::iter::once(([], moved.bytes));
        let help = "Bytes of rows that moves have copied.";
        families.counters::<0>("tessera_move_bytes", help, bytes)?;
        let ends = [
            ("done", moved.done),
            ("cancelled", moved.cancelled),
            ("rolled_back", moved.rolled_back),
            ("failed", moved.failed),
        ];
        let ends = ends.into_iter().map(|(end, count)| ([("result", end)], count));
        families.counters("tessera_move_ends", "Moves that have ended.", ends)?;
        let help = "Longest time for which writes of slots waited for a move.";
        let unit = Some(Unit::Seconds);
        families.gauge("tessera_move_longest_hold", help, unit, moved.longest_hold_s)
    }

    /// Writes the metrics of the running rebalance, or of the last one. A router that does not
    /// carry out rebalances writes only the states, which are all 0.
    pub(super) fn rebalance(&self, families: &mut Families<'_>) -> fmt::Result {
        let latest = self.now.rebalance.as_ref();
        let states = RebalanceNow::STATES.into_iter().map(|state| {
            let is_it = latest.is_some_and(|latest| latest.state == state);
            ([("state", state)], f64::from(u8::from(is_it)))
        });
        let help =
            "State of the latest rebalance, on the router that carries it out: 1 if it is this.";
        families.gauges("tessera_rebalance_state", help, None, states)?;
        latest.map_or(Ok(()), |latest| rebalanced(latest, families))
    }
}

/// Writes the progress and the effect of a rebalance.
fn rebalanced(latest: &RebalanceNow, families: &mut Families<'_>) -> fmt::Result {
    let help = "Whether the latest rebalance makes no progress.";
    families.gauge("tessera_rebalance_stalled", help, None, f64::from(u8::from(latest.stalled)))?;
    let help = "Time from the order of the latest rebalance to its end, or until now.";
    families.gauge("tessera_rebalance", help, Some(Unit::Seconds), latest.seconds)?;
    let moves =
        [("planned", latest.moves), ("done", latest.moves_done), ("failed", latest.moves_failed)];
    let moves = moves.into_iter().map(|(count, moves)| ([("count", count)], moves as f64));
    let help = "Moves of the latest rebalance: all, and those that have ended.";
    families.gauges("tessera_rebalance_moves", help, None, moves)?;
    let rows = [("planned", latest.planned_rows), ("moved", Some(latest.rows))];
    let rows =
        rows.into_iter().filter_map(|(count, rows)| Some(([("count", count)], rows? as f64)));
    let help =
        "Rows of the latest rebalance: about how many are to move, and how many were copied.";
    families.gauges("tessera_rebalance_rows", help, None, rows)?;
    let skews = [
        ("before", Some(latest.skew_before)),
        ("planned", Some(latest.skew_planned)),
        ("measured", latest.skew_measured),
    ];
    let skews = skews.into_iter().filter_map(|(time, skew)| Some(([("time", time)], skew?)));
    let help = "Fullest shard as a multiple of its fair share: before the latest rebalance, as \
                planned, and measured at its end.";
    families.gauges("tessera_rebalance_skew", help, None, skews)
}
