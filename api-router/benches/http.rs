//! The router beside a bare actix-web handler: `cargo bench -p api-router --bench http`.
//!
//! Both run with as many workers, on the same machine as the load generator (wrk, 64 connections, one
//! thread), in interleaved rounds; what counts is the ratio of the medians. It needs `wrk`. Rounds,
//! seconds and workers can be given: `-- 5 4 1` is five rounds of four seconds with one worker; without,
//! there are as many workers as the router takes by itself.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};

const CONNECTIONS: &str = "64";
const KEYS: usize = 10_000;

/// What is measured.
struct Case {
    name: &'static str,
    /// What it is compared with: the name of another case, or the bare handler.
    beside: &'static str,
    script: String,
    /// The least ratio, and the one wished for.
    goal: (f64, f64),
}

const BARE_HANDLER: &str = "bare handler";

/// The cases; `token` has seen every shard.
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

fn write(headers: &str) -> String {
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

fn read(headers: &str) -> String {
    format!(
        r#"request = function()
             return wrk.format("GET", "/api/read?table=users&limit=10",
               {{["x-shard-key"] = "user_" .. math.random(0, 9999){headers}}})
           end"#
    )
}

const ROUTE: &str = r#"request = function()
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
    let data = tempfile::tempdir()?;
    let mut bare = start_bare(data.path(), &workers)?;
    let (mut router, url, first_start) = start_router(data.path(), &workers)?;
    load_users(&url)?;
    router.kill()?;
    router.wait()?;
    let (mut router, url, second_start) = start_router(data.path(), &workers)?;
    println!(
        "ready in {first_start} ms on a new directory, {second_start} ms on an existing one; idle memory {} MiB",
        resident_kib(router.id()) / 1024
    );
    let cases = cases(&token(&url)?);
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for (case, rates) in cases.iter().zip(&mut rates) {
            let target = if case.name == BARE_HANDLER { &bare.1 } else { &url };
            rates.push(wrk(target, &case.script, seconds, data.path())?);
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
    println!("resident after the load {} MiB", resident_kib(router.id()) / 1024);
    router.kill()?;
    bare.0.kill()?;
    router.wait().and_then(|_| bare.0.wait()).map(drop)
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

fn start_bare(dir: &Path, workers: &str) -> std::io::Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.current_dir(dir).env("BARE_HANDLER", workers).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let line = lines(&mut child).next().unwrap_or_default();
    Ok((child, line))
}

/// The process, its URL, and the milliseconds until it was ready.
fn start_router(dir: &Path, workers: &str) -> std::io::Result<(Child, String, u128)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-router"));
    command.current_dir(dir).args(["--bind", "127.0.0.1:0", "--workers", workers]);
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let api = lines(&mut child).find_map(|line| {
        let rest = line.trim().strip_prefix("API")?.trim().to_owned();
        Some(rest.split('/').take(3).collect::<Vec<_>>().join("/"))
    });
    let url = api.ok_or_else(|| std::io::Error::other("the router did not start"))?;
    while ureq::get(format!("{url}/ready")).call().is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((child, url, began.elapsed().as_millis()))
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stdout = child.stdout.take().map(BufReader::new);
    stdout.into_iter().flat_map(|stdout| stdout.lines().map_while(Result::ok))
}

fn load_users(url: &str) -> std::io::Result<()> {
    let rows: Vec<serde_json::Value> = (0..KEYS)
        .map(|n| {
            let id = format!("user_{n}");
            serde_json::json!({"user_id": id, "name": "Jane Doe", "email": "jane@example.com"})
        })
        .collect();
    let body = serde_json::json!({"table": "users", "records": rows});
    let sent = ureq::post(format!("{url}/api/bulk-write")).send_json(body);
    sent.map(drop).map_err(std::io::Error::other)
}

/// What a client has seen that read all shards.
fn token(url: &str) -> std::io::Result<String> {
    let read = ureq::get(format!("{url}/api/read?table=users&limit=1")).call();
    let read = read.map_err(std::io::Error::other)?;
    let token = read.headers().get("x-session-token").and_then(|token| token.to_str().ok());
    token.map(str::to_owned).ok_or_else(|| std::io::Error::other("no token came"))
}

/// Requests a second; a run with any answer that is not 2xx is no measurement.
fn wrk(url: &str, script: &str, seconds: u32, dir: &Path) -> std::io::Result<f64> {
    let file = dir.join("wrk.lua");
    std::fs::write(&file, script)?;
    let duration = format!("-d{seconds}s");
    let connections = format!("-c{CONNECTIONS}");
    let mut command = Command::new("wrk");
    command.args(["-t1", &connections, &duration, "-s"]).arg(&file).arg(url);
    let output = command.output().map_err(|error| {
        std::io::Error::other(format!("wrk cannot be run (install the package wrk): {error}"))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(std::io::Error::other(format!("not all answers were 2xx:\n{text}")));
    }
    let rate =
        text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.ok_or_else(|| std::io::Error::other(format!("wrk said no rate:\n{text}")))
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
