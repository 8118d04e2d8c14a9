//! Tests of alert delivery: from a failure of a router to the webhook.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use analytics::{MoveNow, Outcome, RebalanceNow, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::eventually;
use crate::fake::{FakeRouter, Instead, Request, Server, ago, frame, frame_with_outcome, response};
use crate::process::Service;

/// Server that receives alerts.
struct Listener {
    server: Server,
    heard: Arc<Mutex<Vec<Request>>>,
}

impl Listener {
    /// Starts a server that responds to the first messages with these statuses (for status 0, it
    /// closes the connection), and to all others with 204.
    fn start(statuses: &'static [u16]) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ears, count) = (Arc::clone(&heard), AtomicUsize::new(0));
        let server = Server::start(move |request| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            ears.lock().unwrap().push(request.clone());
            match statuses.get(number) {
                Some(0) => None,
                Some(status) => Some(response(*status, "later")),
                None => Some(response(204, "")),
            }
        });
        Self { server, heard }
    }

    fn heard(&self) -> Vec<Request> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until this many messages have arrived.
    fn await_messages(&self, count: usize) -> Vec<Value> {
        let heard = eventually(&format!("{count} messages"), || {
            Some(self.heard()).filter(|heard| heard.len() >= count)
        });
        heard.iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect()
    }
}

/// Starts a service with a router, and with `file` in its configuration file.
fn service(router: &FakeRouter, file: &str) -> (TempDir, Service) {
    service_of(&router.url(), file)
}

/// Starts a service with the router at `url`, and with `file` in its configuration file.
pub(crate) fn service_of(url: &str, file: &str) -> (TempDir, Service) {
    let folder = tempfile::tempdir().unwrap();
    let routers = format!("routers = \"north={url}\"\nstore = \"none\"\n");
    fs::write(folder.path().join("analytics.toml"), routers + file).unwrap();
    let service = Service::start(folder.path(), &[]);
    service.await_router("north", true);
    (folder, service)
}

pub(crate) fn alerts(service: &Service) -> Value {
    service.get("/api/analytics/alerts").json()
}

/// Waits until a rule is in this state.
pub(crate) fn await_state(service: &Service, state: &str) -> Value {
    eventually(state, || {
        Some(alerts(service)).filter(|reported| reported["rules"][0]["state"] == state)
    })
}

#[test]
fn an_alert_for_a_shard_fires_while_it_is_down_and_ends_when_it_is_back() {
    let router = FakeRouter::start(&["shard1", "shard2"]);
    let listener = Listener::start(&[]);
    let (_folder, service) = service(
        &router,
        &format!(
            r#"
            [[alert]]
            name = "lost-shard"
            kind = "shard_down"
            for = "2s"
            clear_for = "1s"
            [[webhook]]
            name = "oncall"
            url = "{}/services/hook?a=b"
            "#,
            listener.server.url()
        ),
    );
    assert_eq!(await_state(&service, "quiet")["alerts"], json!([]));
    router.change(|reported| reported.now.shards[1].up = false);
    let pending = await_state(&service, "pending");
    assert_eq!(pending["alerts"][0]["state"], "pending");
    assert_eq!(pending["alerts"][0]["fired_at"], json!(null));
    let firing = await_state(&service, "firing");
    let alert = &firing["alerts"][0];
    assert_eq!((&alert["rule"], &alert["shard"]), (&json!("lost-shard"), &json!("shard2")));
    assert_eq!((&alert["value"], &alert["unit"]), (&json!(1.0), &json!("down")));
    assert_eq!(firing["alerts"].as_array().unwrap().len(), 1);
    router.change(|reported| reported.now.shards[1].up = true);
    let quiet = await_state(&service, "quiet");
    assert_eq!(quiet["alerts"], json!([]));
    assert_eq!(
        (&quiet["recent"][0]["state"], &quiet["recent"][0]["shard"]),
        (&json!("resolved"), &json!("shard2"))
    );
    let messages = listener.await_messages(2);
    let members = ["version", "status", "rule", "kind", "shard", "router", "value"];
    let reported: Vec<Vec<&Value>> = messages
        .iter()
        .map(|message| members.iter().map(|member| &message[*member]).collect())
        .collect();
    assert_eq!(
        json!(reported[0]),
        json!([1, "firing", "lost-shard", "shard_down", "shard2", null, 1.0])
    );
    assert_eq!(
        json!(reported[1]),
        json!([1, "resolved", "lost-shard", "shard_down", "shard2", null, 0.0])
    );
    assert_eq!(messages[0]["resolved_at"], json!(null));
    assert!(messages[1]["resolved_at"].as_str() > messages[1]["fired_at"].as_str());
    assert_eq!(messages[0]["text"], "lost-shard firing: shard_down is 1.000 down, shard shard2");
    let first = &listener.heard()[0];
    assert_eq!(first.line, "POST /services/hook?a=b HTTP/1.1");
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("authorization"), None);
    // The count is polled, because the receiver has a message a moment before the service has the
    // response.
    eventually("both are counted", || {
        (alerts(&service)["webhooks"][0]["delivered"] == 2).then_some(())
    });
}

