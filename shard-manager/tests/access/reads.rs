//! Tests of bound reads: their rows, columns, counts, shards and cursors.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shard_manager::access::rights::Rights;
use shard_manager::cursor::CursorError;
use shard_manager::error::Error;
use shard_manager::manager::ResumeError;
use shard_manager::query::{Comparison, Condition, OrderBy, Output, ReadQuery, Test};
use shard_manager::row_change::RowError;
use shard_manager::value::Value;

use crate::shop::{OWN, Shop, caller, lack, texts};

async fn filled() -> Shop {
    let shop = Shop::open();
    for key in ["acme", "acme2", "acme:1", "acme:2", "beta", "beta:1"] {
        for n in 0..3 {
            let row = format!(r#"{{"order_id":"{key}/{n}","amount":{n},"status":"open"}}"#);
            shop.fill("orders", &[(key, &row)]).await;
        }
    }
    shop
}

fn is(query: &ReadQuery, column: &str, text: &str) -> Condition {
    let column = query.table.find(column).expect("a column");
    let value = Value::Text(text.to_owned());
    Condition::Column(column, Test::Compare(Comparison::Equal, value))
}

#[tokio::test]
async fn a_read_under_a_foreign_key_is_refused_whatever_exists() {
    let shop = filled().await;
    let acme = caller(OWN, &["acme"]);
    let refused = async |key| shop.rows(&acme, "orders", Some(key)).await.expect_err("foreign");
    assert_eq!(refused("acme2").await, refused("nobody").await);
    assert_eq!(refused("acme:1").await, refused("ACME").await);
    assert!(lack(&refused("beta").await).contains("shard key"));
    assert_eq!(shop.rows(&acme, "orders", Some("acme")).await.expect("its own").len(), 3);
}

#[tokio::test]
async fn a_read_without_a_key_has_the_rows_of_the_caller_from_their_shards() {
    let shop = filled().await;
    let shards = |keys: &[&str]| {
        let mut shards: Vec<_> = keys.iter().map(|key| shop.place(key).shard).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    };
    for tenants in [&["acme"][..], &["acme2", "beta"], &["acme", "acme:1", "beta:1"], &["no"]] {
        let rights = caller(OWN, tenants);
        let query = shop.query(&rights, "orders").expect("a query");
        let query = ReadQuery { counts: true, ..query };
        assert!(!shop.manager.data(&rights).is_scatter_read(&query, None));
        let read = shop.read(&rights, query, None).await.expect("rows");
        assert_eq!(read.shards, shards(tenants));
        let expected = if tenants == ["no"] { 0 } else { 3 * tenants.len() };
        assert_eq!(read.rows.total, Some(expected as u64));
        let rows = shop.rows(&rights, "orders", None).await.expect("rows");
        assert_eq!(rows.len(), expected);
        assert!(texts(&rows, "user_id").iter().all(|key| tenants.contains(key)));
    }
    let nobody = caller(OWN, &[]);
    let query = shop.query(&nobody, "orders").expect("a query");
    let read = shop.read(&nobody, query, None).await.expect("an empty answer");
    assert_eq!((read.rows.len(), read.shards.len(), read.rows.total), (0, 0, None));
}

#[tokio::test]
async fn no_filter_leads_out_of_the_binding() {
    let shop = filled().await;
    let acme = caller(OWN, &["acme"]);
    let query = shop.query(&acme, "orders").expect("a query");
    let foreign = || is(&query, "user_id", "beta");
    let own_or_foreign = Condition::Any(vec![foreign(), is(&query, "user_id", "acme")]);
    let not_own = Condition::Not(Box::new(is(&query, "user_id", "acme")));
    let by_key = is(&query, "shard_key", "beta");
    for (condition, expected) in [
        (foreign(), 0),
        (by_key, 0),
        (not_own, 0),
        (own_or_foreign, 3),
        (Condition::Not(Box::new(foreign())), 3),
        (Condition::All(vec![]), 3),
    ] {
        let conditions = vec![condition.clone()];
        let query = ReadQuery { conditions, counts: true, ..query.clone() };
        // A condition of the client is not taken for a binding, whatever the query says.
        for is_bound in [false, true] {
            let query = ReadQuery { is_bound, ..query.clone() };
            let read = shop.read(&acme, query, None).await.expect("rows");
            assert_eq!(read.rows.total, Some(expected), "{condition:?}");
            assert_eq!(read.rows.len() as u64, expected, "{condition:?}");
        }
    }
}

#[tokio::test]
async fn a_caller_with_a_prefix_reads_by_key_only() {
    let shop = filled().await;
    let prefix = OWN.replace("$tenant", "$tenant:*");
    let acme = caller(&prefix, &["acme"]);
    let table = "orders".to_owned();
    let refused = shop.rows(&acme, "orders", None).await.expect_err("keys on all shards");
    assert_eq!(refused, Error::KeyRequired { table });
    assert_eq!(shop.rows(&acme, "orders", Some("acme:2")).await.expect("its own").len(), 3);
    for foreign in ["acme", "acme2", "beta:1"] {
        let refused = shop.rows(&acme, "orders", Some(foreign)).await;
        assert!(lack(&refused.expect_err("foreign")).contains("shard key"));
    }
    // Filters that name keys name the shards.
    let query = shop.query(&acme, "orders").expect("a query");
    let column = query.table.find("user_id").expect("a column");
    let keys = ["acme:1", "acme:2", "acme2", "beta:1"].map(|key| Value::Text(key.to_owned()));
    let conditions = vec![Condition::Column(column, Test::In(keys.to_vec()))];
    let read = shop.read(&acme, ReadQuery { conditions, ..query }, None).await.expect("rows");
    assert_eq!(read.rows.len(), 6);
}

#[tokio::test]
async fn a_grant_may_let_reads_of_a_prefix_go_to_all_shards() {
    let shop = filled().await;
    let prefix = OWN.replace(r#""$tenant""#, r#""$tenant:*","scatter":"filter""#);
    for (tenants, expected) in
        [(&["acme"][..], &["acme:1", "acme:2"][..]), (&["acme2"], &[]), (&[], &[])]
    {
        let rights = caller(&prefix, tenants);
        let query = shop.query(&rights, "orders").expect("a query");
        assert!(shop.manager.data(&rights).is_scatter_read(&query, None));
        let query = ReadQuery { counts: true, limit: 4, ..query };
        let read = shop.read(&rights, query.clone(), None).await.expect("rows");
        assert_eq!(read.rows.total, Some(3 * expected.len() as u64));
        let rows = shop.rows(&rights, "orders", None).await.expect("rows");
        assert!(texts(&rows, "user_id").iter().all(|key| expected.contains(key)));
        assert_eq!(rows.len(), 3 * expected.len());
        let Some(cursor) = read.next_cursor else { continue };
        let after = shop.manager.data(&rights).resume(&query, None, &cursor).expect("a cursor");
        let rest = ReadQuery { after: Some(after), ..query };
        assert_eq!(shop.read(&rights, rest, None).await.expect("the rest").rows.len(), 2);
    }
}

#[tokio::test]
async fn a_response_without_select_has_the_columns_of_the_grant() {
    let shop = filled().await;
    let grants = r#"{"tables":["orders"],"may":["read"],"keys":"$tenant",
            "columns":["order_id","amount"]},
        {"tables":["orders"],"may":["read"],"keys":["beta"],"columns":["order_id","status"]}"#;
    let rights = caller(grants, &["acme"]);
    for (key, members) in [("acme", ["amount", "order_id"]), ("beta", ["order_id", "status"])] {
        let rows = shop.rows(&rights, "orders", Some(key)).await.expect("rows");
        let names: Vec<&String> = rows[0].as_object().expect("a row").keys().collect();
        assert_eq!(names, members);
    }
    // The columns of one grant do not go with the keys of another.
    let query = shop.query(&rights, "orders").expect("a query");
    let output = |name: &str| {
        let column = query.table.find(name).expect("a column of a grant");
        Output { column, alias: None }
    };
    let select = |names: &[&str]| {
        let outputs = names.iter().map(|name| output(name)).collect();
        ReadQuery { outputs, ..query.clone() }
    };
    for (names, key) in [(&["status"][..], "acme"), (&["amount"], "beta")] {
        let refused = shop.read(&rights, select(names), Some(key)).await;
        assert!(lack(&refused.expect_err("one grant").error).contains("shard key"));
    }
    let refused = shop.read(&rights, select(&["amount", "status"]), None).await;
    assert!(lack(&refused.expect_err("one grant").error).contains("only together"));
    let read = shop.read(&rights, select(&["status"]), None).await.expect("the second grant");
    assert_eq!(read.shards, [shop.place("beta").shard]);
    assert_eq!(read.rows.len(), 3);
}

#[tokio::test]
async fn hidden_columns_can_not_be_selected_filtered_or_sorted_by() {
    let shop = filled().await;
    let grants = r#"{"tables":["orders"],"may":["read"],"keys":"$tenant","columns":["order_id"]}"#;
    let rights = caller(grants, &["acme"]);
    let query = shop.query(&rights, "orders").expect("a query");
    for hidden in ["amount", "status", "user_id", "shard_key", "slot", "version"] {
        assert_eq!(query.table.find(hidden), None);
        assert_eq!(query.table.visible().suggest(hidden), None);
    }
    assert_eq!(query.table.visible().suggest("order_di").as_deref(), Some("order_id"));
    // A route that parses by the whole table is refused as well.
    let whole = shop.query(Rights::ALL, "orders").expect("a query");
    let column = whole.table.find("amount").expect("a column");
    let test = Test::Compare(Comparison::Greater, Value::Int(0));
    let nested = Condition::Not(Box::new(Condition::Any(vec![Condition::Column(column, test)])));
    for query in [
        ReadQuery { outputs: vec![Output { column, alias: None }], ..whole.clone() },
        ReadQuery { conditions: vec![nested], ..whole.clone() },
        ReadQuery { order: vec![OrderBy { column, descending: true }], ..whole.clone() },
    ] {
        for key in [None, Some("acme")] {
            let refused = shop.read(&rights, query.clone(), key).await.expect_err("hidden").error;
            let Error::Row(RowError::NoSuchColumn { suggestion, .. }) = refused else {
                panic!("{refused}");
            };
            assert_eq!(suggestion, None);
        }
    }
}

#[tokio::test]
async fn a_cursor_is_of_another_query_under_other_rights() {
    let shop = filled().await;
    let (acme, both) = (caller(OWN, &["acme"]), caller(OWN, &["acme", "beta"]));
    let query = shop.query(&acme, "orders").expect("a query");
    let query = ReadQuery { limit: 2, ..query };
    let page = shop.read(&acme, query.clone(), None).await.expect("a page");
    let cursor = page.next_cursor.expect("one more row");
    let resume = |rights: &Rights| shop.manager.data(rights).resume(&query, None, &cursor);
    let after = resume(&acme).expect("its own cursor");
    let rest = ReadQuery { after: Some(after), ..query.clone() };
    assert_eq!(shop.read(&acme, rest, None).await.expect("the rest").rows.len(), 1);
    for other in [&both, &caller(OWN, &["beta"]), Rights::ALL] {
        assert_eq!(resume(other), Err(ResumeError::Cursor(CursorError::OtherQuery)));
    }
    let none = caller(r#"{"tables":["users"],"may":["read"],"keys":"*"}"#, &[]);
    assert!(matches!(resume(&none), Err(ResumeError::Refused(Error::NoSuchTable { .. }))));
    // Rows after a cursor that the binding does not admit are not reached by a value either.
    let forged = vec![Value::Int(0), Value::Text(String::new()), Value::Text(String::new())];
    let forged = ReadQuery { after: Some(forged), limit: 100, ..query };
    assert_eq!(shop.read(&acme, forged, None).await.expect("rows").rows.len(), 3);
}

#[tokio::test]
async fn a_cursor_hides_the_id_of_a_caller_who_may_not_know_it() {
    let shop = filled().await;
    let grants = r#"{"tables":["orders"],"may":["read"],"keys":"$tenant","columns":["amount"]}"#;
    let (blind, acme) = (caller(grants, &["acme"]), caller(OWN, &["acme"]));
    for (rights, shows_id) in [(&acme, true), (&blind, false)] {
        let query = ReadQuery { limit: 2, ..shop.query(rights, "orders").expect("a query") };
        let page = shop.read(rights, query.clone(), None).await.expect("a page");
        let cursor = page.next_cursor.expect("one more row");
        let bytes = URL_SAFE_NO_PAD.decode(&cursor).expect("base64");
        let shown = bytes.windows(4).any(|part| part == b"acme");
        assert_eq!(shown, shows_id, "the shard key stands in a cursor that is not sealed");
        let after = shop.manager.data(rights).resume(&query, None, &cursor).expect("its cursor");
        let rest = ReadQuery { after: Some(after), ..query };
        assert_eq!(shop.read(rights, rest, None).await.expect("the rest").rows.len(), 1);
    }
}
