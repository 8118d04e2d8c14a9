//! Server: serves the routes on a listener, and shuts down in order.
//!
//! **Not here:** configuration, the work of the routes.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{App as ActixApp, HttpServer};
use tokio::runtime::Handle;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::access::certificates::ClientCertificate;
use crate::app::App;
use crate::documented_paths::DOCUMENT;
use crate::middleware::handle_request;
use crate::routes::{self, OptionalRoutes};
use crate::tls::{self, Identity, TlsError};

/// Maximum time, in seconds, for running requests to finish when the router shuts down.
const SHUTDOWN_SECONDS: u64 = 25;
/// Time after the start of a shutdown for which request bodies are still read. The rest of
/// `SHUTDOWN_SECONDS` is for storing the rows already received, and for the responses.
pub const BODIES_END_AFTER: Duration = Duration::from_secs(12);
/// Time for which an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Maximum time for the head of a request to arrive.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Maximum time for which a client may receive nothing of its response (`TCP_USER_TIMEOUT`). The
/// kernel then closes the connection. The web framework would wait for ever, and responses stay in
/// memory until they are received.
const STALLED_MAX: Duration = Duration::from_secs(30);
/// Maximum number of connections of one worker. Each connection has buffers of some 16 KiB, and of
/// at most 256 KiB while it receives a large body.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Error that prevents serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener failed.
    #[error(transparent)]
    Listener(#[from] std::io::Error),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves `app` on `listener`, over TLS if there is an identity. The calling function binds the
/// listener, so that a test can use port 0.
///
/// # Errors
/// Errors of the listener and of TLS.
pub fn serve(
    app: Data<App>,
    listener: TcpListener,
    identity: Option<Arc<Identity>>,
    workers: usize,
) -> Result<Server, ServeError> {
    // Accepted connections inherit the timeout from the listener.
    socket2::SockRef::from(&listener).set_tcp_user_timeout(Some(STALLED_MAX))?;
    let optional = optional_routes(&app);
    let api = Data::new(openapi(optional));
    let server = HttpServer::new(move || {
        // Called in each worker's thread, which drives its runtime until the server has ended.
        if let Some(runtimes) = app.manager.runtimes() {
            runtimes.add_runtime(Handle::current());
        }
        let worker = app.analytics.as_ref().map(|it| Rc::new(it.metrics.recorder.worker()));
        let (surface, _) = ActixApp::new()
            .app_data(app.clone())
            .app_data(api.clone())
            .into_utoipa_app()
            .configure(|surface| routes::configure(surface, optional))
            .split_for_parts();
        let surface = match worker {
            Some(worker) => surface.app_data(worker),
            None => surface,
        };
        surface
            .service(swagger_ui(&api))
            .default_service(web::to(routes::home::nothing_here))
            .wrap(from_fn(handle_request))
    });
    let server = server
        .workers(workers)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_MAX)
        .max_connections(CONNECTIONS_MAX)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals();
    let clients = identity.as_ref().and_then(|identity| identity.clients.clone());
    let server = match clients {
        Some(clients) => server.on_connect(move |connection, data| {
            ClientCertificate::attach(&clients, connection, data);
        }),
        None => server,
    };
    let server = match identity {
        Some(identity) => server.listen_rustls_0_23(listener, tls::acceptor(identity)?)?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}

/// Returns the optional routes of a router. Without access control, any client that reaches the
/// router could change its shards: a flag has to permit that.
fn optional_routes(app: &App) -> OptionalRoutes {
    let is_enforced = app.gate.as_ref().is_some_and(|gate| gate.is_enforced());
    let (access, operate) = (app.gate.is_some(), app.operate || is_enforced);
    OptionalRoutes { lab: app.lab, access, operate }
}

/// Returns the OpenAPI document, collected from the routes and these optional ones.
pub fn openapi(optional: OptionalRoutes) -> OpenApi {
    let surface = ActixApp::new().into_utoipa_app();
    let (_, mut api) =
        surface.configure(|surface| routes::configure(surface, optional)).split_for_parts();
    routes::openapi::describe(&mut api, optional.access);
    api
}

/// Returns Swagger UI, whose files are embedded in this program. Its validator is off, because it
/// would contact a server on the internet.
fn swagger_ui(api: &Data<OpenApi>) -> SwaggerUi {
    let config = Config::default().validator_url("none").try_it_out_enabled(true);
    SwaggerUi::new("/swagger-ui/{_:.*}").config(config).url(DOCUMENT, OpenApi::clone(api))
}
