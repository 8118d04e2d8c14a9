//! Tests of the dashboard's card about the cache: with no cache configured, with a cache, and while
//! the configured cache is unreachable.

use crate::page::{DESK, Page};
use crate::redis::Redis;
use crate::router::Router;

fn read(router: &Router, key: &str) {
    let url = router.url("/api/read?table=users");
    let answer = router.agent().get(url).header("x-shard-key", key).call().unwrap();
    assert_eq!(answer.status(), 200);
}

#[test]
fn without_a_cache_the_card_shows_that_there_is_none() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    page.until("it is off", "document.querySelector('#cache').textContent.includes('Off')");
    assert!(!page.text("#cache").contains("breaker"));
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn the_card_shows_the_work_of_a_cache_and_its_failure() {
    let mut redis = Redis::start();
    let router = Router::start(&["--redis-url", &redis.url(), "--cache-bound-ms", "30000"]);
    assert!(router.write_user("k") < 300);
    let mut page = Page::open(&router, DESK);
    let says =
        |words: &str| format!("document.querySelector('#cache').textContent.includes('{words}')");
    while router.get("/api/analytics/metrics")["metrics"]["cache"]["hits"].as_u64() < Some(20) {
        read(&router, "k");
    }
    page.until(
        "hits are shown",
        "document.querySelector('#cache .legend').textContent.includes('hits')",
    );
    for words in ["of its lookups were hits", "rejected as too old", "breaker closed"] {
        page.until(words, &says(words));
    }
    page.until(
        "some answers are kept",
        "/[1-9]\\d* answers kept/.test(document.querySelector('#cache').textContent)",
    );
    page.until(
        "the tile shows the share of hits",
        "document.querySelector('[data-figure=cache] .tile-note').textContent.includes('hits')",
    );
    redis.kill();
    while router.get("/api/health")["cache"] != "down" {
        read(&router, "k");
    }
    page.until(
        "the card shows that it does not answer",
        "/breaker (open|half-open)/.test(document.querySelector('#cache').textContent)",
    );
    page.until("and that reads go on without it", &says("It d"));
    assert_eq!(page.faults(), Vec::<String>::new());
}
