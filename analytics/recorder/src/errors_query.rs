//! Errors query: which of the newest failures are asked for, and how the query string says so.
//!
//! **Invariant:** what is described is what is read.
//! **Not here:** finding them (`errors`).

use utoipa::IntoParams;

use crate::errors::{ErrorFilter, FilterError};

/// Which errors; the newest of all when nothing is said.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query string, which is read without building it")]
pub struct ErrorsParameters {
    /// Most errors; 50 when not given
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// As limit
    #[param(minimum = 1, maximum = 1000)]
    count: Option<u32>,
    /// Only later ones: RFC 3339, or milliseconds since 1970
    since: Option<String>,
    /// Only those of this shard
    shard: Option<String>,
    /// Only those of this code
    #[param(example = "TSR201")]
    code: Option<String>,
    /// BucketCounter by code, shard and route
    grouped: Option<bool>,
}

/// What is asked of the newest failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorsQuery<'q> {
    /// Which of them.
    pub filter: ErrorFilter<'q>,
    /// Whether they are counted by code, shard and route.
    pub grouped: bool,
}

impl<'q> ErrorsQuery<'q> {
    /// The parameters that there are.
    pub const NAMES: [&'static str; 6] = ["limit", "count", "since", "shard", "code", "grouped"];

    /// Reads the parameters, which `get` finds by their names.
    ///
    /// # Errors
    /// Those of `get`, and what a [`FilterError`] becomes if a value means nothing.
    pub fn read<E: From<FilterError>>(
        get: impl Fn(&'static str) -> Result<Option<&'q str>, E>,
    ) -> Result<Self, E> {
        let mut filter = ErrorFilter::default();
        let limit = match (get("limit")?, get("count")?) {
            (Some(_), Some(_)) => return Err(FilterError::Twice.into()),
            (limit, count) => limit.or(count),
        };
        if let Some(limit) = limit {
            filter.limit = ErrorFilter::parse_limit(limit)?;
        }
        if let Some(since) = get("since")? {
            filter.since_ms = Some(ErrorFilter::parse_since(since)?);
        }
        filter.shard = get("shard")?;
        filter.code = get("code")?;
        let grouped = match get("grouped")? {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(FilterError::Grouped.into()),
        };
        Ok(Self { filter, grouped })
    }
}
