//! The service's process: reads the configuration, serves, and ends in order.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use analytics::service::config::{Config, Flags};
use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The exit code of a start that the operator has to change something for.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match Config::read(&flags).and_then(|config| {
        let exposed = if flags.print_config { Ok(()) } else { config.check_exposure() };
        exposed.map(|()| config)
    }) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    if flags.print_config {
        print!("{}", config.table());
        return ExitCode::SUCCESS;
    }
    if let Some(question) = flags.probe {
        return match question.ask(config.bind) {
            Ok(()) => ExitCode::SUCCESS,
            Err(no) => {
                eprintln!("{no}");
                ExitCode::FAILURE
            }
        };
    }
    start_log(config.log);
    match analytics::service::run(&config, |bound| print_banner(&config, bound)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// One line an event on standard error. What the framework says of its workers, and of bytes that are no HTTP, is for
/// debugging.
fn start_log(level: tracing::Level) {
    let mut filter = Targets::new().with_default(level);
    if level < tracing::Level::DEBUG {
        filter = filter
            .with_target("actix_server", LevelFilter::WARN)
            .with_target("actix_http", LevelFilter::OFF);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
}

fn print_banner(config: &Config, bound: SocketAddr) {
    let exposed = if bound.ip().to_canonical().is_loopback() {
        "only this machine can reach it; there is no authentication"
    } else {
        "EVERYBODY who reaches this address can read it: there is no authentication"
    };
    let routers: Vec<String> = config.routers.iter().map(ToString::to_string).collect();
    let store = config.store.as_ref().map_or_else(
        || "nowhere: history ends with this process".to_owned(),
        |store| format!("in {store}"),
    );
    let banner = format!(
        "Tessera analytics {version}, collecting from {routers}
  dashboard  http://{bound}/dashboard    {exposed}
  API        http://{bound}/
  history    {store}
  alerts     {rules} rules, {webhooks} webhooks
  end        Ctrl-C
",
        version = env!("CARGO_PKG_VERSION"),
        routers = routers.join(", "),
        rules = config.rules.len(),
        webhooks = config.webhooks.len(),
    );
    // A closed standard output is no reason to end.
    let _ = std::io::stdout().write_all(banner.as_bytes());
}
