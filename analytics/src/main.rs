//! Main: the analytics program. It reads the configuration, runs the service until it receives a
//! signal, and shuts down cleanly.

#![forbid(unsafe_code)]

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use analytics::exit_status::{check_result, usage_error};
use analytics::log_format;
use analytics::service::config::{Config, Flags};
use clap::Parser;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match Config::read(&flags).and_then(|config| {
        let exposed = if flags.print_config { Ok(()) } else { config.check_exposure() };
        exposed.map(|()| config)
    }) {
        Ok(config) => config,
        Err(error) => return usage_error(error),
    };
    if flags.print_config {
        print!("{}", config.table());
        return ExitCode::SUCCESS;
    }
    if let Some(query) = flags.probe {
        return check_result(query.check(config.bind));
    }
    log_format::start(config.log);
    match analytics::service::run(&config, |bound| print_banner(&config, bound)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => usage_error(error),
    }
}

fn print_banner(config: &Config, bound: SocketAddr) {
    let exposed = match (config.access.is_on, bound.ip().to_canonical().is_loopback()) {
        (true, _) => "requests need an API key",
        (false, true) => "only this machine can reach it; access control is off",
        (false, false) => "EVERYBODY who reaches this address can read it: access control is off",
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
    // An error is ignored, because a closed standard output is not a reason to end.
    let _ = std::io::stdout().write_all(banner.as_bytes());
}
