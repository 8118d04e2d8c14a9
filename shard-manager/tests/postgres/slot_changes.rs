//! Tests of changes of slots, and of writes that they refuse.
//!
//! Two routers share a database; one of them may stand still while the other changes slots.

use std::time::Duration;

use shard_manager::engine::slot_change::{SlotChangeError, SlotStep};
use shard_manager::keyspace::Slot;
use shard_manager::row_change::Operation::{Delete, Insert, Update, Upsert};
use shard_manager::slot_refusal::RefusedState::{self, Absent, Importing, Moved};
use shard_manager::topology::ShardNumber;

use crate::cluster::{Databases, SideSession};
use crate::slot_router::{SlotRouter, is_fenced, refused};

const MINUTE: SlotStep = SlotStep::Fence { hold: Duration::from_secs(60) };
const AWAY: SlotStep = SlotStep::HandOver { to: ShardNumber(2) };

/// Number of sessions that wait for the fence lock of the current database.
const WAITING: &str =
    "SELECT count(*)::text AS value FROM pg_locks WHERE locktype='advisory' AND NOT granted
    AND classid=1950 AND objid=1
    AND database=(SELECT oid FROM pg_database WHERE datname=current_database())";

async fn routers() -> (Databases, SlotRouter, SlotRouter, SideSession) {
    let databases = Databases::new(1).await;
    let address = databases.address();
    let (one, other) = (SlotRouter::open(&address), SlotRouter::open(&address));
    let direct = databases.direct_session(0).await;
    (databases, one, other, direct)
}

fn not_owned(changed: Result<u64, SlotChangeError>) -> Vec<Slot> {
    match changed {
        Err(SlotChangeError::NotOwned { slots, .. }) => slots.iter().collect(),
        other => panic!("{other:?}"),
    }
}

async fn state(direct: &mut SideSession, slot: Slot) -> String {
    let slot = slot.number();
    let sql = format!(
        "SELECT state||coalesce(' '||moved_to, '')||
         CASE WHEN until IS NULL AND since IS NULL THEN '' ELSE ' for '||(until-since) END AS value
         FROM tessera_slots WHERE slot={slot}"
    );
    direct.text(&sql).await
}

#[tokio::test]
async fn a_change_applies_to_all_of_its_slots_or_to_none_and_may_be_repeated() {
    let (_databases, mut one, mut other, mut direct) = routers().await;
    let [a, b, c] = [5, 6, 7].map(|number| Slot::new(number).unwrap());
    for _ in 0..2 {
        one.must_change(&[a, b], MINUTE).await;
        assert_eq!(state(&mut direct, a).await, "fenced for 00:01:00");
    }
    let hour = SlotStep::Fence { hold: Duration::from_secs(3_600) };
    one.must_change(&[b], hour).await;
    assert_eq!(state(&mut direct, b).await, "fenced for 00:01:00", "no fence lasts longer");
    for _ in 0..2 {
        other.must_change(&[b, c], SlotStep::Release).await;
        assert_eq!(state(&mut direct, b).await, "owned");
    }
    for router in [&mut one, &mut other] {
        router.must_change(&[a, b], AWAY).await;
        assert_eq!(state(&mut direct, a).await, "moved 2");
    }
    // Nothing applies to a slot that is not owned, nor to the others of the change.
    for step in [MINUTE, SlotStep::Release, SlotStep::HandOver { to: ShardNumber(1) }] {
        assert_eq!(not_owned(one.change(&[a, b, c], step).await), [a, b], "{step:?}");
        assert_eq!(state(&mut direct, c).await, "owned");
    }
    direct.run("DELETE FROM tessera_slots WHERE slot=6").await;
    assert_eq!(not_owned(one.change(&[b, c], AWAY).await), [b]);
    direct.run("UPDATE tessera_slots SET state='importing', moved_to='2' WHERE slot=5").await;
    one.must_change(&[c], MINUTE).await;
    for router in [&mut one, &mut other] {
        router.must_change(&[a, b, c], SlotStep::TakeOver).await;
        assert_eq!(state(&mut direct, a).await, "owned");
        assert_eq!(state(&mut direct, b).await, "owned");
        assert_eq!(state(&mut direct, c).await, "fenced for 00:01:00", "it was owned before");
    }
}

/// A write of each kind is refused with this state.
async fn check_refused(router: &mut SlotRouter, key: &str, fits: impl Fn(RefusedState) -> bool) {
    let check = |state: RefusedState, path: &str| assert!(fits(state), "{path}: {state:?}");
    for operation in [Upsert, Insert, Update, Delete] {
        let done = router.write_users(operation, &[key]).await;
        check(refused(&done[0]), "one row");
        // Neighbours in the same statements are stored.
        let done = router.write_users(operation, &["near", key, "far", key]).await;
        check(refused(&done[1]), "several rows");
        check(refused(&done[3]), "several rows");
        assert!(!matches!(done[0], Err(shard_manager::error::Error::SlotRefused(_))), "{done:?}");
        let rows: Vec<_> = [key, "near"].map(|key| router.user(operation, key)).into();
        check(refused(&router.write(&rows, true).await[0]), "all or none");
    }
    let many: Vec<String> = (0..100).map(|number| format!("many{number}")).collect();
    let keys: Vec<&str> = many.iter().map(String::as_str).chain([key]).collect();
    check(refused(&router.write_users(Upsert, &keys).await[100]), "many rows");
}

