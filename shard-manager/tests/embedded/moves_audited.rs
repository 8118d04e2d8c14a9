//! Tests of offline checks and of the expiry of idempotency keys while slots move.

use std::path::Path;
use std::sync::Arc;

use shard_manager::engine::Writer;
use shard_manager::engine::audit_report::{AuditOptions, AuditReport};
use shard_manager::engine::slot_move::{MoveChange, MoveReader, RoundBudget, RoundQuery};
use shard_manager::keyspace::Slot;
use shard_manager::moves::applied::AppliedRows;
use shard_manager::moves::beginning::NewMoveRow;
use shard_manager::moves::cutover::{SlotActivation, SlotCommit};
use shard_manager::moves::identity::{MoveId, MoveLeg, MoveTerm, MoveTicket};
use shard_manager::moves::move_row::{CopyCursor, MoveRow};
use shard_manager::moves::request::MoveRequest;
use shard_manager::position::{Position, TimelineHistory};
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::store::sqlite::audit::audit;
use shard_manager::store::sqlite::move_reader::FileMoveReader;
use shard_manager::store::sqlite::offline_view::DirView;
use shard_manager::store::sqlite::writer::SqliteWriter;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, execute, shard_file, with_replicas};

const ADA: &str = r#"{"user_id":"ada","name":"Ada","email":"ada@example.com"}"#;
const HOME: Position = Position { timeline: 1, sequence: 1 };

/// A stopped cluster of two shards, between which a slot moves.
struct Stopped<'d> {
    dir: &'d Path,
    slots: Arc<[Slot]>,
    ticket: MoveTicket,
    runtime: tokio::runtime::Runtime,
}

impl Stopped<'_> {
    fn writer(&self, shard: usize) -> SqliteWriter {
        let history = TimelineHistory::new(vec![(1, 0)]).expect("a history");
        let replication = Arc::new(ReplicationState::new(history, 0, 0));
        let file = shard_file(self.dir, shard + 1);
        SqliteWriter::open(&format!("shard{}", shard + 1), &file, &replication).expect("it opens")
    }

    fn change(&self, shard: usize, change: impl Into<MoveChange>) {
        let mut writer = self.writer(shard);
        writer.change_move(&change.into()).expect("carried out");
        writer.close();
    }

    fn read<T>(&self, shard: usize, read: impl AsyncFnOnce(&FileMoveReader) -> T) -> T {
        let writer = self.writer(shard);
        let (file, slots) = (shard_file(self.dir, shard + 1), writer.slots());
        let shared = (&slots.gate, &slots.compared);
        let reader = FileMoveReader::new(("shard", &file), writer.file_check(), shared);
        self.runtime.block_on(read(&reader))
    }

    fn row(&self, shard: usize) -> MoveRow {
        let rows = self.read(shard, async |reader| reader.rows(deadline()).await);
        rows.expect("rows").pop().expect("one row")
    }

    /// Takes the move to its fence.
    fn begin(&self, from: usize, to: usize) {
        let new = |other: usize| {
            let (ticket, slots) = (self.ticket, Arc::clone(&self.slots));
            NewMoveRow { ticket, other: ShardNumber(other as u16), slots }
        };
        self.change(to, MoveRequest::Prepare(new(from)));
        self.change(from, MoveRequest::Trace(new(to)));
        let query = RoundQuery {
            id: self.ticket.id,
            slots: Arc::clone(&self.slots),
            base: AppliedRows::begin(1),
            base_cursor: CopyCursor::Empty,
            wants_digests: false,
            budget: RoundBudget::ALONE,
        };
        let read = self.read(from, async |reader| reader.read_round(&query, deadline()).await);
        let read = read.expect("a round");
        let request = MoveRequest::Store(self.ticket, read.round);
        self.change(to, MoveChange { request, rows: read.rows });
        self.change(from, MoveRequest::Fence(self.ticket));
    }

    fn commit(&self, from: usize, to: usize) {
        let row = self.row(to);
        let (way_back, applied) = (row.feed(1), row.applied);
        let commit = SlotCommit { applied, signpost_min_position: HOME, way_back };
        self.change(from, MoveRequest::Commit(self.ticket, commit));
    }

    fn activate(&self, from: usize, to: usize) {
        let activation = SlotActivation::of(&self.row(from), HOME);
        self.change(to, MoveRequest::Activate(activation));
    }

    fn audit(&self) -> AuditReport {
        let view = DirView::open(self.dir).expect("a cluster");
        audit(&view, &AuditOptions { deep: true, threads: 2 }, &|_| ()).expect("checked")
    }
}

#[tokio::test]
async fn slots_in_a_move_are_no_finding_unless_two_shards_own_them_or_none() {
    let cluster = Cluster::with(with_replicas(2, 0));
    for key in ["ada", "bob", "cyd", "dan"] {
        cluster.write("users", Upsert, key, &ADA.replace("ada", key)).await.expect("stored");
    }
    let place = cluster.prepare("users", Upsert, "ada", ADA).0;
    let (from, to) = (place.shard.index(), 1 - place.shard.index());
    let dir = cluster.stop();
    let checked = move || {
        let term = MoveTerm { number: 1, mover: 9 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let stopped = Stopped {
            dir: dir.path(),
            slots: [place.slot].into(),
            ticket: MoveTicket { id: MoveId(5), leg: MoveLeg::FIRST, term },
            runtime: runtime.expect("a runtime"),
        };
        let note = "1 slots are in a move between two shards".to_owned();
        let assert_sound = || {
            let report = stopped.audit();
            assert_eq!(report.findings, []);
            assert!(report.notes.contains(&note), "{report:?}");
            let rows = report.shards.iter().filter_map(|shard| shard.tables.get("users"));
            rows.sum::<u64>()
        };
        stopped.begin(from, to);
        assert_eq!(assert_sound(), 4);
        stopped.commit(from, to);
        assert_eq!(assert_sound(), 3, "no shard owns the slot until its activation");
        stopped.activate(from, to);
        // The shard map still names the old owner.
        assert_eq!(assert_sound(), 4);
        for (state, found) in [("owned", 2), ("importing", 0)] {
            let sql = |state| {
                format!(
                    "UPDATE tessera_slots SET state='{state}' WHERE state IN ('moved','owned')
                    AND slot={}",
                    place.slot.number()
                )
            };
            let file = shard_file(dir.path(), from + 1);
            execute(&file, &sql(state));
            let report = stopped.audit();
            let reported =
                report.findings.iter().filter(|found| found.what.contains("tessera_slots"));
            assert_eq!(reported.count(), found, "{state}: {report:?}");
            execute(
                &file,
                &format!("UPDATE tessera_slots SET state='moved' WHERE slot={}", place.slot),
            );
        }
        let left_rows = || {
            let notes = stopped.audit().notes;
            notes
                .into_iter()
                .filter(|note| note.contains("no move deletes them"))
                .collect::<Vec<_>>()
        };
        assert_eq!(left_rows(), [""; 0]);
        let sql = format!("UPDATE tessera_slots SET state='moved' WHERE slot={}", place.slot);
        execute(&shard_file(dir.path(), to + 1), &sql);
        let report = stopped.audit();
        let reported = report.findings.iter().filter(|found| found.what.contains("tessera_slots"));
        assert_eq!(reported.count(), 2, "no shard owns it: {report:?}");
        execute(&shard_file(dir.path(), from + 1), "DELETE FROM tessera_moves");
        assert_eq!(left_rows().len(), 1, "the move that would delete the row is forgotten");
    };
    tokio::task::spawn_blocking(checked).await.expect("checked");
}
