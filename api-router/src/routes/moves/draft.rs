//! Draft: parses the body of a request that begins a move.
//!
//! **Invariant:** an invalid member is refused with its name, and nothing is guessed.
//! **Not here:** the choice of shards and slots that a draft leaves open
//! (`shard_manager::manager`).

use std::fmt::Display;

use serde_json::value::RawValue;
use shard_manager::engine::move_draft::{DraftSlots, MoveDraft, parse_slots};
use shard_manager::engine::move_record::{RATE_MAX, RATE_MIN};
use shard_manager::engine::refusal_code::RefusalCode;
use shard_manager::moves::limits::KEEP_MAX;
use shard_manager::slot_set::SlotSet;
use utoipa::ToSchema;

use crate::body_reader::Members;
use crate::problem::{Code, Problem, refused};

/// A move that is to begin. Either `slots` or `key` is given.
#[derive(ToSchema)]
#[schema(example = json!({"slots": "0-63", "to": "shard4", "rate": 20, "keep": 900}))]
#[expect(dead_code, reason = "describes the body; the members are read without building it")]
pub(crate) struct NewMoveRequest {
    /// 1 to 64 slots of one shard: `0-63,70`, or an array of ranges `[[0, 63], [70, 70]]`, both
    /// ends included.
    #[schema(value_type = Option<MoveSlotsRequest>)]
    slots: Option<MoveSlotsRequest>,
    /// Shard key whose slot is to move.
    #[schema(min_length = 1, max_length = 256)]
    key: Option<String>,
    /// With `key` only: a table, whose table group determines the slot; the group `main`
    /// when not given.
    table: Option<String>,
    /// With `key` only: the value of the partition column in the row, for a keyspace by a column.
    partition: Option<String>,
    /// Name of the shard that owns the slots; by default, the shard that owns them now.
    from: Option<String>,
    /// Name of the shard that is to own the slots.
    to: String,
    /// Highest rate of the copy in MiB/s; without a limit if it is not given.
    #[schema(minimum = 1, maximum = 10_000)]
    rate: Option<u32>,
    /// Seconds for which the source is kept for a rollback; 900 when not given.
    #[schema(maximum = 86_400)]
    keep: Option<u64>,
}

/// Slots as ranges.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the body; the members are read without building it")]
pub(crate) enum MoveSlotsRequest {
    /// Text such as `0-63,70`.
    Text(String),
    /// First and last slot of each range.
    Ranges(Vec<Vec<u16>>),
}

/// Parses a body, for a cluster with `slot_count` slots.
pub(super) fn draft(body: &[u8], slot_count: usize) -> Result<MoveDraft, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&["slots", "key", "table", "partition", "from", "to", "rate", "keep"])?;
    let given = |name: &str| members.get(name).filter(|json| json.get() != "null");
    let text = |name: &str| given(name).map_or(Ok(None), |_| members.text(name));
    let slots = match (given("slots"), text("key")?) {
        (Some(_), None) if given("table").is_some() => {
            return Err(bad("table is given with key only"));
        }
        (Some(_), None) if given("partition").is_some() => {
            return Err(bad("partition is given with key only"));
        }
        (Some(json), None) => DraftSlots::Set(slots(json, slot_count)?),
        (None, Some(key)) => {
            DraftSlots::OfKey { key, table: text("table")?, partition: text("partition")? }
        }
        (Some(_), Some(_)) => return Err(bad("slots or key is given, not both")),
        (None, None) => return Err(Problem::new(Code::TSR101, "slots or key is missing")),
    };
    Ok(MoveDraft {
        slots,
        from: text("from")?,
        to: members.required_text("to")?,
        rate: given("rate").map(rate).transpose()?,
        keep: given("keep").map(keep).transpose()?,
    })
}

fn bad(detail: impl Display) -> Problem {
    refused(RefusalCode::BadMove, detail.to_string())
}

/// Parses slots, which are a string or an array of ranges.
fn slots(json: &RawValue, slot_count: usize) -> Result<SlotSet, Problem> {
    let form = || bad("slots must be ranges such as \"0-63,70\" or [[0, 63], [70, 70]]");
    let text = if json.get().starts_with('"') {
        serde_json::from_str(json.get()).map_err(|_| form())?
    } else {
        let ranges: Vec<[u32; 2]> = serde_json::from_str(json.get()).map_err(|_| form())?;
        if ranges.is_empty() {
            return Ok(SlotSet::empty());
        }
        let ranges = ranges.iter().map(|[first, last]| format!("{first}-{last}"));
        ranges.collect::<Vec<_>>().join(",")
    };
    let text: String = text;
    parse_slots(&text, slot_count).map_err(|error| bad(format_args!("slots: {error}")))
}

fn rate(json: &RawValue) -> Result<u32, Problem> {
    let rate = json.get().parse().ok().filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| {
        bad(format_args!("rate must be a whole number of MiB/s from {RATE_MIN} to {RATE_MAX}"))
    })
}

fn keep(json: &RawValue) -> Result<u64, Problem> {
    let most = KEEP_MAX.as_secs();
    let keep = json.get().parse().ok().filter(|keep| *keep <= most);
    keep.ok_or_else(|| bad(format_args!("keep must be a whole number of seconds from 0 to {most}")))
}
