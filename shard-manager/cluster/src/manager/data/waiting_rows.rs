//! Waiting rows: forwards rows that a shard has refused because of their slots to the shard that
//! accepts them.
//!
//! If a slot has moved, its rows are sent to the new owner at once. If a slot is fenced (its writes
//! must wait while it is handed over), or if no known shard owns it, its rows wait until the shard
//! announces a change, until the fence ends by itself, or until the shard map changes, but no
//! longer than their deadline. Then their slots are looked up again.
//!
//! **Invariant:** a row is sent again only after a shard has refused it, so it is applied at most
//! once. Rows of one key keep their order.
//! **Not here:** the limits on waiting rows (`parking_limits`), the wait itself
//! (`shard::slot_wait`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use model::error::{Error, Outcome};
use model::sabotage::{Mutation, is_on};
use model::shard_map::KeyLocation;
use model::slot_refusal::{RefusedState, SlotRefusal};
use model::topology::ShardNumber;
use tokio::sync::watch;

use super::bulk::{RowSender, WrittenPart};
use super::bulk_rows::{BulkPart, BulkRow, BulkRowDone};
use super::cached::KeysBeingWritten;
use super::moved_slots;
use super::refused_row::RefusedRow;
use super::shard_parts::ShardParts;
use crate::shard::{LOOK, SlotWake};

/// Maximum number of times that rows are forwarded before they wait. Without this limit, shards
/// that name each other as the owner of a slot would send a row back and forth without a pause.
const HOPS_MAX: usize = 4;

/// Time before the deadline that is reserved for the answer of a shard. No row is sent again within
/// this time, because its outcome would be unknown if the deadline passed without an answer.
const ANSWER_TIME: Duration = Duration::from_millis(250);

impl RowSender<'_> {
    /// Writes the only row of a request, after a shard has refused it.
    pub(super) async fn settle_row(
        self,
        refused: Box<RefusedRow>,
    ) -> Option<(ShardNumber, BulkPart)> {
        let mut parts = ShardParts::default();
        let refused = vec![*refused];
        self.learn(refused[0].row.place.shard, &refused).await;
        self.settle(refused, &mut parts).await;
        parts.into_parts().find(|(_, part)| !part.rows.is_empty())
    }

    /// Remembers the new owners of moved slots that the shard named when it refused rows.
    pub(super) async fn learn(self, shard: ShardNumber, refused: &[RefusedRow]) {
        let refusals = refused.iter().map(|row| row.refusal);
        moved_slots::learn(self.data, shard, refusals, self.options.deadline).await;
    }

    /// Sends rows that were routed by an older map to the shards that own their slots now. Returns
    /// the rows that are refused.
    pub(super) async fn write_relocated(
        self,
        rows: Vec<BulkRow>,
        parts: &mut ShardParts,
    ) -> Vec<RefusedRow> {
        let mut by_shard: BTreeMap<ShardNumber, Vec<BulkRow>> = BTreeMap::new();
        for mut row in rows {
            row.place = self.data.manager.router.locate(row.place.slot);
            by_shard.entry(row.place.shard).or_default().push(row);
        }
        self.write_groups(by_shard, parts).await
    }

    /// Sends each shard its rows. Returns the rows that are refused.
    async fn write_groups(
        self,
        by_shard: BTreeMap<ShardNumber, Vec<BulkRow>>,
        parts: &mut ShardParts,
    ) -> Vec<RefusedRow> {
        let manager = self.data.manager;
        // The cache entries of the keys are guarded again, because the map may be newer than that
        // of the request.
        let all = by_shard.values().flatten();
        let _pending =
            KeysBeingWritten::new(self.data.manager, all.map(|row| (row.place, &row.row)));
        let writes = by_shard
            .into_iter()
            .map(async |(shard, rows)| (shard, self.write_group((shard, rows)).await));
        let mut all_refused = Vec::new();
        for (shard, WrittenPart { part, refused }) in join_all(writes).await {
            parts.absorb(manager, shard, part);
            self.learn(shard, &refused).await;
            all_refused.extend(refused);
        }
        all_refused
    }

    /// Sends refused rows to the shards that accept them, and adds the outcomes to `parts`. Rows
    /// that no shard accepts before the deadline are rejected.
    pub(super) async fn settle(self, refused: Vec<RefusedRow>, parts: &mut ShardParts) {
        if is_on(Mutation::RefusalLost) {
            return parts.pretend(refused);
        }
        let manager = self.data.manager;
        let bytes = refused.iter().map(|row| row.row.row.bytes()).sum();
        let Some(parked) = manager.parked.park(refused.len(), bytes) else {
            return parts.reject(refused);
        };
        let mut by_shard: BTreeMap<ShardNumber, Vec<RefusedRow>> = BTreeMap::new();
        for row in refused {
            by_shard.entry(row.row.place.shard).or_default().push(row);
        }
        let left = self.options.deadline.saturating_duration_since(Instant::now());
        let last_look = self.options.deadline - ANSWER_TIME.min(left / 4);
        let settled = by_shard.into_values().map(|waiting| {
            // Rows that have waited must not fail because a queue of the shard is full.
            let (sender, watched) = (self.patient(), BTreeMap::new());
            Settlement { sender, waiting, hops: 0, watched, last_look }.run()
        });
        let settled = join_all(settled).await;
        let waited = parked.waited();
        for (shard, mut part) in settled.into_iter().flat_map(ShardParts::into_parts) {
            // The time in the last database counts as database time, and everything before it as
            // waiting.
            part.times.queue = waited.saturating_sub(part.times.database);
            parts.absorb(manager, shard, part);
        }
    }
}

