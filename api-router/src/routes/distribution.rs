//! `GET /api/distribution`: returns the distribution of rows and bytes over the shards.

use std::time::{Duration, Instant};

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use shard_manager::access::rights::Rights;
use shard_manager::manager::ShardReport;
use shard_manager::topology::ShardNumber;
use utoipa::ToSchema;

use crate::app::App;
use crate::headers::time_limit;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;
use crate::routes::groups;

/// Longest time to wait for sizes: to determine them, a shard reads every page of its file.
const SIZES_MAX: Duration = Duration::from_secs(10);

/// Distribution of a table, or of all tables, over the shards.
#[derive(Serialize, ToSchema)]
pub struct DistributionAnswer {
    /// Always true.
    success: bool,
    /// The table; null for all tables together, or all of a group.
    #[schema(required)]
    table: Option<String>,
    /// Rows on the shards that answered.
    rows: i64,
    /// Bytes of the pages in use on these shards.
    bytes: i64,
    /// The shards that may have such rows, in their order.
    shards: Vec<ShardPart>,
    /// Shards that did not answer: rows, bytes, share and skew are of the others.
    missing: Vec<String>,
    /// Ratio of the rows of the fullest shard to the mean of the shards: 1 is even, also without
    /// rows.
    skew: f64,
}

/// Rows and bytes of a shard.
#[derive(Serialize, ToSchema)]
pub struct ShardPart {
    /// The shard.
    shard: String,
    /// Rows; null if the shard did not answer.
    #[schema(required)]
    rows: Option<i64>,
    /// Bytes of the pages in use; null if the shard did not answer.
    #[schema(required)]
    bytes: Option<i64>,
    /// Fraction of all rows, 0 to 1; null if the shard did not answer.
    #[schema(required)]
    share: Option<f64>,
}

/// Returns the distribution of rows over the shards.
#[utoipa::path(
    tag = "placement",
    params(
        ("table" = Option<String>, Query, description = "The table; by default, all together", example = "users"),
        ("group" = Option<String>, Query, description = "Instead of a table: the group whose tables are counted together", example = "main"),
    ),
    responses((status = 200, description = "Rows and bytes of each shard", body = DistributionAnswer), LookupRefusals)
)]
#[get("/api/distribution")]
pub(crate) async fn distribution(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["table", "group"])?;
    let rights = app.rights(&request);
    let table = parameters.single("table")?;
    let table = table.map(|name| app.manager.schema(&rights).table(name)).transpose()?;
    let map = app.manager.map();
    let group = match (parameters.single("group")?, &table) {
        (Some(name), None) => Some(groups::find(&map, name)?),
        (None, Some(table)) => Some(table.group()),
        (None, None) => None,
        (Some(_), Some(_)) => {
            return Err(Problem::new(Code::TSR100, "table or group is given, not both"));
        }
    };
    // Shards that do not belong to the group have no rows of it.
    let group = group.and_then(|number| Some((number, map.groups().get(number)?)));
    let is_included = |shard: &ShardNumber| group.is_none_or(|(_, group)| group.allows(*shard));
    let all: Vec<ShardNumber> = map.topology().numbers().filter(is_included).collect();
    let names: Option<Vec<String>> = match (&table, group) {
        (Some(table), _) => Some(vec![table.name().to_owned()]),
        (None, Some((number, _))) => {
            let tables = app.manager.schema(Rights::ALL).tables();
            let own = tables.tables().filter(|table| table.group() == number);
            Some(own.map(|table| table.name().to_owned()).collect())
        }
        (None, None) => None,
    };
    let patience = time_limit(request.headers(), SIZES_MAX)?;
    let reports = app.manager.status().report(&all, Instant::now() + patience).await;
    let named = |report: &ShardReport| app.manager.shard_name(report.shard).to_owned();
    let sizes: Vec<(String, Option<(i64, i64)>)> =
        reports.iter().map(|report| (named(report), size(report, names.as_deref()))).collect();
    let table = table.map(|table| table.name().to_owned());
    Ok(HttpResponse::Ok().json(answer(table, sizes)))
}

/// Returns the number of rows and bytes of the named tables on a shard, or of all tables; `None` if
/// the shard did not respond.
fn size(report: &ShardReport, names: Option<&[String]>) -> Option<(i64, i64)> {
    let tables = report.tables.as_ref()?.iter();
    let meant = tables.filter(|size| names.is_none_or(|names| names.contains(&size.table)));
    Some(meant.fold((0, 0), |(rows, bytes), size| (rows + size.rows, bytes + size.bytes)))
}

fn answer(table: Option<String>, sizes: Vec<(String, Option<(i64, i64)>)>) -> DistributionAnswer {
    let known: Vec<(i64, i64)> = sizes.iter().filter_map(|(_, size)| *size).collect();
    let rows: i64 = known.iter().map(|(rows, _)| rows).sum();
    let bytes: i64 = known.iter().map(|(_, bytes)| bytes).sum();
    let most = known.iter().map(|(rows, _)| *rows).max().unwrap_or(0);
    let share = |part: i64| if rows == 0 { 0.0 } else { rounded(part as f64 / rows as f64) };
    // Calculates max / mean with a single division.
    let skew =
        if rows == 0 { 1.0 } else { rounded(most as f64 * known.len() as f64 / rows as f64) };
    let missing = sizes.iter().filter(|(_, size)| size.is_none());
    let missing = missing.map(|(shard, _)| shard.clone()).collect();
    let parts = sizes.into_iter().map(|(shard, size)| ShardPart {
        shard,
        rows: size.map(|(rows, _)| rows),
        bytes: size.map(|(_, bytes)| bytes),
        share: size.map(|(rows, _)| share(rows)),
    });
    DistributionAnswer { success: true, table, rows, bytes, shards: parts.collect(), missing, skew }
}

/// Rounds to four decimals, because further digits would not be meaningful.
fn rounded(ratio: f64) -> f64 {
    (ratio * 1e4).round() / 1e4
}
