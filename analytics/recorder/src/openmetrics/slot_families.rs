//! Families about slots: the writes that wait for them, and their moves.
//!
//! **Not here:** the slots that each shard owns (`openmetrics`).

use std::fmt;

use prometheus_client::registry::Unit;

use super::{Families, Scrape};

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
        families.counters("tessera_parked_refusals", help, ends)
    }

    pub(super) fn moves(&self, families: &mut Families<'_>) -> fmt::Result {
        let (open, moved) = (&self.now.moves, &self.now.moved);
        let stalled = open.iter().filter(|open| open.stalled).count();
        let help = "Moves of slots that have not ended, on the router that carries them out.";
        families.gauge("tessera_move_open", help, None, open.len() as f64)?;
        let help = "Moves of slots without progress for a minute.";
        families.gauge("tessera_move_stalled", help, None, stalled as f64)?;
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
}
