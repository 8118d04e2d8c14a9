//! Benchmark of many shards: a read of all shards compared with a read of one shard, and requests
//! for one key on clusters of few and of many shards.

use crate::load::{Found, Load, median, wrk};
use crate::servers::Router;
use crate::{ROUTE, read};

/// Script that reads a hundred rows of any keys.
const SCATTER: &str = r#"request = function()
             return wrk.format("GET", "/api/read?table=users&limit=100")
           end"#;

/// A measurement that is made with few shards and with many.
struct Case {
    name: &'static str,
    shards: [&'static str; 2],
    script: String,
    connections: u32,
    /// Figure to compare, given the result of wrk and the router's CPU time in hundredths of a
    /// second.
    figure: fn(&Found, f64) -> f64,
    /// Largest allowed ratio.
    must: f64,
}

fn cases() -> Vec<Case> {
    let rate: fn(&Found, f64) -> f64 = |found, _| 1e6 / found.rate;
    vec![
        Case {
            name: "100 rows of all shards: CPU, us a request",
            shards: ["1", "8"],
            script: SCATTER.to_owned(),
            connections: 8,
            figure: |found, ticks| ticks * 1e4 / found.requests,
            must: 8.0,
        },
        Case {
            name: "100 rows of all shards: latency, us",
            shards: ["1", "8"],
            script: SCATTER.to_owned(),
            connections: 1,
            figure: |found, _| found.p50_ms * 1e3,
            must: 1.5,
        },
        Case {
            name: "point read: us between two answers",
            shards: ["3", "64"],
            script: read(""),
            connections: 64,
            figure: rate,
            must: 1.1,
        },
        Case {
            name: "/api/route: us between two answers",
            shards: ["3", "64"],
            script: ROUTE.to_owned(),
            connections: 64,
            figure: rate,
            must: 1.1,
        },
    ]
}

/// Measures each case, alternating between few and many shards in every round.
pub(crate) fn measure(rounds: u32, seconds: u32, workers: &str) -> std::io::Result<()> {
    for case in cases() {
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
        let start = |index: usize| -> std::io::Result<Router> {
            let flags = ["--shards", case.shards[index], "--workers", workers];
            let router = Router::start(dirs[index].path(), &flags)?;
            router.load_users()?;
            Ok(router)
        };
        let routers = [start(0)?, start(1)?];
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (router, figures) in routers.iter().zip(&mut figures) {
                let Case { script, connections, .. } = &case;
                let load = Load { url: &router.url, script, connections: *connections, seconds };
                let before = router.ticks()?;
                let found = wrk(&load, dirs[0].path())?;
                figures.push((case.figure)(&found, router.ticks()? - before));
            }
        }
        let [few, many] = figures.each_mut().map(|figures| median(figures));
        println!(
            "{:<42} {few:>8.1} with {} shards, {many:>8.1} with {}: {:.2} (must {:.1})",
            case.name,
            case.shards[0],
            case.shards[1],
            many / few,
            case.must
        );
    }
    Ok(())
}
