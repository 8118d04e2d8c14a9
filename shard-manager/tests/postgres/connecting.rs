//! Tests of connecting: identification of a node, settings of a session, and the message of each
//! failure.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use shard_manager::node_address::{NodeAddress, Timeouts};
use shard_manager::store::postgres::ConnectError;
use shard_manager::store::postgres::session::{NodeRole, Session, connect, identify};
use shard_manager::topology::Role;

use crate::free_port::free_port;
use crate::server::{ADMIN, Server, patient, refusal, run};

const PASSWORD_ONLY: &str = "local all all trust\nhost all admin 127.0.0.1/32 trust\n\
                             host all all 127.0.0.1/32 scram-sha-256\n";

#[derive(QueryableByName)]
struct Setting {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn setting(session: &mut Session, name: &str) -> String {
    let query = format!("SELECT current_setting('{name}') AS value");
    let row: Setting = diesel::sql_query(query).get_result(&mut session.connection).await.unwrap();
    row.value
}

fn hosts(servers: &[&Server]) -> NodeAddress {
    let hosts: Vec<String> =
        servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    format!("postgres://{ADMIN}@{}/postgres", hosts.join(",")).parse().unwrap()
}

#[test]
fn a_session_knows_its_node_and_is_set_as_tessera_needs_it() {
    let Some(server) = Server::start("") else { return };
    server
        .perform(&["CREATE DATABASE shard1", "ALTER DATABASE shard1 SET synchronous_commit = off"]);
    let address = server.address(ADMIN, "shard1?application_name=blue");
    run(async {
        let mut session =
            connect(&address, "tessera lane", NodeRole::Primary, &patient()).await.unwrap();
        assert_eq!(session.identity.role(), Role::Primary);
        assert_eq!((session.identity.timeline, &*session.identity.database), (1, "shard1"));
        assert!(session.identity.system > 0 && session.identity.version >= 150_000);
        for (name, value) in [
            ("search_path", "tessera,public"),
            ("TimeZone", "UTC"),
            ("client_min_messages", "warning"),
            ("jit", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "5s"),
            ("synchronous_commit", "on"),
            ("application_name", "blue tessera lane"),
        ] {
            assert_eq!(setting(&mut session, name).await, value, "{name}");
        }
    });
}

#[test]
fn a_commit_that_is_stronger_than_durable_stays_so() {
    let Some(server) = Server::start("synchronous_commit = remote_apply\n") else { return };
    let address = server.address(ADMIN, "postgres");
    run(async {
        let mut session =
            connect(&address, "tessera lane", NodeRole::Primary, &patient()).await.unwrap();
        assert_eq!(setting(&mut session, "synchronous_commit").await, "remote_apply");
        let longer = Timeouts { statement: Duration::ZERO, ..patient() };
        let mut session = connect(&address, "tessera x", NodeRole::Any, &longer).await.unwrap();
        assert_eq!(setting(&mut session, "statement_timeout").await, "0");
        assert_eq!(setting(&mut session, "idle_in_transaction_session_timeout").await, "0");
    });
}

#[test]
fn of_several_hosts_the_one_in_the_requested_role_is_used() {
    let Some(primary) = Server::start("") else { return };
    let replica = primary.replica();
    let both = hosts(&[&replica, &primary]);
    run(async {
        let found = |role| {
            let both = &both;
            async move { connect(both, "tessera test", role, &patient()).await.unwrap() }
        };
        let mut writer = found(NodeRole::Primary).await;
        let reader = found(NodeRole::Replica).await;
        assert_eq!(writer.address.hosts[0].port, primary.port);
        assert_eq!(reader.address.hosts[0].port, replica.port);
        assert_eq!(found(NodeRole::Any).await.address.hosts[0].port, replica.port);
        assert_eq!(writer.identity.system, reader.identity.system);
        assert_eq!((writer.identity.timeline, reader.identity.timeline), (1, 1));
        assert_eq!(reader.identity.role(), Role::Replica);
        assert_eq!(identify(&mut writer.connection).await.unwrap(), writer.identity);
    });
    let error = refusal(&hosts(&[&replica]), NodeRole::Primary, &patient());
    assert!(matches!(error, ConnectError::WrongRole { in_recovery: true, .. }), "{error:?}");
    assert!(error.to_string().contains("is not a primary now: it is in recovery"), "{error}");
    let error = refusal(&hosts(&[&primary]), NodeRole::Replica, &patient());
    assert!(error.to_string().contains("is not a replica now: it is a primary"), "{error}");
}

/// A promoted replica starts a new timeline, and reports it.
#[test]
fn a_promoted_replica_reports_its_new_timeline() {
    let Some(primary) = Server::start("") else { return };
    let replica = primary.replica();
    replica.perform(&["SELECT pg_promote()"]);
    let session = run(connect(&hosts(&[&replica]), "tessera test", NodeRole::Primary, &patient()));
    assert_eq!(session.unwrap().identity.timeline, 2);
}

#[test]
fn each_refusal_of_a_server_names_a_remedy_and_shows_no_password() {
    let Some(server) = Server::start_with("", PASSWORD_ONLY, &[]) else { return };
    server.perform(&["CREATE ROLE tessera LOGIN PASSWORD 'right'"]);
    run(connect(&server.address("tessera:right", "postgres"), "t", NodeRole::Any, &patient()))
        .unwrap();
    let stories = [
        ("tessera:canary", "postgres", "password authentication failed"),
        ("tessera", "postgres", "it asks for a password, and there is none"),
        ("nobody:canary", "postgres", "does not let nobody in"),
        ("tessera:right", "canary", "no such database"),
    ];
    for (login, database, reported) in stories {
        let error = refusal(&server.address(login, database), NodeRole::Any, &patient());
        let said = error.to_string();
        let node = format!("127.0.0.1:{}/{database}", server.port);
        assert!(said.starts_with(&node) && said.contains(reported), "{said}");
        let said = format!("{said} {error:?}").replace(&node, "");
        assert!(!said.contains("canary") && !said.contains("right\""), "{said}");
        assert!(!error.is_transient(), "{error:?}");
    }
}

#[test]
fn a_server_without_a_free_connection_is_reported_as_busy() {
    let settings = "max_connections = 4\nsuperuser_reserved_connections = 3\n\
                    max_wal_senders = 0\nwal_level = minimal\n";
    let Some(server) = Server::start(settings) else { return };
    server.perform(&["CREATE ROLE tessera LOGIN"]);
    let address = server.address("tessera", "postgres");
    run(async {
        let first = loop {
            match connect(&address, "tessera test", NodeRole::Any, &patient()).await {
                // The server may still be ending the session that created the role.
                Err(ConnectError::Busy { .. }) => tokio::task::yield_now().await,
                first => break first.unwrap(),
            }
        };
        let second = connect(&address, "tessera test", NodeRole::Any, &patient()).await;
        let error = second.err().unwrap();
        assert!(matches!(error, ConnectError::Busy { .. }) && error.is_transient(), "{error:?}");
        drop(first);
    });
}

fn listener() -> (TcpListener, NodeAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("postgres://u:canary@{}/shard1", listener.local_addr().unwrap());
    (listener, address.parse().unwrap())
}

fn refused(address: &NodeAddress, timeouts: &Timeouts) -> (ConnectError, String) {
    let error = refusal(address, NodeRole::Any, timeouts);
    let said = error.to_string();
    assert!(said.starts_with(&address.to_string()), "{said}");
    assert!(!format!("{said} {error:?}").contains("canary"), "{error:?}");
    (error, said)
}

#[test]
fn a_refused_connection_is_reported() {
    let address = format!("postgres://u:canary@127.0.0.1:{}/shard1", free_port());
    let (error, said) = refused(&address.parse().unwrap(), &patient());
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(said.contains("refused") && said.contains("is the server running"), "{said}");
    let nowhere: NodeAddress = "postgres://u:canary@no-such-host.invalid/x".parse().unwrap();
    let (error, _) = refused(&nowhere, &patient());
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_server_that_never_answers_causes_a_timeout() {
    let (_listener, address) = listener();
    let short = Timeouts { connect: Duration::from_millis(200), ..Timeouts::default() };
    let (error, said) = refused(&address, &short);
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    assert!(said.contains("did not answer within 200 ms"), "{said}");
}

#[test]
fn a_server_of_another_kind_is_not_taken_for_a_database() {
    for mode in ["disable", "prefer"] {
        let (listener, address) = listener();
        let address: NodeAddress = address.redacted().replace("***", "canary").parse().unwrap();
        let text = address.redacted().replace("***", "canary");
        let text = text.replace("sslmode=prefer", &format!("sslmode={mode}"));
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
            let _ = socket.read(&mut [0; 512]);
        });
        let (error, said) = refused(&text.parse().unwrap(), &patient());
        assert!(matches!(error, ConnectError::NotPostgres { .. }), "{error:?}");
        assert!(said.contains("does not answer as PostgreSQL does"), "{said}");
        server.join().unwrap();
    }
}

#[test]
fn if_all_hosts_fail_each_reason_is_reported() {
    let places = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let text = format!("postgres://u:canary@{}/shard1", places.join(","));
    let error = refusal(&text.parse().unwrap(), NodeRole::Primary, &patient());
    let said = error.to_string();
    assert!(places.iter().all(|place| said.contains(&format!("{place}/shard1 cannot"))), "{said}");
    assert!(error.is_transient() && !said.contains("canary"));
}

/// The task that drives the socket belongs to the runtime that opened the connection; each lane
/// thread has its own runtime.
#[test]
fn a_session_ends_with_its_runtime_and_the_server_forgets_it() {
    let Some(server) = Server::start("") else { return };
    run(async {
        let address = server.address(ADMIN, "postgres");
        let mut session =
            connect(&address, "tessera gone", NodeRole::Primary, &patient()).await.unwrap();
        session.connection.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").await.unwrap();
    });
    server.perform(&["SET lock_timeout = '20s'; SELECT pg_advisory_lock(1)"]);
}
