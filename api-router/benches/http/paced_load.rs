//! Paced load: clients that send requests at a rate, and the time of each response.
//!
//! A request that falls behind the rate is measured from the time at which it was due, so that one
//! slow response is not hidden by the requests that wait for it.

use std::io::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

/// Clients, each with one connection.
const CLIENTS: usize = 32;
/// Shortest time for which the clients send requests.
pub(crate) const SENDING: Duration = Duration::from_secs(8);
/// Kinds of requests. Each client sends those of one kind.
const KINDS: usize = 2;

/// Sends a request of a kind, with its number among all requests.
type Request<'r> = &'r (dyn Fn(&ureq::Agent, usize, usize) -> std::io::Result<()> + Sync);

/// Kind of each request, and its time in milliseconds.
pub(crate) type Times = Vec<(usize, f64)>;

/// Sends `rate` requests a second, or as many as the clients can, until `beside` has ended and for
/// at least [`SENDING`].
pub(crate) fn send(
    rate: Option<f64>,
    request: Request<'_>,
    beside: &dyn Fn() -> std::io::Result<()>,
) -> std::io::Result<Times> {
    let (times, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let client = |client: usize| -> std::io::Result<()> {
        let agent = ureq::Agent::new_with_defaults();
        let began = Instant::now();
        let mut own = Vec::new();
        // A request that waits delays only those of its kind.
        let kind = client % KINDS;
        for round in 0_usize.. {
            let number = round * CLIENTS + client;
            let due = rate.map_or_else(Instant::now, |rate| {
                began + Duration::from_secs_f64(number as f64 / rate)
            });
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if is_over.load(Ordering::Acquire) {
                break;
            }
            request(&agent, number, kind)?;
            own.push((kind, due.elapsed().as_secs_f64() * 1e3));
        }
        times.lock().map_err(|_| Error::other("a client failed"))?.append(&mut own);
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        let began = Instant::now();
        let done = beside();
        std::thread::sleep(SENDING.saturating_sub(began.elapsed()));
        is_over.store(true, Ordering::Release);
        for client in clients {
            client.join().map_err(|_| Error::other("a client failed"))??;
        }
        done
    })?;
    times.into_inner().map_err(|_| Error::other("a client failed"))
}

/// Sends requests at a rate while one thread only computes. Shows the time that requests lose
/// because clients, router and servers share few processors with any other work.
pub(crate) fn send_beside_computation(rate: f64, request: Request<'_>) -> std::io::Result<Times> {
    send(Some(rate), request, &|| {
        let begun = Instant::now();
        while begun.elapsed() < SENDING {
            std::hint::spin_loop();
        }
        Ok(())
    })
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

/// Returns a quantile of the times of a kind, and the highest of them.
pub(crate) fn quantile(times: &Times, kind: usize, share: f64) -> (f64, f64) {
    let mut times: Vec<f64> =
        times.iter().filter(|(of, _)| *of == kind).map(|(_, time)| *time).collect();
    times.sort_by(f64::total_cmp);
    let at = times.get((times.len() as f64 * share) as usize).copied();
    (at.unwrap_or(0.0), highest(times.into_iter()))
}

/// Prints the 99th percentile and the longest time of each kind of request, before a change and
/// during it.
pub(crate) fn print_p99(kinds: [&str; KINDS], before: &Times, during: &Times) {
    for (kind, name) in kinds.iter().enumerate() {
        let [before, during] = [before, during].map(|times| quantile(times, kind, 0.99));
        println!(
            "  {name:<16} p99 and longest: before {:.1} and {:.1} ms, during {:.1} and {:.1} ms   {:.2} of before",
            before.0,
            before.1,
            during.0,
            during.1,
            during.0 / before.0
        );
    }
}

/// Returns the highest of some times.
pub(crate) fn highest(times: impl Iterator<Item = f64>) -> f64 {
    times.fold(0.0, f64::max)
}
