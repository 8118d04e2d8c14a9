//! Server: the HTTP server with its routes and middleware.
//!
//! **Not here:** configuration, the routes.

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

/// Longest wait for running requests when the service ends.
const SHUTDOWN_SECONDS: u64 = 10;
/// Longest time for which an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest time for receiving the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Longest time for which a client may fail to acknowledge sent data. After that the kernel closes
/// the connection.
const STALLED_MAX: Duration = Duration::from_secs(30);
/// Maximum number of connections of one worker.
const CONNECTIONS_MAX: usize = 512;

/// Serves `app` on `listener`. The calling function binds the port, so that a test can use port 0.
///
/// # Errors
/// Returns errors of the listener.
pub(crate) fn serve(
    app: Data<App>,
    listener: TcpListener,
    workers: usize,
) -> std::io::Result<Server> {
    // Accepted connections inherit the option from the listener.
    socket2::SockRef::from(&listener).set_tcp_user_timeout(Some(STALLED_MAX))?;
    let has_access = app.gate.is_some();
    let api = Data::new(openapi(has_access));
    let server = HttpServer::new(move || {
        let (surface, _) = ActixApp::new()
            .app_data(app.clone())
            .app_data(api.clone())
            .into_utoipa_app()
            .configure(|surface| routes::configure(surface, has_access))
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

/// Returns the OpenAPI document, collected from the routes.
pub(crate) fn openapi(has_access: bool) -> OpenApi {
    let surface = ActixApp::new().into_utoipa_app();
    let surface = surface.configure(|surface| routes::configure(surface, has_access));
    let (_, mut api) = surface.split_for_parts();
    routes::describe(&mut api, has_access);
    api
}
