//! Options: the command line of the load tester, without the options that goose defines.
//!
//! A scenario file is a list of options with values. Options on the command line take precedence.
//!
//! **Invariant:** every value of an [`Options`] is within its limits; [`Options::check`] contains
//! the rules that concern several options.

mod command_line;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use checker::history::Level;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use credential::Credential;
use goose::config::GooseConfiguration;

pub(crate) use self::values::{ValueSize, parse_time};

use self::command_line::{command, level_parser, without_effect};
use self::values::parse_rate;
use crate::fault_kind::FaultKind;
use crate::http_client::{Pool, Target};
use crate::keys::Dist;
use crate::mix::Mix;
use crate::scenario;

/// Maximum number of tenants. Each has connections of its own.
const TENANTS_MAX: i64 = 64;
/// Maximum number of concurrent users. With more, a run would measure the limits on ports and files
/// of one machine and not the router.
const USERS_MAX: usize = 1_000;
/// Maximum number of keys, which is more than a run of an hour can write on one machine.
const KEYS_MAX: i64 = 10_000_000;
/// Maximum number of requests in progress in the open model. Each of them has a connection of its
/// own.
const IN_FLIGHT_MAX: i64 = 10_000;
/// Minimum rate of a run with `--verify`, in requests per second. A lower rate would delay the end
/// of a run, because each step in progress must first send its several requests.
const VERIFIED_RATE_MIN: f64 = 1.0;
/// Default time after which a request without a response has failed: twice the router's own
/// deadline of 5 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest timeout, which is the longest time that histograms can distinguish.
const PATIENCE_MAX: Duration = Duration::from_secs(600);
const USERS: usize = 20;
const RUN_TIME: &str = "15s";

/// Puts a Tessera router under load, checks its answers, prints rate and latency, and ends.
///
/// Exit code: 0 every request was answered as promised, 1 some were not, a threshold failed or no
/// request was made, 2 nothing was tested (wrong usage, or no router) or a report could not be
/// written, 3 no guarantee was violated, but writes acknowledged at level `one` were lost after a
/// promotion.
#[derive(Clone, Parser)]
#[command(
    name = "loadtest",
    disable_version_flag = true,
    args_override_self = true,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Options {
    /// Command instead of a run
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) goose: GooseConfiguration,

    #[command(flatten)]
    pub(crate) load: Load,

    /// All values of `--host`.
    #[arg(skip)]
    pub(crate) targets: Vec<Target>,

    /// True if `--test-plan` sets the number of users and the run time.
    #[arg(skip)]
    planned: bool,
}

/// Commands that need no router.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    Check(loadtest::check::CheckOptions),
}

