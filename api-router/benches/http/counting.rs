//! Benchmark of recording requests: a router with analytics compared with a router without.

use crate::pairs::{Side, compare};
use crate::servers::Router;
use crate::{read, write};

/// Measures writes and reads of both routers.
pub(crate) fn measure(rounds: u32, seconds: u32, workers: &str) -> std::io::Result<()> {
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    let start = |index: usize, analytics: &str| -> std::io::Result<Router> {
        let flags = ["--workers", workers, "--analytics", analytics];
        let router = Router::start(dirs[index].path(), &flags)?;
        router.load_users()?;
        Ok(router)
    };
    let routers = [start(0, "off")?, start(1, "on")?];
    let sides = routers.each_ref().map(|router| Side { router, headers: "" });
    compare("point write", write, &sides, (rounds, seconds), dirs[0].path())?;
    compare("point read", read, &sides, (rounds, seconds), dirs[0].path())?;
    let [off, on] = routers.each_ref().map(Router::resident_mib);
    println!("resident after the load {off} MiB off, {on} MiB on");
    Ok(())
}
