//! Benchmark of the router over HTTP, compared with a bare actix-web handler and with a router of
//! more shards: `cargo bench -p api-router --bench http`.
//!
//! Both run with the same number of workers, on the same machine as the load generator (wrk, 64
//! connections, one thread), in interleaved rounds; the result is the ratio of the medians. The
//! benchmark needs `wrk`. Rounds, seconds and workers can be given: `-- 5 4 1` is five rounds of
//! four seconds with one worker; by default there are as many workers as the router uses by
//! default. `-- fanout` measures the cost of many shards, `-- counting` the cost of analytics,
//! `-- access` that of keys, `-- cache` the effect of a cache, `-- moves` moves of slots,
//! `-- changes` the changes that a move applies, `-- four-moves` the memory of moves, `-- joining`
//! shards that join, `-- growing` a shard that takes its share and is drained, `-- indexing` the
//! build of an index, `-- beside PATH` another build of the router. `-- figures` runs the blocks of
//! `benches/RESULTS.md` again and writes their output there.

mod beside;
mod caching;
mod changes;
mod counting;
mod fanout;
mod four_moves;
mod growing;
mod guarding;
mod indexing;
mod joining;
mod load;
mod metrics;
mod moving;
mod paced_load;
mod pairs;
mod servers;

use load::{Load, median, wrk};
use servers::{Router, start_bare};

use actix_web::{App, HttpResponse, HttpServer, web};

const CONNECTIONS: u32 = 64;

/// Names of the other measurements.
const MEASUREMENTS: [&str; 12] = [
    "figures",
    "moves",
    "changes",
    "four-moves",
    "joining",
    "growing",
    "indexing",
    "fanout",
    "counting",
    "access",
    "beside",
    "cache",
];

/// A kind of request that is measured.
struct Case {
    name: &'static str,
    /// Name of the case to compare with, or the bare handler.
    beside: &'static str,
    script: String,
    /// Smallest acceptable ratio, and the desired one.
    goal: (f64, f64),
}

const BARE_HANDLER: &str = "bare handler";

/// Returns the cases; `token` has seen every shard.
fn cases(token: &str) -> Vec<Case> {
    let case = |name, beside, script, goal| Case { name, beside, script, goal };
    let session = format!(r#", ["x-session-token"] = "{token}""#);
    vec![
        case(BARE_HANDLER, BARE_HANDLER, BARE.to_owned(), (1.0, 1.0)),
        case("point write", BARE_HANDLER, write(""), (0.20, 0.30)),
        case("quorum write", "point write", write(r#", ["x-consistency"] = "quorum""#), (0.7, 0.7)),
        case("point read", BARE_HANDLER, read(""), (0.45, 0.65)),
        case("read with token", "point read", read(&session), (0.9, 0.9)),
        case("/api/route", BARE_HANDLER, ROUTE.to_owned(), (0.75, 0.85)),
    ]
}

pub(crate) fn write(headers: &str) -> String {
    format!(
        r#"request = function()
             local k = "user_" .. math.random(0, 9999)
             return wrk.format("POST", "/api/write",
               {{["content-type"] = "application/json", ["x-shard-key"] = k{headers}}},
               '{{"table":"users","data":{{"user_id":"' .. k .. '","name":"John Doe","email":"' .. k ..
               '@example.com","partition_key":"A"}}}}')
           end"#
    )
}

pub(crate) fn read(headers: &str) -> String {
    format!(
        r#"request = function()
             return wrk.format("GET", "/api/read?table=users&limit=10",
               {{["x-shard-key"] = "user_" .. math.random(0, 9999){headers}}})
           end"#
    )
}

pub(crate) const ROUTE: &str = r#"request = function()
             return wrk.format("GET", "/api/route?key=user_" .. math.random(0, 9999))
           end"#;

const BARE: &str = r#"request = function() return wrk.format("GET", "/") end"#;

fn main() -> std::io::Result<()> {
    if let Some(workers) = std::env::var_os("BARE_HANDLER") {
        return serve_bare(workers.to_string_lossy().parse().unwrap_or(1));
    }
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (rounds, seconds) = (numbers.next().unwrap_or(3), numbers.next().unwrap_or(4));
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let workers = numbers.next().unwrap_or(cores).to_string();
    let named = std::env::args().skip(1).find(|argument| MEASUREMENTS.contains(&&**argument));
    match named.as_deref() {
        Some("figures") => metrics::rewrite(),
        Some("moves") => moving::measure(),
        Some("changes") => changes::measure(),
        Some("four-moves") => four_moves::measure(),
        Some("joining") => joining::measure(),
        Some("growing") => growing::measure(),
        Some("indexing") => indexing::measure(),
        Some("fanout") => fanout::measure(rounds, seconds, &workers),
        Some("counting") => counting::measure(rounds, seconds, &workers),
        Some("access") => guarding::measure(rounds, seconds, &workers),
        Some("beside") => beside::measure(rounds, seconds, &workers),
        Some("cache") => caching::measure(rounds, seconds, &workers),
        _ => compare_with_bare(rounds, seconds, &workers),
    }
}

/// Compares a router with a bare handler.
fn compare_with_bare(rounds: u32, seconds: u32, workers: &str) -> std::io::Result<()> {
    let data = tempfile::tempdir()?;
    let mut bare = start_bare(data.path(), workers)?;
    let router = Router::start(data.path(), &["--workers", workers])?;
    router.load_users()?;
    let first_start = router.ready_after;
    drop(router);
    let router = Router::start(data.path(), &["--workers", workers])?;
    println!(
        "ready in {} ms on a new directory, {} ms on an existing one; idle memory {} MiB",
        first_start.as_millis(),
        router.ready_after.as_millis(),
        router.resident_mib()
    );
    let cases = cases(&token(&router.url)?);
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for (case, rates) in cases.iter().zip(&mut rates) {
            let url = if case.name == BARE_HANDLER { &bare.1 } else { &router.url };
            let load = Load { url, script: &case.script, connections: CONNECTIONS, seconds };
            rates.push(wrk(&load, data.path())?.rate);
        }
    }
    let medians: Vec<f64> = rates.iter_mut().map(|rates| median(rates)).collect();
    for (case, rate) in cases.iter().zip(&medians) {
        let beside = cases.iter().position(|other| other.name == case.beside);
        let ratio = rate / medians[beside.unwrap_or(0)];
        let (must, aim) = case.goal;
        println!(
            "{:<16} {rate:>9.0}/s   {ratio:.2} of {} (must {must:.2}, aim {aim:.2})",
            case.name, case.beside
        );
    }
    println!("resident after the load {} MiB", router.resident_mib());
    bare.0.kill()?;
    bare.0.wait().map(drop)
}

#[actix_web::main]
async fn serve_bare(workers: usize) -> std::io::Result<()> {
    let answer = || async {
        HttpResponse::Ok().content_type("application/json").body(r#"{"success":true}"#)
    };
    let server = HttpServer::new(move || App::new().route("/", web::get().to(answer)))
        .workers(workers)
        .bind("127.0.0.1:0")?;
    println!("http://{}", server.addrs()[0]);
    server.run().await
}

/// Returns the session token of a client that has read all shards.
fn token(url: &str) -> std::io::Result<String> {
    let read = ureq::get(format!("{url}/api/read?table=users&limit=1")).call();
    let read = read.map_err(std::io::Error::other)?;
    let token = read.headers().get("x-session-token").and_then(|token| token.to_str().ok());
    token.map(str::to_owned).ok_or_else(|| std::io::Error::other("no token came"))
}
