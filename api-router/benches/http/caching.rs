//! Benchmark of the cache: reads by key, with keys drawn by Zipf's law, of routers without a cache,
//! with a cache, and with a cache and an in-process cache, compared with `/live` in alternating
//! rounds. Redis is on the same machine.
//!
//! The benchmark runs over files, and also over PostgreSQL servers if `SHARD_URLS` (and
//! `REPLICA_URLS`) name some: the rows that are read are written to their table `users`.

use std::io::{Error, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::CONNECTIONS;
use crate::load::{Load, median, wrk};
use crate::servers::Router;

/// Size of the in-process caches, in bytes: all rows that are read fit.
const NEAR_BYTES: &str = "67108864";
/// Largest age of cached responses, in ms, in the cases named `10 s`: ten times the default.
const BOUND_MS: &str = "10000";
/// Longest time for Redis to start.
const PATIENCE: Duration = Duration::from_secs(10);

const HELLO: &str = r#"request = function() return wrk.format("GET", "/live") end"#;

/// Keys by Zipf's law with exponent 0.99, as the load tester draws them: of 10,000 the first is
/// drawn one time in ten.
const ZIPF: &str = r#"
local sums, sum = {}, 0
for rank = 1, 10000 do sum = sum + rank ^ -0.99; sums[rank] = sum end
request = function()
  local wanted, low, high = math.random() * sum, 1, 10000
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] < wanted then low = middle + 1 else high = middle end
  end
  return wrk.format("GET", "/api/read?table=users&limit=10", {["x-shard-key"] = "user_" .. (low - 1)})
end"#;

/// Script that reads so few keys that nearly every read is a hit.
const HOT: &str = r#"request = function()
             return wrk.format("GET", "/api/read?table=users&limit=10", {["x-shard-key"] = "user_" .. math.random(0, 63)})
           end"#;

/// Cases, in the order of a round.
const CASES: [(&str, usize, &str); 9] = [
    ("hello", 0, HELLO),
    ("cache off", 0, ZIPF),
    ("cache on", 1, ZIPF),
    ("cache on, all kept", 5, ZIPF),
    ("cache on + memory", 2, ZIPF),
    ("cache on, 10 s", 3, ZIPF),
    ("cache, memory, 10 s", 4, ZIPF),
    ("hits of Redis", 1, HOT),
    ("hits of memory", 2, HOT),
];

/// Redis server process, which ends when this is dropped.
struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start(dir: &Path) -> std::io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| {
            Error::other(format!("redis-server cannot be run (install the package): {error}"))
        })?;
        let redis = Self { child, url: format!("redis://127.0.0.1:{port}") };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if began.elapsed() > PATIENCE {
                return Err(Error::other("redis-server does not answer"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures over files, and over servers if some are named.
pub(crate) fn measure(rounds: u32, seconds: u32, workers: &str) -> std::io::Result<()> {
    let servers: Vec<(String, String)> = ["SHARD_URLS", "REPLICA_URLS"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect();
    over("files", &[], (rounds, seconds), workers)?;
    if servers.is_empty() {
        println!(
            "PostgreSQL: left out; set SHARD_URLS, as `shard-manager cluster up` writes them into tessera.env"
        );
        return Ok(());
    }
    over("PostgreSQL", &servers, (rounds, seconds), workers)
}

fn over(
    ground: &str,
    servers: &[(String, String)],
    (rounds, seconds): (u32, u32),
    workers: &str,
) -> std::io::Result<()> {
    let dirs: Vec<_> = (0..6).map(|_| tempfile::tempdir()).collect::<Result<_, _>>()?;
    let redis = Redis::start(dirs[0].path())?;
    let cached = [("REDIS_URL".to_owned(), redis.url.clone())];
    let start = |index: usize, flags: &[&str]| -> std::io::Result<Router> {
        let variables: Vec<_> = match index {
            0 => servers.to_vec(),
            _ => servers.iter().chain(&cached).cloned().collect(),
        };
        let flags = [&["--workers", workers], flags].concat();
        let router = Router::start_with(dirs[index].path(), &flags, &variables)?;
        // All routers use the same servers, so only the first one loads the rows.
        if index == 0 || servers.is_empty() {
            router.load_users()?;
        }
        Ok(router)
    };
    let (near, old) = (["--cache-near-bytes", NEAR_BYTES], ["--cache-bound-ms", BOUND_MS]);
    let routers = [
        start(0, &[])?,
        start(1, &[])?,
        start(2, &near)?,
        start(3, &old)?,
        start(4, &[near, old].concat())?,
        start(5, &["--cache-min-uses", "1"])?,
    ];
    let mut rates: [Vec<f64>; CASES.len()] = Default::default();
    for round in 0..rounds as usize {
        // Each round begins with another case, because the first one finds the processor cold.
        for turn in 0..CASES.len() {
            let case = (turn + round) % CASES.len();
            let (_, router, script) = CASES[case];
            let url = &routers[router].url;
            let load = Load { url, script, connections: CONNECTIONS, seconds };
            rates[case].push(wrk(&load, dirs[0].path())?.rate);
        }
    }
    let medians = rates.each_mut().map(|rates| median(rates));
    for ((name, router, _), rate) in CASES.iter().zip(medians) {
        println!(
            "{ground:<10} {name:<19} {rate:>9.0}/s   {:.2} of hello, {:.2} of off{}",
            rate / medians[0],
            rate / medians[1],
            hit_rate(&routers[*router].url)?
        );
    }
    std::io::stdout().flush()
}

/// Returns the hit rate according to the router; nothing without a cache.
fn hit_rate(url: &str) -> std::io::Result<String> {
    let reported = ureq::get(format!("{url}/api/analytics/metrics")).call();
    let mut reported = reported.map_err(Error::other)?;
    let reported: serde_json::Value = reported.body_mut().read_json().map_err(Error::other)?;
    let cache = &reported["metrics"]["cache"];
    let rate = cache["hit_rate"].as_f64().filter(|_| cache["enabled"] == true);
    Ok(rate.map_or_else(String::new, |rate| {
        format!(", {:.1} % hits ({} in memory)", rate * 100.0, cache["near_hits"])
    }))
}
