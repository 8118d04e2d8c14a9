//! Probe: a request of a tenant for rows of another tenant. No probe may return such a row.
//!
//! **Not here:** searching every response for rows of other tenants (`clients`).

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http_client::{Answer, HttpRequest};
use crate::random::Random;
use crate::requests;
use crate::response_check::{self, Failure};
use crate::tables::{KV, columns};

/// Percentage of a tenant's requests that are probes.
const PERCENT: u32 = 10;
/// Maximum number of rows of a read without a key.
const ROWS: u32 = 50;

/// Kind of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A read by the key of another tenant.
    Read,
    /// A write of a row of another tenant.
    Write,
    /// A read without a key whose filter names a row of another tenant.
    Filter,
    /// A read without a key and without a filter.
    Unkeyed,
}

#[derive(Deserialize)]
struct Rows {
    data: Vec<Value>,
}

impl Probe {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Filter, Self::Unkeyed];

    /// Decides by chance whether the next request is a probe.
    pub(crate) fn is_due(random: &mut Random) -> bool {
        random.below(100) < PERCENT
    }

    /// Draws the kind of a probe.
    pub(crate) fn draw(random: &mut Random) -> Self {
        Self::ALL[random.below(Self::ALL.len() as u32) as usize]
    }

    /// Returns the request for a probe; `other` is a key of another tenant.
    pub(crate) fn request(self, table: &str, other: &str) -> Result<HttpRequest, Failure> {
        let id = columns(table)[0];
        match self {
            Self::Read if table == KV => requests::get(&format!("/api/kv/{other}")),
            Self::Read => {
                requests::keyed(requests::get(&format!("/api/read?table={table}&limit=10"))?, other)
            }
            Self::Write if table == KV => requests::json(
                Method::PUT,
                &format!("/api/kv/{other}"),
                &json!("by another client"),
            ),
            Self::Write => {
                let row = json!({"user_id": other, "name": "by another client", "email": "probe", "run": "v"});
                let body = json!({"table": table, "data": row});
                requests::keyed(requests::json(Method::POST, "/api/write", &body)?, other)
            }
            Self::Filter => requests::get(&format!("/api/read?table={table}&{id}=eq.{other}")),
            Self::Unkeyed => requests::get(&format!("/api/read?table={table}&limit={ROWS}")),
        }
    }

    /// Checks that the response is a refusal, or contains no row of another tenant.
    pub(crate) fn judge(self, answer: &Answer) -> Result<(), Failure> {
        let (status, body) = (answer.status, &answer.body[..]);
        match (self, status) {
            (Self::Read | Self::Write | Self::Filter, 403) => Ok(()),
            (Self::Read | Self::Write, 200..=299) => {
                let detail = format!("a {} by the key of another tenant succeeded", self.verb());
                Err(Failure::new(Some(status), "not refused", &detail))
            }
            (Self::Filter, 200) => match serde_json::from_slice::<Rows>(body) {
                Ok(rows) if rows.data.is_empty() => Ok(()),
                Ok(_) => {
                    let detail = "a filter found a row of another tenant";
                    Err(Failure::new(Some(status), "foreign row", detail))
                }
                Err(error) => {
                    let detail = format!("no rows: {error}");
                    Err(Failure::new(Some(status), "unreadable answer", &detail))
                }
            },
            // `clients` has already checked that every row belongs to the tenant.
            (Self::Unkeyed, 200) => Ok(()),
            _ => response_check::of_write(status, body),
        }
    }

    fn verb(self) -> &'static str {
        if self == Self::Write { "write" } else { "read" }
    }
}
