//! Tests of the JSON form: the members, their order, and the schema, which must match.

use analytics::{ErrorEvent, ErrorGroup, Metrics};
use serde_json::{Value, json};
use utoipa::PartialSchema;

use crate::{TestRecorder, millis, read, seconds, write};

#[test]
fn metrics_begin_with_the_required_members_in_fixed_order() {
    let test = TestRecorder::of(2);
    test.record(&write(1, 201, millis(1)), seconds(1));
    test.record(&read(1, 500, millis(1)), seconds(1));
    let metrics = test.figures("1m", seconds(4));
    let text = serde_json::to_string(&metrics).unwrap();
    assert!(
        text.starts_with(
            "{\"total\":2,\"writes\":1,\"reads\":1,\"errors\":1,\"errors_client\":0,\
             \"errors_server\":1,\"avgLatency\":1.0,\"throughput\":0.5,\
             \"shardDistribution\":{\"shard1\":0,\"shard2\":2},\"unassigned\":0,\
             \"latency_ms\":{\"p50\":1.0,\"p90\":1.0,\"p95\":1.0,\"p99\":1.0,\"p999\":1.0,\"max\":1.0},\
             \"window_s\":60.0,\"measured_s\":4.0,\"at\":\"2026-11-21T10:00:04.000Z\","
        ),
        "{text}"
    );
    let shard = serde_json::to_value(&metrics.shards[1]).unwrap();
    for (member, value) in [("ops_per_s", 0.5), ("p50", 1.0), ("p99", 1.0), ("share", 1.0)] {
        assert_eq!(shard[member], value, "{member}");
    }
}

/// A value is null only if the cluster does not know it.
#[test]
fn values_are_null_only_where_the_cluster_does_not_know_them() {
    let sent = serde_json::to_value(TestRecorder::of(1).figures("7d", seconds(1))).unwrap();
    assert_eq!(
        nulls(&sent, "metrics"),
        [
            "metrics.cluster.rebalance",
            "metrics.shards.bytes",
            "metrics.shards.lag_ms",
            "metrics.shards.rows"
        ]
    );
}

#[test]
fn the_schema_names_exactly_the_members_that_are_sent() {
    let sent = serde_json::to_value(TestRecorder::of(1).figures("1h", seconds(1))).unwrap();
    assert_eq!(members(&schema::<Metrics>()["properties"]), members(&sent));
    let counts = &schema::<Metrics>()["properties"]["shardDistribution"];
    assert_eq!(counts["additionalProperties"]["type"], "integer");

    let time = &schema::<ErrorEvent>()["properties"]["time"];
    assert_eq!((&time["type"], &time["format"]), (&json!("string"), &json!("date-time")));
    let group = schema::<ErrorGroup>();
    assert_eq!(group["properties"]["code"]["type"], "string");
    assert_eq!(group["properties"]["shard"]["type"], json!(["string", "null"]));
}

fn nulls(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Null => vec![at.to_owned()],
        Value::Array(items) => items.iter().flat_map(|item| nulls(item, at)).collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, member)| nulls(member, &format!("{at}.{name}")))
            .collect(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn schema<T: PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).expect("a schema is JSON")
}

fn members(object: &Value) -> Vec<&String> {
    let mut members: Vec<_> = object.as_object().expect("an object").keys().collect();
    members.sort();
    members
}
