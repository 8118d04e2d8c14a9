//! `/api/moves`: moves slots from one shard to another while rows are read and written. Available
//! to callers with the scope `operate`; without access control, moves can be begun and commanded
//! only if the router was started with `--operate`.
//!
//! **Not here:** the steps of a move (`shard_manager::manager`), the body of a request that begins
//! one (`draft`).

mod draft;

use std::collections::BTreeMap;
use std::time::Instant;

use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::Serialize;
use shard_manager::engine::move_catalog::MoveListError;
use shard_manager::engine::move_draft::DraftSlots;
use shard_manager::engine::move_record::{MoveOrder, MoveRecord, parse_move_name};
use shard_manager::engine::move_view::{MoveView, RETRY};
use shard_manager::error::Error;
use shard_manager::manager::MovesError;
use shard_manager::moves::identity::MoveId;
use utoipa::ToSchema;

use self::draft::{NewMoveRequest, draft};
use crate::app::App;
use crate::cluster_change::ClusterChange;
use crate::headers::{deadline, expected_epoch, refuse_conditions, refuse_row_headers};
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{MoveLookupRefusals, MoveRefusals};
use crate::router_address::router_address;

/// Maximum number of bytes of a body, which may list each slot individually and contains names.
const BODY_BYTES_MAX: usize = 16 << 10;

/// A move.
#[derive(ToSchema)]
#[schema(as = Move, example = json!({
    "id": "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e", "rebalance": null, "slots": "0-63",
    "slot_count": 64,
    "from": "shard1", "to": "shard4", "phase": "copying", "goal": "forward", "paused": false,
    "stalled": false, "rate": 20, "keep": 900, "rows": 120_000, "bytes": 25_165_824,
    "rows_expected": 480_000, "seconds_left": 21,
    "longest_hold_ms": 0.0, "phase_ms": {"planned": 4.1, "preparing": 21.7}, "changes_behind": 12, "lag_ms": 140.2, "reason": null, "began_at": "2026-11-24T12:00:00.000Z",
    "changed_at": "2026-11-24T12:00:07.000Z", "owned_at": null, "ended_at": null,
    "actions": ["pause", "cancel"]
}))]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub struct MoveAnswer {
    /// Identity, a UUID.
    id: String,
    /// Rebalance that the move is a part of; null if there is none.
    #[schema(required)]
    rebalance: Option<String>,
    /// Slots, as ranges.
    slots: String,
    /// Number of slots.
    slot_count: usize,
    /// Name of the shard that owned the slots first.
    from: String,
    /// Name of the shard that is to own the slots.
    to: String,
    /// `planned`, `preparing`, `copying`, `following`, `verifying`, `fencing`, `activating`,
    /// `keeping` (the target owns the slots, and the source is kept for a rollback), `cleaning`, or
    /// how it has ended: `done`, `cancelled`, `rolled_back`, `failed`.
    phase: String,
    /// `forward`, `back` (it was cancelled or is rolled back) or `settle` (the source is not kept
    /// any longer).
    goal: String,
    /// True if a command has paused it.
    paused: bool,
    /// True if nothing has changed for a minute although it is not paused.
    stalled: bool,
    /// Highest rate of the copy in MiB/s; null without a limit.
    #[schema(required)]
    rate: Option<u32>,
    /// Seconds for which the source is kept.
    keep: u64,
    /// Number of copied rows; a row counts each time that it is copied.
    rows: u64,
    /// Bytes of these rows.
    bytes: u64,
    /// Number of rows to copy, as estimated before the move began from the slots' share of the
    /// source; null if it is not known, or if the copy has begun again.
    #[schema(required)]
    rows_expected: Option<u64>,
    /// Estimated seconds until all rows are copied, as last reported by the mover; null while they
    /// are not known, and when no rows are being copied.
    #[schema(required)]
    seconds_left: Option<u64>,
    /// Longest time in milliseconds for which writes of the slots waited; 0 if none have waited
    /// yet.
    longest_hold_ms: f64,
    /// Milliseconds that the move has spent in each phase that it has left, by the phase's name, as
    /// its movers have measured them. A phase that was entered several times has the sum.
    #[schema(required)]
    phase_ms: BTreeMap<String, f64>,
    /// Number of changed rows that the receiving shard lacked when the other shard was last read.
    /// The target receives changes, and after the move the source while it is kept. Null while no
    /// copy is kept current.
    #[schema(required)]
    changes_behind: Option<u64>,
    /// Upper limit of the age in milliseconds of the oldest change that the receiving shard lacks,
    /// as last reported by the mover; 0 if it lacks none.
    #[schema(required)]
    lag_ms: Option<f64>,
    /// Reason why it waits or has ended; null if there is none.
    #[schema(required)]
    reason: Option<String>,
    /// Time at which the move was requested: RFC 3339.
    began_at: String,
    /// Time of its last change.
    changed_at: String,
    /// Time at which the target began to own the slots; null before.
    #[schema(required)]
    owned_at: Option<String>,
    /// Time at which it ended; null before.
    #[schema(required)]
    ended_at: Option<String>,
    /// Commands that it accepts now.
    actions: Vec<String>,
}

/// Moves of a cluster.
#[derive(Serialize, ToSchema)]
pub struct MovesAnswer {
    /// Always true.
    success: bool,
    /// The address at which the router was reached: commands go to `url/api/moves/{id}/{command}`.
    url: String,
    /// The moves, the latest first: all that are in progress, and the last ones that have ended.
    #[schema(value_type = Vec<MoveAnswer>)]
    moves: Vec<MoveView>,
}

