//! Tests of rows that lie in the file of a shard which does not own them: offline checks, exports
//! and migrations.

use std::path::Path;
use std::sync::Arc;

use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::engine::audit_report::{AuditOptions, AuditReport, Discrepancy};
use shard_manager::engine::export::{ExportError, ExportFormat};
use shard_manager::engine::slot_change::{SlotChange, SlotStep};
use shard_manager::engine::{WriteGroup, Writer};
use shard_manager::manager::RequestOptions;
use shard_manager::position::TimelineHistory;
use shard_manager::query::ReadQuery;
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::shard_map::with_owner;
use shard_manager::slot_set::SlotSet;
use shard_manager::store::sqlite::audit::audit;
use shard_manager::store::sqlite::export::Export;
use shard_manager::store::sqlite::offline_view::DirView;
use shard_manager::store::sqlite::writer::SqliteWriter;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, execute, ints, options, shard_file, with_replicas};

const ADA: &str = r#"{"user_id":"ada","name":"Ada","email":"ada@example.com"}"#;

/// Opens the file of a shard of a stopped cluster.
fn writer(dir: &Path, shard: usize) -> SqliteWriter {
    let history = TimelineHistory::new(vec![(1, 0)]).expect("a history");
    let replication = Arc::new(ReplicationState::new(history, 0, 0));
    let (name, file) = (format!("shard{shard}"), shard_file(dir, shard));
    SqliteWriter::open(&name, &file, &replication).expect("the file opens")
}

/// Changes slots of a shard of a stopped cluster.
fn change(dir: &Path, shard: usize, slots: &SlotSet, step: SlotStep) {
    let mut writer = writer(dir, shard);
    writer.change_slots(&SlotChange { slots: slots.clone(), step }).expect("changed");
    writer.close();
}

fn checked(dir: &Path) -> AuditReport {
    report_of(&DirView::open(dir).expect("a cluster"))
}

/// Checks a cluster whose shard map names this owner of the slots.
fn checked_with_owner(dir: &Path, slots: &SlotSet, owner: usize) -> AuditReport {
    let mut view = DirView::open(dir).expect("a cluster");
    let owner = ShardNumber(owner as u16);
    view.map = with_owner(&view.map, slots, owner).expect("there is such a shard");
    report_of(&view)
}

fn report_of(view: &DirView) -> AuditReport {
    audit(view, &AuditOptions { deep: true, threads: 2 }, &|_| ()).expect("checked")
}

fn exported(dir: &Path) -> Result<(u64, String), ExportError> {
    let mut export = Export::begin(&DirView::open(dir).expect("a cluster"))?;
    let mut out = Vec::new();
    let rows = export.write("users", (ExportFormat::Ndjson, false), &mut out, &|_| ())?;
    assert_eq!(export.row_count("users"), rows as i64);
    Ok((rows, String::from_utf8(out).expect("UTF-8")))
}

#[tokio::test]
async fn rows_of_a_slot_that_moved_away_are_no_finding_and_are_not_exported() {
    let cluster = Cluster::with(with_replicas(2, 1));
    for key in ["ada", "bob", "cyd", "dan"] {
        cluster.write("users", Upsert, key, &ADA.replace("ada", key)).await.expect("stored");
    }
    let place = cluster.prepare("users", Upsert, "ada", ADA).0;
    let slots: SlotSet = [place.slot].into_iter().collect();
    let (from, to) = (place.shard.index(), 1 - place.shard.index());
    let dir = cluster.stop();
    assert_eq!(exported(dir.path()).expect("exported").0, 4);
    change(dir.path(), from + 1, &slots, SlotStep::HandOver { to: ShardNumber(to as u16) });
    let refused = exported(dir.path()).expect_err("no shard owns the slot");
    assert!(
        matches!(&refused, ExportError::SlotsUnsettled { slots: of } if *of == slots),
        "{refused}"
    );

    change(dir.path(), to + 1, &slots, SlotStep::TakeOver);
    let (rows, lines) = exported(dir.path()).expect("exported");
    assert_eq!((rows, lines.contains("\"ada\"")), (3, false), "{lines}");
    let report = checked(dir.path());
    let mut found: Vec<&str> = report.findings.iter().map(|found| found.what.as_str()).collect();
    found.sort_unstable();
    // The shard map still names the old owner.
    let state =
        |state| format!("slot {} is {state} in the shard's tessera_slots", place.slot.number());
    assert_eq!(found, [state("moved"), state("owned")]);
    let rows: u64 = report.shards.iter().filter_map(|shard| shard.tables.get("users")).sum();
    assert_eq!(rows, 3);
    assert!(report.shards.iter().all(|shard| shard.replicas.len() == 1), "{report:?}");

    let sql = "UPDATE tessera_foreign_counts SET rows = rows + 1";
    execute(&shard_file(dir.path(), from + 1), sql);
    let report = checked(dir.path());
    let reported = "tessera_foreign_counts says 2 rows";
    assert!(report.findings.iter().any(|found| found.what == reported), "{report:?}");
}

