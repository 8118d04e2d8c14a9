//! Shared routers: processes that tests use one after the other, because starting one takes longer
//! than most tests.
//!
//! A test starts its own router if it restarts it, sets flags, reads its files, counts totals or
//! leaves writes unanswered. On servers all tests do, and databases are reused instead
//! (`databases`).
//!
//! **Invariant:** a test has its router alone, with the tables of a new cluster and no row in them.
//! A router that a failed test used, or that has other tables or many rows, is not used again.
//!
//! **Not here:** metrics, recent errors, idempotency keys and placement, which are not reset.

use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::backend;
use crate::harness::Router;

/// Routers that no test uses at present.
static IDLE: Mutex<Vec<Router>> = Mutex::new(Vec::new());

/// Tables of a new cluster, each with the column of its ids and the column that routes its rows.
const TABLES: [(&str, &str, &str); 5] = [
    ("kv", "key", "key"),
    ("orders", "order_id", "user_id"),
    ("products", "product_id", "product_id"),
    ("transactions", "tx_id", "account"),
    ("users", "user_id", "user_id"),
];
/// Maximum number of rows of a table that are deleted for the next test. Deleting more takes longer
/// than a start.
const ROWS_MAX: usize = 300;

/// Runs a program until standard input ends, which happens at any end of the process of the tests.
/// Arguments: a directory to remove at the end, the program, its arguments.
const GUARD: &str = "folder=$1; shift; \"$@\" & exec >/dev/null 2>&1; read -r _; kill -9 $!; wait; \
    rm -rf -- \"$folder\"";

/// A running router that one test uses alone, until it is dropped.
pub(crate) struct SharedRouter(Option<Router>);

impl Router {
    /// Returns a router with three shards and empty tables, which an earlier test may have used.
    pub(crate) fn shared() -> SharedRouter {
        if backend::is_servers() {
            return SharedRouter(Some(Self::start()));
        }
        let idle = IDLE.lock().unwrap().pop();
        SharedRouter(Some(idle.unwrap_or_else(start_guarded)))
    }
}

impl Deref for SharedRouter {
    type Target = Router;

    fn deref(&self) -> &Router {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for SharedRouter {
    fn drop(&mut self) {
        let router = self.0.take().filter(|_| !std::thread::panicking() && !backend::is_servers());
        if let Some(router) = router.filter(|router| empty_tables(router).is_some()) {
            IDLE.lock().unwrap().push(router);
        }
    }
}

/// Starts a router that ends with this process, and its directory with it.
fn start_guarded() -> Router {
    Router::start_owning(|data_dir| {
        let plain = backend::command(data_dir, &[]);
        let folder = data_dir.parent().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh"]).arg(folder);
        command.arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(folder).stdin(Stdio::piped());
        command
    })
}

/// Deletes all rows, on replicas as well. Returns `None` if the router then is not like a new one.
fn empty_tables(router: &Router) -> Option<()> {
    let known = router.try_send("GET", "/api/tables", &[], None).ok()?;
    let names: Vec<Value> = TABLES.iter().map(|(name, ..)| json!(name)).collect();
    let tables = known.json()["tables"].as_array()?.clone();
    if !tables.iter().map(|table| &table["name"]).eq(names.iter()) {
        return None;
    }
    let level = ("x-consistency", "all");
    for (table, id, routing) in TABLES {
        let path = format!("/api/read?table={table}&limit={}", ROWS_MAX + 1);
        let read = router.try_send("GET", &path, &[level], None).ok()?.json();
        let rows = read["data"].as_array()?;
        if rows.len() > ROWS_MAX {
            return None;
        }
        if rows.is_empty() {
            continue;
        }
        let delete = |row: &Value| json!({"shard_key": row[routing], "data": {id: row[id]}});
        let rows: Vec<Value> = rows.iter().map(delete).collect();
        let body = json!({"table": table, "op": "delete", "rows": rows}).to_string();
        let headers = [("content-type", "application/json"), level];
        let path = "/api/bulk-write";
        let deleted = router.try_send("POST", path, &headers, Some(body.as_bytes())).ok()?;
        if deleted.status != 201 {
            return None;
        }
    }
    Some(())
}
