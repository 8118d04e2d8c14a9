//! Tests of power loss on embedded shards: every acknowledged write exists when the power is back.
//!
//! A separate binary, because the watching VFS applies to the whole process.

mod chance;
mod disk;
mod moves;
#[cfg(feature = "sabotage")]
mod sabotaged;
mod story;
mod vfs;

use std::collections::BTreeMap;

use chance::Chance;
use disk::{Act, Kind, Lie, Step};
use futures_util::future::join_all;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::manager::Manager;
use story::{BrokenPromise, Story, Verdict};

/// Chooses the steps before which the power is cut: about one in `so_many` of each kind of
/// step. Only a step can change the content of a disk, so these cuts represent all moments between
/// the steps.
fn one_in(
    seed: u64,
    so_many: impl Fn(Step) -> u64 + Send + 'static,
) -> impl FnMut(Step) -> bool + Send + 'static {
    let mut chance = Chance::new(seed);
    let mut left = BTreeMap::new();
    move |step| {
        let mut draw = || chance.below(2 * so_many(step) - 1);
        let left = left.entry(step).or_insert_with(&mut draw);
        let due = *left == 0;
        *left = if due { draw() } else { *left - 1 };
        due
    }
}

fn shards(count: usize) -> ClusterSpec {
    with_replicas(count, 0)
}

fn with_replicas(shards: usize, replicas: usize) -> ClusterSpec {
    ClusterSpec { shards: Some(shards), replicas: Some(replicas), ..ClusterSpec::default() }
}

fn assert_unharmed(verdicts: &[Verdict], cuts_min: usize) {
    let harmed = verdicts.iter().filter(|verdict| verdict.harm.is_some());
    let harmed: Vec<String> = harmed.map(Verdict::to_string).collect();
    assert!(harmed.is_empty(), "{} of {} cuts: {harmed:#?}", harmed.len(), verdicts.len());
    assert!(verdicts.len() >= cuts_min, "there were {} cuts only", verdicts.len());
}

/// Writes three keys, one change after the other: when a change begins, all before it are
/// acknowledged.
async fn write_some(story: &Story, manager: &Manager) {
    for _ in 0..5 {
        for key in ["a", "b", "c"] {
            story.change(manager, key).await;
        }
    }
}

/// The last step of a checkpoint, after it has written to the database.
const CHECKPOINT: Step = Step { kind: Kind::Database, act: Act::Sync };
/// Number of checkpoints that are awaited under load: each needs 16 MiB of WAL.
const CHECKPOINTS: u64 = 2;
/// Changes of one client. Fewer than half of them suffice, unless checkpoints do not happen.
const CHANGES_MAX: u32 = 500;

#[tokio::test]
async fn an_acknowledged_write_survives_a_power_cut() {
    let dir = tempfile::tempdir().expect("a folder");
    let story = Story::begin(dir.path(), shards(1), 1);
    let manager = story.open();
    story.cut_before(one_in(2, |step| match (step.kind, step.act) {
        (Kind::Wal, Act::Write) => 3_000,
        (Kind::Wal, Act::Sync) => 100,
        (Kind::Database, Act::WriteHead | Act::Write) => 400,
        // Rare and critical steps: the WAL restarts, a checkpoint ends, a file is removed.
        (Kind::Wal, Act::WriteHead | Act::Resize | Act::Remove)
        | (Kind::Database, Act::Resize | Act::Sync | Act::Remove)
        | (Kind::Journal, _) => 1,
    }));
    let at_start = story.disk.steps(CHECKPOINT);
    let clients = (0..8).map(async |client| {
        let mut chance = Chance::new(client);
        for _ in 0..CHANGES_MAX {
            if story.disk.steps(CHECKPOINT) - at_start >= CHECKPOINTS {
                break;
            }
            let key = format!("client{client}-key{}", chance.below(4));
            story.change(&manager, &key).await;
            // The hardest moment: the answer has just arrived.
            if chance.below(200) == 0 {
                story.cut();
            }
        }
    });
    join_all(clients).await;
    manager.close();
    drop(manager);
    let verdicts = story.verdicts();
    assert_unharmed(&verdicts, 20);
    let cuts = |kind, act| {
        let step = Some(Step { kind, act });
        verdicts.iter().filter(|verdict| verdict.moment.step == step).count() as u64
    };
    assert!(cuts(Kind::Database, Act::Sync) >= CHECKPOINTS, "checkpoints really happened");
    assert!(cuts(Kind::Database, Act::Write) >= 1, "and were cut while they wrote");
    assert!(cuts(Kind::Wal, Act::WriteHead) >= CHECKPOINTS, "and the WAL began again");
}

#[tokio::test]
async fn a_start_or_stop_that_is_cut_short_loses_nothing_and_can_be_done_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let story = Story::begin(dir.path(), shards(2), 3);
    // From the very first step on, when the folder is empty.
    story.cut_before(one_in(4, |step| if step.act == Act::Write { 20 } else { 4 }));
    for _ in 0..2 {
        let manager = story.open();
        write_some(&story, &manager).await;
        manager.close();
    }
    assert_unharmed(&story.verdicts(), 40);
}

