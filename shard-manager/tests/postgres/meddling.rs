//! Tests of triggers and rules of an operator that change rows, or discard them without an error:
//! the response to a write nevertheless contains the row that the database has stored.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shard_manager::access::rights::Rights;
use shard_manager::doctor::{self, Finding, Severity};
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::{Manager, WriteReceipt};
use shard_manager::row_change::Operation::{self, Delete, Insert, Update, Upsert};
use shard_manager::row_change::RowWrite;
use shard_manager::shard_map::KeyLocation;

use crate::cluster::{Databases, SideSession, cluster_of, connect, refused};
use crate::log;
use crate::rows::{RowOutcome, options, prepare, rows, write, write_all};
use crate::server::{ADMIN, Server, run};

const GOOD: &str = r#"{"name":"n","email":"good"}"#;
const BAD: &str = r#"{"name":"n","email":"bad"}"#;
const COUNT: &str = "SELECT count(*)::text AS value FROM users";
const RECORDS: &str = "SELECT count(*)::text AS value FROM tessera_idempotency";

/// A cluster of one shard, and a connection to its server.
async fn one_shard() -> (Databases, Manager, SideSession) {
    let databases = Databases::new(1).await;
    let manager = connect(&databases.address());
    let direct = databases.direct_session(0).await;
    (databases, manager, direct)
}

/// Creates a trigger of this kind on users, whose function lies in a schema and has this body.
async fn trigger(direct: &mut SideSession, when: &str, schema: &str, body: &str) {
    direct
        .run(&format!(
        "CREATE FUNCTION {schema}.meddle() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$;
         CREATE TRIGGER meddle {when} ON users FOR EACH ROW EXECUTE FUNCTION {schema}.meddle()"
    ))
        .await;
}

fn idempotent(
    manager: &Manager,
    operation: Operation,
    key: &str,
    json: &str,
) -> (KeyLocation, RowWrite) {
    let (place, mut row) = prepare(manager, "users", operation, key, json);
    row.idempotency_key = Some(format!("of-{key}"));
    (place, row)
}

async fn outcome(manager: &Manager, (place, row): (KeyLocation, RowWrite)) -> RowOutcome {
    let written = manager.data(Rights::ALL).write(place, row, &options()).await;
    written.map(|written| written.row).map_err(|failure| (failure.error, failure.outcome))
}

async fn user(manager: &Manager, operation: Operation, key: &str, json: &str) -> RowOutcome {
    outcome(manager, prepare(manager, "users", operation, key, json)).await
}

fn discarded() -> RowOutcome {
    Err((Error::Discarded { table: "users".to_owned() }, Outcome::Rejected))
}

fn json(written: &WriteReceipt) -> String {
    String::from_utf8(written.row.json.clone()).unwrap()
}

/// Asserts that rows that are discarded are refused, with each way to write them; others in the
/// same batch are stored.
async fn refused_each_way(manager: &Manager, direct: &mut SideSession) {
    let before = direct.text(COUNT).await;
    for operation in [Upsert, Insert] {
        assert_eq!(user(manager, operation, "bad", BAD).await, discarded(), "{operation:?}");
        let row = idempotent(manager, operation, "bad", BAD);
        assert_eq!(outcome(manager, row).await, discarded(), "{operation:?} with a key");
        for whole in [true, false] {
            let changes = (0..40).map(|n| {
                let (key, json) = if n % 13 == 5 {
                    (format!("bad{n:02}"), BAD)
                } else {
                    (format!("k{n:02}"), GOOD)
                };
                let row = idempotent(manager, operation, &key, json);
                if n % 2 == 0 { row } else { prepare(manager, "users", operation, &key, json) }
            });
            let reported = write_all(manager, changes.collect(), whole).await;
            for (n, reported) in reported.iter().enumerate() {
                let is_bad = n % 13 == 5;
                if whole || is_bad {
                    let (error, outcome) = reported.as_ref().unwrap_err();
                    assert_eq!(*outcome, Outcome::Rejected, "{error}");
                    assert!(whole || *reported == discarded(), "{n}: {error}");
                } else {
                    assert!(reported.is_ok(), "{operation:?} {n}: {reported:?}");
                }
            }
            let stored = if whole { 0 } else { 37 };
            let more = "SELECT count(*)::text AS value FROM users WHERE user_id LIKE 'k%'";
            assert_eq!(direct.text(more).await, stored.to_string(), "{operation:?} {whole}");
        }
        let kept =
            "SELECT count(*)::text AS value FROM tessera_idempotency WHERE shard_key LIKE 'bad%'";
        assert_eq!(direct.text(kept).await, "0", "nothing is kept of what was discarded");
        direct
            .run("DELETE FROM users WHERE user_id LIKE 'k%'; DELETE FROM tessera_idempotency")
            .await;
    }
    assert_eq!(direct.text(COUNT).await, before);
}

