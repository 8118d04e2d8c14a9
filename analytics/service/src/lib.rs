//! Service: collects the metrics of any number of routers, stores them, and serves them for each
//! router and for all routers together.
//!
//! The service sends requests to the routers, and no router waits for the service or depends on it.
//! After an outage, the service requests the frames that it has missed.
//!
//! **Invariant:** the service connects only to addresses in its configuration: routers, webhooks,
//! a store, and token issuers whose keys it fetches.
//! **Not here:** counting requests, computing metrics (`recorder`).

#![forbid(unsafe_code)]

pub mod alerts;
mod app;
mod clock_offset;
mod collector;
pub mod config;
mod discovery;
mod fleet;
mod fleet_query;
mod forward;
mod frame_response;
mod gate;
mod key_files;
mod merged;
mod middleware;
mod parameters;
mod problem;
mod router_key;
mod routes;
mod rule_readings;
mod scrape;
mod server;
mod webhook;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use tokio::runtime::{Builder, Runtime};

use self::app::App;
use self::collector::Collecting;
use self::config::{Config, RouterAddress};
use self::discovery::Discovery;
use self::fleet::Fleet;
use self::key_files::KeyFiles;
use self::router_key::RouterKey;
use self::rule_readings::RuleEvaluator;
use self::webhook::WebhookQueues;
use recorder::store::HistoryWriter;
use recorder::tls_roots;
use web_kit::cross_origin::{Exposure, Transport};
use web_kit::end_signals::EndSignals;
use web_kit::event_stream::Hub;
use web_kit::hangup_signals::HangupSignals;

/// Number of threads that collect frames; they mostly wait for responses.
const COLLECTORS: usize = 2;
/// Maximum number of threads that merge histograms and parse responses. It also limits the number
/// of large responses in memory.
const BUSY_MAX: usize = 8;
/// Longest wait, at the end of the service, for tasks that still run when everything else has
/// ended.
const END_MAX: Duration = Duration::from_secs(1);

/// Reason why the service cannot start, or has ended unexpectedly.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address is in use or not available.
    #[error("cannot serve on {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// A router or webhook has an https URL, and certificates cannot be checked.
    #[error("https cannot be spoken: {0}")]
    Trust(String),
    /// A thread, signal or socket failed.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] recorder::store::StoreError),
    /// Files of keys, roles or the key for routers cannot be used.
    #[error("{0}")]
    Access(String),
    /// The HTTP server ended although no signal was received.
    #[error("the server ended by itself")]
    Ended,
}

/// Runs the service until a signal ends it. Calls `started` with the address as soon as the service
/// listens on it.
///
/// # Errors
/// Fails with [`ServiceError`]; unreachable routers and an unreachable store are not errors.
pub fn run(config: &Config, started: impl FnOnce(SocketAddr)) -> Result<(), ServiceError> {
    let listener =
        TcpListener::bind(config.bind).map_err(|error| ServiceError::Bind(config.bind, error))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(COLLECTORS)
        .max_blocking_threads(BUSY_MAX)
        .thread_name("collector")
        .enable_all()
        .build()?;
    let served = serve(config, listener, &runtime, started);
    let served = actix_web::rt::System::new().block_on(served);
    runtime.shutdown_timeout(END_MAX);
    served
}

async fn serve(
    config: &Config,
    listener: TcpListener,
    runtime: &Runtime,
    started: impl FnOnce(SocketAddr),
) -> Result<(), ServiceError> {
    let bound = listener.local_addr()?;
    let app = Data::new(open(config, bound, runtime)?);
    let mut signals = EndSignals::listen()?;
    let server = server::serve(app.clone(), listener, config.workers)?;
    let handle = server.handle();
    let mut serving = actix_web::rt::spawn(server);
    started(bound);
    tokio::select! {
        signal = signals.next() => {
            app.drain();
            signals.drained(signal).await;
        }
        _ = &mut serving => return Err(ServiceError::Ended),
    }
    tracing::info!("ending: finishing what runs");
    handle.stop(true).await;
    let _ = serving.await;
    if let Some(history_writer) = &app.history_writer {
        history_writer.flush();
    }
    Ok(())
}

/// Starts the tasks that run in addition to the server.
fn open(config: &Config, bound: SocketAddr, runtime: &Runtime) -> Result<App, ServiceError> {
    let _within = runtime.enter();
    let hangup_signals = HangupSignals::listen()?;
    let routers = config.routers.iter().map(|router| match &router.address {
        RouterAddress::One(target) | RouterAddress::EachAddress(target) => target,
    });
    let webhooks = config.webhooks.iter().map(|webhook| &webhook.target);
    let is_secure = routers.chain(webhooks).any(|target| target.is_secure);
    let tls = is_secure.then(|| tls_roots::client(None)).transpose();
    let tls = tls.map_err(|error| ServiceError::Trust(error.to_string()))?.map(Arc::new);
    let key_files =
        KeyFiles::open(&config.access, config.behind_tls).map_err(ServiceError::Access)?;
    let router_key = RouterKey::open(config.access.router_key_file.clone());
    let router_key = router_key.map_err(ServiceError::Access)?;
    let history_writer = config.store.clone().map(HistoryWriter::open).transpose()?.map(Arc::new);
    let fleet = Arc::new(Fleet::default());
    let collecting = Collecting { history_writer, tls, router_key };
    let discovery = Discovery::start(fleet.clone(), &config.routers, collecting.clone());
    runtime.spawn(discovery.run());
    let webhook_queues = WebhookQueues::start(&config.webhooks, collecting.tls.as_ref());
    let rule_evaluator = RuleEvaluator::new(fleet.clone(), config.rules.clone(), webhook_queues);
    runtime.spawn(rule_evaluator.clone().run());
    let queried = fleet.clone();
    let hub = Hub::new(runtime.handle().clone(), move |query| {
        let answer = fleet_query::answer(&queried, query);
        serde_json::to_vec(&answer).unwrap_or_default().into()
    });
    let exposure = Exposure {
        loopback_only: bound.ip().to_canonical().is_loopback(),
        port: bound.port(),
        by: Transport::of(false, config.behind_tls),
    };
    let gate = key_files.as_ref().map(KeyFiles::gate);
    match key_files {
        Some(key_files) => {
            key_files.start_fetching()?;
            runtime.spawn(key_files.follow(hangup_signals));
        }
        None => {
            runtime.spawn(hangup_signals.report_nothing_to_read());
        }
    }
    Ok(App::new(fleet, rule_evaluator, hub, collecting, (exposure, gate)))
}