#[tokio::test]
async fn every_refused_write_has_a_reason() {
    let (_databases, mut one, mut other, mut direct) = routers().await;
    let slot = one.slot("there");
    one.write_users(Upsert, &["there"]).await[0].as_ref().unwrap();
    let counted = "SELECT count(*)::text||max(version) AS value FROM users WHERE user_id='there'";
    let before = direct.text(counted).await;
    one.must_change(&[slot], MINUTE).await;
    check_refused(&mut other, "there", is_fenced).await;
    one.must_change(&[slot], AWAY).await;
    check_refused(&mut other, "there", |state| state == Moved { to: ShardNumber(2) }).await;
    let number = slot.number();
    let set = format!("UPDATE tessera_slots SET state='importing' WHERE slot={number}");
    direct.run(&set).await;
    check_refused(&mut other, "there", |state| state == Importing).await;
    // The name of a shard is not a number: nothing is known about the new owner.
    let set = format!("UPDATE tessera_slots SET state='moved', moved_to='x' WHERE slot={number}");
    direct.run(&set).await;
    check_refused(&mut other, "there", |state| state == Absent).await;
    direct.run(&format!("DELETE FROM tessera_slots WHERE slot={number}")).await;
    check_refused(&mut other, "there", |state| state == Absent).await;
    assert_eq!(direct.text(counted).await, before, "nothing was stored");
    one.must_change(&[slot], SlotStep::TakeOver).await;
    other.write_users(Upsert, &["there"]).await[0].as_ref().unwrap();
}

/// A write that has waited for the lock since its snapshot was taken is refused with the state that
/// was committed meanwhile. A naive statement reads the reason in its own snapshot, and finds the
/// slot owned.
#[tokio::test]
async fn a_write_that_waited_for_a_change_reports_the_change() {
    let (databases, one, mut other, mut direct) = routers().await;
    let slot = one.slot("there").number();
    let mut mover = databases.direct_session(0).await;
    for (operation, single) in [(Upsert, true), (Upsert, false), (Insert, true), (Delete, true)] {
        mover.run("BEGIN; SELECT pg_advisory_xact_lock(1950, 1)").await;
        let set = format!("UPDATE tessera_slots SET state='moved', moved_to='2' WHERE slot={slot}");
        mover.run(&set).await;
        let keys = if single { &["there"][..] } else { &["there", "near"] };
        let committed = async {
            direct.until(WAITING, "1").await;
            mover.run("COMMIT").await;
        };
        let (done, ()) = tokio::join!(other.write_users(operation, keys), committed);
        assert_eq!(refused(&done[0]), Moved { to: ShardNumber(2) }, "{operation:?}");
        mover.run(&format!("UPDATE tessera_slots SET state='owned' WHERE slot={slot}")).await;
    }
    mover.run("BEGIN; SELECT pg_advisory_xact_lock(1950, 1)").await;
    mover.run(&format!("UPDATE tessera_slots SET state='moved' WHERE slot={slot}")).await;
    let naive = format!(
        "SELECT s.state AS value FROM unnest(tessera_enter('{{{slot}}}', false)) AS r (slot)
         JOIN tessera_slots AS s USING (slot)"
    );
    let mut writer = databases.direct_session(0).await;
    let committed = async {
        direct.until(WAITING, "1").await;
        mover.run("COMMIT").await;
    };
    let (said, ()) = tokio::join!(writer.text(&naive), committed);
    assert_eq!(said, "owned", "it is refused, and the reason is that it is owned");
}

#[tokio::test]
async fn a_change_waits_for_accepted_writes_but_not_for_long() {
    let (databases, mut one, mut other, mut direct) = routers().await;
    let slot = one.slot("there");
    let number = slot.number();
    // A router stands still after the database has accepted its write.
    let mut frozen = databases.direct_session(0).await;
    frozen.run(&format!("BEGIN; SELECT tessera_enter('{{{number}}}', false)")).await;
    for step in [MINUTE, AWAY, SlotStep::TakeOver] {
        let busy = one.change(&[slot], step).await.unwrap_err();
        assert!(matches!(busy, SlotChangeError::Busy { .. }), "{busy:?}");
    }
    assert_eq!(state(&mut direct, slot).await, "owned");
    let stored = "INSERT INTO users (slot, shard_key, user_id, name, email, version, created_at, \
                  updated_at) SELECT n, 'there', 'there', 'n', 'e', 1, now(), now() FROM";
    frozen.run(&format!("{stored} (VALUES ({number})) AS v (n); COMMIT")).await;
    one.must_change(&[slot], AWAY).await;
    let moved = Moved { to: ShardNumber(2) };
    assert_eq!(refused(&other.write_users(Upsert, &["there"]).await[0]), moved);

    // A router that stood still before the database has seen its write is refused.
    frozen.run("BEGIN").await;
    let entered = format!(
        "SELECT tessera_refused_now(s)::text AS value \
                           FROM unnest(tessera_enter('{{{number}}}', false)) AS s"
    );
    assert_eq!(frozen.text(&entered).await, (2 * 4 + 2).to_string());
    let one_row = format!("SELECT tessera_enter_one({number})::text AS value");
    assert_eq!(frozen.text(&one_row).await, "", "no version is drawn");
    frozen.run("COMMIT").await;
    // A snapshot of before the change is not accepted.
    for call in
        ["tessera_change_slots('{1}', 'release', NULL, NULL)", "tessera_forget(now(), now(), 1)"]
    {
        frozen.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        let said = frozen.try_run(&format!("SELECT {call}")).await.unwrap_err();
        assert!(said.contains("needs READ COMMITTED"), "{said}");
        frozen.run("ROLLBACK").await;
    }
}