#[tokio::test]
async fn a_second_power_cut_while_the_first_is_recovered_from_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let story = Story::begin(dir.path(), shards(2), 5);
    let manager = story.open();
    write_some(&story, &manager).await;
    for seed in 0..3 {
        let dir = tempfile::tempdir().expect("a folder");
        let again = story.after_power_loss(dir.path());
        again.cut_before(one_in(seed, |step| if step.act == Act::Write { 12 } else { 2 }));
        drop(again.open());
        assert_unharmed(&again.verdicts(), 8);
    }
}

#[tokio::test]
async fn a_replica_equals_its_primary_again_after_a_power_cut() {
    let dir = tempfile::tempdir().expect("a folder");
    let story = Story::begin(dir.path(), with_replicas(2, 1), 7);
    let manager = story.open();
    story.cut_before(one_in(8, |step| if step.act == Act::Write { 40 } else { 6 }));
    for _ in 0..3 {
        write_some(&story, &manager).await;
    }
    manager.close();
    assert_unharmed(&story.verdicts(), 20);
}

#[tokio::test]
async fn what_every_node_confirmed_is_on_the_replicas_when_the_primaries_are_lost_with_the_power() {
    let dir = tempfile::tempdir().expect("a folder");
    let story = Story::begin(dir.path(), with_replicas(2, 1), 9);
    let manager = story.open();
    write_some(&story, &manager).await;
    story.promote_replicas();
    story.cut_before(one_in(10, |step| if step.act == Act::Write { 40 } else { 6 }));
    for _ in 0..3 {
        write_some(&story, &manager).await;
    }
    assert_unharmed(&story.verdicts(), 15);
    manager.close();
}

#[tokio::test]
async fn a_table_that_was_being_made_is_on_every_shard_after_a_power_cut_or_on_none() {
    for promoted in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let story = Story::begin(dir.path(), with_replicas(2, 1), 11);
        let manager = story.open();
        write_some(&story, &manager).await;
        if promoted {
            story.promote_replicas();
        }
        story.cut_before(one_in(12, |step| if step.act == Act::Write { 20 } else { 3 }));
        for name in ["first", "second", "third", "fourth"] {
            story.make(&manager, name).await;
            story.change(&manager, "a").await;
        }
        assert_unharmed(&story.verdicts(), 15);
        manager.close();
    }
}

/// Cuts the power before about one in `so_many` steps while slots move to another shard and back.
async fn cut_while_slots_move(seed: u64, so_many: u64, cuts_min: usize) {
    for promoted in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let story = Story::begin(dir.path(), with_replicas(2, 1), seed);
        let manager = story.open();
        write_some(&story, &manager).await;
        if promoted {
            story.promote_replicas();
        }
        let rare = move |step: Step| if step.act == Act::Write { 10 * so_many } else { so_many };
        story.cut_before(one_in(seed + 1, rare));
        for (key, comes_back) in [("a", false), ("b", true), ("a", true)] {
            story.move_slot(&manager, key, comes_back).await;
        }
        assert_unharmed(&story.verdicts(), cuts_min);
        manager.close();
    }
}

#[tokio::test]
async fn slots_that_moved_when_the_power_was_cut_arrive_or_return_with_every_row() {
    cut_while_slots_move(13, 60, 10).await;
}

#[tokio::test]
#[ignore = "takes minutes: cargo test -p shard-manager --test power_loss -- --ignored"]
async fn slots_that_moved_when_the_power_was_cut_very_often_arrive_or_return_with_every_row() {
    for seed in [13, 15, 17] {
        cut_while_slots_move(seed, 12, 50).await;
    }
}

/// Runs a cluster on a disk that may begin to lie after a while: writes, a stop, a start, more
/// writes, and finally eight power cuts.
async fn verdicts_on_a_disk(lie: Option<Lie>) -> Vec<Verdict> {
    let dir = tempfile::tempdir().expect("a folder");
    let story = Story::begin(dir.path(), shards(2), 6);
    let manager = story.open();
    write_some(&story, &manager).await;
    if let Some(lie) = lie {
        story.disk.lie(lie);
    }
    write_some(&story, &manager).await;
    // A stop moves all rows from the WALs into the databases, so that the WALs restart.
    manager.close();
    drop(manager);
    let manager = story.open();
    write_some(&story, &manager).await;
    for _ in 0..8 {
        story.cut();
    }
    story.verdicts()
}

#[tokio::test]
async fn a_disk_that_ignores_syncs_of_the_wal_loses_what_was_acknowledged() {
    assert_unharmed(&verdicts_on_a_disk(None).await, 8);
    let verdicts = verdicts_on_a_disk(Some(Lie::BytesOf(Kind::Wal))).await;
    let lost = |verdict: &Verdict| matches!(verdict.harm, Some(BrokenPromise::Lost(_)));
    assert!(verdicts.iter().any(lost), "or these tests would find nothing");
}

#[tokio::test]
async fn a_disk_that_ignores_syncs_of_the_databases_or_their_names_damages_them() {
    for lie in [Lie::BytesOf(Kind::Database), Lie::Names] {
        let verdicts = verdicts_on_a_disk(Some(lie)).await;
        let harmed = verdicts.iter().any(|verdict| verdict.harm.is_some());
        assert!(harmed, "{lie:?}: or these tests would find nothing");
        let panicked = |verdict: &Verdict| matches!(verdict.harm, Some(BrokenPromise::Panicked));
        assert!(!verdicts.iter().any(panicked), "{lie:?}: what is damaged is refused");
    }
}
