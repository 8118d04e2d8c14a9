//! Server: puts routes, gate and state on a listener.
//!
//! **Not here:** configuration, what the routes do.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{App as ActixApp, HttpServer};
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;

use crate::app::App;
use crate::middleware::handle;
use crate::routes;

/// How long running requests may take to finish when the service ends.
const SHUTDOWN_SECONDS: u64 = 10;
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a request's head may take to come.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// How long a client may take nothing of what it is sent: the kernel ends such a connection.
const STALLED_MAX: Duration = Duration::from_secs(30);
/// Connections of one worker.
const CONNECTIONS_MAX: usize = 512;

/// Serves `app` on `listener`. The caller binds, so a test can ask for port 0.
///
/// # Errors
/// Those of the listener.
pub(crate) fn serve(
    app: Data<App>,
    listener: TcpListener,
    workers: usize,
) -> std::io::Result<Server> {
    // Accepted connections have it from the listener.
    socket2::SockRef::from(&listener).set_tcp_user_timeout(Some(STALLED_MAX))?;
    let api = Data::new(openapi());
    let server = HttpServer::new(move || {
        let (surface, _) = ActixApp::new()
            .app_data(app.clone())
            .app_data(api.clone())
            .into_utoipa_app()
            .configure(routes::configure)
            .split_for_parts();
        surface.default_service(web::to(routes::nothing_here)).wrap(from_fn(handle))
    });
    let server = server
        .workers(workers)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_MAX)
        .max_connections(CONNECTIONS_MAX)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}

/// The OpenAPI document, collected from the routes.
pub(crate) fn openapi() -> OpenApi {
    let surface = ActixApp::new().into_utoipa_app();
    let (_, mut api) = surface.configure(routes::configure).split_for_parts();
    routes::describe(&mut api);
    api
}
