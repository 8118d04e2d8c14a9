//! Tests of the checks at the start: errors, warnings, and the wording of each.

use std::time::Duration;

use shard_manager::node_address::{NodeAddress, ServerEngine};
use shard_manager::store::postgres::requirements::{Unsuitable, Warning, check, judge_clock};
use shard_manager::store::postgres::session::{NodeRole, connect};

use crate::server::{ADMIN, Server, patient, run};

fn checked(address: &NodeAddress, replicas: usize) -> Result<Vec<Warning>, Unsuitable> {
    checked_as(ServerEngine::Postgres, address, replicas)
}

fn checked_as(
    engine: ServerEngine,
    address: &NodeAddress,
    replicas: usize,
) -> Result<Vec<Warning>, Unsuitable> {
    run(async {
        let mut session =
            connect(address, "tessera check", NodeRole::Any, &patient()).await.unwrap();
        check(&mut session, replicas, engine.connections_of_router()).await
    })
}

fn refused(address: &NodeAddress, replicas: usize) -> String {
    checked(address, replicas).unwrap_err().to_string()
}

#[test]
fn a_server_with_default_settings_is_accepted() {
    let Some(server) = Server::start("") else { return };
    let warnings = checked(&server.address(ADMIN, "postgres"), 1).unwrap();
    let others = |warning: &&Warning| !matches!(warning, Warning::Outdated { .. });
    assert_eq!(warnings.iter().filter(others).count(), 0, "{warnings:?}");
}

#[test]
fn settings_that_risk_losing_rows_cause_warnings() {
    let settings = "fsync = off\nfull_page_writes = off\nsynchronous_commit = off\n\
                    max_connections = 20\n";
    let Some(server) = Server::start(settings) else { return };
    let warnings = checked(&server.address(ADMIN, "postgres"), 0).unwrap();
    let reported = warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for word in ["fsync=off", "full_page_writes=off", "synchronous_commit=off", "17 connections"] {
        assert!(reported.contains(word), "{word} is not in\n{reported}");
    }
}

#[test]
fn a_database_that_cannot_hold_the_rows_is_refused() {
    let settings = "wal_level = minimal\nmax_wal_senders = 0\n";
    let Some(server) = Server::start(settings) else { return };
    server.perform(&[
        "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
        "CREATE DATABASE readonly",
        "ALTER DATABASE readonly SET default_transaction_read_only = on",
        "CREATE ROLE few LOGIN SUPERUSER CONNECTION LIMIT 7",
    ]);
    let said = refused(&server.address(ADMIN, "ascii"), 0);
    assert!(said.contains("SQL_ASCII") && said.contains("UTF8"), "{said}");
    let said = refused(&server.address(ADMIN, "readonly"), 0);
    assert!(said.contains("default_transaction_read_only=on"), "{said}");
    let said = refused(&server.address("few", "postgres"), 0);
    assert!(said.contains("takes 7 connections"), "{said}");
    let address = server.address(ADMIN, "postgres");
    assert!(checked(&address, 0).is_ok());
    let said = refused(&address, 1);
    assert!(said.contains("wal_level=minimal") && said.contains("wal_level=replica"), "{said}");
}

#[test]
fn a_coordinator_needs_more_room_than_another_node() {
    let Some(server) = Server::start("") else { return };
    server.perform(&["CREATE ROLE seventeen LOGIN SUPERUSER CONNECTION LIMIT 17"]);
    let address = server.address("seventeen", "postgres");
    let report = |warnings: Vec<Warning>| {
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(report(checked(&address, 0).unwrap()).contains("enough for 2 router(s) of 8"));
    let said = checked_as(ServerEngine::Citus, &address, 0).unwrap_err().to_string();
    assert!(said.contains("takes 17 connections of our user, and a router takes 18"), "{said}");
}

#[test]
fn each_right_that_is_missing_is_named_with_the_statement_that_grants_it() {
    let Some(server) = Server::start("") else { return };
    server.perform(&["CREATE ROLE tessera LOGIN"]);
    let address = server.address("tessera", "postgres");
    let granted = |wanted: &str, replicas| {
        let said = refused(&address, replicas);
        let statement = said.rsplit_once(": ").unwrap().1.to_owned();
        assert_eq!(statement, wanted, "{said}");
        server.perform(&[&statement]);
    };
    granted("GRANT CREATE ON DATABASE postgres TO tessera", 0);
    granted("GRANT CREATE ON SCHEMA public TO tessera", 0);
    granted("GRANT pg_monitor TO tessera", 1);
    assert!(checked(&address, 1).is_ok());

    server.perform(&[
        "CREATE SCHEMA tessera",
        "CREATE TABLE tessera.ledger (id integer)",
        "REVOKE CREATE ON SCHEMA public FROM tessera",
    ]);
    granted("GRANT USAGE ON SCHEMA tessera TO tessera", 1);
    let said = refused(&address, 1);
    assert!(said.contains("GRANT SELECT ON tessera.ledger TO tessera"), "{said}");
    server.perform(&["GRANT SELECT ON tessera.ledger TO tessera"]);
    let warnings = checked(&address, 1).unwrap();
    assert!(warnings.iter().any(|w| matches!(w, Warning::NoNewTables { .. })), "{warnings:?}");
}

#[test]
fn a_replica_needs_less_than_a_primary() {
    let Some(primary) = Server::start("") else { return };
    primary.perform(&["CREATE ROLE tessera LOGIN"]);
    let replica = primary.replica();
    let warnings = checked(&replica.address("tessera", "postgres"), 1).unwrap();
    let hidden = |warning: &Warning| matches!(warning, Warning::HiddenReceiver { .. });
    assert!(warnings.iter().any(hidden), "{warnings:?}");
}

#[test]
fn clocks_may_differ_by_the_round_trip_time_and_a_tolerance() {
    let second = 1_000_000;
    let way = Duration::from_millis(100);
    let judged = |offset| judge_clock("db1:5432/x", offset, way);
    assert_eq!(judged(second / 2), Ok(None));
    assert_eq!(judged(-second / 2), Ok(None));
    let warning = judged(-second).unwrap().unwrap().to_string();
    assert!(warning.contains("the clock of db1:5432/x is 1000 ms behind ours"), "{warning}");
    let refusal = judged(11 * second).unwrap_err().to_string();
    assert!(refusal.contains("11 s ahead of ours"), "{refusal}");
}
