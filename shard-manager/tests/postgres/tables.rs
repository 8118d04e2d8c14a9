//! Tests of tables on PostgreSQL: a table that one router creates becomes known to all routers,
//! even if its creation is interrupted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::{Manager, TableCreated};
use shard_manager::row_change::Operation::Insert;
use shard_manager::store::postgres::catalog::Catalog;
use shard_manager::table::Table;
use shard_manager::value::ColumnType::{Bigint, Boolean, Double, Json, Text, Timestamp, Uuid};

use crate::cluster::{Databases, SideSession, connect, refused};
use crate::rows::{deadline, make, rows, table, write};

fn notes() -> Table {
    let columns = [
        ("id", Text),
        ("n", Bigint),
        ("x", Double),
        ("yes", Boolean),
        ("at", Timestamp),
        ("doc", Json),
        ("who", Uuid),
    ];
    table("notes", &columns, 1, &["id"], None)
}

/// Waits until a manager reads this many rows: a replica may lack what another manager wrote.
async fn until_rows(manager: &Manager, table: &str, count: usize) {
    let deadline = deadline();
    while rows(manager, table, None).await.len() < count {
        assert!(Instant::now() < deadline, "{count} rows are never seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rows(manager, table, None).await.len(), count);
}

/// Waits until a router knows a table.
async fn until_known(manager: &Manager, name: &str) -> Arc<Table> {
    let deadline = deadline();
    loop {
        if let Ok(table) = manager.schema(Rights::ALL).table(name) {
            return table;
        }
        assert!(Instant::now() < deadline, "{name} is never known");
        tokio::task::yield_now().await;
    }
}

const INTENTS: &str = "SELECT name||' '||state AS value FROM tessera_intents";

/// For each shard, true if the table exists there and is declared.
async fn shards_with(sessions: &mut [SideSession], name: &str) -> Vec<bool> {
    let mut with = Vec::new();
    for direct in sessions {
        let sql = format!(
            "SELECT ((SELECT count(*) FROM pg_class WHERE relname='{name}' AND relkind='r')
                + (SELECT count(*) FROM tessera_tables WHERE name='{name}'))::text AS value"
        );
        let found = direct.text(&sql).await;
        assert!(found == "0" || found == "2", "{name} is there in part");
        with.push(found == "2");
    }
    with
}

async fn direct_sessions(databases: &Databases) -> Vec<SideSession> {
    let mut sessions = Vec::new();
    for shard in 0..databases.names.len() {
        sessions.push(databases.direct_session(shard).await);
    }
    sessions
}

#[tokio::test]
async fn a_table_created_by_one_router_becomes_known_to_the_others() {
    let databases = Databases::new(2).await;
    let address = databases.with_replicas().await;
    let managers = [connect(&address), connect(&address)];
    assert!(matches!(make(&managers[0], &notes()).await, TableCreated::New(_)));
    until_known(&managers[1], "notes").await;
    for (number, manager) in managers.iter().enumerate() {
        for n in 0..10 {
            let json = format!(r#"{{"id":"i","n":{n},"doc":{{"a":1}}}}"#);
            write(manager, "notes", Insert, &format!("{number}-{n}"), &json).await.unwrap();
        }
    }
    for manager in &managers {
        until_rows(manager, "notes", 20).await;
    }
    // Either it is known already, or it differs.
    assert!(matches!(make(&managers[1], &notes()).await, TableCreated::Known(_)));
    let other = table("notes", &[("id", Text)], 1, &["id"], None);
    let refused =
        managers[1].schema(Rights::ALL).create_table(other, deadline()).await.unwrap_err();
    assert!(matches!(refused.error, Error::TableDiffers { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_removal_that_fails_leaves_its_session_usable() {
    let databases = Databases::new(1).await;
    let _manager = connect(&databases.address());
    let mut direct = databases.direct_session(0).await;
    direct.run("ALTER SEQUENCE tessera_tables_changed RENAME TO hidden").await;
    let catalog = Catalog::on(databases.direct_session(0).await.connection);
    assert!(catalog.intents().remove("notes").await.is_err());
    assert_eq!(catalog.intents().load().await.unwrap().len(), 0);
}

/// Applies also to a router that does not know the table yet.
#[tokio::test]
async fn of_routers_that_create_the_same_table_concurrently_one_succeeds() {
    let databases = Databases::new(3).await;
    let managers = [connect(&databases.address()), connect(&databases.address())];
    for n in 0..4 {
        let table = table(&format!("t{n}"), &[("id", Text), ("n", Bigint)], 1, &["id"], None);
        let (one, other) = tokio::join!(make(&managers[0], &table), make(&managers[1], &table));
        let new =
            [&one, &other].into_iter().filter(|made| matches!(made, TableCreated::New(_))).count();
        assert_eq!(new, 1, "{one:?} {other:?}");
    }
    assert_eq!(shards_with(&mut direct_sessions(&databases).await, "t3").await, [true, true, true]);
}

#[tokio::test]
async fn a_table_that_one_shard_cannot_create_is_on_none() {
    let databases = Databases::new(3).await;
    let manager = connect(&databases.address());
    let mut sessions = direct_sessions(&databases).await;
    sessions[1].run("CREATE TABLE public.notes (mine TEXT)").await;
    let failure = manager.schema(Rights::ALL).create_table(notes(), deadline()).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::Rejected, "{failure:?}");
    sessions[1].run("DROP TABLE public.notes").await;
    assert_eq!(shards_with(&mut sessions, "notes").await, [false, false, false]);
    assert_eq!(sessions[0].texts(INTENTS).await, [""; 0]);
    make(&manager, &notes()).await;
    assert_eq!(shards_with(&mut sessions, "notes").await, [true, true, true]);
}

/// A router crashes when one of three shards has the table; what remains is the intent that it
/// recorded before.
#[tokio::test]
async fn an_interrupted_table_creation_is_completed_by_the_next_opening() {
    for state in ["make", "undo"] {
        let databases = Databases::new(3).await;
        let manager = connect(&databases.address());
        let mut sessions = direct_sessions(&databases).await;
        // Captures the recorded intent while a table is created.
        sessions[0]
            .run(
                "CREATE TABLE kept (LIKE tessera_intents);
                 CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO tessera.kept SELECT OLD.*; RETURN OLD; END';
                 CREATE TRIGGER keep BEFORE DELETE ON tessera_intents FOR EACH ROW EXECUTE FUNCTION keep()",
            )
            .await;
        make(&manager, &notes()).await;
        manager.close();
        sessions[0]
            .run(&format!(
                "DROP TRIGGER keep ON tessera_intents; UPDATE kept SET state='{state}';
                 INSERT INTO tessera_intents SELECT * FROM kept; DROP TABLE kept"
            ))
            .await;
        for direct in &mut sessions[1..] {
            direct.run("DROP TABLE notes; DELETE FROM tessera_tables WHERE name='notes'").await;
        }
        assert_eq!(sessions[0].texts(INTENTS).await, [format!("notes {state}")]);
        let manager = connect(&databases.address());
        assert_eq!(sessions[0].texts(INTENTS).await, [""; 0]);
        assert_eq!(shards_with(&mut sessions, "notes").await, [state == "make"; 3]);
        assert_eq!(manager.schema(Rights::ALL).table("notes").is_ok(), state == "make");
        if state == "make" {
            write(&manager, "notes", Insert, "k", r#"{"id":"i"}"#).await.unwrap();
            assert_eq!(rows(&manager, "notes", Some("k")).await.len(), 1);
        }
    }
}

/// The interrupted table exists on one shard with another shape: it must not be overwritten.
#[tokio::test]
async fn a_shard_with_other_tables_than_the_others_is_refused() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    make(&manager, &notes()).await;
    manager.close();
    let mut sessions = direct_sessions(&databases).await;
    sessions[1]
        .run(
            "ALTER TABLE notes DROP COLUMN yes; UPDATE tessera_tables SET column_list=
             replace(column_list, '{\"name\":\"yes\",\"type\":\"boolean\",\"null\":true},', '') WHERE name='notes'",
        )
        .await;
    let said = refused(&databases.address());
    assert!(said.contains("the tables of shard2 are not those of shard1: see notes"), "{said}");
    // A table that is missing entirely was lost by restoring an older copy, and is created again.
    sessions[1].run("DROP TABLE notes; DELETE FROM tessera_tables WHERE name='notes'").await;
    connect(&databases.address()).close();
    assert_eq!(shards_with(&mut sessions, "notes").await, [true, true]);
}
