//! Database session: runs SQL on a database of a cluster, without the router.
//!
//! **Not here:** making and breaking servers (`cluster`).

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Longest wait for a value.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two polls. The value must be polled, because a database does not report changes by
/// itself.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Session with a database. Its search path includes the tables of clients and those of Tessera.
pub(crate) struct DatabaseSession {
    runtime: Runtime,
    client: Client,
}

impl DatabaseSession {
    /// Connects to the database with this address.
    pub(crate) fn open(url: &str) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).unwrap();
        runtime.spawn(connection);
        let session = Self { runtime, client };
        session.rows("SET search_path = tessera, public");
        session
    }

    /// Runs statements, and returns the first column of the rows.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        let reported = self.runtime.block_on(self.client.simple_query(sql));
        let reported = reported.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let rows = reported.iter().filter_map(|message| {
            let SimpleQueryMessage::Row(row) = message else { return None };
            Some(row.get(0).unwrap_or_default().to_owned())
        });
        rows.collect()
    }

    /// Waits until the query `sql` has the result `expected`.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, sql: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let found = self.rows(sql).join(",");
            if found == expected {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {found}, not {expected}");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
