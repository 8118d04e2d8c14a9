//! Tests of reads whose filters name the shard key: their cursors are those of scatter reads.

use shard_manager::access::rights::Rights;
use shard_manager::keyspace::ShardKey;
use shard_manager::query::{Comparison, Condition, OrderBy, ReadQuery, Test};
use shard_manager::row_change::Operation::Insert;
use shard_manager::value::Value;

use crate::cluster::Cluster;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[tokio::test]
async fn a_cursor_of_a_read_of_all_shards_goes_on_where_a_filter_names_the_key() {
    let cluster = Cluster::with_shards(3);
    for (user, order) in [("u", 1), ("u", 2), ("v", 1), ("u", 3), ("u", 4), ("u", 5)] {
        let row = format!(r#"{{"order_id":"{user}{order}","amount":{order}}}"#);
        cluster.write("orders", Insert, user, &row).await.expect("stored");
    }
    let table = cluster.manager.schema(Rights::ALL).table("orders").expect("a table");
    let routing = table.routing().expect("a routing column");
    let condition = Condition::Column(routing, Test::Compare(Comparison::Equal, text("u")));
    let query = ReadQuery { conditions: vec![condition], limit: 2, ..ReadQuery::all(&table) };
    let place = cluster.manager.map().place(ShardKey::parse("u").expect("a key")).expect("a place");
    let slot = Value::Int(i64::from(place.slot.number()));
    // The order of scatter reads: by slot, shard key and id, or by the requested columns, shard key
    // and id.
    let amount = OrderBy { column: table.find("amount").expect("a column"), descending: true };
    for (order, second, rest, fourth) in [
        (
            vec![],
            vec![slot.clone(), text("u"), text("u2")],
            ["u3", "u4"],
            vec![slot, text("u"), text("u4")],
        ),
        (
            vec![amount],
            vec![Value::Int(4), text("u"), text("u4")],
            ["u3", "u2"],
            vec![Value::Int(2), text("u"), text("u2")],
        ),
    ] {
        let query = ReadQuery { order, after: Some(second), ..query.clone() };
        let read = cluster.try_read(query.clone(), None).await.expect("an answer");
        assert_eq!(read.shards, [place.shard]);
        let rows: Vec<serde_json::Value> = (0..read.rows.len())
            .map(|row| serde_json::from_slice(read.rows.row(row)).expect("JSON"))
            .collect();
        let ids: Vec<&str> = rows.iter().filter_map(|row| row["order_id"].as_str()).collect();
        assert_eq!(ids, rest);
        let cursor = read.next_cursor.expect("one more row");
        assert_eq!(cluster.manager.data(Rights::ALL).resume(&query, None, &cursor), Ok(fourth));
    }
}
