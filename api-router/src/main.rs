//! Process of the router: reads the configuration, opens the cluster, serves until it receives a
//! signal, and shuts down in order.

#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::Data;
use analytics::cross_origin::Transport;
use analytics::end_signals::EndSignals;
use analytics::exit_status::{check_result, usage_error};
use analytics::hangup_signals::HangupSignals;
use analytics::health_probe::{HealthError, HealthQuery};
use analytics::log_format;
use analytics::store::HistoryWriter;
use api_router::access::audit::{self, AuditLog};
use api_router::access::mode_check;
use api_router::access::usage_writer::UsageWriter;
use api_router::access::watcher::AccessWatcher;
use api_router::app::{App, AppSettings};
use api_router::config::{AccessMode, Config, ConfigError, Engine, Flags};
use api_router::doctor;
#[cfg(feature = "otlp")]
use api_router::otlp::Tracer;
use api_router::server;
use api_router::tls::{self, CertificateWatcher, Identity};
use clap::Parser;
use shard_manager::assembly::{self, ConnectedCluster, EmbeddedCluster};
use shard_manager::engine::backup_folder::BackupFolder;
use shard_manager::manager::{self, Backups, Manager};
use shard_manager::node_address::{ClusterAddress, ServerEngine};
#[cfg(feature = "sabotage")]
use shard_manager::sabotage::{self, Mutation};
use tokio::runtime::Handle;

/// Allocator in which threads do not wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = Flags::parse();
    #[cfg(feature = "sabotage")]
    if let Err(error) = warn_of_sabotage() {
        return usage_error(error);
    }
    let config = match read_config(&flags) {
        Ok(config) => config,
        Err(error) => return usage_error(error),
    };
    if flags.print_config {
        print!("{}", config.table());
        return ExitCode::SUCCESS;
    }
    if flags.doctor {
        let found = actix_web::rt::System::new().block_on(doctor::examine(&config));
        // If the reader of the output has gone, the write fails, which does not change the verdict.
        let _ = std::io::stdout().write_all(doctor::report(&found).as_bytes());
        return if doctor::is_fit(&found) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(question) = flags.probe {
        return check_result(probe(question, &config));
    }
    log_format::start(config.log);
    match actix_web::rt::System::new().block_on(run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => usage_error(format_args!("{error:#}")),
    }
}

/// Reads the settings. Refuses those that would expose the router to other machines by accident,
/// unless they are only examined.
fn read_config(flags: &Flags) -> Result<Config, ConfigError> {
    let config = Config::read(flags)?;
    if !flags.print_config && !flags.doctor {
        config.check_exposure()?;
    }
    Ok(config)
}

/// Warns that this build of the router breaks its guarantees on purpose, so that it is not mistaken
/// for a normal router.
#[cfg(feature = "sabotage")]
fn warn_of_sabotage() -> Result<(), String> {
    sabotage::stop_point().map_err(|error| error.to_string())?;
    let broken = sabotage::active_mutations().map_err(|error| error.to_string())?;
    let broken = broken.into_iter().map(Mutation::name).collect::<Vec<_>>().join(", ");
    let broken = if broken.is_empty() { "none is broken now" } else { &broken };
    eprintln!(
        "WARNING: THIS ROUTER IS BUILT TO BREAK PROMISES ON PURPOSE. IT WILL LOSE DATA. Broken by {}: {broken}",
        sabotage::VARIABLE
    );
    Ok(())
}

/// Probes the router that runs on this machine, over TLS if the router uses TLS.
fn probe(question: HealthQuery, config: &Config) -> Result<(), HealthError> {
    match config.tls {
        None => question.check(config.bind),
        Some(_) => question.check_through(config.bind, tls::connect_to_self),
    }
}

/// Parts of a router that are opened before its cluster, so that their faults are reported before
/// any data is touched.
struct EarlyParts {
    watcher: Option<AccessWatcher>,
    identity: Option<Arc<Identity>>,
    listener: TcpListener,
    /// Address of the listener.
    bound: SocketAddr,
    backup_folder: Option<BackupFolder>,
}

