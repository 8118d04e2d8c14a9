//! Tests of a shared Redis: two routers of one cluster share its entries, and two clusters do not.

use crate::backend;
use crate::cache::{Cached, LONG, plain_read, until_hit, until_seen};
use crate::client::{Client, Seen, tokenless};

#[test]
fn two_clusters_on_one_redis_never_meet() {
    let one = Cached::start(&LONG);
    let other = {
        let data = crate::folders::temporary();
        let mut command = backend::command(&data.path().join("data"), &LONG);
        command.env("REDIS_URL", one.redis.url());
        (crate::harness::Router::start_command(command), data)
    };
    let all = [("x-consistency", "all")];
    for (router, name) in [(&one.router, "Ada"), (&other.0, "Bob")] {
        for key in ["k", "l", "m"] {
            tokenless(router).write_with(key, &all, &crate::client::user(key, name));
        }
    }
    let mut of_one = Vec::new();
    for (router, name) in [(&one.router, "Ada"), (&other.0, "Bob")] {
        of_one = one.redis.keys();
        for key in ["k", "l", "m"] {
            assert_eq!(Seen::of(&until_hit(|| plain_read(router, key))).names, [name]);
        }
    }
    // A write of one cluster invalidates no entry of the other.
    let keys = one.redis.keys();
    let of_other: Vec<&String> = keys.iter().filter(|key| !of_one.contains(key)).collect();
    assert_eq!(of_other.len(), 3, "{keys:?}");
    tokenless(&one.router).write_user("k", "Eve");
    let left = one.redis.keys();
    assert!(of_other.iter().all(|key| left.contains(key)), "{left:?} of {keys:?}");
    until_hit(|| plain_read(&other.0, "k"));
    let keys = one.redis.keys();
    assert_eq!(keys.len(), keys.iter().collect::<std::collections::BTreeSet<_>>().len());
    assert!(keys.iter().all(|key| key.starts_with("tessera:1:")), "{keys:?}");
}

#[test]
fn what_one_router_of_a_cluster_reads_the_others_need_not() {
    backend::servers_only!("files have one router");
    let cached = Cached::start(&LONG);
    let other = cached.another(&LONG);
    tokenless(&cached.router).write_with(
        "k",
        &[("x-consistency", "all")],
        &crate::client::user("k", "Ada"),
    );
    until_hit(|| plain_read(&cached.router, "k"));
    // The first read may come before the connection to Redis: the router responds, but does not
    // fill the cache.
    until_hit(|| plain_read(&other, "k"));
    let counted = other.get("/api/analytics/metrics").json()["metrics"]["cache"].clone();
    assert_eq!(counted["fills"], 0, "{counted}");

    let mut writer = tokenless(&other);
    for n in 0..30 {
        let name = format!("name {n}");
        writer.write_user("k", &name);
        let mut same = Client::with(&cached.router, writer.token());
        assert_eq!(same.user("k").names, [&*name], "a client reads what it wrote, by any router");
        until_seen(&cached.router, "k", &[&name]);
        until_seen(&other, "k", &[&name]);
        until_hit(|| plain_read(&cached.router, "k"));
    }
}

#[test]
fn a_restarted_router_finds_the_kept_entries() {
    let cached = Cached::start(&LONG);
    tokenless(&cached.router).write_with(
        "k",
        &[("x-consistency", "all")],
        &crate::client::user("k", "Ada"),
    );
    until_hit(|| plain_read(&cached.router, "k"));
    let Cached { mut router, redis, data } = cached;
    router.end();
    let mut command = backend::command(&data.path().join("data"), &LONG);
    command.env("REDIS_URL", redis.url());
    let router = crate::harness::Router::start_command(command);
    assert_eq!(Seen::of(&until_hit(|| plain_read(&router, "k"))).names, ["Ada"]);
    let mut writer = tokenless(&router);
    writer.write_user("k", "Bob");
    assert_eq!(writer.user("k").names, ["Bob"]);
}
