//! Paced load: clients that send requests at a rate, and the time of each response.
//!
//! A request that falls behind the rate is measured from the time at which it was due, so that one
//! slow response is not hidden by the requests that wait for it.

use std::io::Error;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::json;

/// Clients, each with one connection.
const CLIENTS: usize = 32;
/// Time for which requests are sent if there is no change.
pub(crate) const SENDING: Duration = Duration::from_secs(8);
/// Time for which requests are sent before those that count, so that connections are open.
const LEAD: Duration = Duration::from_secs(1);
/// Kinds of requests. Each client sends those of one kind.
const KINDS: usize = 2;

/// Sends a request of a kind, with its number among all requests.
type Request<'r> = &'r (dyn Fn(&ureq::Agent, usize, usize) -> std::io::Result<()> + Sync);

/// Kind of each request, and its time in milliseconds.
pub(crate) type Times = Vec<(usize, f64)>;

/// A request: its kind, the time at which it was due, and that of its response.
type Sent = (usize, Instant, Instant);

/// Sends `rate` requests a second, or as many as the clients can, for [`SENDING`].
pub(crate) fn send(rate: Option<f64>, request: Request<'_>) -> std::io::Result<Times> {
    let pause = || {
        std::thread::sleep(SENDING);
        Ok(())
    };
    send_beside(rate, request, &pause).map(|(times, ())| times)
}

/// Sends requests until `change` has ended. Returns the times of those that overlap it, and its
/// result.
pub(crate) fn send_beside<C>(
    rate: Option<f64>,
    request: Request<'_>,
    change: &dyn Fn() -> std::io::Result<C>,
) -> std::io::Result<(Times, C)> {
    let (all, ended) = (Mutex::new(Vec::new()), OnceLock::new());
    let client = |client: usize| -> std::io::Result<()> {
        let sent = send_as(client, rate, request, &ended)?;
        all.lock().map_err(|_| Error::other("a client failed"))?.extend(sent);
        Ok(())
    };
    let (begun, changed) = std::thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        std::thread::sleep(LEAD);
        let begun = Instant::now();
        let changed = change();
        ended.get_or_init(Instant::now);
        for client in clients {
            client.join().map_err(|_| Error::other("a client failed"))??;
        }
        Ok::<_, Error>((begun, changed?))
    })?;
    let ended = ended.into_inner().unwrap_or(begun);
    let all: Vec<Sent> = all.into_inner().map_err(|_| Error::other("a client failed"))?;
    let during = all.into_iter().filter(|(_, due, done)| *done >= begun && *due <= ended);
    let times = during.map(|(kind, due, done)| (kind, (done - due).as_secs_f64() * 1e3));
    Ok((times.collect(), changed))
}

/// Sends the requests of a client, until all that were due before the end are answered.
fn send_as(
    client: usize,
    rate: Option<f64>,
    request: Request<'_>,
    ended: &OnceLock<Instant>,
) -> std::io::Result<Vec<Sent>> {
    let (agent, began) = (ureq::Agent::new_with_defaults(), Instant::now());
    // A request that waits delays only those of its kind.
    let kind = client % KINDS;
    let mut sent = Vec::new();
    for round in 0_usize.. {
        let number = round * CLIENTS + client;
        let due = rate.map_or_else(Instant::now, |rate| {
            began + Duration::from_secs_f64(number as f64 / rate)
        });
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if ended.get().is_some_and(|ended| due > *ended) {
            break;
        }
        request(&agent, number, kind)?;
        sent.push((kind, due, Instant::now()));
    }
    Ok(sent)
}

/// Sends requests at a rate while one thread only computes. Shows the time that requests lose
/// because clients, router and servers share few processors with any other work.
pub(crate) fn send_beside_computation(rate: f64, request: Request<'_>) -> std::io::Result<Times> {
    let compute = || {
        let begun = Instant::now();
        while begun.elapsed() < SENDING {
            std::hint::spin_loop();
        }
        Ok(())
    };
    send_beside(Some(rate), request, &compute).map(|(times, ())| times)
}

/// Writes a user.
pub(crate) fn write_user(agent: &ureq::Agent, url: &str, key: &str) -> std::io::Result<()> {
    let row = json!({"table": "users", "op": "upsert", "data":
        {"user_id": key, "name": "n", "email": "e@example.com"}});
    let sent = agent.post(format!("{url}/api/write")).header("x-shard-key", key).send_json(row);
    let mut reply = sent.map_err(Error::other)?;
    // The connection is used again only once the response was read.
    reply.body_mut().read_to_vec().map(drop).map_err(Error::other)
}

/// Prints a quantile, such as 0.99, and the longest time of each kind of request, before a change
/// and during it.
pub(crate) fn print_quantile(quantile: f64, kinds: [&str; KINDS], before: &Times, during: &Times) {
    let percentile = quantile * 100.0;
    for (kind, name) in kinds.iter().enumerate() {
        let [before, during] = [before, during].map(|times| of_kind(times, kind));
        let [highest_before, highest_during] = [&before, &during].map(|times| highest_of(times));
        let [slow_before, slow_during] = [&before, &during].map(|times| time_at(times, quantile));
        let rest = match (slow_before, slow_during) {
            (Some(before), Some(during)) => format!(
                "p{percentile} and longest: before {before:.1} and {highest_before:.1} ms, during {during:.1} \
                 and {highest_during:.1} ms   {:.2} of before",
                during / before
            ),
            (..) => format!(
                "too few for p{percentile}; longest: before {highest_before:.1} ms, during {highest_during:.1} ms"
            ),
        };
        println!("  {name:<16} {rest} ({} and {} requests)", before.len(), during.len());
    }
}

/// Prints the 99th percentile and the longest time of each kind of request, before a change and
/// during it.
pub(crate) fn print_p99(kinds: [&str; KINDS], before: &Times, during: &Times) {
    print_quantile(0.99, kinds, before, during);
}

/// Returns the times of a kind, the shortest first.
fn of_kind(times: &Times, kind: usize) -> Vec<f64> {
    let mut times: Vec<f64> =
        times.iter().filter(|(of, _)| *of == kind).map(|(_, time)| *time).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Returns a quantile; `None` if there are too few times to distinguish it from the longest one.
fn time_at(times: &[f64], quantile: f64) -> Option<f64> {
    let at = (times.len() as f64 * quantile).ceil() as usize;
    if at < times.len() { times.get(at.checked_sub(1)?).copied() } else { None }
}

fn highest_of(times: &[f64]) -> f64 {
    highest(times.iter().copied())
}

/// Returns the highest of some times.
pub(crate) fn highest(times: impl Iterator<Item = f64>) -> f64 {
    times.fold(0.0, f64::max)
}
