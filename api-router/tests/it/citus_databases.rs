//! Databases for tests on a real Citus cluster. `TESSERA_CITUS_URL` names a database of the
//! coordinator that has the workers registered, and a user who may create databases. Every test has
//! a database of its own on all nodes.
//!
//! **Invariant:** a database that a test gets has only the tables that come with Tessera, and no
//! rows.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::databases::{SHAPE, query};
use crate::harness::{Router, bare_command};

/// Prefix of the databases of this process; those of a process that has ended are left-overs.
const PREFIX: &str = "citus_story_";

/// Query for the nodes: host, port, and true for the coordinator.
const NODES: &str = "SELECT nodename || ' ' || nodeport || ' ' || (groupid = 0) FROM pg_dist_node
    WHERE isactive AND noderole = 'primary' ORDER BY groupid";

/// Ends Tessera's other sessions, drops the tables of clients, and empties the rest. Citus
/// truncates distributed tables on all nodes.
const EMPTY: &str = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'tessera%';
    DO $$
    DECLARE
        name TEXT;
    BEGIN
        FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
            AND relname IN (SELECT t.name FROM tessera.tessera_tables AS t WHERE made_at <> 0)
        LOOP
            EXECUTE format('DROP TABLE public.%I', name);
        END LOOP;
        DELETE FROM tessera.tessera_tables WHERE made_at <> 0;
        FOR name IN SELECT oid::regclass FROM pg_class
            WHERE relnamespace IN ('public'::regnamespace, 'tessera'::regnamespace) AND relkind = 'r'
            AND relname NOT IN ('tessera_tables', 'tessera_access', '__diesel_schema_migrations')
        LOOP
            EXECUTE 'TRUNCATE ' || name;
        END LOOP;
        -- A database without slots has the rows that state so, as after its migrations.
        PERFORM tessera.tessera_note_all_owned();
        UPDATE tessera.tessera_access SET mode = 'off', generation = 1;
        ALTER SEQUENCE tessera.tessera_version RESTART;
        ALTER SEQUENCE tessera.tessera_tables_changed RESTART;
    END $$";

/// The cluster, and databases that are free.
pub(crate) struct CitusServer {
    url: String,
    free: Mutex<Vec<String>>,
    /// Held while a database is created: a template can be copied by one session at a time.
    making: Mutex<()>,
    /// Shape of a database in which a router has just created its schema.
    shape: Vec<String>,
}

impl CitusServer {
    pub(crate) fn new(url: &str) -> Self {
        let mut server = Self {
            url: url.to_owned(),
            free: Mutex::default(),
            making: Mutex::default(),
            shape: Vec::new(),
        };
        for name in
            query(url, &format!("SELECT datname FROM pg_database WHERE datname LIKE '{PREFIX}%'"))
        {
            let process =
                name.trim_start_matches(PREFIX).split('_').next().unwrap_or_default().to_owned();
            if !Path::new("/proc").join(process).exists() {
                query(url, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            }
        }
        let name = server.make();
        let folder = crate::folders::temporary();
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0"]).env("SHARD_URLS", server.url(&name));
        Router::start_command({
            command.env("TESSERA_ENGINE", "citus");
            command
        })
        .end();
        server.shape = query(&server.url(&name), SHAPE);
        server.take_back(name);
        server
    }

    /// Returns a database of the coordinator alone, which is not a cluster of Citus.
    pub(crate) fn make_plain(&self) -> String {
        let _making = self.making.lock().unwrap();
        let name = format!("{PREFIX}{}_plain", std::process::id());
        query(&self.url, &format!("CREATE DATABASE {name}"));
        name
    }

    /// Drops that database.
    pub(crate) fn drop_plain(&self, name: &str) {
        query(&self.url, &format!("DROP DATABASE {name} WITH (FORCE)"));
    }

    /// Returns the URL of a database on the coordinator.
    pub(crate) fn url(&self, name: &str) -> String {
        let (start, database) =
            self.url.rsplit_once('/').expect("TESSERA_CITUS_URL names a database");
        let options =
            database.split_once('?').map_or_else(String::new, |(_, options)| format!("?{options}"));
        format!("{start}/{name}{options}")
    }

    /// Returns the name of an empty database.
    pub(crate) fn make(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if let Some(name) = self.free.lock().unwrap().pop() {
            return name;
        }
        let _making = self.making.lock().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}_{number}", std::process::id());
        query(&self.url, &format!("CREATE DATABASE {name}"));
        let url = self.url(&name);
        // A few Citus shards are enough for few rows.
        query(
            &url,
            &format!("CREATE EXTENSION citus; ALTER DATABASE {name} SET citus.shard_count = 4"),
        );
        for node in query(&self.url, NODES) {
            let mut words = node.split(' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (host, port, coordinates) = (word(), word(), word() == "true");
            if coordinates {
                query(&url, &format!("SELECT citus_set_coordinator_host('{host}', {port})"));
                continue;
            }
            for (database, command) in [
                ("", format!("CREATE DATABASE {name}")),
                (&*name, "CREATE EXTENSION citus".to_owned()),
            ] {
                let at = if database.is_empty() { &self.url } else { &url };
                let sql = format!(
                    "SELECT result FROM master_run_on_worker(ARRAY['{host}'], ARRAY[{port}], ARRAY['{command}'], false)"
                );
                query(at, &sql);
            }
            query(&url, &format!("SELECT citus_add_node('{host}', {port})"));
        }
        name
    }

    /// Empties a database, and keeps it for the next test.
    pub(crate) fn take_back(&self, name: String) {
        let url = self.url(&name);
        // A test may have ended before the router created the schema, or have changed more than a
        // client can.
        let made = query(&url, "SELECT to_regclass('tessera.tessera_tables') IS NOT NULL");
        if made == ["t"] {
            query(&url, EMPTY);
            if query(&url, SHAPE) == self.shape {
                self.free.lock().unwrap().push(name);
            }
        }
    }
}
