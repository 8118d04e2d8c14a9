//! `GET /api/lab/placements`: tries a keyspace and a placement without data, and computes the slots
//! that would move if the shards changed.
//!
//! The session of a browser permits only GET, so the options are in the query string.
//!
//! **Not here:** the computation and its limits (`shard_manager::lab::placement_trial`).

use actix_web::web::block;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use shard_manager::lab::placement_trial::{self, Trial, TrialFault, TrialOptions, TrialTexts};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Names of the parameters of a request.
const NAMES: [&str; 7] = ["keyspace", "placement", "weights", "change", "kind", "keys", "sample"];

/// Options of a placement trial.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query string, which is read without building it")]
pub(crate) struct TrialParameters {
    /// Mapping from keys to slots, as in the settings; `range` and `list` without parameters
    /// are fitted to the keys of `kind`. `hash` by default.
    #[param(example = "hash")]
    keyspace: Option<String>,
    /// Placement, as in the settings, or `rebalance`, which leaves slots where they are as far as
    /// the weights permit. `weighted` by default.
    #[param(example = "ring:160")]
    placement: Option<String>,
    /// Weights of shard1, shard2, …: at most 64. `1,1,1` by default.
    #[param(example = "1,1,2")]
    weights: Option<String>,
    /// Change of the shards: `add`, `add:WEIGHT`, `remove:SHARD` or `weight:SHARD=WEIGHT`; none
    /// by default.
    #[param(example = "add:1")]
    change: Option<String>,
    /// Keys that are counted: `matrix`, `numeric`, `tenants`, `hot-end`, or `slots` (the default),
    /// which is one key for each slot.
    #[param(example = "numeric")]
    kind: Option<String>,
    /// Number of these keys; 10000 by default.
    #[param(minimum = 1, maximum = 20_000, example = 1_000)]
    keys: Option<u32>,
    /// Keys whose locations are returned, one per line: at most 100.
    #[param(example = "user_123")]
    sample: Option<String>,
}

/// Result of a placement trial.
#[derive(Serialize)]
struct TrialResponse {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    trial: Trial,
}

/// Result of a placement trial, and of a change of its shards.
#[derive(ToSchema)]
#[schema(as = PlacementTrial, example = json!({
    "success": true, "keyspace": "hash", "placement": "weighted", "total": 16_384,
    "before": {
        "shards": [{"shard": "shard1", "weight": 1, "slots": 16_384, "load": 16_384}],
        "skew": 1.0, "runs": [[0, 16_383, "shard1"]]
    },
    "moved": {
        "change": "add a shard", "needed": 0.5, "slots": 8_192, "load": 8_192, "share": 0.5,
        "after": {
            "shards": [
                {"shard": "shard1", "weight": 1, "slots": 8_192, "load": 8_192},
                {"shard": "shard2", "weight": 1, "slots": 8_192, "load": 8_192}
            ],
            "skew": 1.0, "runs": [[0, 8_191, "shard1"], [8_192, 16_383, "shard2"]]
        }
    },
    "ring": null,
    "sample": [{"key": "user_123", "slot": 9_042, "shard": "shard1", "after": "shard2", "reason": null}]
}))]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub(crate) struct TrialAnswer {
    /// Always true.
    success: bool,
    /// The keyspace, with its parameters.
    keyspace: String,
    /// The placement, with its parameters.
    placement: String,
    /// Number of keys, or of slots if no kind of keys is given.
    total: u64,
    /// Shards with their shares and slots.
    before: TrialStateAnswer,
    /// Slots and keys that the change moves; null without one.
    #[schema(required)]
    moved: Option<TrialMoveAnswer>,
    /// Points of the ring; null if the placement has none.
    #[schema(required)]
    ring: Option<TrialRingAnswer>,
    /// Locations of the sample keys.
    sample: Vec<PlacedKeyAnswer>,
}

/// Shards with their shares and slots.
#[derive(ToSchema)]
#[schema(as = TrialState)]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub(crate) struct TrialStateAnswer {
    /// The shards.
    shards: Vec<TrialShareAnswer>,
    /// Highest load of a shard as a multiple of its share; 1 is even.
    skew: f64,
    /// First slot, last slot and owner, for all slots in order.
    runs: Vec<(u16, u16, String)>,
}

/// Share of a shard.
#[derive(ToSchema)]
#[schema(as = TrialShare)]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub(crate) struct TrialShareAnswer {
    /// The shard.
    shard: String,
    /// Weight of the shard.
    weight: u32,
    /// Number of its slots.
    slots: u64,
    /// Number of its keys, or of its slots if no kind of keys is given.
    load: u64,
}

/// Slots and keys that a change moves.
#[derive(ToSchema)]
#[schema(as = TrialMove)]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub(crate) struct TrialMoveAnswer {
    /// The change, in words.
    change: String,
    /// Lowest share that must move so that each shard has the load of its weight, 0 to 1.
    needed: f64,
    /// Number of slots with another owner.
    slots: u64,
    /// Number of keys in these slots, or of slots if no kind of keys is given.
    load: u64,
    /// Share of `load` in the total, 0 to 1.
    share: f64,
    /// Shards with their shares and slots after the change.
    after: TrialStateAnswer,
}

/// Points of a ring.
#[derive(ToSchema)]
#[schema(as = TrialRing)]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub(crate) struct TrialRingAnswer {
    /// Number of all points.
    total: u64,
    /// Position from 0 to 1 and shard of each point, in the order of the ring; empty if there are
    /// more than 1024.
    points: Vec<(f64, String)>,
}

/// Key with its location.
#[derive(ToSchema)]
#[schema(as = PlacedKey)]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub(crate) struct PlacedKeyAnswer {
    /// The key.
    key: String,
    /// Slot of the key; null if the keyspace has none for it.
    #[schema(required)]
    slot: Option<u16>,
    /// Shard of the key; null if it has no slot.
    #[schema(required)]
    shard: Option<String>,
    /// Shard of the key after the change; null without one.
    #[schema(required)]
    after: Option<String>,
    /// Reason why it has no slot; null if it has one.
    #[schema(required)]
    reason: Option<String>,
}

/// Computes the slots and keys of each shard, and what would move if the shards changed.
///
/// No data is read or stored: the response depends on the parameters only.
#[utoipa::path(
    tag = "lab",
    params(TrialParameters),
    responses((status = 200, description = "The shares and the slots", body = TrialAnswer), LookupRefusals)
)]
#[get("/api/lab/placements")]
pub(crate) async fn try_placement(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&NAMES)?;
    let texts = TrialTexts {
        keyspace: parameters.single("keyspace")?,
        placement: parameters.single("placement")?,
        weights: parameters.single("weights")?,
        change: parameters.single("change")?,
        kind: parameters.single("kind")?,
        keys: parameters.single("keys")?,
        sample: parameters.single("sample")?,
    };
    let options = TrialOptions::read(&texts)?;
    let trial = block(move || placement_trial::run(&options)).await;
    let trial = trial.map_err(|_| Problem::new(Code::TSR500, "an internal error"))??;
    Ok(HttpResponse::Ok().json(TrialResponse { success: true, trial }))
}

impl From<TrialFault> for Problem {
    fn from(fault: TrialFault) -> Self {
        Self::new(Code::TSR100, fault.to_string())
    }
}
