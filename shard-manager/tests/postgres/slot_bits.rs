//! Tests of the bits of the slots: whatever changes `tessera_slots`, the bits that writes and reads
//! look at are those of its rows.

use crate::cluster::{Databases, SideSession, connect};

/// Returns 0 if the bits are those of the rows, else the number of slots whose bits are wrong.
const WRONG: &str = "SELECT count(*)::text AS value
    FROM generate_series(0, 16383) AS n LEFT JOIN tessera_slots AS s ON s.slot = n,
    tessera_owned AS o, tessera_readable AS r
    WHERE get_bit(o.bits, n) <> (s.state IS NOT DISTINCT FROM 'owned')::integer
    OR get_bit(r.bits, n) <> (coalesce(s.state, '') IN ('owned', 'fenced'))::integer
    OR get_bit(r.bits, n) + get_bit(coalesce(r.leftover, decode(repeat('00', 2048), 'hex')), n) > 1
    OR s.state IN ('moved', 'importing') AND (r.leftover IS NULL OR get_bit(r.leftover, n) = 0)";

async fn generation(direct: &mut SideSession) -> i64 {
    let text = direct.text("SELECT generation::text AS value FROM tessera_readable").await;
    text.parse().unwrap()
}

async fn slots() -> (Databases, SideSession) {
    let databases = Databases::new(1).await;
    connect(&databases.address()).close();
    let direct = databases.direct_session(0).await;
    (databases, direct)
}

#[tokio::test]
async fn each_kind_of_statement_changes_the_bits_of_its_slots() {
    let (_databases, mut direct) = slots().await;
    assert_eq!(direct.text(WRONG).await, "0");
    let statements = [
        ("UPDATE tessera_slots SET state='fenced' WHERE slot<64", 0),
        ("UPDATE tessera_slots SET until=now() WHERE slot<64", 0),
        ("UPDATE tessera_slots SET state='owned' WHERE slot<10", 0),
        ("UPDATE tessera_slots SET state='moved', moved_to='1' WHERE slot BETWEEN 5 AND 20", 1),
        ("UPDATE tessera_slots SET state='importing' WHERE slot BETWEEN 15 AND 20", 1),
        ("UPDATE tessera_slots SET state='owned' WHERE slot<0", 0),
        ("DELETE FROM tessera_slots WHERE slot BETWEEN 18 AND 40", 1),
        ("DELETE FROM tessera_slots WHERE slot BETWEEN 18 AND 40", 0),
        // One statement that inserts and updates is two changes.
        (
            "INSERT INTO tessera_slots (slot, state) SELECT n, 'owned' FROM generate_series(16, 30) n
             ON CONFLICT (slot) DO UPDATE SET state='fenced'",
            2,
        ),
        ("UPDATE tessera_slots SET slot=35 WHERE slot=17", 1),
        ("DELETE FROM tessera_slots WHERE slot>16000", 1),
        ("TRUNCATE tessera_slots", 1),
        ("INSERT INTO tessera_slots (slot, state) SELECT n, 'owned' FROM generate_series(0, 16383) n", 1),
    ];
    for (statement, raised) in statements {
        let before = generation(&mut direct).await;
        direct.run(statement).await;
        assert_eq!(generation(&mut direct).await - before, raised, "{statement}");
        assert_eq!(direct.text(WRONG).await, "0", "{statement}");
    }
    let left = "SELECT (leftover IS NULL)::text AS value FROM tessera_readable";
    assert_eq!(direct.text(left).await, "true", "every slot is readable again");
    // Rows that a tool has removed are computed from the slots.
    for table in ["tessera_owned", "tessera_readable"] {
        direct.run(&format!("DELETE FROM {table}")).await;
        direct.run("UPDATE tessera_slots SET state='fenced' WHERE slot=7").await;
        assert_eq!(direct.text(WRONG).await, "0", "{table}");
    }
}

#[tokio::test]
async fn two_sessions_that_change_different_slots_at_once_keep_the_bits_of_both() {
    let (databases, mut looker) = slots().await;
    let (mut one, mut other) =
        (databases.direct_session(0).await, databases.direct_session(0).await);
    one.run("BEGIN; UPDATE tessera_slots SET state='moved' WHERE slot=1").await;
    let waits = "SELECT count(*)::text AS value FROM pg_locks WHERE NOT granted
        AND database=(SELECT oid FROM pg_database WHERE datname=current_database())";
    let freed = async {
        looker.until(waits, "1").await;
        one.run("COMMIT").await;
    };
    let moved = "UPDATE tessera_slots SET state='moved' WHERE slot=2";
    tokio::join!(other.run(moved), freed);
    assert_eq!(looker.text(WRONG).await, "0");
    assert_eq!(generation(&mut looker).await, 4, "made, filled, and changed twice");

    // A naive trigger computes the bits in the snapshot of its statement, which is older than its
    // wait: the change of the other session is lost.
    one.run("BEGIN; UPDATE tessera_slots SET state='moved' WHERE slot=3").await;
    let naive = "WITH was AS MATERIALIZED (SELECT bits FROM tessera_owned),
        waited AS MATERIALIZED (SELECT pg_advisory_xact_lock(1950, 5) FROM was)
        UPDATE tessera_owned AS o SET bits=set_bit(was.bits, 4, 0) FROM was, waited";
    let freed = async {
        looker.until(waits, "1").await;
        one.run("COMMIT").await;
    };
    tokio::join!(other.run(naive), freed);
    assert_eq!(looker.text(WRONG).await, "2", "slot 3 counts as owned, and slot 4 as lost");
    other.run("UPDATE tessera_slots SET state='moved' WHERE slot=4").await;
    other.run("UPDATE tessera_slots SET state='owned' WHERE slot IN (3, 4)").await;
    assert_eq!(looker.text(WRONG).await, "0");
}

#[tokio::test]
async fn the_migration_takes_over_the_slots_of_a_database_of_before() {
    let (databases, mut direct) = slots().await;
    let down =
        include_str!("../../../migrations/postgres/shard/2026-11-23-000002_slot_changes/down.sql");
    direct.run("UPDATE tessera_slots SET state='moved' WHERE slot IN (3, 4)").await;
    direct.run("UPDATE tessera_slots SET state='fenced' WHERE slot=5").await;
    direct.run("DELETE FROM tessera_slots WHERE slot=6").await;
    direct.run(&format!("BEGIN; {down}; COMMIT")).await;
    let bit = "SELECT get_bit(bits, 5)::text||get_bit(bits, 7)::text AS value FROM tessera_owned";
    assert_eq!(direct.text(bit).await, "01");
    direct.run("UPDATE tessera_slots SET state='fenced' WHERE slot=7").await;
    assert_eq!(direct.text(bit).await, "00", "the triggers of before work again");
    direct.run("DELETE FROM __diesel_schema_migrations WHERE version='20261123000002'").await;
    connect(&databases.address()).close();
    assert_eq!(direct.text(WRONG).await, "0");
    assert_eq!(generation(&mut direct).await, 1);
}
