//! Routes that are forwarded to a router: `GET /api/route`, `/api/shard-map`, `/api/groups`,
//! `/api/shards`, `/api/advice`, `/api/moves`, `/api/rebalance`, `/api/rebalance/{id}`,
//! `/api/health`.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, get};

use crate::app::App;
use crate::forward::forward;
use crate::problem::{BusyRefusals, Code, Problem};

/// Number of characters of a rebalance's id, which is a UUID.
const UUID_LEN: usize = 36;

/// Declares a forwarded path.
macro_rules! forwarded {
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

forwarded! {
    /// Returns the slot and the shard of a key, as a router reports them.
    route_key "/api/route" params(
        ("key" = String, Query, description = "The shard key", example = "user_123"),
        ("table" = Option<String>, Query, description = "The table of the key, whose table group decides", example = "users"),
        ("partition" = Option<String>, Query, description = "Keyspace by a column: the value of the column in the row", example = "A"),
    )
}
forwarded! {
    /// Returns the shard that owns each slot, as a router reports it.
    shard_map "/api/shard-map"
}
forwarded! {
    /// Lists the table groups with their slots, as a router reports them.
    list_groups "/api/groups"
}
forwarded! {
    /// Lists the shards, as a router reports them.
    list_shards "/api/shards"
}
forwarded! {
    /// Returns advice on balancing the cluster, from what one router has measured.
    advice "/api/advice" params(
        ("by" = Option<String>, Query, description = "load or size; load when not given", example = "load"),
        ("group" = Option<String>, Query, description = "The table group; main when not given", example = "main"),
    )
}
forwarded! {
    /// Lists the moves of slots, as a router reports them.
    list_moves "/api/moves" params(("state" = Option<String>, Query, description = "open or ended: only these", example = "open"))
}
forwarded! {
    /// Lists the running rebalance and the latest ones, as a router reports them.
    list_rebalances "/api/rebalance"
}
forwarded! {
    /// Returns the state of every node of the cluster, as a router reports it.
    health "/api/health"
}

/// Returns a rebalance with its moves, as a router reports it.
#[utoipa::path(
    tag = "cluster",
    params(("id" = String, Path, description = "The rebalance, a UUID", example = "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71")),
    responses((status = 200, description = "As a router answers", body = Object), BusyRefusals)
)]
#[get("/api/rebalance/{id}")]
pub(super) async fn find_rebalance(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    // The id becomes part of the forwarded path, so it may contain only the characters of a UUID.
    let is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_id || id.len() != UUID_LEN {
        return Err(Problem::new(Code::TSR111, "there is no such rebalance")
            .hint("GET /api/rebalance lists the rebalances with their ids"));
    }
    forward(&app, &format!("/api/rebalance/{id}"), &request).await
}
