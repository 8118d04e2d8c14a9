//! The wire form: the members, their order, and a schema that says the same.

use analytics::{ErrorEvent, ErrorGroup, Metrics, Window};
use serde_json::{Value, json};
use utoipa::PartialSchema;

use crate::{millis, read, recorder, seconds, write};

#[test]
fn metrics_have_the_members_of_the_seed_and_one_order() {
    let recorder = recorder(2);
    recorder.record_at(&write(1, 201, millis(1)), seconds(1));
    recorder.record_at(&read(1, 500, millis(1)), seconds(1));
    let metrics = recorder.snapshot_at(Window::parse("1m").unwrap(), seconds(4));
    assert_eq!(
        serde_json::to_string(&metrics).unwrap(),
        "{\"total\":2,\"writes\":1,\"reads\":1,\"errors\":1,\"errors_client\":0,\
         \"errors_server\":1,\"avgLatency\":1.0,\"throughput\":0.5,\
         \"shardDistribution\":{\"shard1\":0,\"shard2\":2},\"unassigned\":0,\
         \"latency_ms\":{\"p50\":1.0,\"p90\":1.0,\"p95\":1.0,\"p99\":1.0,\"p999\":1.0,\"max\":1.0},\
         \"window_s\":60.0,\"measured_s\":4.0,\"shards\":[\
         {\"shard\":\"shard1\",\"ops_per_s\":0.0,\"reads\":0,\"writes\":0,\"errors\":0,\"p50\":0.0,\
         \"p99\":0.0},\
         {\"shard\":\"shard2\",\"ops_per_s\":0.5,\"reads\":1,\"writes\":1,\"errors\":1,\"p50\":1.0,\
         \"p99\":1.0}]}"
    );
}

#[test]
fn the_schema_names_exactly_the_members_that_are_sent() {
    let sent = serde_json::to_value(recorder(1).snapshot_at(Window::MAX, seconds(1))).unwrap();
    assert_eq!(members(&schema::<Metrics>()["properties"]), members(&sent));
    let counts = &schema::<Metrics>()["properties"]["shardDistribution"];
    assert_eq!(counts["additionalProperties"]["type"], "integer");

    let time = &schema::<ErrorEvent>()["properties"]["time"];
    assert_eq!((&time["type"], &time["format"]), (&json!("string"), &json!("date-time")));
    let group = schema::<ErrorGroup>();
    assert_eq!(group["properties"]["code"]["type"], "string");
    assert_eq!(group["properties"]["shard"]["type"], json!(["string", "null"]));
}

fn schema<T: PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).expect("a schema is JSON")
}

fn members(object: &Value) -> Vec<&String> {
    let mut members: Vec<_> = object.as_object().expect("an object").keys().collect();
    members.sort();
    members
}
