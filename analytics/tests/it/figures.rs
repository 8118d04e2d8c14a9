//! Tests of metrics: durations of parts of a request, routes, shards, reads, fan-out, skew, curves,
//! and filters.

use std::time::Duration;

use analytics::{
    CacheNow, ClusterNow, MetricsQuery, NodeNow, Operation, ReadFrom, Recorder, Role, Sample,
    ShardNow, Window, figures,
};

use crate::{BEGIN, BEGIN_MS, TestRecorder, labels, millis, now, read, seconds, write};

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

#[test]
fn the_time_of_a_request_is_reported_by_parts() {
    let test = TestRecorder::of(2);
    let slow =
        Sample { queue: micros(600), database: micros(1_200), ..write(0, 201, micros(2_000)) };
    let fast = Sample { queue: micros(0), database: micros(200), ..read(1, 200, micros(300)) };
    test.record(&slow, seconds(1));
    test.record(&fast, seconds(2));
    let metrics = test.figures("5m", seconds(3));
    let parts = metrics.latency_parts_ms;
    assert_eq!((parts.queue.avg, parts.queue.p50, parts.queue.p99), (0.3, 0.0, 0.6));
    assert_eq!((parts.database.avg, parts.database.p99), (0.7, 1.2));
    assert_eq!((parts.rest.avg, parts.rest.p50, parts.rest.p99), (0.15, 0.1, 0.2));
    assert_eq!((metrics.shards[0].queue_p99, metrics.shards[0].database_p99), (0.6, 1.2));
    assert_eq!((metrics.shards[1].queue_p99, metrics.shards[1].database_p99), (0.0, 0.2));

    let query = MetricsQuery { shard: Some("shard2".into()), ..MetricsQuery::default() };
    assert_eq!(test.query_metrics(&query, seconds(3)).latency_parts_ms.database.avg, 0.2);
}

#[test]
fn routes_are_listed_by_operation_with_the_busiest_first() {
    let test = TestRecorder::of(1);
    test.record(&write(0, 409, millis(4)), seconds(1));
    test.record(&write(0, 503, millis(4)), seconds(1));
    (0..6).for_each(|_| test.record(&read(0, 200, millis(1)), seconds(2)));
    let routes = test.figures("5m", seconds(4)).routes;
    let reported: Vec<_> =
        routes.iter().map(|r| (&*r.route, r.operation, r.total, r.ops_per_s)).collect();
    let (get, put) = (Operation::Read, Operation::Write);
    assert_eq!(reported, [("/api/read", get, 6, 1.5), ("/api/write", put, 2, 0.5)]);
    let writes = &routes[1];
    assert_eq!((writes.errors, writes.errors_client, writes.errors_server), (2, 1, 1));
    assert_eq!((writes.avg, writes.p50, writes.max), (4.0, 4.001, 4.001));
}

#[test]
fn figures_are_narrowed_by_shard_route_and_operation() {
    let test = TestRecorder::of(2);
    test.record(&write(0, 201, millis(1)), seconds(1));
    test.record(&write(1, 201, millis(1)), seconds(1));
    (0..3).for_each(|_| test.record(&read(1, 200, millis(1)), seconds(1)));
    let all = MetricsQuery::default();
    let total = |query: MetricsQuery| {
        let metrics = test.query_metrics(&query, seconds(2));
        let assigned: u64 = metrics.shard_distribution.0.iter().map(|(_, count)| count).sum();
        assert_eq!(assigned + metrics.unassigned, metrics.total);
        assert_eq!(
            metrics.series.rps.iter().sum::<f64>() * metrics.series.step_s as f64,
            metrics.total as f64
        );
        metrics.total
    };
    let shard2 = Some("shard2".to_owned());
    assert_eq!(total(MetricsQuery { shard: shard2.clone(), ..all.clone() }), 4);
    assert_eq!(total(MetricsQuery { operation: Some(Operation::Write), ..all.clone() }), 2);
    assert_eq!(total(MetricsQuery { route: Some("/api/read".into()), ..all.clone() }), 3);
    let read_of_shard2 =
        MetricsQuery { shard: shard2, operation: Some(Operation::Read), ..all.clone() };
    assert_eq!(total(read_of_shard2), 3);
    assert_eq!(total(MetricsQuery { shard: Some("shard9".into()), ..all }), 0);
}

