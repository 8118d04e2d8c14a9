//! Query: the filters and the time range of a metrics query.
//!
//! **Not here:** the response (`figures`); checking that a shard or route exists, which the calling
//! function must do.

use utoipa::IntoParams;

use crate::sample::Operation;
use crate::window::Window;

/// Parameters of a metrics query; the default is all requests of the last five minutes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query string, which is read without building it")]
pub struct MetricsParameters {
    /// Time range up to now; 5m if not given.
    #[param(inline, pattern = "^(1m|5m|15m|1h|6h|24h|7d)$", example = "5m")]
    window: Option<String>,
    /// Time range in milliseconds, in place of `window`.
    #[param(rename = "timeRange", minimum = 1, maximum = 3600000)]
    time_range: Option<u32>,
    /// Only requests that contacted this shard and no other.
    #[param(example = "shard1")]
    shard: Option<String>,
    /// Only requests to this route, by the path in its declaration.
    #[param(example = "/api/read")]
    route: Option<String>,
    /// Only reads, or only writes.
    #[param(inline, pattern = "^(read|write)$")]
    operation: Option<String>,
}

/// A metrics query. The default is all requests of the last 5 minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MetricsQuery {
    /// Time range up to now.
    pub window: Window,
    /// Only requests that contacted this shard and no other.
    pub shard: Option<String>,
    /// Only requests to this route.
    pub route: Option<String>,
    /// Only reads, or only writes.
    pub operation: Option<Operation>,
}

impl Operation {
    /// Parses the value of `operation=`: `read` or `write`.
    ///
    /// # Errors
    /// Returns [`OperationError`] for any other value.
    pub fn parse(text: &str) -> Result<Self, OperationError> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            _ => Err(OperationError),
        }
    }
}

/// Error for a string that is not an operation. The message lists the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation must be read or write")]
pub struct OperationError;