#[test]
fn an_alert_for_moves_fires_while_one_makes_no_progress() {
    let router = FakeRouter::start(&["shard1", "shard2"]);
    let rule =
        "[[alert]]\nname = \"stuck\"\nkind = \"move_stalled\"\nfor = \"0s\"\nclear_for = \"0s\"\n";
    let (_folder, service) = service(&router, rule);
    let moving = |id: &str, stalled| MoveNow { id: id.to_owned(), stalled, ..MoveNow::default() };
    router.change(|reported| reported.now.moves = vec![moving("a", false), moving("b", false)]);
    assert_eq!(await_state(&service, "quiet")["alerts"], json!([]));
    router.change(|reported| reported.now.moves[1].stalled = true);
    let firing = await_state(&service, "firing");
    let alert = &firing["alerts"][0];
    assert_eq!((&alert["rule"], &alert["shard"]), (&json!("stuck"), &json!(null)));
    assert_eq!((&alert["value"], &alert["unit"]), (&json!(1.0), &json!("stalled")));
    router.change(|reported| reported.now.moves.clear());
    assert_eq!(await_state(&service, "quiet")["recent"][0]["state"], "resolved");
}

#[test]
fn an_alert_for_rebalances_fires_for_a_day_after_one_has_failed_or_until_the_next_one() {
    let router = FakeRouter::start(&["shard1", "shard2"]);
    let rule = "[[alert]]\nname = \"failed\"\nkind = \"rebalance_failed\"\nfor = \"0s\"\nclear_for = \"0s\"\n";
    let (_folder, service) = service(&router, rule);
    let report = |state: &str, ended_s| {
        let latest = RebalanceNow { state: state.to_owned(), ended_s, ..RebalanceNow::default() };
        router.change(|reported| reported.now.rebalance = Some(latest.clone()));
    };
    assert_eq!(await_state(&service, "quiet")["alerts"], json!([]));
    report("failed", Some(5));
    let firing = await_state(&service, "firing");
    let alert = &firing["alerts"][0];
    assert_eq!((&alert["rule"], &alert["shard"]), (&json!("failed"), &json!(null)));
    assert_eq!((&alert["value"], &alert["unit"]), (&json!(1.0), &json!("failed")));
    report("running", None);
    assert_eq!(await_state(&service, "quiet")["recent"][0]["state"], "resolved");
    report("failed", Some(5));
    await_state(&service, "firing");
    report("failed", Some(24 * 60 * 60));
    await_state(&service, "quiet");
}

