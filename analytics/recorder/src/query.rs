//! Query: what a question about figures asks for.
//!
//! **Not here:** the answer (`figures`); whether a shard or a route of that name exists, which the caller knows.

use utoipa::IntoParams;

use crate::sample::Operation;
use crate::window::Window;

/// Which requests the figures are of; all of the last five minutes when nothing is said.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query string, which is read without building it")]
pub struct MetricsParameters {
    /// How far back; 5m when not given.
    #[param(inline, pattern = "^(1m|5m|15m|1h|6h|24h|7d)$", example = "5m")]
    window: Option<String>,
    /// The window in milliseconds instead.
    #[param(rename = "timeRange", minimum = 1, maximum = 3600000)]
    time_range: Option<u32>,
    /// Only requests that this shard alone was asked for.
    #[param(example = "shard1")]
    shard: Option<String>,
    /// Only requests for this path, as it is declared.
    #[param(example = "/api/read")]
    route: Option<String>,
    /// Only reads, or only writes.
    #[param(inline, pattern = "^(read|write)$")]
    operation: Option<String>,
}

/// Which requests the figures are of. By default those of the last 5 minutes, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MetricsQuery {
    /// How far back.
    pub window: Window,
    /// Only requests that met this shard alone.
    pub shard: Option<String>,
    /// Only requests for this route.
    pub route: Option<String>,
    /// Only reads, or only writes.
    pub operation: Option<Operation>,
}

impl Operation {
    /// Parses the value of `operation=`: `read` or `write`.
    ///
    /// # Errors
    /// [`OperationError`] for any other text.
    pub fn parse(text: &str) -> Result<Self, OperationError> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            _ => Err(OperationError),
        }
    }
}

/// A text that is no operation. The message names what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation must be read or write")]
pub struct OperationError;
