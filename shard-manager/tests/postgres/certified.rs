//! Tests of failover in a cluster whose addresses require verified server certificates.

use std::time::{Duration, Instant};

use shard_manager::consistency::Level;
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::Manager;
use shard_manager::node_address::{ClusterAddress, NodeAddress};
use shard_manager::store::postgres::session::{self, NodeRole};

use crate::certificates::Authority;
use crate::cluster::{cluster_of, connect};
use crate::log;
use crate::read_write_steps::{at, get, put, put_fails, until_replicas, within};
use crate::server::{ADMIN, Server, patient, runtime};

/// Access rules: TLS is required, except for local connections and replication.
const RULES: &str = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n\
                     host replication all 127.0.0.1/32 trust\n";

/// A primary and its replica with certificates for `localhost`, and the authority that signed
/// these.
struct Proven {
    primary: Server,
    replica: Server,
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Proven {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        std::fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
        let (certificate, key) = authority.sign("localhost", false);
        let files = [("server.crt", &*certificate), ("server.key", &*key)];
        let primary = Server::start_with("ssl = on\n", RULES, &files)?;
        let replica = primary.replica();
        let proven = Self { primary, replica, authority, folder };
        // The replica's own certificate, not a copy of the primary's.
        proven.present(&proven.authority);
        Some(proven)
    }

    /// Makes the replica present a certificate of this authority to all new connections.
    fn present(&self, authority: &Authority) {
        let (certificate, key) = authority.sign("localhost", false);
        self.replica.write("server.crt", &certificate);
        self.replica.write("server.key", &key);
        self.replica.perform(&["SELECT pg_reload_conf()"]);
    }

    fn address(&self, server: &Server) -> NodeAddress {
        let roots = self.folder.path().join("ca.pem");
        let (port, roots) = (server.port, roots.display());
        let text = format!(
            "postgres://{ADMIN}@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={roots}"
        );
        text.parse().unwrap()
    }

    fn cluster(&self) -> ClusterAddress {
        let replicas = vec![self.address(&self.replica)];
        ClusterAddress { replicas, ..cluster_of([self.address(&self.primary)]) }
    }

    /// Waits until clients can verify the replica's certificate, or no longer can.
    async fn until_proven(&self, proven: bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let address = self.address(&self.replica);
        while session::connect(&address, "story", NodeRole::Any, &patient()).await.is_ok() != proven
        {
            assert!(Instant::now() < deadline, "it shows what it has shown");
        }
    }

    /// Stops the primary and promotes the replica.
    fn fail_over(&self) {
        self.primary.stop();
        self.replica.perform(&["SELECT pg_promote()"]);
    }
}

async fn primary_is_up(manager: &Manager) -> bool {
    manager.status().health(Instant::now() + Duration::from_millis(500)).await.remove(0).nodes[0].up
}

/// Waits until the primary answers in time.
async fn until_primary_is_up(manager: &Manager) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !primary_is_up(manager).await {
        assert!(Instant::now() < deadline, "it never answers in time");
    }
}

#[test]
fn a_promoted_node_with_a_valid_certificate_is_written_to_only_through_tls() {
    let Some(proven) = Proven::start() else { return };
    runtime().block_on(proven.until_proven(true));
    let manager = connect(&proven.cluster());
    runtime().block_on(async { put(&manager, "before", &at(Level::All)).await.unwrap() });
    proven.fail_over();
    runtime().block_on(async {
        put(&manager, "after", &at(Level::One)).await.unwrap();
        assert_eq!(get(&manager, "before", &at(Level::One)).await.unwrap().rows.len(), 1);
        until_primary_is_up(&manager).await;
    });
    let of = |ssl| {
        format!(
            "SELECT count(*)::text AS value FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
             WHERE application_name LIKE 'tessera %' AND ssl={ssl}"
        )
    };
    assert_eq!(proven.replica.text(&of("false")), "0");
    assert_ne!(proven.replica.text(&of("true")), "0");
    manager.close();
}

#[test]
fn a_promoted_node_with_an_invalid_certificate_gets_no_write_until_it_is_replaced() {
    log::listen();
    let Some(proven) = Proven::start() else { return };
    runtime().block_on(proven.until_proven(true));
    let manager = connect(&proven.cluster());
    runtime().block_on(async {
        put(&manager, "before", &at(Level::All)).await.unwrap();
        until_replicas(&manager, 1).await;
    });
    // Open connections stay: they have been verified.
    proven.present(&Authority::new());
    runtime().block_on(proven.until_proven(false));
    proven.fail_over();
    runtime().block_on(async {
        for level in [Level::One, Level::Quorum] {
            let failure = put_fails(&manager, "after", 1_500, level).await;
            assert!(matches!(failure.error, Error::NoPrimary { .. }), "{failure:?}");
            assert_eq!(failure.outcome, Outcome::Rejected);
        }
        let strong = get(&manager, "before", &within(500, Level::All)).await;
        assert!(strong.is_err(), "{strong:?}");
        assert!(!primary_is_up(&manager).await);
    });
    let written = "SELECT count(*)::text AS value FROM users WHERE user_id='after'";
    assert_eq!(proven.replica.text(written), "0");
    let port = format!("localhost:{}/postgres", proven.replica.port);
    log::check_logged(&["WARN", "it would not be followed", &port, "invalid peer certificate"]);

    proven.present(&proven.authority);
    runtime().block_on(async {
        put(&manager, "after", &at(Level::One)).await.unwrap();
        until_primary_is_up(&manager).await;
    });
    assert_eq!(proven.replica.text(written), "1");
    log::check_logged(&["a promoted node is followed", "node=shard1-primary", &port]);
    manager.close();
}
