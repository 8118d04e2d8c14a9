//! `GET /api/lab/writes`: the shard keys that were last written through this router, with their
//! shards, for the lab page.
//!
//! **Not here:** recording the writes (`analytics::Recorder`).

use actix_web::web::{Data, block};
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::{RecentWrite, WRITES_MAX, writes_after};
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::access::access_problems;
use crate::app::App;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Parameters of the request.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters, which are read one by one")]
pub(crate) struct WritesParameters {
    /// Number of the last write that the caller knows; 0 by default.
    #[param(example = 0)]
    after: Option<u64>,
}

/// Keys that were written, and the cluster that has them.
#[derive(Serialize, ToSchema)]
#[schema(as = LabWrites, example = json!({
    "success": true, "keyspace": "hash", "placement": "weighted",
    "shards": [{"shard": "shard1", "weight": 1}, {"shard": "shard2", "weight": 1}], "last": 18,
    "writes": [{"number": 18, "at": "2026-11-25T09:30:00Z", "key": "user_123", "slot": 9042, "shard": "shard2", "rows": 1}]
}))]
pub(crate) struct WritesAnswer {
    /// Always true.
    success: bool,
    /// Mapping from keys to slots of this cluster.
    keyspace: String,
    /// Placement with which this cluster was created.
    placement: String,
    /// Shards of the cluster.
    shards: Vec<LabShard>,
    /// Number of the last listed write, or `after` if there is none.
    last: u64,
    /// Writes after that number, oldest first: at most the last 128. Of the single writes within
    /// one millisecond only one is listed. Of the rows of bulk writes a few keys are listed for
    /// each shard, each with an equal part of the number of rows. A JSON body with rows of one key
    /// is listed as a single write.
    writes: Vec<WrittenKey>,
}

/// Shard with its weight.
#[derive(Serialize, ToSchema)]
pub(crate) struct LabShard {
    /// Name.
    shard: String,
    /// Weight.
    weight: u32,
}

/// Key that was written, or a key of bulk writes that stands for some of their rows.
#[derive(Serialize, ToSchema)]
pub(crate) struct WrittenKey {
    /// Number of the write since the start of this router.
    number: u64,
    /// Second of the response: RFC 3339.
    at: String,
    /// The shard key.
    key: String,
    /// Slot of the key; null if it is not known.
    #[schema(required)]
    slot: Option<u16>,
    /// Shard that has stored it; null if it is not known.
    #[schema(required)]
    shard: Option<String>,
    /// Number of rows for which the key stands: 1 unless bulk writes have stored them.
    rows: u64,
}

const _: () = assert!(WRITES_MAX == 128, "the description names the number");

impl From<RecentWrite> for WrittenKey {
    fn from(write: RecentWrite) -> Self {
        let RecentWrite { number, second, key, shard, slot, rows } = write;
        let at = DateTime::from_timestamp(i64::try_from(second).unwrap_or(i64::MAX), 0);
        let at = at.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
        let (key, shard) = (key.to_string(), shard.map(|shard| shard.to_string()));
        Self { number, at, key, slot, shard, rows }
    }
}

/// Lists the keys that were written last, with the slot and the shard of each.
///
/// Send the number of the last known write as `after` to get only newer ones. Writes through other
/// routers are not listed.
#[utoipa::path(
    tag = "lab",
    params(WritesParameters),
    responses((status = 200, description = "The keys", body = WritesAnswer), LookupRefusals)
)]
#[get("/api/lab/writes")]
pub(crate) async fn list_writes(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    access_problems::refuse_bound(&app.rights(&request))?;
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["after"])?;
    let after = match parameters.single("after")? {
        None => 0,
        Some(text) => text.parse().map_err(|_| {
            Problem::new(Code::TSR100, "after must be the number of a write, such as 18")
        })?,
    };
    let metrics = app.analytics()?.metrics.clone();
    let writes = block(move || writes_after(&metrics.recorder, after)).await;
    let writes = writes.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    let map = app.manager.map();
    let shards = map
        .topology()
        .members()
        .map(|(_, spec)| LabShard { shard: spec.name.clone(), weight: spec.weight });
    Ok(HttpResponse::Ok().json(WritesAnswer {
        success: true,
        keyspace: map.keyspace().to_string(),
        placement: map.placement().to_string(),
        shards: shards.collect(),
        last: writes.last().map_or(after, |write| write.number),
        writes: writes.into_iter().map(WrittenKey::from).collect(),
    }))
}