/// Options of the load.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tessera")]
pub(crate) struct Load {
    /// Options from a file, or from one that comes with it: read-heavy, write-heavy, bulk-import,
    /// hot-key, replica-lag, crash
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) scenario: Option<String>,

    /// Operations of the users
    #[arg(long, value_enum, default_value_t = Mix::Default)]
    pub(crate) mix: Mix,

    /// Distribution of keys: uniform, zipf:0.99, hot:1% (90 % of the requests on 1 % of the keys)
    /// or latest [default: the mix's own]
    #[arg(long)]
    pub(crate) dist: Option<Dist>,

    /// Share of writes in percent in the mixes default and hotkey; the rest are reads (0..=100)
    #[arg(long, value_name = "PERCENT", default_value_t = 70,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) writes: u8,

    /// Number of keys of the run's own, spelled as the cluster's keyspace demands (1..=10000000)
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    pub(crate) keys: u32,

    /// Bytes of the value that a write carries, as `100` or `100..2000`
    #[arg(long, value_name = "BYTES", default_value = "20")]
    pub(crate) value_size: ValueSize,

    /// Do not write all keys before the run: reads may then find nothing
    #[arg(long)]
    pub(crate) no_fill: bool,

    /// Open model: so many requests per second, whatever the responses. Latency counts from when a
    /// request was due. With --verify, at most so many (1 or more): users wait for their responses,
    /// and latency counts from the request itself
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,

    /// Maximum number of requests under way in the open model; those due beyond are dropped and
    /// counted (1..=10000)
    #[arg(long, value_name = "N", default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX))]
    pub(crate) in_flight: u32,

    /// Check the guarantees: run a workload without a mix, record every response, and check all of
    /// them afterwards
    #[arg(long, conflicts_with_all = ["in_flight", "mix", "dist"])]
    pub(crate) verify: bool,

    /// Start a router over a directory of its own, and kill, freeze and restart it while the
    /// workload runs
    #[arg(long, requires = "verify")]
    pub(crate) chaos: bool,

    /// The router's program for --chaos [default: api-router beside this program]
    #[arg(long, value_name = "FILE", requires = "chaos")]
    pub(crate) router: Option<std::path::PathBuf>,

    /// Further options of that router, as one text: "--shards 3 --replicas 2"
    #[arg(long, value_name = "OPTIONS", requires = "chaos", allow_hyphen_values = true)]
    pub(crate) router_options: Option<String>,

    /// Start that router on the local PostgreSQL servers of this directory, which must be running,
    /// and break its nodes too: each is behind a proxy of the tester
    #[arg(long, value_name = "DIR", requires = "chaos")]
    pub(crate) cluster: Option<PathBuf>,

    /// Number of routers on that cluster, which share the load; a fault of a router affects one of
    /// them at a time, in turn (1..=4)
    #[arg(long, value_name = "N", requires = "chaos", default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=4))]
    pub(crate) routers: u8,

    /// The program that created the cluster and makes writes to slots wait [default: shard-manager
    /// beside this program, or in PATH]
    #[arg(long, value_name = "FILE", requires = "chaos")]
    pub(crate) shard_manager: Option<PathBuf>,

    /// Give that router a cache: a Redis of the tester's own, which is emptied, frozen and killed
    /// too
    #[arg(long, requires = "chaos")]
    pub(crate) cache: bool,

    /// The program of that Redis [default: redis-server in PATH]
    #[arg(long, value_name = "FILE", requires = "cache")]
    pub(crate) redis_server: Option<PathBuf>,

    /// Faults of --chaos, with commas [default: the router; with --cluster its nodes too, and
    /// promotions if --level says that they lose nothing: quorum or all; with --cache the cache
    /// too]
    #[arg(long, value_name = "LIST", requires = "chaos", value_enum, value_delimiter = ',')]
    pub(crate) faults: Vec<FaultKind>,

    /// Consistency level of the writes of --verify [default: mostly one, some quorum, a few all]
    #[arg(long, value_name = "LEVEL", requires = "verify", value_parser = level_parser())]
    pub(crate) level: Option<Level>,

    /// Write what was sent and answered to a file, as JSON lines, for `loadtest check FILE`
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub(crate) history: Option<std::path::PathBuf>,

    /// Seed of the random numbers: with the same seed, each user sends the same requests in the
    /// same order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Write the report to a file as one page of HTML, with graphs over time
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Write the report to a file as JSON, for --compare
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,

    /// Show what is better or worse than in an earlier run: a file that --save or --json wrote
    #[arg(long, value_name = "RUN")]
    pub(crate) compare: Option<PathBuf>,

    /// Leave the rows of the run where they are: in loadtest_users and loadtest_transactions, or in
    /// kv
    #[arg(long)]
    pub(crate) keep: bool,

    /// Do not ask before rows are written beside rows that are not the tester's
    #[arg(long)]
    pub(crate) yes: bool,

    /// Remove the rows that runs have left behind, also those of a run that is under way, and end
    #[arg(long, conflicts_with_all = ["chaos", "keep", "scenario"])]
    pub(crate) clean: bool,

    /// Divide the users among so many tenants, each with a key of its own, which reads and writes
    /// its own rows and tries to reach those of others (2..=64); needs the key of an administrator
    #[arg(long, value_name = "N", conflicts_with = "chaos",
        value_parser = clap::value_parser!(u32).range(2..=TENANTS_MAX))]
    pub(crate) tenants: Option<u32>,

    /// File with the API key for the routers [env: TESSERA_KEY, the key itself]
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Allow a host that is not this machine; ask its owner first
    #[arg(long)]
    pub(crate) allow_remote: bool,
}

impl Load {
    /// Returns the rate of the open model; `None` in the closed model. With `--verify` the model is
    /// closed, and the rate is a maximum.
    pub(crate) fn open_rate(&self) -> Option<f64> {
        self.rate.filter(|_| !self.verify)
    }

    /// Returns the kinds of faults of the run.
    pub(crate) fn kinds(&self) -> Vec<FaultKind> {
        if !self.faults.is_empty() {
            return self.faults.clone();
        }
        let mut kinds = match (&self.cluster, self.level) {
            (None, _) => FaultKind::OF_ROUTER.to_vec(),
            (Some(_), Some(Level::Quorum | Level::All)) => {
                [&FaultKind::OF_CLUSTER[..], &[FaultKind::Promote]].concat()
            }
            (Some(_), Some(Level::One) | None) => FaultKind::OF_CLUSTER.to_vec(),
        };
        if self.cache {
            kinds.extend(FaultKind::OF_CACHE);
        }
        kinds
    }
}