#[tokio::test]
async fn a_row_that_a_trigger_discards_is_refused_and_its_neighbours_are_stored() {
    let (_databases, manager, mut direct) = one_shard().await;
    user(&manager, Insert, "there", GOOD).await.unwrap();
    let body = "IF NEW.email='bad' THEN RETURN NULL; END IF; RETURN NEW;";
    trigger(&mut direct, "BEFORE INSERT OR UPDATE", "public", body).await;
    refused_each_way(&manager, &mut direct).await;
    let bad = r#"{"email":"bad"}"#;
    assert_eq!(user(&manager, Update, "there", bad).await, discarded());
    assert_eq!(user(&manager, Upsert, "there", BAD).await, discarded());
    assert_eq!(outcome(&manager, idempotent(&manager, Update, "there", bad)).await, discarded());
    assert_eq!(rows(&manager, "users", Some("there")).await.len(), 1);
    assert_eq!(direct.text("SELECT email AS value FROM users").await, "good");
    direct.run("DROP TRIGGER meddle ON users").await;
    // No idempotency record of the refused write was kept: it is carried out like a new one.
    let row = outcome(&manager, idempotent(&manager, Update, "there", bad)).await.unwrap();
    assert!(!row.replayed);
    assert_eq!(direct.text("SELECT email AS value FROM users").await, "bad");
}