#[tokio::test]
async fn a_fence_ends_by_itself_and_does_not_last_longer_if_the_clock_is_set_back() {
    let (_databases, mut one, mut other, mut direct) = routers().await;
    let slot = one.slot("there");
    let fence = SlotStep::Fence { hold: Duration::from_millis(300) };
    one.must_change(&[slot], fence).await;
    // The time left is over as soon as the refusal says so, at the latest.
    loop {
        let done = other.write_users(Upsert, &["there"]).await.remove(0);
        match &done {
            Ok(_) => break,
            Err(_) => match refused(&done) {
                RefusedState::Fenced { left } => {
                    assert!(left <= Duration::from_millis(300), "{left:?}");
                    tokio::time::sleep(left).await;
                }
                other @ (Moved { .. } | Importing | Absent) => panic!("{other:?}"),
            },
        }
    }
    assert_eq!(state(&mut direct, slot).await, "fenced for 00:00:00.3", "by itself");
    // A clock that was set back reads a time before the fence began.
    one.must_change(&[slot], MINUTE).await;
    assert!(is_fenced(refused(&other.write_users(Upsert, &["there"]).await[0])));
    let number = slot.number();
    let back = "UPDATE tessera_slots SET since=since+interval '1h', until=until+interval '1h'";
    direct.run(&format!("{back} WHERE slot={number}")).await;
    other.write_users(Upsert, &["there"]).await[0].as_ref().unwrap();
    other.write_users(Insert, &["near", "there"]).await[0].as_ref().unwrap();
    // A lapsed fence may still be handed over.
    one.must_change(&[slot], AWAY).await;
}

#[tokio::test]
async fn every_router_is_notified_of_changes_by_routers_and_by_hand() {
    let (_databases, mut one, other, mut direct) = routers().await;
    let mut news = [&one, &other].map(|router| router.opened.shards[0].slot_news.subscribe());
    let slot = one.slot("there");
    let changes = ["release", "by hand", "another session"];
    for change in changes {
        for each in &mut news {
            each.mark_unchanged();
        }
        match change {
            "release" => drop(one.must_change(&[slot], MINUTE).await),
            "by hand" => direct.run("UPDATE tessera_slots SET state='moved' WHERE slot=9").await,
            _ => {
                // The watchers connect again, and announce what they may have missed.
                let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name LIKE '%watcher' AND datname=current_database()";
                direct.run(ended).await;
            }
        }
        for each in &mut news {
            let heard = tokio::time::timeout(Duration::from_secs(60), each.changed()).await;
            heard.unwrap_or_else(|_| panic!("{change} was not announced")).unwrap();
        }
    }
}

#[tokio::test]
async fn expired_records_of_slots_that_are_not_owned_are_kept() {
    let (databases, mut one, _other, mut direct) = routers().await;
    let [a, b, c] = [5, 6, 7].map(|number| Slot::new(number).unwrap());
    direct.run(
        "INSERT INTO tessera_idempotency SELECT n, 'k', 'old', 'f', '{}', 1, now()-interval '9d', now()
         FROM generate_series(4, 7) AS n",
    )
    .await;
    one.must_change(&[a], AWAY).await;
    one.must_change(&[b], MINUTE).await;
    let forget =
        "SELECT tessera_forget(now()-interval '30d', now()-interval '1d', 256)::text AS value";
    let left = "SELECT string_agg(slot::text, ',' ORDER BY slot) AS value FROM tessera_idempotency";
    // It waits for a change, and then sees it.
    let mut mover = databases.direct_session(0).await;
    mover.run("BEGIN; SELECT pg_advisory_xact_lock(1950, 1)").await;
    let number = c.number();
    mover.run(&format!("UPDATE tessera_slots SET state='importing' WHERE slot={number}")).await;
    let mut expiry = databases.direct_session(0).await;
    let committed = async {
        direct.until(WAITING, "1").await;
        mover.run("COMMIT").await;
    };
    let (removed, ()) = tokio::join!(expiry.text(forget), committed);
    assert_eq!(removed, "1");
    assert_eq!(direct.text(left).await, "5,6,7");
    one.must_change(&[a, b, c], SlotStep::TakeOver).await;
    one.must_change(&[b], SlotStep::Release).await;
    assert_eq!(expiry.text(forget).await, "3");
}