/// Begins a move of slots. If this router ends, another one continues the move.
#[utoipa::path(
    tag = "placement",
    params(
        ("If-Match" = Option<String>, Header, description = "The epoch that the shard map must have", example = "\"1\""),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    request_body = NewMoveRequest,
    responses(
        (status = 202, description = "The move has begun; Location is its path", body = MoveAnswer),
        MoveRefusals,
    )
)]
#[post("/api/moves")]
pub(crate) async fn begin_move(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let change = ClusterChange::from_request(&request)?;
    let body = change.read_body(&app, &request, payload, BODY_BYTES_MAX).await?;
    let draft = draft(&body, app.manager.map().groups().slot_count())?;
    if let DraftSlots::OfKey { table: Some(table), .. } = &draft.slots {
        // A caller without a grant for the table gets the same problem as if it did not exist.
        let found = app.manager.schema(&app.rights(&request)).table(table);
        found.map_err(|_| MovesError::no_table(table))?;
    }
    let moves = app.manager.moves();
    let begun = moves.begin_draft(&draft, change.epoch, change.deadline).await?;
    Ok(accepted(&app, &begun))
}

/// Lists the moves in progress, and the last ones that have ended.
#[utoipa::path(
    tag = "placement",
    params(("state" = Option<String>, Query, description = "open: only those that go on; ended: only the others", example = "open")),
    responses((status = 200, description = "The moves", body = MovesAnswer), MoveLookupRefusals)
)]
#[get("/api/moves")]
pub(crate) async fn list_moves(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["state"])?;
    let wants_ended = match parameters.single("state")? {
        None => None,
        Some("open") => Some(false),
        Some("ended") => Some(true),
        Some(_) => return Err(Problem::new(Code::TSR100, "state must be open or ended")),
    };
    let moves = app.manager.moves();
    let records = moves.list().await?;
    let is_wanted = |record: &&MoveRecord| {
        wants_ended.is_none_or(|wants_ended| wants_ended == record.phase.has_ended())
    };
    let url = router_address(&app, &request);
    let views = records.iter().filter(is_wanted).map(|record| moves.view(record));
    Ok(HttpResponse::Ok().json(MovesAnswer { success: true, url, moves: views.collect() }))
}

/// Shows a move.
#[utoipa::path(
    tag = "placement",
    params(("id" = String, Path, description = "The move", example = "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e")),
    responses((status = 200, description = "The move", body = MoveAnswer), MoveLookupRefusals)
)]
#[get("/api/moves/{id}")]
pub(crate) async fn find_move(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let moves = app.manager.moves();
    let record = moves.get(identity(&id)?).await?;
    Ok(HttpResponse::Ok().json(moves.view(&record)))
}

/// Sends a command to a move.
///
/// `pause`: the move stops, and nothing is undone. `resume`: it continues. `cancel`, before the
/// target owns the slots: the copy is deleted. `rollback`, afterwards: the slots go back with all
/// later writes. `settle`: the source is not kept any longer. `retry`, after the move was
/// cancelled, rolled back or has failed: a new move with the same description begins, and is
/// returned.
#[utoipa::path(
    tag = "placement",
    params(
        ("id" = String, Path, description = "The move", example = "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e"),
        ("order" = String, Path, description = "pause, resume, cancel, rollback, settle or retry", example = "pause"),
        ("If-Match" = Option<String>, Header, description = "For retry: the epoch that the shard map must have", example = "\"1\""),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    responses(
        (status = 200, description = "The move after the order", body = MoveAnswer),
        (status = 202, description = "The move that begins again; Location is its path", body = MoveAnswer),
        MoveRefusals,
    )
)]
#[post("/api/moves/{id}/{order}")]
pub(crate) async fn order_move(
    app: Data<App>,
    path: Path<(String, String)>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let headers = request.headers();
    Parameters::parse(request.query_string())?.check_names(&[])?;
    refuse_row_headers(headers)?;
    let deadline = Instant::now() + deadline(headers)?;
    let (id, order) = path.into_inner();
    let moves = app.manager.moves();
    if order == RETRY {
        let epoch = expected_epoch(headers)?;
        let begun = moves.retry(identity(&id)?, epoch, deadline).await?;
        return Ok(accepted(&app, &begun));
    }
    let order = MoveOrder::parse(&order).ok_or_else(no_such_order)?;
    refuse_conditions(headers)?;
    let ordered = moves.order(identity(&id)?, order);
    let ordered = tokio::time::timeout_at(deadline.into(), ordered).await;
    let late = |_elapsed| MovesError::from(MoveListError::Failed(Error::DeadlinePassed));
    let record = ordered.map_err(late)??;
    Ok(HttpResponse::Ok().json(moves.view(&record)))
}

fn identity(name: &str) -> Result<MoveId, MovesError> {
    parse_move_name(name).ok_or_else(|| MoveListError::NoMove.into())
}

fn no_such_order() -> Problem {
    let orders = MoveOrder::ALL.map(MoveOrder::name).join(", ");
    Problem::new(Code::TSR111, "there is no such order for a move")
        .hint(format!("a move takes these orders: {orders}, {RETRY}"))
}

fn accepted(app: &App, record: &MoveRecord) -> HttpResponse {
    let view = app.manager.moves().view(record);
    let location = (LOCATION, format!("/api/moves/{}", view.id));
    HttpResponse::Accepted().insert_header(location).json(view)
}