#[test]
fn reads_are_reported_by_answering_node() {
    let test = TestRecorder::of(1);
    let by = |role| Sample { role, ..read(0, 200, millis(1)) };
    let roles =
        [Some(Role::Primary), Some(Role::Replica), Some(Role::Replica), Some(Role::Cache), None];
    roles.into_iter().for_each(|role| test.record(&by(role), seconds(1)));
    // Writes are not counted here, because they always go to the primary.
    test.record(&write(0, 201, millis(1)), seconds(1));
    let reported = test.figures("5m", seconds(2)).read_from;
    assert_eq!(reported, ReadFrom { primary: 1, replica: 2, cache: 1 });
}

#[test]
fn fan_out_and_skew_show_how_evenly_the_shards_are_used() {
    let test = TestRecorder::of(3);
    for (fanout, shard) in
        [(3, None), (1, Some(0)), (1, Some(0)), (1, Some(0)), (1, Some(1)), (0, None)]
    {
        test.record(&Sample { fanout, shard, ..read(0, 200, millis(1)) }, seconds(1));
    }
    let metrics = test.figures("5m", seconds(2));
    assert_eq!((metrics.fanout.requests, metrics.fanout.mean, metrics.fanout.max), (5, 1.4, 3));
    // Three of four requests are on the same one of three shards.
    assert_eq!((metrics.skew.requests, metrics.skew.rows), (2.25, 0.0));
    assert_eq!(
        metrics.shards.iter().map(|shard| shard.share).collect::<Vec<_>>(),
        [0.75, 0.25, 0.0]
    );
}

#[test]
fn the_state_of_the_cluster_is_reported_beside_the_counts() {
    let test = TestRecorder::of(2);
    test.record(&read(1, 200, millis(1)), seconds(1));
    let node = |role: &str, lag_ms| NodeNow { role: role.into(), lag_ms, ..NodeNow::default() };
    let shard = |name: &str, rows| ShardNow {
        shard: name.into(),
        up: true,
        rows,
        nodes: vec![node("primary", None), node("replica", Some(3.0)), node("replica", Some(8.5))],
        ..ShardNow::default()
    };
    let cluster = ClusterNow {
        epoch: 7,
        shards: vec![shard("shard1", Some(30)), shard("shard2", Some(10)), shard("shard3", None)],
        cache: CacheNow { enabled: true, hits: 3, misses: 1, ..CacheNow::default() },
        in_flight: 2,
        ..ClusterNow::default()
    };
    let history = test.recorder.settle_at(test.recorder.started() + seconds(2));
    let metrics = figures(&[history], &MetricsQuery::default(), &cluster, BEGIN_MS + 2_000);
    assert_eq!((metrics.cluster.epoch, metrics.in_flight, metrics.cache.hit_rate), (7, 2, 0.75));
    assert_eq!((metrics.shards[0].lag_ms, metrics.shards[2].rows), (Some(8.5), None));
    assert_eq!((metrics.shards[1].reads, metrics.shards[1].up), (1, true));
    assert_eq!(metrics.skew.rows, 1.5);
    assert_eq!(metrics.at, "2026-11-21T10:00:02.000Z");
}

/// A shard that is no longer in the shard map is reported as long as the window contains requests
/// to it.
#[test]
fn a_shard_that_is_no_longer_in_the_cluster_comes_last() {
    let test = TestRecorder::of(2);
    test.record(&read(0, 200, millis(1)), seconds(1));
    let history = test.recorder.settle_at(test.recorder.started() + seconds(2));
    let cluster = now(&["shard2".into()]);
    let metrics = figures(&[history], &MetricsQuery::default(), &cluster, BEGIN_MS + 2_000);
    let names: Vec<_> = metrics.shards.iter().map(|shard| (&*shard.shard, shard.reads)).collect();
    assert_eq!(names, [("shard2", 0), ("shard1", 1)]);
}

