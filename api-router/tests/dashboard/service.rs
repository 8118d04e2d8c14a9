//! Service: a real process of the analytics service, which collects from real routers and has no
//! store.
//!
//! When the [`Service`] is dropped, the process is ended by its id.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::time::SystemTime;

use tempfile::TempDir;

use crate::router::{Router, command, serving};

/// The program of another package: cargo makes it before a test of the whole workspace only.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_BIN_EXE_api-router")).parent().unwrap();
    let program = folder.join("analytics");
    let analytics = Path::new(env!("CARGO_MANIFEST_DIR")).join("../analytics");
    let latest = last_change(
        &["recorder/src", "service/src", "src", "web-kit/dashboard", "web-kit/src"]
            .map(|part| analytics.join(part)),
    );
    if made(&program).is_none_or(|made| made < latest) {
        let profile = folder.file_name().unwrap().to_str().unwrap();
        let profile = if profile == "debug" { "dev" } else { profile };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "analytics", "--bin", "analytics"]);
        build.args(["--profile", profile, "--target-dir"]).arg(folder.parent().unwrap());
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success(), "the service is made");
    }
    program
});

fn made(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// Returns the time of the last change of a file in these folders.
fn last_change(folders: &[PathBuf]) -> SystemTime {
    let entries = folders.iter().flat_map(|folder| folder.read_dir().unwrap());
    let changed = entries.map(|entry| entry.unwrap().path()).map(|path| match path.is_dir() {
        true => last_change(&[path]),
        false => made(&path).unwrap(),
    });
    changed.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A running service.
pub(crate) struct Service {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Service {
    /// Returns a service that collects from these routers, with this in its file beside.
    pub(crate) fn start(routers: &[(&str, &Router)], file: &str) -> Self {
        let folder = crate::folders::temporary();
        let path = folder.path().join("analytics.toml");
        std::fs::write(&path, file).unwrap();
        let routers: Vec<String> =
            routers.iter().map(|(name, router)| format!("{name}={}", router.url(""))).collect();
        let mut command = command(&PROGRAM);
        command.current_dir(folder.path()).args(["--bind", "127.0.0.1:0", "--store", "none"]);
        command.args(["--routers", &routers.join(","), "--config"]).arg(path);
        let (child, address) = serving(command);
        Self { child, address, _folder: folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
