//! Options: what may be asked on the command line, parsed into types that cannot be wrong.
//!
//! **Invariant:** an [`Options`] is within its limits; [`Options::check_reach`] is the one rule
//! that needs two of them at once.
//! **Not here:** goose's own flags. None of them is accepted; `scenarios` sets what goose needs.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use reqwest::Url;

/// Users at once. Above this the ports and files of one machine are measured, not the router.
const USERS_MAX: i64 = 1_000;
/// Longest run. A user remembers every key it wrote, so a run needs an end.
const RUN_TIME_MAX: Duration = Duration::from_secs(3_600);
/// Most keys. More than a run of an hour can write on one machine.
const KEYS_MAX: i64 = 10_000_000;

/// Puts a Tessera router under load, checks its answers, prints rate and latency, and ends.
///
/// Exit code: 0 every request was answered as promised, 1 some were not, 2 nothing was tested
/// (wrong usage, or no router).
#[derive(Clone, Debug, Parser)]
#[command(name = "loadtest", version)]
pub(crate) struct Options {
    /// The router: scheme, host and port
    #[arg(
        long,
        value_name = "URL",
        env = "TESSERA_LOADTEST_HOST",
        default_value = "http://127.0.0.1:3000"
    )]
    pub(crate) host: Target,

    /// Users at once; each sends its next request when it has its answer (1..=1000)
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=USERS_MAX))]
    pub(crate) users: u32,

    /// Seconds to run, as `15` or `15s` (1..=3600)
    #[arg(long, value_name = "TIME", default_value = "15", value_parser = parse_run_time)]
    pub(crate) run_time: Duration,

    /// Keys are user_0 to user_(N-1) (1..=10000000)
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    pub(crate) keys: u32,

    /// Share of writes in percent; the rest are reads (0..=100)
    #[arg(long, value_name = "PERCENT", default_value_t = 70,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) writes: u8,

    /// Start of the random keys: the same seed makes each user ask the same things in the same order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Allow a host that is not this machine; ask its owner first
    #[arg(long)]
    pub(crate) allow_remote: bool,
}

impl Options {
    /// Refuses another machine unless that was asked for: load on a stranger is an attack.
    pub(crate) fn check_reach(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.allow_remote || self.host.is_loopback(),
            "{} is not this machine, and a load test can take a server down: \
             add --allow-remote if it is yours",
            self.host
        );
        Ok(())
    }
}

/// Where the router is: scheme, host and port, nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Target(Url);

impl Target {
    /// The address of one of the router's paths.
    pub(crate) fn at(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(path);
        url
    }

    /// Whether only this machine can be meant.
    fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let wanted = "write it like http://127.0.0.1:3000";
        let url = Url::parse(raw).map_err(|error| format!("{error}; {wanted}"))?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if plain { Ok(Self(url)) } else { Err(format!("scheme, host and port only; {wanted}")) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Reads `15` or `15s`.
fn parse_run_time(raw: &str) -> Result<Duration, String> {
    let seconds: u64 = raw
        .strip_suffix('s')
        .unwrap_or(raw)
        .parse()
        .map_err(|_| "whole seconds are wanted, like 15 or 15s".to_owned())?;
    let run_time = Duration::from_secs(seconds);
    if run_time.is_zero() || run_time > RUN_TIME_MAX {
        return Err(format!("between 1 and {} seconds", RUN_TIME_MAX.as_secs()));
    }
    Ok(run_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from([&["loadtest"], args].concat())
    }

    #[test]
    fn the_limits_are_what_the_help_says() {
        for good in [
            ["--users", "1"],
            ["--users", "1000"],
            ["--run-time", "15s"],
            ["--run-time", "3600"],
            ["--keys", "10000000"],
            ["--writes", "0"],
            ["--writes", "100"],
            ["--host", "http://[::1]:3000/"],
        ] {
            assert!(parse(&good).is_ok(), "{good:?}");
        }
        for bad in [
            ["--users", "0"],
            ["--users", "1001"],
            ["--run-time", "0"],
            ["--run-time", "3601"],
            ["--run-time", "1m"],
            ["--run-time", "-1"],
            ["--keys", "0"],
            ["--keys", "10000001"],
            ["--writes", "101"],
            ["--seed", "x"],
            ["--host", "localhost:3000"],
            ["--host", "ftp://localhost"],
            ["--host", "http://localhost/api"],
            ["--host", "http://me@localhost"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_this_machine_is_loaded_unless_asked() {
        for (host, allowed) in [
            ("http://localhost:3000", true),
            ("http://127.0.0.1:3000", true),
            ("http://127.9.9.9", true),
            ("https://[::1]:3000", true),
            ("http://0.0.0.0:3000", false),
            ("http://192.168.0.7:3000", false),
            ("http://127.0.0.1.example.com", false),
            ("http://localhost.example.com", false),
        ] {
            let options = parse(&["--host", host]).unwrap();
            assert_eq!(options.check_reach().is_ok(), allowed, "{host}");
            let options = parse(&["--host", host, "--allow-remote"]).unwrap();
            assert!(options.check_reach().is_ok(), "{host}");
        }
    }

    #[test]
    fn a_target_is_shown_and_extended_without_a_double_slash() {
        let target: Target = "http://127.0.0.1:3000/".parse().unwrap();
        assert_eq!(target.to_string(), "http://127.0.0.1:3000");
        assert_eq!(target.at("/ready").as_str(), "http://127.0.0.1:3000/ready");
    }
}