impl Options {
    /// Reads the command line, and the scenario file that it names.
    ///
    /// # Errors
    /// Returns clap's errors, one of which is a request for help, and an error if the scenario does
    /// not exist or has unknown options.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let args: Vec<OsString> = args.into_iter().collect();
        // Options are checked once, after those of the scenario have been added to those of the
        // command line.
        let given = command().ignore_errors(true).try_get_matches_from(&args);
        let name = given.ok().and_then(|given| given.get_one::<String>("scenario").cloned());
        let Some(name) = name else { return Self::of(&Self::matches(&args)?) };
        let given_hosts = command()
            .ignore_errors(true)
            .try_get_matches_from(&args)
            .is_ok_and(|given| given.value_source("host") == Some(ValueSource::CommandLine));
        let mut lines = scenario::arguments(&name).map_err(|error| {
            command().error(clap::error::ErrorKind::ValueValidation, format!("{error:#}"))
        })?;
        if given_hosts {
            lines.retain(|line| !line.starts_with("--host="));
        }
        let program = args.iter().take(1).cloned();
        let rest = args.iter().skip(1).cloned();
        let all: Vec<OsString> =
            program.chain(lines.into_iter().map(Into::into)).chain(rest).collect();
        Self::of(&Self::matches(&all)?)
    }

    fn matches(args: &[OsString]) -> Result<ArgMatches, clap::Error> {
        command().try_get_matches_from(args)
    }

    fn of(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let hosts = matches.get_many::<String>("host");
        let hosts: Vec<String> = hosts.into_iter().flatten().cloned().collect();
        let mut options = Self::from_arg_matches(matches)?;
        options.planned = matches.contains_id("test_plan");
        let refused =
            |message: String| command().error(clap::error::ErrorKind::ValueValidation, message);
        if options.load.chaos && matches.value_source("host") == Some(ValueSource::CommandLine) {
            return Err(refused("--chaos starts a router of its own: leave --host out".to_owned()));
        }
        if let Some(message) = without_effect(matches) {
            return Err(refused(message));
        }
        for host in hosts {
            let target =
                host.parse().map_err(|error| refused(format!("--host {host}: {error}")))?;
            options.targets.push(target);
        }
        options.complete();
        options.check().map_err(|error| refused(error.to_string()))?;
        Ok(options)
    }

    /// Replaces goose's defaults: a plain run starts all users at once, and ends by itself.
    fn complete(&mut self) {
        let goose = &mut self.goose;
        if !self.planned {
            let users = *goose.users.get_or_insert(USERS);
            if goose.increase_time.is_none() && goose.increase_rate.is_none() {
                // All users start within the first tenth of a second.
                goose.increase_rate = Some((users * 10).to_string());
            }
            if goose.run_time.is_none() && goose.iterations.is_none() {
                goose.run_time = Some(RUN_TIME.to_owned());
            }
        }
        goose.host = self.targets.first().map(ToString::to_string);
        goose.no_telnet = true;
    }

    fn check(&self) -> anyhow::Result<()> {
        let Load { mix, rate, keys, cluster, shard_manager, cache, faults, .. } = &self.load;
        anyhow::ensure!(
            *cache || !faults.iter().any(|kind| FaultKind::OF_CACHE.contains(kind)),
            "--faults: without --cache there is no Redis to break"
        );
        anyhow::ensure!(
            cluster.is_some() || !faults.iter().any(|kind| kind.needs_cluster()),
            "--faults: without --cluster DIR there is only the router to break: router-kill, router-freeze, \
             router-restart, fence, move, rollback, join, drain"
        );
        anyhow::ensure!(
            self.load.routers == 1 || cluster.is_some(),
            "--routers: without --cluster DIR a router has a directory of its own, which admits no other one"
        );
        anyhow::ensure!(
            !faults.contains(&FaultKind::Rollback) || faults.contains(&FaultKind::Move),
            "--faults rollback: without move there is nothing to roll back"
        );
        anyhow::ensure!(
            !faults.contains(&FaultKind::Drain) || faults.contains(&FaultKind::Join),
            "--faults drain: a shard is drained that has joined: add join"
        );
        anyhow::ensure!(
            shard_manager.is_none() || cluster.is_some() || faults.contains(&FaultKind::Fence),
            "--shard-manager: only --cluster DIR and --faults fence use that program"
        );
        anyhow::ensure!(
            self.goose.users.is_none_or(|users| (1..=USERS_MAX).contains(&users)),
            "--users: 1 to {USERS_MAX}; above that the ports and files of this machine are measured"
        );
        anyhow::ensure!(
            rate.is_none() || *mix != Mix::F,
            "--rate sends single requests; the mix f sends pairs: use --mix a"
        );
        anyhow::ensure!(
            !self.load.verify || rate.is_none_or(|rate| rate >= VERIFIED_RATE_MIN),
            "--rate: with --verify at least {VERIFIED_RATE_MIN} request per second"
        );
        anyhow::ensure!(
            *mix != Mix::Bulk || *keys >= crate::requests::BULK_ROWS,
            "--keys: the mix bulk writes {} different keys at once",
            crate::requests::BULK_ROWS
        );
        let (tenants, users) = (self.load.tenants, self.goose.users);
        if let (Some(tenants), Some(users), None) = (tenants, users, self.load.open_rate()) {
            anyhow::ensure!(
                users >= tenants as usize,
                "--users: each of the {tenants} tenants needs a user of its own"
            );
        }
        self.patience()?;
        self.check_reach()
    }

    /// Refuses targets on other machines without `--allow-remote`, because unwanted load is an
    /// attack.
    fn check_reach(&self) -> anyhow::Result<()> {
        for target in self.targets.iter().filter(|_| !self.load.chaos) {
            anyhow::ensure!(
                self.load.allow_remote || target.is_loopback(),
                "{target} is not this machine, and a load test can take a server down: \
                 add --allow-remote if it is yours"
            );
        }
        Ok(())
    }

    /// Returns the longest wait for a response: `--timeout`, in seconds.
    pub(crate) fn patience(&self) -> anyhow::Result<Duration> {
        let Some(text) = &self.goose.timeout else { return Ok(PATIENCE) };
        let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
        let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        time.filter(|time| *time <= PATIENCE_MAX).ok_or_else(|| {
            anyhow::anyhow!("--timeout: seconds, above 0 and at most 600, not {text}")
        })
    }

    /// Returns a pool of connections for each router, with the credential of the run.
    ///
    /// # Errors
    /// Fails if the credential cannot be read, if sending it to a router would expose it to others,
    /// or if TLS is needed and this machine trusts no certificates.
    pub(crate) fn pools(&self) -> anyhow::Result<Vec<Arc<Pool>>> {
        let credential = Credential::find(self.load.key_file.as_deref())?;
        Pool::of(&self.targets, credential.as_ref())
    }

    /// Returns the distribution of keys.
    pub(crate) fn dist(&self) -> Dist {
        self.load.dist.unwrap_or_else(|| self.load.mix.dist())
    }

    /// Replaces the routers that the command line names by those with these URLs.
    pub(crate) fn aim_at(&mut self, urls: &[String]) -> Result<(), String> {
        self.targets = urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?;
        self.goose.host = urls.first().cloned();
        Ok(())
    }

    /// Returns the description of the run in a report.
    pub(crate) fn description(&self) -> String {
        let goose = &self.goose;
        let Load { mix, writes, keys, seed, rate, verify, chaos, .. } = &self.load;
        let users = goose.users.map(|users| format!("{users} users"));
        let users = users.unwrap_or_else(|| "users by plan".to_owned());
        let load = match rate {
            Some(rate) if *verify => format!("{users}, at most {rate} requests/s"),
            Some(rate) => format!("{rate} requests/s"),
            None => users,
        };
        let time = goose.run_time.as_deref().map(|time| match time.ends_with(char::is_numeric) {
            true => format!(", {time}s"),
            false => format!(", {time}"),
        });
        let tenants = self.load.tenants.map(|tenants| format!(", {tenants} tenants"));
        let time = time.unwrap_or_default() + &tenants.unwrap_or_default();
        let share =
            if mix.has_writes_share() { format!(" ({writes} % writes)") } else { String::new() };
        if *verify {
            let faults = self.load.faults.iter().filter_map(FaultKind::to_possible_value);
            let faults: Vec<String> = faults.map(|fault| fault.get_name().to_owned()).collect();
            let named = format!(", with the faults {}", faults.join(", "));
            let chaos = match (chaos, &self.load.cluster) {
                (true, _) if !faults.is_empty() => &named,
                (true, Some(_)) => ", with faults of the router and of nodes",
                (true, None) => ", with the router killed and frozen",
                (false, _) => "",
            };
            let cache = if self.load.cache { ", with a cache" } else { "" };
            let level = self.load.level;
            let level =
                level.map_or_else(String::new, |level| format!(", writes at {}", level.name()));
            return format!("{load}{time}, verifying workload{level}{cache}, seed {seed}{chaos}");
        }
        format!("{load}{time}, mix {mix}{share}, {keys} keys, {}, seed {seed}", self.dist())
    }
}

#[cfg(test)]
mod tests;
