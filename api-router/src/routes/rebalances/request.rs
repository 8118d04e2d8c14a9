//! Request: parses the body of a request that plans or begins a rebalance.
//!
//! **Invariant:** an invalid member is refused with its name, and nothing is guessed.
//! **Not here:** making the plan (`shard_manager::manager`).

use serde_json::value::RawValue;
use shard_manager::engine::rebalance_draft::{DraftFault, DraftMembers, RebalanceDraft};
use shard_manager::engine::refusal_code::RefusalCode;
use utoipa::ToSchema;

use crate::body_reader::Members;
use crate::problem::{Code, Problem, refused};

/// A rebalance that is to be planned or to begin.
#[derive(ToSchema)]
#[schema(example = json!({"by": "slots", "dry_run": true, "rate": 20, "keep": 900}))]
#[expect(dead_code, reason = "describes the body; the members are read without building it")]
pub(crate) struct RebalanceRequest {
    /// Quantity that the shards share by weight: `slots` (when not given), `size`, `load` (the
    /// requests of the last 15 minutes that this router has answered), or `placement`: each slot
    /// goes where a placement puts it.
    #[schema(pattern = "^(slots|size|load|placement)$")]
    by: Option<String>,
    /// With `by` `placement` only: `ring:160`, for example; the placement of the cluster when not
    /// given.
    placement: Option<String>,
    /// Table group whose slots move; all groups when not given, but a `placement` is for `main`
    /// then.
    group: Option<String>,
    /// True to get the plan only.
    dry_run: Option<bool>,
    /// Highest rate of the copy of each move in MiB/s; without a limit if it is not given.
    #[schema(minimum = 1, maximum = 10_000)]
    rate: Option<u32>,
    /// Seconds for which the source of each move is kept for a rollback; 900 when not given.
    #[schema(maximum = 86_400)]
    keep: Option<u64>,
}

/// Options of a drain.
#[derive(ToSchema)]
#[schema(example = json!({"rate": 20, "keep": 0}))]
#[expect(dead_code, reason = "describes the body; the members are read without building it")]
pub(crate) struct DrainRequest {
    /// True to get the plan only.
    dry_run: Option<bool>,
    /// Highest rate of the copy of each move in MiB/s; without a limit if it is not given.
    #[schema(minimum = 1, maximum = 10_000)]
    rate: Option<u32>,
    /// Seconds for which the shard is kept after each move, for a rollback; 900 when not given. The
    /// shard retires after this time.
    #[schema(maximum = 86_400)]
    keep: Option<u64>,
}

/// Parses a request for a rebalance. Also returns true if only the plan is requested.
pub(super) fn rebalance_request(body: &[u8]) -> Result<(RebalanceDraft, bool), Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&["by", "placement", "group", "dry_run", "rate", "keep"])?;
    let (by, placement) = (text(&members, "by")?, text(&members, "placement")?);
    let (group, (rate, keep)) = (text(&members, "group")?, bounds(&members)?);
    let (by, placement, group) = (by.as_deref(), placement.as_deref(), group.as_deref());
    let read = DraftMembers { by, placement, group, rate, keep };
    let draft = RebalanceDraft::read(&read).map_err(|fault| bad(&fault))?;
    Ok((draft, dry_run(&members)?))
}

/// Parses a request to empty a shard. Also returns true if only the plan is requested.
pub(super) fn drain_request(shard: String, body: &[u8]) -> Result<(RebalanceDraft, bool), Problem> {
    let members = Members::of_body(if body.is_empty() { b"{}" } else { body })?;
    members.check_names(&["dry_run", "rate", "keep"])?;
    let (rate, keep) = bounds(&members)?;
    let read = DraftMembers { rate, keep, ..DraftMembers::default() };
    let draft = RebalanceDraft::drain(shard, &read).map_err(|fault| bad(&fault))?;
    Ok((draft, dry_run(&members)?))
}

fn bad(fault: &DraftFault) -> Problem {
    refused(RefusalCode::BadRebalance, fault.to_string())
}

fn given<'b>(members: &Members<'b>, name: &str) -> Option<&'b RawValue> {
    members.get(name).filter(|json| json.get() != "null")
}

fn text(members: &Members<'_>, name: &str) -> Result<Option<String>, Problem> {
    given(members, name).map_or(Ok(None), |_| members.text(name))
}

/// Parses `rate` and `keep`. [`RebalanceDraft`] checks their limits.
fn bounds(members: &Members<'_>) -> Result<(Option<u32>, Option<u64>), Problem> {
    let rate = given(members, "rate").map(|json| json.get().parse().ok().ok_or(DraftFault::Rate));
    let keep = given(members, "keep").map(|json| json.get().parse().ok().ok_or(DraftFault::Keep));
    let rate = rate.transpose().map_err(|fault| bad(&fault))?;
    Ok((rate, keep.transpose().map_err(|fault| bad(&fault))?))
}

fn dry_run(members: &Members<'_>) -> Result<bool, Problem> {
    match given(members, "dry_run").map(RawValue::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::new(Code::TSR101, "dry_run must be true or false")),
    }
}