#[test]
fn messages_are_retried_in_order_with_a_secret_that_is_never_logged() {
    let router = FakeRouter::start(&["shard1"]);
    // The receiver first responds that it is unavailable, then closes the connection, then responds
    // that there are too many requests, and then accepts the message.
    let listener = Listener::start(&[503, 0, 429]);
    let folder = tempfile::tempdir().unwrap();
    let (word, hook) = (folder.path().join("word"), folder.path().join("hook"));
    fs::write(&word, "Bearer hunter2\n").unwrap();
    fs::write(&hook, format!("{}/services/hunter3\n", listener.server.url())).unwrap();
    let (_folder, service) = service(
        &router,
        &format!(
            r#"
            [[alert]]
            name = "lost-shard"
            kind = "shard_down"
            for = "0s"
            clear_for = "0s"
            [[webhook]]
            name = "oncall"
            url_file = "{}"
            authorization_file = "{}"
            "#,
            hook.display(),
            word.display()
        ),
    );
    router.change(|reported| reported.now.shards[0].up = false);
    await_state(&service, "firing");
    router.change(|reported| reported.now.shards[0].up = true);
    await_state(&service, "quiet");
    let messages = listener.await_messages(5);
    let statuses: Vec<_> =
        messages.iter().map(|message| message["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["firing", "firing", "firing", "firing", "resolved"]);
    for request in listener.heard() {
        assert_eq!(request.header("authorization"), Some("Bearer hunter2"));
        assert_eq!(request.path(), "/services/hunter3");
    }
    let webhook = eventually("both are heard", || {
        Some(alerts(&service)["webhooks"][0].clone()).filter(|webhook| webhook["delivered"] == 2)
    });
    assert_eq!((&webhook["waiting"], &webhook["last_error"]), (&json!(0), &json!(null)));
    let said = service.said();
    assert!(said.contains("an alert is not delivered yet: it answers with status 503"), "{said}");
    assert!(!said.contains("hunter"), "{said}");
    assert!(!alerts(&service).to_string().contains("hunter"));
}

#[test]
fn a_message_that_the_receiver_rejects_is_not_retried() {
    let router = FakeRouter::start(&["shard1"]);
    let listener = Listener::start(&[410]);
    let (_folder, service) = service(
        &router,
        &format!(
            "[[alert]]\nname = \"x\"\nkind = \"shard_down\"\nfor = \"0s\"\nclear_for = \"0s\"\n\
             [[webhook]]\nname = \"gone\"\nurl = \"{}\"",
            listener.server.url()
        ),
    );
    router.change(|reported| reported.now.shards[0].up = false);
    let webhook = eventually("a refusal", || {
        Some(alerts(&service)["webhooks"][0].clone()).filter(|webhook| webhook["dropped"] == 1)
    });
    assert_eq!(webhook["last_error"], "it refuses with status 410");
    router.change(|reported| reported.now.shards[0].up = true);
    let messages = listener.await_messages(2);
    assert_eq!(messages[1]["status"], "resolved");
}

#[test]
fn latency_errors_skew_and_lag_each_fire_an_alert() {
    let router = FakeRouter::start(&["shard1", "shard2"]);
    let rule =
        |name: &str, more: &str| format!("[[alert]]\nname = \"{name}\"\n{more}\nfor = \"0s\"\n");
    let rules = [
        rule("slow", "kind = \"p99\"\nraise = 50"),
        rule("slow-here", "kind = \"p99\"\nraise = 50\nshard = \"shard2\""),
        rule("failing", "kind = \"error_rate\"\nraise = 0.2"),
        rule("uneven", "kind = \"skew\"\nraise = 1.5"),
        rule("late", "kind = \"lag\"\nraise = 5000"),
        rule("lost", "kind = \"router_down\""),
    ];
    let (_folder, service) = service(&router, &rules.concat());
    let fires = |count: usize| {
        let reported = eventually(&format!("{count} fire"), || {
            let reported = alerts(&service);
            let firing = |rule: &&Value| rule["state"] == "firing";
            let count_now = reported["rules"].as_array().unwrap().iter().filter(firing).count();
            Some(reported).filter(|_| count_now == count)
        });
        let names = reported["alerts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["rule"].as_str().unwrap().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!(fires(0), [""; 0]);
    router.change(|reported| {
        let slow = frame(Step::Second, ago(3), "shard1", 60, 80);
        let failed =
            frame_with_outcome(Step::Second, ago(2), "shard1", (40, 1), Outcome::ServerError);
        reported.frames.extend([slow, failed]);
        reported.now.shards[1].nodes[0].lag_ms = Some(6_000.0);
    });
    assert_eq!(fires(4), ["failing", "late", "slow", "uneven"]);
    router.change(|reported| reported.instead = Some(Instead::Refusal));
    // The metrics of the last minutes are still known, so their alerts fire. The state of the
    // shards is unknown, so the alert for lag continues to fire.
    assert_eq!(fires(5), ["failing", "late", "lost", "slow", "uneven"]);
}
