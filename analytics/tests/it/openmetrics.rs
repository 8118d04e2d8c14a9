//! Tests of OpenMetrics: the metrics for Prometheus, and the data that they must not contain.

use std::collections::HashSet;
use std::time::Duration;

use analytics::{
    BackupsNow, ClusterNow, ComparedNow, ErrorEvent, ErrorLog, MemoryNow, NodeNow, RebalanceNow,
    Role, Sample, ShardNow, openmetrics,
};

use crate::{TestRecorder, millis, now, read, seconds, write};

fn error(code: &'static str, shard: Option<&str>) -> ErrorEvent {
    ErrorEvent {
        at_ms: 1,
        code: code.into(),
        status: 503,
        route: "/api/write".into(),
        shard: shard.map(str::to_owned),
        request_id: "request-1".into(),
        trace_id: None,
        message: "no answer".into(),
    }
}

fn scraped(test: &TestRecorder, errors: &ErrorLog) -> String {
    test.recorder.settle_at(test.recorder.started() + seconds(600));
    report(test, errors, &now(&test.recorder.labels().shards), None)
}

/// Returns the metrics of a router without access control that has never reached a memory limit.
fn report(
    test: &TestRecorder,
    errors: &ErrorLog,
    cluster: &ClusterNow,
    backups: Option<BackupsNow>,
) -> String {
    openmetrics(&test.recorder, errors, cluster, MemoryNow::default(), None, backups)
}

fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|reported| reported == line), "no line {line} in\n{text}");
}

