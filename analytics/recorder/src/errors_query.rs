//! Errors query: the parameters of `GET /api/analytics/errors`, which select among the newest
//! failures.
//!
//! **Invariant:** the OpenAPI document describes exactly the parameters that are read.
//! **Not here:** finding the failures (`errors`).

use utoipa::IntoParams;

use crate::errors::{ErrorFilter, FilterError};

/// Parameters of a query for errors. A query without parameters returns the newest errors.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query string, which is read without building it")]
pub struct ErrorsParameters {
    /// Maximum number of errors; default 50
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Older spelling of `limit`
    #[param(minimum = 1, maximum = 1000)]
    count: Option<u32>,
    /// Only errors at or after this time: RFC 3339, or milliseconds since 1970
    since: Option<String>,
    /// Only errors of this shard
    shard: Option<String>,
    /// Only errors of this code
    #[param(example = "TSR201")]
    code: Option<String>,
    /// Returns counts by code, shard and route instead of single errors
    grouped: Option<bool>,
}

/// A query for the newest failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorsQuery<'q> {
    /// Filter of the failures.
    pub filter: ErrorFilter<'q>,
    /// True if the response contains counts by code, shard and route instead of single failures.
    pub grouped: bool,
}

impl<'q> ErrorsQuery<'q> {
    /// Names of the parameters.
    pub const NAMES: [&'static str; 6] = ["limit", "count", "since", "shard", "code", "grouped"];

    /// Reads the parameters of a query; `get` returns the value of the parameter with a given name.
    ///
    /// # Errors
    /// Returns the errors of `get`, and a converted [`FilterError`] if a value is not allowed.
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
