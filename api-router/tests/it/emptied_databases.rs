//! Tests of the reuse of databases by the tests themselves: no test finds rows of an earlier test,
//! on replicas either.
//!
//! **Not here:** emptying (`databases`).

use crate::backend::{LAB, not_on_citus, servers_only};
use crate::client::{lab, set};
use crate::databases::{Server, query, try_query};
use crate::harness::eventually;

/// A router that starts on a database that a replica does not show empty yet would use the old
/// catalog as its own.
#[test]
fn a_database_is_used_again_once_every_replica_shows_it_empty() {
    not_on_citus!("it has no replicas of Tessera");
    servers_only!("each test has new files");
    let router = lab(&["--shards", "1", "--replicas", "1"]);
    let shared = &LAB.servers[0];
    // This server has its own databases: no parallel test can take the one that this test has
    // released.
    let server = Server::new(shared.primary.clone(), shared.replicas.clone());
    let name = server.make();
    let (primary, replica) = (server.primary.url(&name), server.replicas[0].url(&name));
    let left = "SELECT 1 FROM tessera.tessera_followed";
    query(&primary, "INSERT INTO tessera.tessera_followed VALUES (1, '\\x')");
    eventually("the replica shows the row", || (query(&replica, left).len() == 1).then_some(()));
    set(&router, "shard1-replica1", "behind");
    server.take_back(name.clone());
    let (made, shown) = std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            let made = server.make();
            let shown = query(&replica, left);
            (made, shown)
        });
        // Emptying a database ends its sessions, which may be the one of this query.
        let emptied = || try_query(&primary, left).is_ok_and(|rows| rows.is_empty()).then_some(());
        eventually("the database is emptied", emptied);
        assert_eq!(query(&replica, left), ["1"], "the replica stands still");
        set(&router, "shard1-replica1", "running");
        made.join().unwrap()
    });
    assert_eq!((made, shown), (name.clone(), Vec::new()));
    server.take_back(name);
}

/// A router of one table group would not know the slots of the others, and refuse them otherwise.
#[test]
fn a_database_that_had_several_table_groups_has_the_slots_of_one_again() {
    not_on_citus!("it has no table groups");
    servers_only!("files are created for each test");
    let shared = &LAB.servers[0];
    let server = Server::new(shared.primary.clone(), Vec::new());
    let name = server.make();
    let width = "SELECT length(bits)::text FROM tessera.tessera_owned";
    let primary = server.primary.url(&name);
    assert_eq!(query(&primary, width), ["2048"]);
    query(&primary, "INSERT INTO tessera.tessera_slots (slot, state) VALUES (16384, 'owned')");
    assert_eq!(query(&primary, width), ["4096"]);
    server.take_back(name.clone());
    assert_eq!(server.make(), name);
    assert_eq!(query(&primary, width), ["2048"]);
    server.take_back(name);
}