#[test]
fn requests_are_counted_by_route_status_and_bucket_since_the_start() {
    let test = TestRecorder::of(2);
    for micros in [100, 101, 900, 70_000_000] {
        let sample = read(1, 200, Duration::from_micros(micros));
        test.record(&Sample { database: Duration::from_micros(80), ..sample }, seconds(1));
    }
    test.record(&write(0, 503, millis(30)), seconds(500));
    let text = scraped(&test, &ErrorLog::new());
    let name = "http_server_request_duration_seconds";
    let labels = "http_route=\"/api/read\",http_response_status_code=\"200\",operation=\"read\"";
    for (bound, count) in [("0.0001", 1), ("0.00025", 2), ("0.001", 3), ("10.0", 3), ("+Inf", 4)] {
        assert_line(&text, &format!("{name}_bucket{{le=\"{bound}\",{labels}}} {count}"));
    }
    // A longer latency counts as 60 s.
    assert_line(&text, &format!("{name}_sum{{{labels}}} 60.001101"));
    let write = "http_route=\"/api/write\",http_response_status_code=\"503\",operation=\"write\"";
    assert_line(&text, &format!("{name}_count{{{write}}} 1"));
    let database = "db_system_name=\"postgresql\",db_operation_name=\"read\",shard=\"shard2\",role=\"replica\"";
    assert_line(&text, &format!("db_client_operation_duration_seconds_sum{{{database}}} 0.00032"));
    assert_line(&text, "tessera_read_target_total{shard=\"shard2\",role=\"replica\"} 4");
    assert_line(&text, "tessera_fanout_shards_bucket{le=\"1.0\"} 5");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn the_current_cluster_is_reported_by_shard_and_node() {
    let test = TestRecorder::of(1);
    let node = |node: &str, role: &str, lag_ms| NodeNow {
        node: node.into(),
        role: role.into(),
        up: true,
        lag_ms,
        ..NodeNow::default()
    };
    let shard = ShardNow {
        shard: "shard1".into(),
        up: true,
        slots: 16_384,
        rows: Some(5),
        compared: ComparedNow { passes: 7, differences: 2 },
        nodes: vec![
            node("shard1-primary", "primary", None),
            node("shard1-replica1", "replica", Some(250.0)),
        ],
        ..ShardNow::default()
    };
    let cluster =
        ClusterNow { epoch: 3, in_flight: 2, shards: vec![shard], ..ClusterNow::default() };
    let text = report(&test, &ErrorLog::new(), &cluster, None);
    for line in [
        "tessera_shard_up{shard=\"shard1\"} 1.0",
        "tessera_shard_slots{shard=\"shard1\"} 16384.0",
        "tessera_shard_rows{shard=\"shard1\"} 5.0",
        "tessera_node_up{shard=\"shard1\",node=\"shard1-primary\",role=\"primary\"} 1.0",
        "tessera_replica_lag_seconds{shard=\"shard1\",replica=\"shard1-replica1\"} 0.25",
        "tessera_copies_compared_total{shard=\"shard1\"} 7",
        "tessera_copies_differences_total{shard=\"shard1\"} 2",
        "tessera_map_version 3.0",
        "http_server_active_requests 2.0",
        "tessera_build_info{version=\"\",backend=\"\"} 1",
    ] {
        assert_line(&text, line);
    }
    // An unknown size is left out and not reported as zero.
    assert!(!text.contains("tessera_shard_size_bytes{"), "{text}");
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
}

#[test]
fn backups_are_counted_by_their_outcome_if_the_router_makes_any() {
    let test = TestRecorder::of(1);
    let report = |backups| report(&test, &ErrorLog::new(), &ClusterNow::default(), backups);
    let done = BackupsNow { is_running: true, done: 3, failed: 1, ..BackupsNow::default() };
    let text = report(Some(BackupsNow { last_success_s: Some(1_795_600_000.5), ..done }));
    for line in [
        "tessera_backup_running 1.0",
        "tessera_backups_total{outcome=\"done\"} 3",
        "tessera_backups_total{outcome=\"failed\"} 1",
        "tessera_backups_total{outcome=\"cancelled\"} 0",
        "tessera_backup_last_success_timestamp_seconds 1795600000.5",
    ] {
        assert_line(&text, line);
    }
    assert!(!report(Some(done)).contains("last_success"), "there was none");
    assert!(!report(None).contains("tessera_backup"), "the router makes none");
}

#[test]
fn evicted_responses_and_reads_that_were_refused_for_lack_of_memory_are_counted() {
    let test = TestRecorder::of(1);
    let memory = MemoryNow { evicted_responses: 3, refused_responses: 2, refused_rows: 5 };
    let cluster = ClusterNow::default();
    let text = openmetrics(&test.recorder, &ErrorLog::new(), &cluster, memory, None, None);
    for line in [
        "tessera_responses_evicted_total{} 3",
        "tessera_reads_refused_total{memory=\"responses\"} 2",
        "tessera_reads_refused_total{memory=\"rows\"} 5",
    ] {
        assert_line(&text, line);
    }
}

#[test]
fn the_latest_rebalance_is_reported_and_nothing_about_one_that_is_not_known() {
    let test = TestRecorder::of(1);
    let report = |rebalance| {
        let cluster = ClusterNow { rebalance, ..ClusterNow::default() };
        report(&test, &ErrorLog::new(), &cluster, None)
    };
    let latest = RebalanceNow {
        state: "failed".into(),
        moves: 5,
        moves_done: 3,
        moves_failed: 2,
        rows: 40,
        planned_rows: Some(60),
        skew_before: 2.5,
        skew_planned: 1.25,
        seconds: 7.5,
        ..RebalanceNow::default()
    };
    let text = report(Some(latest));
    for line in [
        "tessera_rebalance_state{state=\"running\"} 0.0",
        "tessera_rebalance_state{state=\"failed\"} 1.0",
        "tessera_rebalance_stalled 0.0",
        "tessera_rebalance_seconds 7.5",
        "tessera_rebalance_moves{count=\"planned\"} 5.0",
        "tessera_rebalance_moves{count=\"done\"} 3.0",
        "tessera_rebalance_moves{count=\"failed\"} 2.0",
        "tessera_rebalance_rows{count=\"planned\"} 60.0",
        "tessera_rebalance_rows{count=\"moved\"} 40.0",
        "tessera_rebalance_skew{time=\"before\"} 2.5",
        "tessera_rebalance_skew{time=\"planned\"} 1.25",
    ] {
        assert_line(&text, line);
    }
    // A skew that was not measured is left out and not reported as zero.
    assert!(!text.contains("time=\"measured\""), "{text}");
    let text = report(None);
    assert_line(&text, "tessera_rebalance_state{state=\"failed\"} 0.0");
    assert!(!text.contains("\ntessera_rebalance_seconds "), "{text}");
    assert!(!text.contains("\ntessera_rebalance_skew"), "{text}");
}

#[test]
fn errors_are_counted_by_code_and_shard_even_after_the_log_dropped_them() {
    let test = TestRecorder::of(1);
    let errors = ErrorLog::new();
    (0..ErrorLog::KEPT_MAX + 5).for_each(|_| errors.push(error("TSR201", Some("shard1"))));
    errors.push(error("TSR100", None));
    let text = scraped(&test, &errors);
    assert_line(&text, "tessera_errors_total{code=\"TSR201\",shard=\"shard1\"} 10005");
    assert_line(&text, "tessera_errors_total{code=\"TSR100\",shard=\"(none)\"} 1");
}

#[test]
fn a_slow_bucket_leads_to_a_trace() {
    let test = TestRecorder::of(1);
    let trace = Some([0x4b; 16]);
    test.record(&Sample { trace, ..read(0, 200, millis(300)) }, seconds(3));
    let text = scraped(&test, &ErrorLog::new());
    let line = text.lines().find(|line| line.contains("le=\"0.5\"")).unwrap();
    let begin = crate::BEGIN + 3;
    let example = format!(" 1 # {{trace_id=\"{}\"}} 0.3 {begin}", "4b".repeat(16));
    assert!(line.ends_with(&example), "{line}");
    assert_eq!(text.matches("trace_id").count(), 1);
}

#[test]
fn no_key_id_or_client_is_in_any_label_and_labels_are_bounded() {
    let test = TestRecorder::of(2);
    for request in 0..20_000_u64 {
        let key = format!("secret-{request}");
        let status = 200 + (request % 400) as u16;
        let role = [Some(Role::Primary), Some(Role::Replica), None][request as usize % 3];
        let sample = Sample {
            key: Some(&key),
            role,
            ..read((request % 3) as u16, status, millis(request % 50))
        };
        test.record(&sample, millis(request));
    }
    let errors = ErrorLog::new();
    for shard in 0..20_000 {
        errors.push(error("TSR201", Some(&format!("shard{shard}"))));
    }
    let text = scraped(&test, &errors);
    assert!(!text.contains("secret-") && !text.contains("request-1"));
    let labels = text.lines().filter_map(|line| Some(line.split_once('{')?.1.split_once('}')?.0));
    let names: HashSet<&str> = labels
        .flat_map(|set| set.split(','))
        .filter_map(|label| Some(label.split_once('=')?.0))
        .collect();
    let known = [
        "http_route",
        "http_response_status_code",
        "operation",
        "le",
        "db_system_name",
        "db_operation_name",
        "shard",
        "role",
        "code",
        "state",
        "result",
        "version",
        "backend",
        "memory",
    ];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    assert!(text.lines().count() < 4_000, "{} lines", text.lines().count());
    assert!(text.contains("http_response_status_code=\"(other)\""));
    let all: u64 = text
        .lines()
        .filter(|line| line.starts_with("tessera_errors_total"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(all, 20_000);
}
