//! Tests of TLS: what each mode accepts, what it refuses, and the message of the refusal.

use diesel::QueryableByName;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;
use shard_manager::node_address::NodeAddress;
use shard_manager::store::postgres::ConnectError;
use shard_manager::store::postgres::session::{NodeRole, connect};

use crate::certificates::Authority;
use crate::server::{Server, TRUST, patient, refusal, run};

const TLS_ONLY: &str = "hostssl all all 127.0.0.1/32 trust\nlocal all all trust\n";

struct Secured {
    server: Server,
    folder: tempfile::TempDir,
}

/// A server with a certificate for `localhost` but not for `127.0.0.1`; signed by `ca.pem` and not
/// by `other.pem`.
fn secured(expired: bool, rules: &str) -> Option<Secured> {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    std::fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    std::fs::write(folder.path().join("other.pem"), &other.pem).unwrap();
    let (certificate, key) = authority.sign("localhost", expired);
    let files = [("server.crt", &*certificate), ("server.key", &*key)];
    Some(Secured { server: Server::start_with("ssl = on", rules, &files)?, folder })
}

impl Secured {
    fn address(&self, host: &str, mode: &str, roots: Option<&str>) -> NodeAddress {
        let roots = roots.map_or_else(String::new, |file| {
            format!("&sslrootcert={}", self.folder.path().join(file).display())
        });
        let text = format!(
            "postgres://admin:canary@{host}:{}/postgres?sslmode={mode}{roots}",
            self.server.port
        );
        text.parse().unwrap()
    }

    fn refused(&self, host: &str, mode: &str, roots: Option<&str>) -> String {
        let error = refusal(&self.address(host, mode, roots), NodeRole::Any, &patient());
        let is_tls = matches!(&error, ConnectError::Tls { .. });
        assert!(is_tls && !error.is_transient(), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        error.to_string()
    }
}

#[derive(QueryableByName)]
struct Encrypted {
    #[diesel(sql_type = Bool)]
    ssl: bool,
}

/// Connects; returns true if the connection is encrypted.
fn encrypted(address: &NodeAddress) -> bool {
    run(async {
        let mut session =
            connect(address, "tessera test", NodeRole::Any, &patient()).await.unwrap();
        let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row: Encrypted =
            diesel::sql_query(query).get_result(&mut session.connection).await.unwrap();
        row.ssl
    })
}

#[test]
fn verify_full_accepts_the_right_name_from_the_right_authority_and_nothing_else() {
    let Some(node) = secured(false, TLS_ONLY) else { return };
    assert!(encrypted(&node.address("localhost", "verify-full", Some("ca.pem"))));
    let said = node.refused("127.0.0.1", "verify-full", Some("ca.pem"));
    assert!(said.contains("not valid for name"), "{said}");
    let said = node.refused("localhost", "verify-full", Some("other.pem"));
    assert!(said.contains("invalid peer certificate"), "{said}");
    let said = node.refused("localhost", "verify-full", None);
    assert!(said.contains("UnknownIssuer"), "{said}");
    let said = node.refused("localhost", "verify-full", Some("none.pem"));
    assert!(said.contains("none.pem"), "{said}");
}

#[test]
fn verify_ca_accepts_any_name_but_no_other_authority() {
    let Some(node) = secured(false, TLS_ONLY) else { return };
    assert!(encrypted(&node.address("127.0.0.1", "verify-ca", Some("ca.pem"))));
    node.refused("127.0.0.1", "verify-ca", Some("other.pem"));
    node.refused("127.0.0.1", "verify-ca", None);
    // Like libpq: naming root certificates implies that they are verified.
    assert!(encrypted(&node.address("127.0.0.1", "require", Some("ca.pem"))));
    node.refused("127.0.0.1", "require", Some("other.pem"));
}

#[test]
fn an_expired_certificate_is_refused_where_certificates_are_checked() {
    let Some(node) = secured(true, TLS_ONLY) else { return };
    for (host, mode) in [("localhost", "verify-full"), ("127.0.0.1", "verify-ca")] {
        let said = node.refused(host, mode, Some("ca.pem"));
        assert!(said.contains("expired"), "{said}");
    }
    assert!(encrypted(&node.address("127.0.0.1", "require", None)));
}

#[test]
fn require_and_prefer_encrypt_and_disable_does_not() {
    let Some(node) = secured(false, TRUST) else { return };
    assert!(encrypted(&node.address("127.0.0.1", "require", None)));
    assert!(encrypted(&node.address("127.0.0.1", "prefer", None)));
    assert!(!encrypted(&node.address("127.0.0.1", "disable", None)));
    let socket = node.server.socket().replace('/', "%2F");
    assert!(!encrypted(&node.address(&socket, "verify-full", None)));
}

#[test]
fn a_server_that_requires_tls_refuses_plain_connections_with_that_reason() {
    let Some(node) = secured(false, TLS_ONLY) else { return };
    let address = node.address("127.0.0.1", "disable", None);
    let error = refusal(&address, NodeRole::Any, &patient());
    assert!(matches!(&error, ConnectError::Authentication { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("no encryption") && said.contains("pg_hba.conf"), "{said}");
}

#[test]
fn prefer_falls_back_and_the_others_do_not() {
    let Some(server) = Server::start("") else { return };
    let with = |mode: &str| server.address("admin", &format!("postgres?sslmode={mode}"));
    assert!(!encrypted(&with("prefer")));
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refusal(&with(mode), NodeRole::Any, &patient());
        let said = error.to_string();
        assert!(said.contains("does not offer TLS") && said.contains(mode), "{said}");
    }
    let rules = "hostnossl all all 127.0.0.1/32 trust\nlocal all all trust\n";
    let Some(node) = secured(false, rules) else { return };
    assert!(!encrypted(&node.address("127.0.0.1", "prefer", None)));
}