/// A router that is ready to serve.
struct ReadyRouter {
    app: Data<App>,
    usage: Option<UsageWriter>,
    history_writer: Option<HistoryWriter>,
    signals: EndSignals,
    server: Server,
}

/// Runs the router, and closes its cluster in any case.
async fn run(config: &Config) -> anyhow::Result<()> {
    let parts = open_early_parts(config)?;
    let settings = AppSettings {
        address: parts.bound,
        transport: Transport::of(parts.identity.is_some(), config.behind_tls),
        lab: config.lab,
        operate: config.operate,
        analytics: config.analytics,
        backend: backend(&config.engine),
    };
    let manager = cached(open(config)?, config);
    // Background work uses the runtime of this thread, which serves no requests.
    let app = App::new(manager, settings, &Handle::current());
    let manager = Arc::clone(&app.manager);
    let served = serve(app, parts, config).await;
    if served.is_err() {
        // A start that was refused is not an unclean stop.
        manager.runtimes().iter().for_each(|runtimes| runtimes.remove_runtimes());
        manager.close();
    }
    served
}

/// Opens the parts of a router that need no cluster. From now on SIGHUP does not end the process.
fn open_early_parts(config: &Config) -> anyhow::Result<EarlyParts> {
    let hangup_signals = HangupSignals::listen()?;
    let watcher = AccessWatcher::open(&config.access)?;
    let identity = config.tls.clone().map(Identity::read).transpose()?.map(Arc::new);
    if let Some(identity) = &identity {
        actix_web::rt::spawn(CertificateWatcher::new(identity.clone())?.run());
    } else if watcher.is_none() {
        actix_web::rt::spawn(hangup_signals.report_nothing_to_read());
    }
    let listener = TcpListener::bind(config.bind)
        .map_err(|error| anyhow::anyhow!("cannot serve on {}: {error}", config.bind))?;
    let bound = listener.local_addr()?;
    let backup_folder = backup_folder(config)?;
    Ok(EarlyParts { watcher, identity, listener, bound, backup_folder })
}

/// Starts everything that a router needs, and stores its access mode when nothing else can refuse
/// the start.
async fn prepare(mut app: App, parts: EarlyParts, config: &Config) -> anyhow::Result<ReadyRouter> {
    mode_check::check_mode(&app.manager, config.access.mode).await?;
    if let Some(folder) = parts.backup_folder {
        app.backups = Some(Arc::new(Backups::open(&app.manager, folder)?));
    }
    let usage = match parts.watcher {
        Some(watcher) => Some(start_access(watcher, config, &mut app).await?),
        None => None,
    };
    #[cfg(feature = "otlp")]
    if let Some(endpoint) = &config.otlp_endpoint {
        let tracer = Tracer::start(endpoint, parts.bound, config.tls.is_some(), app.backend)?;
        app.tracer = Some(tracer);
    }
    let app = Data::new(app);
    let history_writer = keep_history(&app, config)?;
    let signals = EndSignals::listen()?;
    let server = server::serve(app.clone(), parts.listener, parts.identity, config.workers)?;
    mode_check::settle_mode(&app.manager, config.access.mode).await?;
    serve_commands(&app);
    Ok(ReadyRouter { app, usage, history_writer, signals, server })
}

/// Serves until a signal ends the router.
async fn serve(app: App, parts: EarlyParts, config: &Config) -> anyhow::Result<()> {
    let bound = parts.bound;
    let ReadyRouter { app, usage, history_writer, mut signals, server } =
        prepare(app, parts, config).await?;
    let handle = server.handle();
    let mut serving = actix_web::rt::spawn(server);
    print_banner(&app, config, bound);
    tokio::select! {
        signal = signals.next() => {
            app.drain();
            signals.drained(signal).await;
        }
        ended = &mut serving => {
            ended??;
            anyhow::bail!("the server ended by itself");
        }
    }
    tracing::info!("ending: finishing what runs");
    app.manager.runtimes().iter().for_each(|runtimes| runtimes.remove_runtimes());
    stop_serving(&handle, &app, &mut signals).await;
    serving.await??;
    if let Some(usage) = usage {
        usage.finish().await;
    }
    finish(&app, history_writer).await;
    Ok(())
}