/// Returns the number of users that every node shows: a replica may be behind.
async fn row_count(cluster: &Cluster) -> usize {
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("the table is there");
    let options = RequestOptions { level: Level::All, ..options() };
    let data = cluster.manager.data(Rights::ALL);
    data.read(ReadQuery::all(&table), None, &options).await.expect("an answer").rows.len()
}

#[tokio::test]
async fn files_of_before_slots_could_change_hands_are_migrated_and_keep_their_slots() {
    let cluster = Cluster::with(with_replicas(2, 1));
    cluster.write("users", Upsert, "ada", ADA).await.expect("stored");
    let down = concat!(
        include_str!("../../../migrations/sqlite/shard/2026-11-25-000006_groups/down.sql"),
        include_str!("../../../migrations/sqlite/shard/2026-11-24-000005_moves/down.sql"),
        include_str!("../../../migrations/sqlite/shard/2026-11-23-000004_slots/down.sql"),
    );
    let cluster = cluster.restart_after(|dir| {
        for file in ["shard1-primary", "shard1-replica1", "shard2-primary", "shard2-replica1"] {
            let file = dir.join(format!("{file}.db"));
            execute(&file, down);
            let last = "(SELECT max(version) FROM __diesel_schema_migrations)";
            let forget = format!("DELETE FROM __diesel_schema_migrations WHERE version={last}");
            for _ in 0..3 {
                execute(&file, &forget);
            }
        }
    });
    assert_eq!(row_count(&cluster).await, 1);
    cluster.write("users", Upsert, "bob", &ADA.replace("ada", "bob")).await.expect("stored");
    assert_eq!(row_count(&cluster).await, 2);
    let generation = "SELECT generation AS value FROM tessera_shard";
    assert_eq!(ints(&cluster.file(1), generation), [0]);
    let dir = cluster.stop();
    assert_eq!(checked(dir.path()).findings, []);
}

#[tokio::test]
async fn rows_of_a_slot_that_changed_hands_are_counted_and_exported_once() {
    let cluster = Cluster::with(with_replicas(2, 1));
    for key in ["ada", "bob", "cyd", "dan"] {
        cluster.write("users", Upsert, key, &ADA.replace("ada", key)).await.expect("stored");
    }
    let (place, row) = cluster.prepare("users", Upsert, "ada", ADA);
    let slots: SlotSet = [place.slot].into_iter().collect();
    let (from, to) = (place.shard.index(), 1 - place.shard.index());
    let dir = cluster.stop();
    change(dir.path(), from + 1, &slots, SlotStep::HandOver { to: ShardNumber(to as u16) });
    change(dir.path(), to + 1, &slots, SlotStep::TakeOver);
    // The new owner has the row as well.
    let mut writer = writer(dir.path(), to + 1);
    writer.apply(&[WriteGroup { rows: &[row], atomic_rows: None }]).expect("stored");
    writer.close();
    let report = checked_with_owner(dir.path(), &slots, to);
    assert_eq!(report.findings, []);
    let rows: u64 = report.shards.iter().filter_map(|shard| shard.tables.get("users")).sum();
    assert_eq!(rows, 4);
    let (rows, lines) = exported(dir.path()).expect("exported");
    assert_eq!((rows, lines.matches("\"ada\"").count()), (4, 1), "{lines}");
}

#[tokio::test]
async fn a_slot_of_two_shards_or_of_none_is_a_finding_whatever_the_map() {
    let cluster = Cluster::with(with_replicas(2, 0));
    cluster.write("users", Upsert, "ada", ADA).await.expect("stored");
    let place = cluster.prepare("users", Upsert, "ada", ADA).0;
    let slots: SlotSet = [place.slot].into_iter().collect();
    let (from, to) = (place.shard.index(), 1 - place.shard.index());
    let dir = cluster.stop();
    assert_eq!(checked(dir.path()).findings, []);
    let found = |owner: usize, shard: usize, state: &str| {
        let report = checked_with_owner(dir.path(), &slots, owner);
        let state = format!("slot {} is {state} in", place.slot.number());
        let shard = format!("shard{}", shard + 1);
        let is = |found: &&Discrepancy| found.shard == shard && found.what.starts_with(&state);
        let there = report.findings.iter().any(|found| is(&found));
        assert!(there, "{shard}, {state}: {report:?}");
    };
    change(dir.path(), to + 1, &slots, SlotStep::TakeOver);
    found(from, to, "owned");
    found(to, from, "owned");
    assert!(matches!(exported(dir.path()), Err(ExportError::SlotsUnsettled { .. })));
    let away = ShardNumber(from as u16);
    change(dir.path(), to + 1, &slots, SlotStep::HandOver { to: away });
    assert_eq!(checked(dir.path()).findings, [], "the slot is back with its owner");
    let away = ShardNumber(to as u16);
    change(dir.path(), from + 1, &slots, SlotStep::HandOver { to: away });
    found(from, from, "moved");
    found(to, to, "moved");
    assert!(matches!(exported(dir.path()), Err(ExportError::SlotsUnsettled { .. })));
}
