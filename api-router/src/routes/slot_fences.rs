//! `POST /api/slots/fence`, `/api/slots/release`: a fence makes writes to slots wait for a short
//! time; releasing it lets them continue. Available to callers with the scope `operate`; without
//! access control, only if the router was started with `--operate`.
//!
//! **Not here:** the effect of a fence on writes (`shard_manager::manager`).

use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, post};
use serde::Serialize;
use shard_manager::engine::refusal_code::RefusalCode;
use shard_manager::engine::slot_change::FENCE_MAX;
use shard_manager::slot_set::{SlotSet, parse_within};
use utoipa::ToSchema;

use crate::app::App;
use crate::body_reader::Members;
use crate::headers::{check_content_type, deadline, refuse_conditions, refuse_row_headers};
use crate::problem::{Code, Problem, refused};
use crate::query::Parameters;
use crate::response_headers::ShardRefusals;

/// Maximum number of bytes of a body, which may list each slot of a cluster individually.
const BODY_BYTES_MAX: usize = 256 << 10;

/// Slots whose writes are to wait.
#[derive(ToSchema)]
#[schema(example = json!({"slots": "0-63,100", "seconds": 2}))]
pub struct FenceRequest {
    /// Slots and ranges of slots, of any shards.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    slots: String,
    /// Shard that must own all these slots.
    #[expect(dead_code, reason = "as above")]
    shard: Option<String>,
    /// Seconds after which the fence ends by itself.
    #[schema(minimum = 0.001, maximum = 60)]
    #[expect(dead_code, reason = "as above")]
    seconds: f64,
}

/// Slots whose writes are to continue.
#[derive(ToSchema)]
#[schema(example = json!({"slots": "0-63,100"}))]
pub struct ReleaseRequest {
    /// Slots and ranges of slots, of any shards.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    slots: String,
    /// Shard that must own all these slots.
    #[expect(dead_code, reason = "as above")]
    shard: Option<String>,
}

/// Slots that were changed.
#[derive(Serialize, ToSchema)]
pub struct SlotsAnswer {
    /// Always true.
    success: bool,
    /// The slots, as ranges.
    slots: String,
    /// Number of slots.
    count: usize,
}

/// Makes the writes of slots wait for a short time; reads continue. A second fence of the same
/// slots replaces the first.
#[utoipa::path(
    tag = "placement",
    params(("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000)),
    request_body = FenceRequest,
    responses((status = 200, description = "The writes wait", body = SlotsAnswer), ShardRefusals)
)]
#[post("/api/slots/fence")]
pub(crate) async fn fence_slots(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let (deadline, body) = read(&app, &request, payload).await?;
    let members = Members::of_body(&body)?;
    members.check_names(&["slots", "shard", "seconds"])?;
    let (slots, hold) = (slots(&app, &members)?, hold(&members)?);
    app.manager.slots().fence(&slots, hold, deadline).await?;
    Ok(answer(&slots))
}

/// Ends the fence of slots, so that their writes continue.
#[utoipa::path(
    tag = "placement",
    params(("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000)),
    request_body = ReleaseRequest,
    responses((status = 200, description = "The writes go on", body = SlotsAnswer), ShardRefusals)
)]
#[post("/api/slots/release")]
pub(crate) async fn release_slots(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let (deadline, body) = read(&app, &request, payload).await?;
    let members = Members::of_body(&body)?;
    members.check_names(&["slots", "shard"])?;
    let slots = slots(&app, &members)?;
    app.manager.slots().release(&slots, deadline).await?;
    Ok(answer(&slots))
}

async fn read(
    app: &App,
    request: &HttpRequest,
    payload: Payload,
) -> Result<(Instant, Bytes), Problem> {
    let headers = request.headers();
    Parameters::parse(request.query_string())?.check_names(&[])?;
    refuse_row_headers(headers)?;
    refuse_conditions(headers)?;
    check_content_type(headers)?;
    let deadline = Instant::now() + deadline(headers)?;
    let (bytes, _share) = app.read_body(request, payload, BODY_BYTES_MAX, deadline).await?;
    Ok((deadline, bytes))
}

/// Returns the slots that a request names. If it also names a shard, that shard must own all of
/// them.
fn slots(app: &App, members: &Members<'_>) -> Result<SlotSet, Problem> {
    let bad = |detail: String| refused(RefusalCode::BadFence, detail);
    let slots =
        parse_within(&members.required_text("slots")?, app.manager.map().groups().slot_count());
    let slots = slots.map_err(|error| bad(format!("slots: {error}")))?;
    let Some(name) = members.text("shard")? else { return Ok(slots) };
    let map = app.manager.map();
    let unknown = || refused(RefusalCode::NoShard, format!("the cluster has no shard `{name}`"));
    let shard = map.topology().find(&name).ok_or_else(unknown)?;
    let foreign: SlotSet = slots.iter().filter(|slot| map.owner(*slot) != shard).collect();
    if foreign.is_empty() {
        return Ok(slots);
    }
    Err(bad(format!("{name} does not own the slots {foreign}")))
}

/// Returns the requested duration of a fence.
fn hold(members: &Members<'_>) -> Result<Duration, Problem> {
    let missing = || Problem::new(Code::TSR101, "seconds is missing");
    let json = members.get("seconds").ok_or_else(missing)?;
    let hold = json.get().parse::<f64>().ok();
    let hold = hold.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let fits = |hold: &Duration| (Duration::from_millis(1)..=FENCE_MAX).contains(hold);
    hold.filter(fits).ok_or_else(|| {
        let detail = format!("seconds must be a number from 0.001 to {}", FENCE_MAX.as_secs());
        refused(RefusalCode::BadFence, detail)
    })
}

fn answer(slots: &SlotSet) -> HttpResponse {
    let (count, slots) = (slots.len(), slots.to_string());
    HttpResponse::Ok().json(SlotsAnswer { success: true, slots, count })
}