#[test]
fn curves_have_a_point_for_each_step_and_end_with_the_last_second_that_has_ended() {
    let test = TestRecorder::of(2);
    for second in 0..600 {
        let shard = u16::from(second >= 300);
        (0..4).for_each(|_| {
            test.record(&read(shard, 200, millis(1 + second / 300)), seconds(second))
        });
    }
    let metrics = test.figures("1m", millis(600_900));
    let series = &metrics.series;
    assert_eq!((series.step_s, series.t.len()), (1, 60));
    assert_eq!((series.t[0], series.t[59]), (BEGIN + 540, BEGIN + 599));
    assert!(series.rps.iter().all(|rps| *rps == 4.0), "{:?}", series.rps);
    assert!(series.p50.iter().all(|p50| *p50 == 2.0), "{:?}", series.p50);

    let metrics = test.figures("15m", seconds(600));
    let series = &metrics.series;
    assert_eq!((series.step_s, series.t.len()), (5, 180));
    assert_eq!(series.t[179], BEGIN + 595);
    let of = |name: &str| &series.shards.0.iter().find(|(shard, _)| shard == name).unwrap().1;
    let halves = |curve: &[f64]| [curve[60], curve[119], curve[120], curve[179]];
    assert_eq!(halves(&of("shard1").rps), [4.0, 4.0, 0.0, 0.0]);
    assert_eq!(halves(&of("shard2").rps), [0.0, 0.0, 4.0, 4.0]);
    assert_eq!(halves(&of("shard2").p99), [0.0, 0.0, 2.0, 2.0]);
    // These points lie before the start of the recorder.
    assert_eq!((series.rps[0], series.p50[0]), (0.0, 0.0));
}

/// The last point of a longer step is incomplete: its rate is computed over its elapsed seconds.
#[test]
fn a_point_that_is_still_growing_shows_no_dip() {
    let test = TestRecorder::of(1);
    (0..133).for_each(|second| test.record(&read(0, 200, millis(1)), seconds(second)));
    let series = test.figures("1h", seconds(133)).series;
    assert_eq!((series.step_s, series.t[179]), (20, BEGIN + 120));
    assert_eq!(series.rps[174..], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
}

/// A recorder that has just started has measured only a part of its first point.
#[test]
fn the_first_point_of_a_young_router_shows_the_rate_of_the_seconds_that_were_counted() {
    // The recorder starts 13 s after the beginning of a point of 20 s, counts for 4 s of this
    // point, and for a part of the next point.
    let recorder = Recorder::without_thread(labels(1), BEGIN_MS + 13_000);
    let worker = recorder.worker();
    for (from, second, expected) in [(0, 4, vec![1.0]), (4, 12, vec![1.0, 1.0])] {
        for second in from..second {
            worker.record(&read(0, 200, millis(1)), recorder.started() + seconds(second));
        }
        let history = recorder.settle_at(recorder.started() + seconds(second));
        for (window, length) in [("1h", 20), ("24h", 600)] {
            let window = Window::parse(window).expect("a window");
            let query = MetricsQuery { window, ..MetricsQuery::default() };
            let at_ms = BEGIN_MS + 13_000 + second * 1_000;
            let series = figures(&[history], &query, &now(&["shard1".into()]), at_ms).series;
            assert_eq!(series.step_s, length);
            let points: Vec<_> =
                series.t.iter().zip(&series.rps).filter(|(t, _)| **t >= BEGIN).collect();
            let rates: Vec<f64> = points.iter().map(|(_, rps)| **rps).collect();
            let expected = if length == 20 { &*expected } else { &expected[..1] };
            assert_eq!(rates, expected, "{length} at {second}");
            assert_eq!(series.shards.0[0].1.rps.last(), Some(&1.0));
        }
    }
}

#[test]
fn no_window_has_more_points_than_a_chart_can_show() {
    let test = TestRecorder::of(1);
    test.record(&read(0, 200, millis(1)), seconds(1));
    for name in Window::NAMES {
        let series = test.figures(name, seconds(700_000)).series;
        assert!((60..=180).contains(&series.t.len()), "{name}: {}", series.t.len());
        let lengths =
            [series.rps.len(), series.p99.len(), series.errors.len(), series.heatmap.counts.len()];
        assert_eq!(lengths, [series.t.len(); 4], "{name}");
        assert!(series.t.is_sorted_by(|a, b| b - a == series.step_s), "{name}");
    }
}

#[test]
fn the_heatmap_counts_each_request_of_the_curves_once_by_its_latency() {
    let test = TestRecorder::of(2);
    for (elapsed, shard) in
        [(micros(90), 0), (micros(100), 1), (micros(101), 0), (millis(3), 1), (seconds(59), 0)]
    {
        test.record(&read(shard, 200, elapsed), seconds(30));
    }
    let heatmap = test.figures("1m", seconds(60)).series.heatmap;
    assert_eq!(heatmap.bounds_ms[..4], [0.1, 0.25, 0.5, 1.0]);
    let row = &heatmap.counts[30];
    assert_eq!(row.len(), heatmap.bounds_ms.len() + 1);
    assert_eq!((row[0], row[1], row[5], row[16]), (2, 1, 1, 1));
    assert_eq!(heatmap.counts.iter().flatten().sum::<u64>(), 5);
}
