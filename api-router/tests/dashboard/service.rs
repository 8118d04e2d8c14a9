//! Service: a real process of the analytics service, which collects from real routers and has no
//! store.
//!
//! When the [`Service`] is dropped, the process is ended by its id.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::killed_child::KilledChild;
use crate::other_program::program;
use crate::router::{Router, command, serving};

/// Program of the service, which belongs to another package.
static PROGRAM: LazyLock<PathBuf> =
    LazyLock::new(|| program(env!("CARGO_BIN_EXE_api-router"), "analytics"));

/// A running service.
pub(crate) struct Service {
    _child: KilledChild,
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
        Self { _child: KilledChild(child), address, _folder: folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
