//! Tests of the databases that cannot join a cluster: each is refused with its reason, and nothing
//! is begun.

use shard_manager::engine::OpenedCluster;
use shard_manager::engine::new_shard::{NewShard, NewShardRefusal as Refusal};
use shard_manager::store::postgres::session::{self, NodeRole};

use crate::cluster::{Databases, SideSession, cluster_of, connect, shared};
use crate::free_port::free_port;
use crate::new_shard::{check, list, refusal, router, url};
use crate::rows::deadline;
use crate::server::{ADMIN, Server, patient, run};

/// A cluster of one shard with a router, and the URL of an empty database.
async fn one_shard() -> (Databases, OpenedCluster, Databases, String) {
    let databases = Databases::blank(1).await;
    let router = router(&databases.address());
    let empty = Databases::blank(1).await;
    let url = url(&empty.nodes[0], &empty.names[0]);
    (databases, router, empty, url)
}

/// The sentence of a database that cannot be a shard.
async fn unsuitable(router: &OpenedCluster, url: &str) -> String {
    let refused = refusal(router, "shard2", url).await;
    assert!(matches!(refused, Refusal::Unsuitable { .. }), "{refused:?}");
    refused.to_string()
}

#[tokio::test]
async fn a_url_names_hosts_that_the_settings_have_and_a_database_and_nothing_else() {
    let (databases, router, empty, good) = one_shard().await;
    let (port, name) = (empty.nodes[0].port, &empty.names[0]);
    let missing = NewShard { name: "shard2".into(), weight: 1, url: None };
    let missing = router.backend.check_new_shard(&missing, deadline()).await;
    assert_eq!(missing, Err(Refusal::UrlMissing));
    for (text, reported) in [
        (format!("mysql://127.0.0.1:{port}/{name}"), "begins with postgres://"),
        (format!("postgres://127.0.0.1:{port}"), "names a database"),
        (format!("postgres:///{name}"), "names a host"),
        (format!("postgres://tessera@127.0.0.1:{port}/{name}"), "leave the user out"),
        (format!("{good}?sslmode=disable"), "leave sslmode out"),
        (format!("{good}?password_file=/etc/passwd"), "leave password_file out"),
        (format!("{good}?passfile=/no/such/file"), "leave passfile out"),
    ] {
        let refused = refusal(&router, "shard2", &text).await;
        assert!(matches!(refused, Refusal::UrlInvalid(_)), "{text}: {refused:?}");
        assert!(refused.to_string().contains(reported), "{text}: {refused}");
    }
    for secret in [
        format!("postgres://u:canary@127.0.0.1:{port}/{name}"),
        format!("{good}?user=u&password=canary"),
    ] {
        assert_eq!(refusal(&router, "shard2", &secret).await, Refusal::PasswordInUrl);
    }
    // No password goes to a server that the settings do not name, not even beside one that they do.
    for unnamed in [
        format!("postgres://127.0.0.1:1/{name}"),
        good.replace(&format!("/{name}"), &format!(",127.0.0.1:1/{name}")),
    ] {
        let host = "127.0.0.1:1".to_owned();
        assert_eq!(refusal(&router, "shard2", &unnamed).await, Refusal::NoCredentials { host });
    }
    let found = check(&router, "shard2", &good).await.unwrap();
    assert_eq!(found, Some(good));
    // Nothing was begun.
    assert_eq!(router.map.load().epoch(), 1);
    let mut direct = empty.direct_session(0).await;
    let schemas = "SELECT count(*)::text AS value FROM pg_namespace WHERE nspname='tessera'";
    assert_eq!(direct.text(schemas).await, "0");
    let shards = "SELECT count(*)::text AS value FROM tessera_shards";
    assert_eq!(databases.direct_session(0).await.text(shards).await, "1");
}

#[tokio::test]
async fn a_server_or_database_that_is_not_there_is_refused() {
    let databases = Databases::blank(1).await;
    let port = free_port();
    let mut settings = databases.address();
    connect(&settings).close();
    let dead = cluster_of([format!("postgres://u@127.0.0.1:{port}/x").parse().unwrap()]);
    settings.shards.extend(dead.shards);
    let router = router(&settings);
    let gone = format!("postgres://127.0.0.1:{port}/x");
    let refused = refusal(&router, "shard2", &gone).await;
    assert!(matches!(refused, Refusal::Unreachable { .. }), "{refused:?}");
    let nowhere = url(&databases.nodes[0], "nowhere");
    let said = unsuitable(&router, &nowhere).await;
    assert!(said.contains("nowhere cannot be a shard: there is no such database"), "{said}");
}