/// The messages contain or are sentences of the server about a lost connection or a full disk.
#[tokio::test]
async fn a_row_fails_alone_if_the_message_of_a_trigger_resembles_a_lost_connection() {
    let (_databases, manager, mut direct) = one_shard().await;
    let body = "IF NEW.name LIKE 'bad %' THEN RAISE EXCEPTION '%', substr(NEW.name, 5); END IF;
        RETURN NEW;";
    trigger(&mut direct, "BEFORE INSERT OR UPDATE", "public", body).await;
    for message in
        ["no disk full", "no connection for it", "terminating connection", "the database system is"]
    {
        let bad = format!(r#"{{"name":"bad {message}","email":"e"}}"#);
        for operation in [Upsert, Insert] {
            let writes = (0..11).map(|n| {
                let json = if n == 4 { bad.as_str() } else { GOOD };
                outcome(&manager, prepare(&manager, "users", operation, &format!("k{n:02}"), json))
            });
            for (n, reported) in join_all(writes).await.into_iter().enumerate() {
                if n == 4 {
                    assert_eq!(reported, discarded(), "{operation:?} {message}");
                } else {
                    assert!(reported.is_ok(), "{operation:?} {message} {n}: {reported:?}");
                }
            }
            let row = idempotent(&manager, operation, "bad", &bad);
            assert_eq!(outcome(&manager, row).await, discarded(), "{operation:?} {message}");
            assert_eq!(direct.text(COUNT).await, "10");
            direct.run("DELETE FROM users").await;
        }
    }
    assert_eq!(direct.text(RECORDS).await, "0");
}

#[tokio::test]
async fn a_row_that_violates_an_exclusion_constraint_is_refused_as_for_other_constraints() {
    let (_databases, manager, mut direct) = one_shard().await;
    let rule = "ALTER TABLE users ADD CONSTRAINT one_connection EXCLUDE USING btree (email WITH =)";
    direct.run(rule).await;
    user(&manager, Insert, "a", GOOD).await.unwrap();
    let broken = Err((Error::Constraint { rule: "exclusion" }, Outcome::Rejected));
    for operation in [Insert, Upsert] {
        assert_eq!(user(&manager, operation, "b", GOOD).await, broken, "{operation:?}");
    }
}

/// The trigger is unknown to the engine; the statements themselves count the rows that they have
/// stored.
#[tokio::test]
async fn a_row_that_is_discarded_by_an_unknown_trigger_is_refused() {
    let (_databases, manager, mut direct) = one_shard().await;
    user(&manager, Insert, "there", GOOD).await.unwrap();
    let body = "IF TG_OP='DELETE' OR NEW.email='bad' THEN RETURN NULL; END IF; RETURN NEW;";
    trigger(&mut direct, "BEFORE INSERT OR UPDATE OR DELETE", "tessera", body).await;
    assert_eq!(user(&manager, Insert, "bad", BAD).await, discarded());
    assert_eq!(user(&manager, Update, "there", r#"{"email":"bad"}"#).await, discarded());
    assert_eq!(user(&manager, Delete, "there", "{}").await, discarded());
    assert_eq!(outcome(&manager, idempotent(&manager, Upsert, "bad", BAD)).await, discarded());
    let mixed = ["a", "bad", "c"]
        .map(|key| prepare(&manager, "users", Insert, key, if key == "bad" { BAD } else { GOOD }));
    let reported = write_all(&manager, mixed.into(), false).await;
    assert!(
        reported[0].is_ok() && reported[1] == discarded() && reported[2].is_ok(),
        "{reported:?}"
    );
    assert_eq!((direct.text(COUNT).await, direct.text(RECORDS).await), ("3".into(), "0".into()));
}

#[tokio::test]
async fn a_delete_that_is_discarded_is_refused_and_the_row_remains() {
    let (_databases, manager, mut direct) = one_shard().await;
    for key in ["kept", "gone"] {
        user(&manager, Insert, key, GOOD).await.unwrap();
    }
    let body = "IF OLD.user_id='kept' THEN RETURN NULL; END IF; RETURN OLD;";
    trigger(&mut direct, "BEFORE DELETE", "public", body).await;
    assert_eq!(user(&manager, Delete, "kept", "{}").await, discarded());
    assert_eq!(outcome(&manager, idempotent(&manager, Delete, "kept", "{}")).await, discarded());
    user(&manager, Delete, "gone", "{}").await.unwrap();
    direct.run(
        "DROP TRIGGER meddle ON users; CREATE RULE kept AS ON DELETE TO users DO INSTEAD NOTHING",
    )
    .await;
    assert_eq!(user(&manager, Delete, "kept", "{}").await, discarded());
    assert_eq!(direct.texts("SELECT user_id AS value FROM users").await, ["kept"]);
    direct.run("DROP RULE kept ON users").await;
    user(&manager, Delete, "kept", "{}").await.unwrap();
    assert_eq!(direct.text(COUNT).await, "0");
}

#[tokio::test]
async fn a_row_that_a_rule_discards_is_refused_until_the_rule_is_dropped() {
    let (databases, manager, mut direct) = one_shard().await;
    // Statements prepared before the rule exists, and statements prepared while it does.
    for operation in [Insert, Upsert] {
        user(&manager, operation, &format!("before-{operation:?}"), GOOD).await.unwrap();
    }
    direct.run("CREATE RULE nothing AS ON INSERT TO users DO INSTEAD NOTHING").await;
    let later = connect(&databases.address());
    for manager in [&manager, &later] {
        for operation in [Insert, Upsert] {
            assert_eq!(user(manager, operation, "x", GOOD).await, discarded(), "{operation:?}");
            let row = idempotent(manager, operation, "x", GOOD);
            assert_eq!(outcome(manager, row).await, discarded(), "{operation:?} with a key");
        }
    }
    assert_eq!(direct.text(RECORDS).await, "0");
    direct.run("DROP RULE nothing ON users").await;
    for (name, manager) in [("first", &manager), ("later", &later)] {
        for operation in [Insert, Upsert] {
            let key = format!("after-{name}-{operation:?}");
            user(manager, operation, &key, GOOD).await.unwrap();
            assert_eq!(rows(manager, "users", Some(&key)).await.len(), 1, "{key}");
        }
    }
    assert_eq!(direct.text(COUNT).await, "6");
}

#[tokio::test]
async fn a_conditional_rule_discards_its_rows_only_and_an_also_rule_none() {
    let (_databases, manager, mut direct) = one_shard().await;
    direct
        .run("CREATE RULE part AS ON INSERT TO users WHERE NEW.email='bad' DO INSTEAD NOTHING")
        .await;
    refused_each_way(&manager, &mut direct).await;
    direct
        .run(
            "DROP RULE part ON users; CREATE TABLE audit (user_id TEXT);
         CREATE RULE also AS ON INSERT TO users DO ALSO INSERT INTO audit VALUES (NEW.user_id)",
        )
        .await;
    for operation in [Insert, Upsert, Update, Upsert, Delete] {
        let json = if operation == Delete { "{}" } else { GOOD };
        user(&manager, operation, "k", json).await.unwrap_or_else(|(error, _)| {
            panic!("{operation:?}: {error}");
        });
    }
    user(&manager, Upsert, "k", GOOD).await.unwrap();
    let audited = direct.texts("SELECT user_id AS value FROM audit").await;
    assert_eq!((audited, direct.text(COUNT).await), (vec!["k".into(), "k".into()], "1".into()));
}

#[tokio::test]
async fn a_row_changed_by_a_trigger_is_answered_and_stored_as_changed() {
    let (_databases, manager, mut direct) = one_shard().await;
    user(&manager, Upsert, "there", GOOD).await.unwrap();
    trigger(
        &mut direct,
        "BEFORE INSERT OR UPDATE",
        "public",
        "NEW.name:=upper(NEW.name); RETURN NEW;",
    )
    .await;
    for (operation, key) in [(Upsert, "a"), (Insert, "b"), (Update, "there"), (Upsert, "there")] {
        let reported = write(&manager, "users", operation, key, GOOD).await.unwrap();
        assert!(json(&reported).contains(r#""name":"N""#), "{operation:?}: {}", json(&reported));
        assert_eq!(rows(&manager, "users", Some(key)).await, [json(&reported)], "{operation:?}");
    }
    for operation in [Insert, Upsert] {
        let key = format!("twice-{operation:?}");
        let row = idempotent(&manager, operation, &key, GOOD);
        let first = outcome(&manager, row.clone()).await.unwrap();
        let again = outcome(&manager, row).await.unwrap();
        assert!(again.replayed && again.json == first.json && again.version == first.version);
        let there = rows(&manager, "users", Some(&key)).await;
        assert_eq!(there, [String::from_utf8(first.json).unwrap()]);
    }
    // Several changes of one row in one batch are each answered as the database would have shown
    // them.
    let changes = (0..8).map(|_| prepare(&manager, "users", Update, "there", GOOD)).collect();
    for reported in write_all(&manager, changes, false).await {
        let json = String::from_utf8(reported.unwrap().json).unwrap();
        assert!(json.contains(r#""name":"N""#), "{json}");
    }
}

#[tokio::test]
async fn changes_of_an_after_trigger_are_answered_as_well() {
    let (_databases, manager, mut direct) = one_shard().await;
    let body = "IF pg_trigger_depth()=1 AND NEW.email='gone' THEN DELETE FROM public.users WHERE user_id=NEW.user_id;
        ELSIF pg_trigger_depth()=1 THEN UPDATE public.users SET name='after', version=version+1
        WHERE user_id=NEW.user_id; END IF; RETURN NULL;";
    trigger(&mut direct, "AFTER INSERT OR UPDATE", "public", body).await;
    for (operation, key) in [(Insert, "a"), (Update, "a"), (Upsert, "a"), (Upsert, "b")] {
        let row = prepare(&manager, "users", operation, key, GOOD);
        let reported = if operation == Upsert {
            until_looked_at(&manager, row).await
        } else {
            String::from_utf8(outcome(&manager, row).await.unwrap().json).unwrap()
        };
        assert!(reported.contains(r#""name":"after""#), "{operation:?} {key}: {reported}");
        assert_eq!(rows(&manager, "users", Some(key)).await, [reported], "{operation:?} {key}");
    }
    let gone = r#"{"name":"n","email":"gone"}"#;
    assert_eq!(user(&manager, Insert, "c", gone).await, discarded());
    assert_eq!(rows(&manager, "users", Some("c")).await, [""; 0]);
}

/// Writes until the periodic check of the tables, about once a second, has noticed the trigger:
/// until then the writer does not read the stored row.
async fn until_looked_at(manager: &Manager, row: (KeyLocation, RowWrite)) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let reported =
            String::from_utf8(outcome(manager, row.clone()).await.unwrap().json).unwrap();
        if reported.contains("after") || Instant::now() > deadline {
            return reported;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_row_that_a_trigger_moves_to_another_id_is_refused_and_not_stored() {
    let (_databases, manager, mut direct) = one_shard().await;
    trigger(&mut direct, "BEFORE INSERT", "public", "NEW.user_id:='moved'; RETURN NEW;").await;
    assert_eq!(user(&manager, Insert, "a", GOOD).await, discarded());
    assert_eq!(outcome(&manager, idempotent(&manager, Upsert, "a", GOOD)).await, discarded());
    assert_eq!((direct.text(COUNT).await, direct.text(RECORDS).await), ("0".into(), "0".into()));
}

#[tokio::test]
async fn disabled_and_statement_level_triggers_cost_nothing() {
    let (_databases, manager, mut direct) = one_shard().await;
    trigger(&mut direct, "BEFORE INSERT OR UPDATE", "public", "RETURN NULL;").await;
    direct.run(
        "ALTER TABLE users DISABLE TRIGGER meddle;
         CREATE TRIGGER all_of_them AFTER INSERT ON users FOR EACH STATEMENT EXECUTE FUNCTION public.meddle()",
    )
    .await;
    for operation in [Insert, Upsert] {
        user(&manager, operation, &format!("{operation:?}"), GOOD).await.unwrap();
    }
    assert_eq!(direct.text(COUNT).await, "2");
}

/// Repeats a write until its outcome meets a condition.
async fn until(manager: &Manager, operation: Operation, is_met: impl Fn(&RowOutcome) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut number = 0;
    loop {
        number += 1;
        let reported = user(manager, operation, &format!("{operation:?}{number}"), GOOD).await;
        if is_met(&reported) {
            return;
        }
        assert!(Instant::now() < deadline, "{reported:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_unlogged_table_is_not_written_to_and_keeps_a_router_from_starting() {
    let (databases, manager, mut direct) = one_shard().await;
    direct.run("ALTER TABLE users SET UNLOGGED").await;
    let unlogged =
        Err((Error::Unlogged { table: "users".to_owned() }, Outcome::Rejected)) as RowOutcome;
    // A write that reads rows first notices it at once, any other within about a second.
    assert_eq!(user(&manager, Insert, "a", GOOD).await, unlogged);
    until(&manager, Upsert, |reported| *reported == unlogged).await;
    let reasons = manager.status().unlogged();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    for word in ["shard1: public.users is UNLOGGED", "ALTER TABLE public.users SET LOGGED"] {
        assert!(reasons[0].contains(word), "{word} is not in {reasons:?}");
    }
    let product = r#"{"name":"n","price":1,"stock":1}"#;
    let mixed = vec![
        prepare(&manager, "users", Insert, "b", GOOD),
        prepare(&manager, "products", Insert, "b", product),
    ];
    let reported = write_all(&manager, mixed, false).await;
    assert!(reported[0] == unlogged && reported[1].is_ok(), "{reported:?}");
    let said = refused(&databases.address());
    for word in
        ["shard1-primary", "public.users is UNLOGGED", "ALTER TABLE public.users SET LOGGED"]
    {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let found = doctor::servers(&databases.address()).await;
    assert!(
        is_reported(&found, Severity::Fault, "ALTER TABLE public.users SET LOGGED"),
        "{found:#?}"
    );
    direct.run("ALTER TABLE users SET LOGGED").await;
    user(&manager, Insert, "after", GOOD).await.unwrap();
    until(&manager, Upsert, Result::is_ok).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !manager.status().unlogged().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", manager.status().unlogged());
        tokio::task::yield_now().await;
    }
    connect(&databases.address()).close();
}

fn is_reported(found: &[Finding], severity: Severity, words: &str) -> bool {
    found.iter().any(|finding| finding.severity == severity && finding.text.contains(words))
}

#[tokio::test]
async fn foreign_triggers_and_rules_are_reported_at_the_start_and_by_the_doctor() {
    log::listen();
    let (databases, manager, mut direct) = one_shard().await;
    let found = doctor::servers(&databases.address()).await;
    assert!(!is_reported(&found, Severity::Warning, "Tessera's"), "{found:#?}");
    trigger(&mut direct, "AFTER UPDATE", "public", "RETURN NULL;").await;
    direct.run("CREATE RULE also AS ON DELETE TO orders DO ALSO NOTHING").await;
    let found = doctor::servers(&databases.address()).await;
    let words = ["public.users has the trigger meddle", "public.orders has the rule also"];
    for words in words {
        assert!(is_reported(&found, Severity::Warning, words), "{words} is not in {found:#?}");
    }
    manager.close();
    connect(&databases.address()).close();
    let name = &databases.names[0];
    for words in words {
        log::check_logged(&[words, name]);
    }
}

#[test]
fn the_doctor_reports_a_server_without_checksums() {
    let Some(server) = Server::start("") else { return };
    let address = cluster_of([server.address(ADMIN, "postgres")]);
    let found = run(doctor::servers(&address));
    assert!(is_reported(&found, Severity::Warning, "data_checksums is off"), "{found:#?}");
}