/// Stops listening, and waits until all requests are served. Streamed bodies, and other bodies of
/// which more than 64 KiB have arrived, are cut off if they are still arriving after
/// `server::BODIES_END_AFTER` or at a second signal. Their clients get a response before the server
/// closes the connections.
async fn stop_serving(handle: &ServerHandle, app: &App, signals: &mut EndSignals) {
    let mut stopped = pin!(handle.stop(true));
    tokio::select! {
        () = &mut stopped => return,
        // The bodies end now, after the time limit as well as after a second signal.
        _ = tokio::time::timeout(server::BODIES_END_AFTER, signals.next()) => {}
    }
    app.body_budget.close();
    stopped.await;
}

/// Ends background work once all requests are served, and closes the cluster.
async fn finish(app: &App, history_writer: Option<HistoryWriter>) {
    #[cfg(feature = "otlp")]
    if let Some(tracer) = &app.tracer {
        // All requests are served by now, so that the router may wait until the last spans are
        // sent.
        tracer.end();
    }
    if let (Some(analytics), Some(history_writer)) = (&app.analytics, history_writer) {
        analytics.metrics.finish();
        history_writer.close();
    }
    if let Some(audit) = &app.audit {
        audit::keep_last_head(audit, &app.manager).await;
    }
    if let Some(backups) = &app.backups {
        backups.wait();
    }
    app.manager.close();
}

/// Opens the folder for backups, if one is set.
fn backup_folder(config: &Config) -> anyhow::Result<Option<BackupFolder>> {
    let Some(dir) = &config.backup_dir else { return Ok(None) };
    let opened = BackupFolder::open(dir, config.data_dir());
    opened.map(Some).map_err(|error| anyhow::anyhow!("backup_dir: {error}"))
}

/// Puts the cache in front of the shards, if the settings name one.
fn cached(manager: Manager, config: &Config) -> Manager {
    match &config.cache {
        Some(settings) => manager.with_cache(settings.clone()),
        None => manager,
    }
}

/// Starts the background tasks of the cluster. One carries out commands of the operator, which
/// other programs send through the cluster's socket. The other one opens and closes shards as the
/// shard map changes, and carries out moves, rebalances and index builds.
fn serve_commands(app: &Data<App>) {
    let (commanded, followed) = (app.clone(), app.clone());
    actix_web::rt::spawn(async move { manager::serve_commands(&commanded.manager).await });
    actix_web::rt::spawn(async move { followed.manager.shards().keep_up().await });
    #[cfg(feature = "sabotage")]
    if sabotage::hands_slots_over() {
        let app = app.clone();
        actix_web::rt::spawn(async move { app.manager.slots().keep_handing_over().await });
    }
}

/// Applies the keys and roles, opens the audit log, and begins to add up the rows that callers with
/// a quota read and write.
async fn start_access(
    watcher: AccessWatcher,
    config: &Config,
    app: &mut App,
) -> anyhow::Result<UsageWriter> {
    let gate = watcher.gate();
    app.gate = Some(Arc::clone(&gate));
    app.access_sources = Some(watcher.start(&app.manager, config.data_dir()).await?);
    app.audit = open_audit_log(config, &app.manager).await?;
    Ok(UsageWriter::start(gate, &app.manager).await)
}

/// Opens the audit log, if one is configured, and begins to record its last line in the catalog.
async fn open_audit_log(
    config: &Config,
    manager: &Arc<Manager>,
) -> anyhow::Result<Option<Arc<AuditLog>>> {
    if !config.access.audit.is_on() {
        return Ok(None);
    }
    let secret = manager.access().audit_secret().await?;
    let log = AuditLog::start(&config.access.audit, secret)?;
    if let Some(log) = &log {
        audit::begin_keeping_head(log, manager);
    }
    Ok(log)
}

