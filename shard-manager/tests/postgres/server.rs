//! PostgreSQL servers for the tests, each in its own temporary folder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use shard_manager::node_address::{NodeAddress, Timeouts};
use shard_manager::store::postgres::ConnectError;
use shard_manager::store::postgres::session::{NodeRole, connect};

use crate::free_port::free_port;
use crate::prerequisites::{Prerequisite, skip};
use crate::scratch;

/// Superuser of every server.
pub(crate) const ADMIN: &str = "admin";

/// Access rules that admit every user.
pub(crate) const TRUST: &str = "local all all trust\nhost all all 127.0.0.1/32 trust\n\
                                host replication all 127.0.0.1/32 trust\n";

pub(crate) struct Server {
    folder: tempfile::TempDir,
    bin: PathBuf,
    pub(crate) port: u16,
}

impl Server {
    /// Starts a primary that admits every user.
    pub(crate) fn start(settings: &str) -> Option<Self> {
        Self::start_with(settings, TRUST, &[])
    }

    /// Starts a primary with these settings, access rules, and files in its data directory.
    pub(crate) fn start_with(settings: &str, rules: &str, files: &[(&str, &str)]) -> Option<Self> {
        let mut server = Self::new()?;
        let data = server.data();
        server.run("initdb", &["--no-sync", "-A", "trust", "-U", ADMIN, "-E", "UTF8", "-D", &data]);
        for (name, text) in files {
            server.write(name, text);
        }
        server.write("pg_hba.conf", rules);
        server.go(settings);
        Some(server)
    }

    /// Starts a streaming replica of this server.
    pub(crate) fn replica(&self) -> Self {
        let mut replica = Self::new().unwrap();
        let port = self.port.to_string();
        let data = replica.data();
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", ADMIN, "-c", "fast", "--no-sync"];
        replica.run("pg_basebackup", &[&from[..], &["-R", "-D", &data]].concat());
        replica.go("");
        replica
    }

    fn new() -> Option<Self> {
        let Some(bin) = bin() else {
            skip(Prerequisite::Postgres, "there is no PostgreSQL on this machine");
            return None;
        };
        let folder = scratch::folder();
        let server = Self { folder, bin, port: 0 };
        server.own(server.folder.path());
        Some(server)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    /// Folder of its Unix socket.
    pub(crate) fn socket(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// Starts the server on a free port; another process may take that port first.
    fn go(&mut self, settings: &str) {
        let base = self.read("postgresql.auto.conf");
        let log = self.folder.path().join("log").to_str().unwrap().to_owned();
        let tell = ["start", "-w", "-D", &self.data(), "-l", &log];
        for _ in 0..5 {
            let socket = self.socket();
            let port = free_port();
            let all = format!(
                "{base}\nport = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{socket}'\n{settings}"
            );
            self.write("postgresql.auto.conf", &all);
            self.port = port;
            if self.done("pg_ctl", &tell) {
                return;
            }
        }
        panic!("{}", fs::read_to_string(log).unwrap_or_default());
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(Path::new(&self.data()).join(name)).unwrap_or_default()
    }

    /// Writes a file in its data directory.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = Path::new(&self.data()).join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.own(&path);
    }

    /// Changes the owner of a path: servers refuse to run as root, so under root the tests run them
    /// as `postgres`.
    fn own(&self, path: &Path) {
        if is_root() {
            assert!(Command::new("chown").arg("postgres:").arg(path).status().unwrap().success());
        }
    }

    fn run(&self, program: &str, arguments: &[impl AsRef<OsStr>]) {
        let report = || fs::read_to_string(self.folder.path().join("told")).unwrap_or_default();
        assert!(self.done(program, arguments), "{program}: {}", report());
    }

    fn done(&self, program: &str, arguments: &[impl AsRef<OsStr>]) -> bool {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        command.args(arguments).current_dir(self.folder.path()).env("LC_ALL", "C.UTF-8");
        // Into a file: a server would hold a pipe open for as long as it runs.
        let reported = self.folder.path().join("told");
        let file = fs::File::create(&reported).unwrap();
        command.stdin(std::process::Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        command.status().unwrap().success()
    }

    /// Address of the server, with the text before the host and after it.
    pub(crate) fn address(&self, login: &str, rest: &str) -> NodeAddress {
        format!("postgres://{login}@127.0.0.1:{}/{rest}", self.port).parse().unwrap()
    }

    /// Runs statements as the superuser, each in its own transaction.
    pub(crate) fn perform(&self, statements: &[&str]) {
        runtime().block_on(async {
            let address = self.address(ADMIN, "postgres");
            let mut session =
                connect(&address, "tessera test", NodeRole::Any, &patient()).await.unwrap();
            for statement in statements {
                session.connection.batch_execute(statement).await.unwrap();
            }
        });
    }
}

impl Server {
    /// The column `value` of the only row of a query, run as the superuser.
    pub(crate) fn text(&self, sql: &str) -> String {
        runtime().block_on(async {
            let address = self.address(ADMIN, "postgres");
            let session = connect(&address, "story", NodeRole::Any, &patient()).await;
            let mut connection = session.unwrap().connection;
            let row: ValueRow = diesel::sql_query(sql).get_result(&mut connection).await.unwrap();
            row.value
        })
    }

    /// Stops the server immediately, like a power failure. Does nothing if it was never started.
    pub(crate) fn stop(&self) {
        self.done("pg_ctl", &["stop", "-m", "immediate", "-D", &self.data()]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(QueryableByName)]
struct ValueRow {
    #[diesel(sql_type = Text)]
    value: String,
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Folder of the programs: from the path, or the one of Debian's packages.
fn bin() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let of_debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = of_debian.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().find(|folder| folder.join("pg_ctl").exists())
}

/// Long enough for a busy machine.
pub(crate) fn patient() -> Timeouts {
    Timeouts { connect: std::time::Duration::from_secs(20), ..Timeouts::default() }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// The error of a connection that must fail.
pub(crate) fn refusal(address: &NodeAddress, role: NodeRole, timeouts: &Timeouts) -> ConnectError {
    match run(connect(address, "tessera test", role, timeouts)) {
        Ok(_) => panic!("{address} let us in"),
        Err(error) => error,
    }
}
