//! Tests of the advice on the dashboard: commands to copy, reasons why no move helps, and the
//! effect of earlier moves.

use serde_json::{Value, json};

use crate::moves::{check_screens, send};
use crate::page::{DESK, Page};
use crate::router::{PATIENCE, Router};
use crate::service::Service;

/// Finds keys in different slots, the same number for each shard.
fn keys(router: &Router, counts: [(&str, usize); 3]) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = vec![Vec::new(); counts.len()];
    for key in (0..).map(|number| format!("key{number}")) {
        let shard = router.get(&format!("/api/route?key={key}"))["shard"].clone();
        let index = counts.iter().position(|(name, _)| shard == *name).unwrap();
        if found[index].len() < counts[index].1 {
            found[index].push(key);
        }
        if found.iter().zip(counts).all(|(found, (_, count))| found.len() == count) {
            break;
        }
    }
    found
}

fn read(router: &Router, key: &str, times: usize) {
    read_from(router, "users", key, times);
}

fn read_from(router: &Router, table: &str, key: &str, times: usize) {
    let agent = router.agent();
    let url = router.url(&format!("/api/read?table={table}&shardKey={key}"));
    for _ in 0..times {
        assert_eq!(agent.get(&url).call().unwrap().status(), 200);
    }
}

#[test]
fn a_hot_key_is_shown_with_the_command_that_moves_it_and_later_with_the_effect() {
    let router = Router::start(&["--operate"]);
    let service = Service::start(&[("north", &router)], "");
    let found = keys(&router, [("shard1", 2), ("shard2", 1), ("shard3", 1)]);
    for (key, times) in
        [(&found[0][0], 250), (&found[0][1], 350), (&found[1][0], 100), (&found[2][0], 350)]
    {
        read(&router, key, times);
    }
    let advice = router.get("/api/advice");
    let action = advice["findings"][0]["action"].clone();
    let command = action["command"].as_str().unwrap();
    assert!(command.ends_with(&format!("--url {}", router.url(""))), "{command}");
    for url in [router.url(""), service.url()] {
        let mut page = Page::open_at(&url, DESK);
        page.until("the findings", "document.querySelectorAll('#advice .finding').length > 1");
        let first = page.text("#advice .finding");
        assert!(first.starts_with(&format!("Key {}, in slot", found[0][0])), "{first}");
        assert_eq!(page.texts("#advice .command code")[0], command);
        page.click("#advice .command button");
        page.until(
            "it is copied, or selected for it",
            "/Copied|Selected/.test(document.querySelector('#advice .command button').textContent)",
        );
        check_screens(&mut page);
        assert_eq!(page.faults(), Vec::<String>::new());
    }
    let id = begin(&router, &action);
    let began = std::time::Instant::now();
    while router.get(&format!("/api/moves/{id}"))["owned_at"].is_null() {
        assert!(began.elapsed() < PATIENCE, "the move arrives");
    }
    let mut page = Page::open(&router, DESK);
    page.until("the effect", "document.querySelector('#advice .effect')?.checkVisibility()");
    let effect = page.text("#advice .effect");
    let moved = "1 slot moved in the last minutes: without these moves the same requests would have a \
                 skew of 1.71 ×";
    assert!(effect.starts_with(moved) && effect.ends_with("now they have 1.00 ×."), "{effect}");
    assert_eq!(page.value("document.querySelectorAll('#advice .finding').length"), 0);
    check_screens(&mut page);
    assert_eq!(page.faults(), Vec::<String>::new());
}

/// Two table groups with two shards each.
const GROUPS: &str = r#"
[groups.main]
shards = ["shard1", "shard2"]

[groups.ledger]
tables = ["transactions"]
shards = ["shard2", "shard3"]
"#;

/// Reads keys of a table so that one shard has three times the requests of another one.
fn read_unevenly(router: &Router, table: &str, fuller: &str) {
    let (mut of_fuller, mut of_other) = (0, 0);
    for key in (0..).map(|number| format!("key{number}")) {
        let route = router.get(&format!("/api/route?key={key}&table={table}"));
        let (count, times) =
            if route["shard"] == fuller { (&mut of_fuller, 9) } else { (&mut of_other, 3) };
        if *count == 100 {
            continue;
        }
        *count += 1;
        read_from(router, table, &key, times);
        if (of_fuller, of_other) == (100, 100) {
            return;
        }
    }
}

#[test]
fn the_findings_of_every_group_of_tables_are_shown_with_commands_for_that_group() {
    let router = Router::start_with_settings(GROUPS, &["--operate"]);
    let service = Service::start(&[("north", &router)], "");
    read_unevenly(&router, "users", "shard1");
    read_unevenly(&router, "transactions", "shard2");
    for url in [router.url(""), service.url()] {
        let mut page = Page::open_at(&url, DESK);
        page.until("the findings", "document.querySelectorAll('#advice .finding').length > 1");
        let commands = page.texts("#advice .command code");
        for (group, found) in ["main", "ledger"].into_iter().zip(page.texts("#advice .finding")) {
            assert!(found.starts_with(&format!("Group {group}: ")), "{found}");
            let flags = format!("rebalance --by load --group {group} --yes");
            assert!(commands.iter().any(|command| command.contains(&flags)), "{commands:?}");
        }
        check_screens(&mut page);
        assert_eq!(page.faults(), Vec::<String>::new());
    }
}

/// Sends the request of an action, once the replicas of the shards follow.
fn begin(router: &Router, action: &Value) -> String {
    let began = std::time::Instant::now();
    loop {
        let path = action["path"].as_str().unwrap();
        let (status, answer) = send(router, "POST", path, &action["body"]);
        if status == 202 {
            return answer["id"].as_str().unwrap().to_owned();
        }
        let is_early = answer.to_string().contains("must follow its primary");
        assert!(is_early && began.elapsed() < PATIENCE, "{answer}");
    }
}

#[test]
fn a_key_that_no_move_helps_is_shown_with_the_reason_and_with_what_helps() {
    let router = Router::start(&[]);
    read(&router, "celebrity", 1_000);
    let mut page = Page::open(&router, DESK);
    page.until("the findings", "document.querySelectorAll('#advice .finding').length === 2");
    let finding = page.text("#advice .finding");
    for part in ["Key celebrity, in slot", "has 100.0 % of all requests", "no move helps"] {
        assert!(finding.contains(part), "{part}: {finding}");
    }
    let helps = page.texts("#advice .helps li");
    assert_eq!(helps.len(), 2, "{helps:?}");
    assert!(helps[0].contains("cache") && helps[1].starts_with("Split the key"), "{helps:?}");
    assert_eq!(
        page.value(
            "[...document.querySelectorAll('#advice .command')].some((it) => it.checkVisibility())"
        ),
        json!(false)
    );
    check_screens(&mut page);
    assert_eq!(page.faults(), Vec::<String>::new());
}
