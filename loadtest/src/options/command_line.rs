//! Command line: the options of the load tester, together with those options of goose that have an
//! effect in the load tester.
//!
//! **Invariant:** an option of goose that has no effect in the load tester is refused, and the help
//! does not list it.
//! **Not here:** the limits of values (`options`).

use checker::history::Level;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};

use super::{Options, PATIENCE, PATIENCE_MAX, RUN_TIME, USERS};

const HOST: &str = "http://127.0.0.1:3000";
const HOST_VARIABLE: &str = "TESSERA_LOADTEST_HOST";

/// Options of goose that have no effect in the load tester, each with its id, its spelling and the
/// reason.
const WITHOUT_EFFECT: [(&str, &str, &str); 5] = [
    (
        "accept_invalid_certs",
        "--accept-invalid-certs",
        "certificates are always checked; SSL_CERT_FILE names a file with others to trust",
    ),
    ("no_gzip", "--no-gzip", "no compressed responses are requested"),
    ("sticky_follow", "--sticky-follow", "redirects are not followed"),
    ("telnet_host", "--telnet-host", "there is no telnet controller"),
    ("telnet_port", "--telnet-port", "there is no telnet controller"),
];

/// Returns the command line. The host may be given several times.
pub(super) fn command() -> Command {
    let about = |short: &'static str, long: String| move |arg: Arg| arg.help(short).long_help(long);
    let command = Options::command()
        .mut_arg("host", |host| {
            host.action(ArgAction::Append)
                .value_delimiter(',')
                .env(HOST_VARIABLE)
                .default_value(HOST)
                .help("A router, such as http://127.0.0.1:3000; repeatable")
                .long_help(
                    "A router: scheme, host and port. Several, repeated or with commas, share the load",
                )
        })
        .mut_arg(
            "users",
            about(
                "Concurrent users",
                format!("Concurrent users [default: {USERS}]. Not allowed with --test-plan"),
            ),
        )
        .mut_arg(
            "increase_rate",
            about(
                "Users started per second",
                "Users started per second, such as 0.5 [default: all of them at once]. Not allowed \
                 with --increase-time or --test-plan"
                    .to_owned(),
            ),
        )
        .mut_arg(
            "run_time",
            about(
                "Run this long after all users have started",
                format!(
                    "Run this long after all users have started, such as 90s or 1h30m [default: \
                     {RUN_TIME}, unless --iterations or --test-plan ends the run]"
                ),
            ),
        )
        .mut_arg(
            "timeout",
            about(
                "Seconds after which a request without a response has failed",
                format!(
                    "Seconds after which a request without a response has failed, above 0 and at \
                     most {} [default: {}]",
                    PATIENCE_MAX.as_secs(),
                    PATIENCE.as_secs()
                ),
            ),
        )
        .mut_arg("version", about("Print version", "Print version".to_owned()))
        // The telnet controller is always off.
        .mut_arg("no_telnet", |arg| arg.hide(true));
    WITHOUT_EFFECT
        .iter()
        .fold(command, |command, (id, ..)| command.mut_arg(id, |arg| arg.hide(true)))
}

/// Returns the error message for an option without effect, if one was given on the command line.
pub(super) fn without_effect(matches: &ArgMatches) -> Option<String> {
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let (_, option, why) = WITHOUT_EFFECT.iter().find(|(id, ..)| given(id))?;
    Some(format!("{option} has no effect here: {why}"))
}

/// Returns the parser of `--level`, with help for each level.
pub(super) fn level_parser() -> impl TypedValueParser<Value = Level> {
    let values = Level::ALL.map(|level| {
        PossibleValue::new(level.name()).help(match level {
            Level::One => {
                "Writes: the primary. Reads: any replica, no older than token and bound allow"
            }
            Level::Quorum => "Writes: a majority. Reads: linearizable",
            Level::All => "Writes: every node. Reads: the primary, linearizable",
        })
    });
    PossibleValuesParser::new(values).try_map(|name| {
        let level = Level::ALL.into_iter().find(|level| level.name() == name);
        level.ok_or_else(|| format!("no level {name}"))
    })
}
