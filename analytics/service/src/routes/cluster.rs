//! Routes that are forwarded to a router: `GET /api/route`, `/api/shard-map`, `/api/shards`,
//! `/api/advice`, `/api/health`.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};

use crate::app::App;
use crate::forward::forward;
use crate::problem::{BusyRefusals, Problem};

/// Declares a forwarded path.
macro_rules! handed_on {
    ($(#[doc = $about:literal])* $name:ident $path:literal $(params($($param:tt)*))?) => {
        $(#[doc = $about])*
        #[utoipa::path(
            tag = "cluster",
            $(params($($param)*),)?
            responses((status = 200, description = "As a router answers", body = Object), BusyRefusals)
        )]
        #[get($path)]
        pub(super) async fn $name(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
            forward(&app, $path, &request).await
        }
    };
}

handed_on! {
    /// Tells where a key lives, as a router knows it.
    route_key "/api/route" params(("key" = String, Query, description = "The shard key", example = "user_123"))
}
handed_on! {
    /// Tells which shard owns which slots, as a router knows it.
    shard_map "/api/shard-map"
}
handed_on! {
    /// Lists the shards, as a router knows them.
    list_shards "/api/shards"
}
handed_on! {
    /// Tells what would balance the cluster, by what one router has seen.
    advice "/api/advice"
}
handed_on! {
    /// Tells how every node of the cluster is, as a router sees it.
    health "/api/health"
}
