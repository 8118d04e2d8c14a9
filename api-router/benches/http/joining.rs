//! Benchmark of shards that join: clients write and read single rows at half of the highest rate
//! while shards join one after the other, and while none does.
//!
//! `-- joining` lets shards join on files. With one more argument, a file with the variables of a
//! new PostgreSQL cluster (the `tessera.env` of `shard-manager cluster up --replicas 1`), the
//! shards are new databases on its last server and on the replica of that server, and a second
//! router serves the cluster, too: the time after which it follows is measured.

use std::io::Error;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::beside::variables;
use crate::moving::{get, post, psql};
use crate::paced_load::{
    SENDING, highest, print_quantile, send, send_beside, send_beside_computation, write_user,
};
use crate::servers::Router;

/// Shards that join.
const JOINING: usize = 4;
/// Users that are written and read.
const KEYS: usize = 10_000;
/// Kinds of requests.
const KINDS: [&str; 2] = ["point write", "point read"];
/// Share of the requests that are not slower than the printed time.
const QUANTILE: f64 = 0.999;
/// Longest time of a join.
const JOINED_MAX: Duration = Duration::from_secs(60);

/// Measures joins.
pub(crate) fn measure() -> std::io::Result<()> {
    let mut after = std::env::args().skip_while(|argument| argument != "joining").skip(1);
    let variables = variables(after.find(|argument| !argument.starts_with('-')))?;
    let dir = tempfile::tempdir()?;
    let servers = servers_of(&variables);
    let router = Router::start_with(dir.path(), &["--operate"], &variables)?;
    router.load_users()?;
    let url = &*router.url;
    let second_dir = tempfile::tempdir()?;
    // A data directory admits one router.
    let second = match servers {
        Some(_) => Some(Router::start_with(second_dir.path(), &["--operate"], &variables)?),
        None => None,
    };
    let second_url = second.as_ref().map(|router| &*router.url);
    let request = |agent: &ureq::Agent, number: usize, kind: usize| {
        let key = format!("user_{}", number % KEYS);
        if kind == 0 { write_user(agent, url, &key) } else { read_user(agent, url, &key) }
    };
    let peak = send(None, &request)?;
    let rate = peak.len() as f64 / SENDING.as_secs_f64() / 2.0;
    if let Some((primary, _)) = servers {
        // Before the measurement: CREATE DATABASE copies files, which is not part of a join.
        (0..JOINING).try_for_each(|number| {
            psql(primary, &format!("CREATE DATABASE {}", name_of(number)))
        })?;
    }
    let before = send(Some(rate), &request)?;
    let (during, joins) = send_beside(Some(rate), &request, &|| {
        let joins = (0..JOINING).map(|number| join(url, second_url, servers, number));
        joins.collect::<std::io::Result<Vec<Joined>>>()
    })?;
    println!(
        "{JOINING} shards joined within {:.0} ms each, beside {rate:.0} requests a second, half of the \
         highest rate",
        longest(joins.iter().map(|joined| joined.serves))
    );
    if second.is_some() {
        let followed = longest(joins.iter().map(|joined| joined.followed));
        println!("the second router followed within {followed:.0} ms");
    }
    print_quantile(QUANTILE, KINDS, &before, &during);
    println!("beside a thread that only computes, and no change:");
    print_quantile(QUANTILE, KINDS, &before, &send_beside_computation(rate, &request)?);
    Ok(())
}

/// Returns the longest of some times, in milliseconds.
fn longest(times: impl Iterator<Item = Duration>) -> f64 {
    highest(times.map(|time| time.as_secs_f64() * 1e3))
}

/// Returns the URLs of the last server and of its replica.
pub(crate) fn servers_of(variables: &[(String, String)]) -> Option<(&str, &str)> {
    let last = |name: &str| {
        let urls = &variables.iter().find(|(variable, _)| variable == name)?.1;
        urls.rsplit([',', ';']).next()
    };
    last("SHARD_URLS").zip(last("REPLICA_URLS"))
}

pub(crate) fn name_of(number: usize) -> String {
    format!("joining{number}")
}

/// Times of a join.
pub(crate) struct Joined {
    /// Time after which the router that was asked serves the shard.
    serves: Duration,
    /// Further time after which the second router serves it; zero without one.
    followed: Duration,
}

/// Lets a shard join, on these servers if there are any, and waits until this router serves it and
/// the second one, if there is one.
pub(crate) fn join(
    url: &str,
    second: Option<&str>,
    servers: Option<(&str, &str)>,
    number: usize,
) -> std::io::Result<Joined> {
    let name = name_of(number);
    let mut shard = json!({"name": name});
    if let Some((primary, replica)) = servers {
        shard["url"] = json!(format!("postgres://{},{}/{name}", host(primary), host(replica)));
    }
    let began = Instant::now();
    post(&format!("{url}/api/shards"), &shard)?;
    await_serving(url, &name)?;
    let serves = began.elapsed();
    second.map_or(Ok(()), |second| await_serving(second, &name))?;
    Ok(Joined { serves, followed: began.elapsed() - serves })
}

/// Waits until a router serves a shard.
fn await_serving(url: &str, name: &str) -> std::io::Result<()> {
    let began = Instant::now();
    while began.elapsed() < JOINED_MAX {
        let listed = get(&format!("{url}/api/shards"))?;
        let mut shards = listed["shards"].as_array().into_iter().flatten();
        if shards.any(|shard| shard["shard"] == *name && shard["state"] == "serving") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Error::other(format!("{name} does not serve")))
}

/// Returns host and port of a URL.
fn host(url: &str) -> &str {
    let place = url.rsplit('@').next().unwrap_or(url);
    place.split('/').next().unwrap_or(place)
}

pub(crate) fn read_user(agent: &ureq::Agent, url: &str, key: &str) -> std::io::Result<()> {
    let sent = agent.get(format!("{url}/api/read?table=users&limit=10")).header("x-shard-key", key);
    let mut reply = sent.call().map_err(Error::other)?;
    reply.body_mut().read_to_vec().map(drop).map_err(Error::other)
}