fn open(config: &Config) -> anyhow::Result<Manager> {
    match &config.engine {
        Engine::Embedded { data_dir } => {
            let (data_dir, wanted) = (data_dir.clone(), config.wanted.clone());
            Ok(assembly::open(&EmbeddedCluster { data_dir, wanted })?)
        }
        Engine::Postgres(cluster) => {
            let (address, wanted) = (ClusterAddress::clone(cluster), config.wanted.clone());
            Ok(assembly::connect(&ConnectedCluster { address, wanted })?)
        }
    }
}

/// Restores the metrics of earlier runs, and stores those of this run until the returned writer is
/// closed or dropped. The writer runs in the background, and retries while the store cannot be
/// used.
fn keep_history(app: &App, config: &Config) -> anyhow::Result<Option<HistoryWriter>> {
    let (Some(analytics), Some(address)) = (&app.analytics, &config.analytics_store) else {
        return Ok(None);
    };
    let history = analytics.metrics.recorder.history().clone();
    let host = rustix::system::uname();
    let source = config.history_source(address, &host.nodename().to_string_lossy());
    let earlier = Config::ONLY_SOURCE;
    Ok(Some(HistoryWriter::start_renamed(address.clone(), source, earlier, history)?))
}

/// Returns the name of the storage engine, as it appears in metrics.
fn backend(engine: &Engine) -> &'static str {
    match engine {
        Engine::Embedded { .. } => "sqlite",
        Engine::Postgres(cluster) => match cluster.engine {
            ServerEngine::Postgres => "postgres",
            ServerEngine::Citus => "citus",
        },
    }
}

/// Returns two parts of the banner: the sentence about who may use the router, and the additional
/// argument that its `curl` examples need.
fn protection(mode: AccessMode, bound: SocketAddr) -> (&'static str, &'static str) {
    let key = " \\\n               -H \"authorization: Bearer $TESSERA_KEY\"";
    match (mode, bound.ip().to_canonical().is_loopback()) {
        (AccessMode::On, _) => ("access control is on: requests need a key or a token", key),
        (AccessMode::Observe, true) => {
            ("only this machine can reach it; access control observes and refuses nothing", "")
        }
        (AccessMode::Off, true) => {
            ("only this machine can reach it; access control is off (--access on)", "")
        }
        (AccessMode::Observe, false) => (
            "EVERYBODY who reaches this address can read and write: access control observes and refuses nothing",
            "",
        ),
        (AccessMode::Off, false) => (
            "EVERYBODY who reaches this address can read and write: access control is off (--access on)",
            "",
        ),
    }
}

fn print_banner(app: &App, config: &Config, bound: SocketAddr) {
    let map = app.manager.map();
    let names: Vec<&str> = map.topology().members().map(|(_, shard)| &*shard.name).collect();
    let (exposed, key) = protection(config.access.mode, bound);
    let (kind, place) = match &config.engine {
        Engine::Embedded { data_dir } => {
            ("embedded SQLite", format!(", in {}", data_dir.display()))
        }
        Engine::Postgres(cluster) => match cluster.engine {
            ServerEngine::Postgres => ("PostgreSQL", String::new()),
            ServerEngine::Citus => ("Citus", String::new()),
        },
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let banner = format!(
        "Tessera {version}, {count} {kind} shards ({names}), {replicas} each{place}
  API        {scheme}://{bound}/            {exposed}
  try it     {scheme}://{bound}/swagger-ui/
  write      curl -X POST {scheme}://{bound}/api/write -H 'Content-Type: application/json' \\
               -H 'x-shard-key: user_123'{key} \\
               -d '{{\"table\":\"users\",\"data\":{{\"user_id\":\"user_123\",\"name\":\"John Doe\",\"email\":\"john@example.com\",\"partition_key\":\"A\"}}}}'
  read       curl '{scheme}://{bound}/api/read?table=users&limit=10' -H 'x-shard-key: user_123'{key}
  end        Ctrl-C
",
        version = env!("CARGO_PKG_VERSION"),
        count = names.len(),
        names = names.join(", "),
        replicas = match app.manager.status().replicas() {
            0 => "no replicas".to_owned(),
            1 => "1 replica".to_owned(),
            count => format!("{count} replicas"),
        },
    );
    // A closed standard output is not a reason to end.
    let _ = std::io::stdout().write_all(banner.as_bytes());
}
