//! Tables: the tables that a run writes to, and their columns.
//!
//! **Not here:** creating the tables and removing rows (`own_rows`).

use serde_json::{Value, json};

/// Table of users.
pub(crate) const USERS: &str = "loadtest_users";
/// Column of users that contains their partition.
pub(crate) const PARTITION_KEY: &str = "partition_key";
/// Table of accounts, and of transfers between accounts.
pub(crate) const TRANSACTIONS: &str = "loadtest_transactions";
/// Table of the values of `/api/kv`, which all clients share.
pub(crate) const KV: &str = "kv";

/// Returns the columns that identify a row of a table, and its routing column.
pub(crate) fn columns(table: &str) -> &'static [&'static str] {
    match table {
        USERS => &["user_id"],
        TRANSACTIONS => &["tx_id", "account"],
        _ => &["key"],
    }
}

/// Returns the body of the request that creates a table.
pub(crate) fn declaration(table: &str) -> Value {
    let text = |name: &str| json!({"name": name, "type": "text"});
    let maybe = |name: &str| json!({"name": name, "type": "text", "null": true});
    match table {
        USERS => json!({"name": table, "id": ["user_id"], "routing": "user_id", "columns": [
            text("user_id"), text("name"), text("email"), maybe(PARTITION_KEY), text("run"),
        ]}),
        _ => json!({"name": table, "id": ["tx_id"], "routing": "account", "columns": [
            text("tx_id"), text("account"), {"name": "amount", "type": "bigint"}, maybe("memo"),
            text("run"),
        ]}),
    }
}