#[tokio::test]
async fn a_database_with_contents_or_of_another_cluster_or_shard_is_refused() {
    let (databases, router, empty, good) = one_shard().await;
    let mut direct = empty.direct_session(0).await;
    for (made, undone, name) in [
        ("CREATE TABLE precious (id integer)", "DROP TABLE precious", "public.precious"),
        (
            "CREATE SCHEMA mine; CREATE VIEW mine.seen AS SELECT 1",
            "DROP SCHEMA mine CASCADE",
            "mine.seen",
        ),
        ("CREATE SEQUENCE numbers", "DROP SEQUENCE numbers", "public.numbers"),
    ] {
        direct.run(&format!("SET search_path = public; {made}")).await;
        let refused = refusal(&router, "shard2", &good).await;
        assert!(matches!(refused, Refusal::NotEmpty { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&format!("it contains {name}.")), "{refused}");
        direct.run(undone).await;
    }
    check(&router, "shard2", &good).await.unwrap();
    let other = Databases::blank(1).await;
    connect(&other.address()).close();
    let of_other = url(&other.nodes[0], &other.names[0]);
    let refused = refusal(&router, "shard2", &of_other).await;
    assert!(matches!(refused, Refusal::OtherCluster { .. }), "{refused:?}");
    let own = url(&databases.nodes[0], &databases.names[0]);
    let refused = refusal(&router, "shard2", &own).await;
    assert!(
        matches!(&refused, Refusal::OtherShard { shard, .. } if shard == "shard1"),
        "{refused:?}"
    );
    // A database that was taken elsewhere still names its shard.
    let id = "SELECT cluster_id AS value FROM tessera_cluster";
    let id = databases.direct_session(0).await.text(id).await;
    direct.run(
        "CREATE SCHEMA tessera; CREATE TABLE tessera.tessera_shard (cluster_id text, shard text)",
    )
    .await;
    direct.run(&format!("INSERT INTO tessera.tessera_shard VALUES ('{id}', 'shard2')")).await;
    let refused = refusal(&router, "shard3", &good).await;
    assert!(
        matches!(&refused, Refusal::OtherShard { shard, .. } if shard == "shard2"),
        "{refused:?}"
    );
    // The catalog has lost that shard. It may join again only as long as it has no slots.
    check(&router, "shard2", &good).await.unwrap();
    direct.run("CREATE TABLE tessera.tessera_slots (slot integer, state text)").await;
    direct.run("INSERT INTO tessera.tessera_slots VALUES (7, 'moved')").await;
    check(&router, "shard2", &good).await.unwrap();
    direct.run("INSERT INTO tessera.tessera_slots VALUES (8, 'fenced')").await;
    let refused = refusal(&router, "shard2", &good).await;
    assert!(matches!(&refused, Refusal::Lost { shard, .. } if shard == "shard2"), "{refused:?}");
    assert!(refused.to_string().contains("keep it, stop all routers"), "{refused}");
}

#[tokio::test]
async fn a_database_with_wrong_settings_is_refused() {
    let (databases, router, empty, _) = one_shard().await;
    let (node, name) = (&databases.nodes[0], &empty.names[0]);
    let mut direct = SideSession::open(node, "postgres").await;
    let ascii = "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'";
    direct.run(&format!("CREATE DATABASE {name}ascii {ascii}")).await;
    let said = unsuitable(&router, &url(node, &format!("{name}ascii"))).await;
    assert!(said.contains("SQL_ASCII"), "{said}");
    direct.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let said = unsuitable(&router, &url(node, name)).await;
    assert!(said.contains("default_transaction_read_only=on"), "{said}");
}

#[tokio::test]
async fn a_new_shard_has_as_many_replicas_as_the_others() {
    let databases = Databases::blank(1).await;
    let router = router(&databases.with_replicas().await);
    let empty = Databases::blank(1).await;
    empty.with_replicas().await;
    let (primary, replica) = (&empty.nodes[0], shared().replicas_of(0).next().unwrap());
    let name = &empty.names[0];
    let said = unsuitable(&router, &url(primary, name)).await;
    assert!(said.contains("it has 0 replicas, and every other shard has 1"), "{said}");
    let said = unsuitable(&router, &url(replica, name)).await;
    assert!(said.contains("accepts writes"), "{said}");
    let hosts =
        |first: u16, second: u16| format!("postgres://127.0.0.1:{first},127.0.0.1:{second}/{name}");
    let listed = check(&router, "shard2", &hosts(replica.port, primary.port)).await.unwrap();
    assert_eq!(listed, Some(hosts(primary.port, replica.port)), "the primary is first");
    // A host of the list does not copy the primary.
    let twice = hosts(primary.port, primary.port);
    let said = unsuitable(&router, &twice).await;
    assert!(said.contains("is not a replica of"), "{said}");
}

#[tokio::test]
async fn a_name_that_is_joining_keeps_its_address_and_its_database() {
    let (_databases, router, _empty, good) = one_shard().await;
    let another = Databases::blank(1).await;
    let another = url(&another.nodes[0], &another.names[0]);
    list(&router, "shard2", &good).await;
    assert_eq!(check(&router, "shard2", &good).await.unwrap(), Some(good.clone()));
    let refused = refusal(&router, "shard2", &another).await;
    assert!(matches!(&refused, Refusal::OtherAddress { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&good), "{refused}");
    let refused = refusal(&router, "shard3", &good).await;
    assert!(
        matches!(&refused, Refusal::OtherShard { shard, .. } if shard == "shard2"),
        "{refused:?}"
    );
}

#[test]
fn a_server_without_rights_or_room_is_refused() {
    let Some(server) = Server::start("max_connections = 24") else { return };
    server.perform(&[
        "CREATE ROLE tessera LOGIN",
        "CREATE DATABASE shard1 OWNER tessera",
        "CREATE DATABASE shard2",
    ]);
    let router = router(&cluster_of([server.address("tessera", "shard1")]));
    let url = format!("postgres://127.0.0.1:{}/shard2", server.port);
    run(async {
        let said = unsuitable(&router, &url).await;
        assert!(said.contains("GRANT CREATE ON DATABASE shard2 TO tessera"), "{said}");
    });
    server.perform(&["ALTER DATABASE shard2 OWNER TO tessera"]);
    run(async {
        check(&router, "shard2", &url).await.unwrap();
        let at = server.address(ADMIN, "postgres");
        let mut held = Vec::new();
        for _ in 0..12 {
            held.push(session::connect(&at, "story", NodeRole::Any, &patient()).await.unwrap());
        }
        let said = unsuitable(&router, &url).await;
        assert!(said.contains("free connections, and a router takes 8"), "{said}");
    });
}
