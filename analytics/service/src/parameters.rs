//! Parameters: the decoded query string of a request.
//!
//! **Invariant:** an unknown or repeated name is refused.
//! **Not here:** the meaning of values.

use percent_encoding::percent_decode_str;

use crate::fleet_query::FleetQuery;
use crate::problem::Problem;
use recorder::MetricsQuery;
use recorder::Operation;
use recorder::Window;

/// Maximum length of a query string, in bytes.
const LEN_MAX: usize = 8 << 10;
/// Maximum number of characters of a parameter that a problem repeats.
const SHOWN_MAX: usize = 40;
/// Parameters of a query for metrics.
const OF_FIGURES: [&str; 6] = ["window", "timeRange", "shard", "route", "operation", "router"];

/// Decoded parameters, in their order.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query string. A parameter whose name is not among `known` is an error.
    pub(crate) fn parse(query: &str, known: &[&str]) -> Result<Self, Problem> {
        if query.len() > LEN_MAX {
            let cause = format!("the query string is longer than {} KiB", LEN_MAX >> 10);
            return Err(Problem::parameter(cause));
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !known.contains(&&*name) {
                let shown: String = name.chars().take(SHOWN_MAX).collect();
                let problem = Problem::parameter(format!("unknown parameter `{shown}`"));
                return Err(match known {
                    [] => problem.hint("this path takes no parameters"),
                    known => problem.hint(format!("known parameters: {}", known.join(", "))),
                });
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Problem::parameter(format!("{name} is given twice")));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// Returns the value of a parameter, if it is present.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }
}

/// Reads a query for metrics. Unknown shards and routes are accepted, because routers start and
/// stop at any time.
pub(crate) fn fleet_query(query: &str) -> Result<FleetQuery, Problem> {
    let parameters = Parameters::parse(query, &OF_FIGURES)?;
    let (window, range) = (parameters.get("window"), parameters.get("timeRange"));
    let operation = parameters.get("operation").map(Operation::parse).transpose();
    let text = |name| parameters.get(name).map(str::to_owned);
    let query = MetricsQuery {
        window: Window::from_query(window, range).map_err(Problem::parameter)?,
        shard: text("shard"),
        route: text("route"),
        operation: operation.map_err(Problem::parameter)?,
    };
    Ok(FleetQuery { query, router: text("router") })
}

fn decoded(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| Problem::parameter("the query string is not UTF-8"))?;
    Ok(decoded.into_owned())
}
