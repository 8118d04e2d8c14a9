//! Load generator: runs wrk, and parses its output.

use std::io::Error;
use std::path::Path;
use std::process::Command;

/// Parameters of one run of wrk.
pub(crate) struct Load<'l> {
    pub(crate) url: &'l str,
    pub(crate) script: &'l str,
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
}

/// Result of a run.
pub(crate) struct Found {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Requests in all.
    pub(crate) requests: f64,
    /// Median latency, in milliseconds.
    pub(crate) p50_ms: f64,
}

/// Runs wrk; a run with any response that is not 2xx is not a measurement.
pub(crate) fn wrk(load: &Load<'_>, dir: &Path) -> std::io::Result<Found> {
    let file = dir.join("wrk.lua");
    std::fs::write(&file, load.script)?;
    let duration = format!("-d{}s", load.seconds);
    let connections = format!("-c{}", load.connections);
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", &connections, &duration, "-s"]).arg(&file).arg(load.url);
    let output = command.output().map_err(|error| {
        Error::other(format!("wrk cannot be run (install the package wrk): {error}"))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(Error::other(format!("not all answers were 2xx:\n{text}")));
    }
    let after = |label: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let requests = text.lines().find_map(|line| {
        let (number, _) = line.trim().split_once(" requests in")?;
        number.parse().ok()
    });
    let found = after("Requests/sec:").and_then(|rate| rate.parse().ok()).zip(requests);
    let p50 = after("50%").and_then(|time| milliseconds(&time));
    match found.zip(p50) {
        Some(((rate, requests), p50_ms)) => Ok(Found { rate, requests, p50_ms }),
        None => Err(Error::other(format!("wrk said no rate:\n{text}"))),
    }
}

/// Parses a time such as `812.00us`, `1.20ms` or `1.02s` into milliseconds.
fn milliseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1_000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}

pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
