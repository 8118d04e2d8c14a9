//! HTTP client: sends HTTP/1.1 requests to a router, with or without TLS.
//!
//! **Invariant:** a request is sent once, without retries, redirects or proxies, so that the
//! counted requests are exactly those that were sent.
//! **Not here:** the contents of requests (`requests`), checking a response (`response_check`).

mod connection;
mod pool;
mod target;
mod trust;

pub(crate) use pool::Pool;
pub(crate) use target::Target;

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Request, StatusCode};

use crate::response_check::{Failure, printable};

/// Longest wait for the response to a readiness check. A router that takes longer is treated as
/// unreachable.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of bytes of a response. It is more than the longest page of a scatter read has; a
/// longer response is an error.
const ANSWER_BYTES_MAX: usize = 8 << 20;

const SHARD: HeaderName = HeaderName::from_static("x-shard");
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Failure code: no connection to the router.
const NOT_CONNECTED: &str = "not connected";
/// Failure code: the router's certificate is not trusted.
const CERTIFICATE_REFUSED: &str = "certificate refused";

/// Complete request. Its URI consists only of a path and a query.
pub(crate) type HttpRequest = Request<http_body_util::Full<Bytes>>;

/// Complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Returns the name of the shard that answered, if it was a single one.
    pub(crate) fn shard(&self) -> Option<&str> {
        self.text(&SHARD)
    }

    /// Returns the role of the node that answered: `primary`, `replica` or `cache`.
    pub(crate) fn served_by(&self) -> Option<&str> {
        self.text(&SERVED_BY)
    }

    /// Returns the use of the router's cache: `hit`, `miss` or `bypass`.
    pub(crate) fn cache(&self) -> Option<&str> {
        self.text(&CACHE)
    }

    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Checks that a router is reachable and ready. If it is not, the error names a remedy.
pub(crate) async fn check_ready(pool: &Pool) -> anyhow::Result<()> {
    let target = pool.target();
    let asked = match Request::get("/ready").body(http_body_util::Full::default()) {
        Ok(asked) => asked,
        Err(error) => bail!("no request can be made for {target}: {error}"),
    };
    let status = match pool.send(asked, READY_TIMEOUT).await {
        Ok(answer) => answer.status,
        Err(Failure { code, detail, .. }) if code == CERTIFICATE_REFUSED => {
            bail!("the certificate of the router at {target} is refused: {detail}")
        }
        Err(Failure { detail, .. }) => {
            bail!("no router answers at {target} ({detail}): start one with `cargo run --release`")
        }
    };
    match StatusCode::from_u16(status) {
        Ok(status) if status.is_success() => Ok(()),
        Ok(StatusCode::UNAUTHORIZED) if pool.has_credential() => {
            bail!("the router at {target} refuses the load tester's key")
        }
        Ok(StatusCode::SERVICE_UNAVAILABLE) => {
            bail!(
                "the router at {target} is not ready (503): it is starting or stopping; try again"
            )
        }
        _ => bail!(
            "the server at {target} is not a Tessera router (GET /ready gave {status}): \
             start one with `cargo run --release`"
        ),
    }
}

/// Returns true for a failure before anything was sent, so that the request had no effect.
pub(crate) fn is_before_sending(failure: &Failure) -> bool {
    [NOT_CONNECTED, CERTIFICATE_REFUSED].contains(&failure.code.as_str())
}

/// Returns the failure of a request without a complete response.
fn broken(status: Option<u16>, error: &hyper::Error) -> Failure {
    Failure::new(status, "no answer", &printable(&error.to_string()))
}