/// Refused rows of one shard, which are sent again until each has an outcome.
struct Settlement<'d> {
    sender: RowSender<'d>,
    /// Rows that are refused at present. Rows of one key are in the order of the request.
    waiting: Vec<RefusedRow>,
    /// Number of times that rows were forwarded since the last wait.
    hops: usize,
    /// Subscriptions to the announcements of the shards for which rows have waited.
    watched: BTreeMap<ShardNumber, watch::Receiver<u64>>,
    /// Time after which rows are not sent again.
    last_look: Instant,
}

impl Settlement<'_> {
    async fn run(mut self) -> ShardParts {
        let mut parts = ShardParts::default();
        while !self.waiting.is_empty() && Instant::now() < self.last_look {
            if self.hops < HOPS_MAX && self.waiting.iter().any(|row| self.next_shard(row).is_some())
            {
                self.hops += 1;
                self.forward(&mut parts).await;
            } else {
                self.wait(&mut parts).await;
            }
        }
        parts.reject(self.waiting);
        parts
    }

    /// Returns the shard to which a row can be sent without a wait.
    fn next_shard(&self, row: &RefusedRow) -> Option<ShardNumber> {
        let manager = self.sender.data.manager;
        let KeyLocation { slot, shard, epoch, .. } = row.row.place;
        let next = match row.refusal.state {
            // The row is sent to the new owner only if the router has remembered that owner
            // (`moved_slots`).
            RefusedState::Moved { to }
                if row.refusal.slot == slot && manager.router.locate(slot).shard == to =>
            {
                to
            }
            // The shard did not try the row, or the slot accepts writes again: the row can be sent
            // at once.
            RefusedState::Fenced { left } if left.is_zero() => manager.router.locate(slot).shard,
            RefusedState::Fenced { .. }
            | RefusedState::Moved { .. }
            | RefusedState::Importing
            | RefusedState::Absent => {
                let map = manager.map.load();
                let redirect = manager.router.redirect(&map, slot);
                let newer = (map.epoch() > epoch).then(|| map.owner(slot));
                redirect.or(newer).filter(|next| *next != shard)?
            }
        };
        manager.shards().find(next).map(|_| next)
    }

    /// Sends the rows that need not wait. The rows of a transaction are all sent, even if only one
    /// of them need not wait.
    async fn forward(&mut self, parts: &mut ShardParts) {
        let (mut sent, mut left) = (Vec::new(), Vec::new());
        for row in std::mem::take(&mut self.waiting) {
            match self.next_shard(&row) {
                Some(next) => sent.push((next, row)),
                None if self.sender.kind.is_atomic => {
                    sent.push((
                        self.sender.data.manager.router.locate(row.row.place.slot).shard,
                        row,
                    ));
                }
                None => left.push(row),
            }
        }
        self.waiting = left;
        self.send(sent, parts).await;
    }

    /// Waits until the shard of the first row may accept that row, and then sends rows again.
    async fn wait(&mut self, parts: &mut ShardParts) {
        let manager = self.sender.data.manager;
        let number = self.waiting[0].row.place.shard;
        let Some(shard) = manager.shards().find(number) else {
            // The shard has retired, and this process will soon receive a map that names another
            // owner.
            tokio::time::sleep(LOOK).await;
            self.hops = 0;
            return self.send_all(parts).await;
        };
        let Some(mut news) = self.watched.remove(&number) else {
            // The slot may have changed before the subscription began, so the rows are sent again
            // without a wait.
            self.watched.insert(number, shard.slot_waits.watch());
            return self.send_all(parts).await;
        };
        let last_look = self.last_look;
        let ends = self.waiting.iter().filter_map(|row| row.until);
        let until = ends.min().map_or(last_look, |end| end.min(last_look));
        let is_elsewhere = || self.waiting.iter().any(|row| self.next_shard(row).is_some());
        let wake = shard.slot_waits.wait(&mut news, until, is_elsewhere).await;
        self.hops = 0;
        self.watched.insert(number, news);
        if Instant::now() >= last_look {
            return;
        }
        match wake {
            SlotWake::Changed => self.send_all(parts).await,
            SlotWake::Look(turn) => {
                let sent = self.waiting.len();
                self.look(parts).await;
                if self.waiting.len() < sent {
                    // The shard accepts writes again, so all other waiting writes are woken instead
                    // of trying one by one.
                    shard.slot_waits.wake();
                }
                drop(turn);
            }
        }
    }

    /// Tries again whether shards accept writes: sends the first row of each shard, or the whole
    /// transaction.
    async fn look(&mut self, parts: &mut ShardParts) {
        if self.sender.kind.is_atomic {
            return self.send_all(parts).await;
        }
        let mut asked = Vec::new();
        let mut firsts = Vec::new();
        self.waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .filter_map(|row| {
                let shard = row.row.place.shard;
                if asked.contains(&shard) {
                    return Some(row);
                }
                asked.push(shard);
                firsts
                    .push((self.sender.data.manager.router.locate(row.row.place.slot).shard, row));
                None
            })
            .collect();
        self.send(firsts, parts).await;
    }

    async fn send_all(&mut self, parts: &mut ShardParts) {
        let waiting = std::mem::take(&mut self.waiting);
        let locate =
            |row: &RefusedRow| self.sender.data.manager.router.locate(row.row.place.slot).shard;
        let sent = waiting.into_iter().map(|row| (locate(&row), row)).collect();
        self.send(sent, parts).await;
    }

    /// Sends rows to these shards. Rows that are refused again are placed before the rows that
    /// were already waiting, so that rows of one key keep their order.
    async fn send(&mut self, rows: Vec<(ShardNumber, RefusedRow)>, parts: &mut ShardParts) {
        let manager = self.sender.data.manager;
        let map = manager.map.load_full();
        let mut by_shard: BTreeMap<ShardNumber, Vec<BulkRow>> = BTreeMap::new();
        let mut refusals: BTreeMap<usize, SlotRefusal> = BTreeMap::new();
        for (shard, RefusedRow { mut row, refusal, .. }) in rows {
            let (slot, epoch) = (row.place.slot, map.epoch());
            let since = if map.owner(slot) == shard { map.since(slot) } else { epoch + 1 };
            row.place = KeyLocation { slot, shard, epoch, since };
            refusals.insert(row.index, refusal);
            by_shard.entry(shard).or_default().push(row);
        }
        let mut sent = ShardParts::default();
        let mut refused = self.sender.write_groups(by_shard, &mut sent).await;
        for (shard, mut part) in sent.into_parts() {
            part.rows.iter_mut().for_each(|row| blame_slot(row, &refusals));
            parts.absorb(manager, shard, part);
        }
        refused.append(&mut self.waiting);
        self.waiting = refused;
    }
}

/// If the deadline passed before a row could be sent again, replaces that error by the row's last
/// refusal.
fn blame_slot(row: &mut BulkRowDone, refusals: &BTreeMap<usize, SlotRefusal>) {
    if let Err((error @ Error::DeadlinePassed, Outcome::Rejected)) = &mut row.outcome
        && let Some(refusal) = refusals.get(&row.index)
    {
        *error = Error::SlotRefused(*refusal);
    }
}
