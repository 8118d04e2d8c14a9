//! `/errors` and `/errors/{code}`: serve pages that explain the codes of problems and their
//! remedies.
//!
//! **Invariant:** a page loads no other file and runs no script.
//! **Not here:** the table of codes (`problem`), the errors that have occurred (`analytics`).

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, VARY};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, get};
use chrono::DateTime;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use shard_manager::consistency::Level;
use shard_manager::engine::backup_id::BackupId;
use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::move_catalog::MoveListError;
use shard_manager::engine::move_record::{MoveOrderFault, NewMoveFault};
use shard_manager::engine::new_shard::NewShardRefusal;
use shard_manager::engine::node_distributor::DistributorError;
use shard_manager::engine::rebalance_catalog::RebalanceListError;
use shard_manager::engine::rebalance_draft::DraftFault;
use shard_manager::engine::rebalance_record::{RebalanceOrderFault, RebalanceState};
use shard_manager::engine::refusal_code::RefusalCode;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::Slot;
use shard_manager::keyspace::partition_column::PartitionError;
use shard_manager::manager::{
    BackupsError, IndexesError, MovesError, RebalancesError, ShardChangeError, SlotsError,
};
use shard_manager::map_change::MapChangeRefusal;
use shard_manager::row_change::RowError;
use shard_manager::slot_refusal::SlotRefusal;
use shard_manager::value::TypeMismatch;
use utoipa::ToSchema;

use crate::access::access_problems;
use crate::lab_runs::LabRunError;
use crate::negotiation::{joined, prefers_json};
use crate::problem::{Code, Problem, ProblemBody, no_backup_dir, refused};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Request id in the examples.
const REQUEST_ID: &str = "0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10";

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}\
code,pre{font-family:ui-monospace,monospace;font-size:.9rem}\
pre{padding:1rem;border:1px solid #8886;border-radius:.5rem;overflow-x:auto}\
table{border-collapse:collapse}td,th{text-align:left;padding:.25rem 1rem .25rem 0}\
h1 small{opacity:.6;font-weight:normal}";

/// Every code.
#[derive(Serialize, ToSchema)]
pub struct CodesAnswer {
    /// Always true.
    success: bool,
    /// The codes in their order.
    errors: Vec<CodeView>,
}

/// A code and its meaning.
#[derive(Serialize, ToSchema)]
pub struct CodeView {
    /// The code, such as `TSR101`.
    code: &'static str,
    /// The HTTP status.
    status: u16,
    /// A few words, the same for every occurrence.
    title: &'static str,
    /// Meaning and remedy.
    about: &'static str,
    /// True if the same request may succeed later.
    retryable: bool,
    /// The path of the page that explains it.
    page: String,
}

/// Lists the codes of problems.
///
/// The response is a page, or JSON if `Accept` prefers it.
#[utoipa::path(
    tag = "operations",
    params(("Accept" = Option<String>, Header, description = "application/json requests the list as JSON", example = "application/json")),
    responses(
        (status = 200, description = "Every code", content((CodesAnswer = "application/json"), (String = "text/html"))),
        LookupRefusals,
    )
)]
#[get("/errors")]
pub(crate) async fn list_codes(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let mut response = HttpResponse::Ok();
    response.insert_header((VARY, "accept"));
    if prefers_json(&joined(request.headers(), &ACCEPT)) {
        let errors = Code::ALL.iter().map(|code| CodeView {
            code: code.name(),
            status: code.status().as_u16(),
            title: code.title(),
            about: code.about(),
            retryable: code.is_retryable(),
            page: page_of(*code),
        });
        return Ok(response.json(CodesAnswer { success: true, errors: errors.collect() }));
    }
    let content = html! {
        h1 { "Error codes" }
        p {
            "The " code { "code" } " of a problem leads here. To try out every call: "
            a href="/swagger-ui/" { "/swagger-ui/" }
        }
        table {
            tr { th { "Code" } th { "Status" } th { "Meaning" } th { "Retry?" } }
            @for code in Code::ALL {
                tr {
                    td { a href=(page_of(*code)) { (code.name()) } }
                    td { (code.status().as_u16()) }
                    td { (code.title()) }
                    td { @if code.is_retryable() { "later" } }
                }
            }
        }
    };
    Ok(page(response, "Error codes", &content))
}

/// Explains an error code.
#[utoipa::path(
    tag = "operations",
    params(("code" = String, Path, description = "The code", example = "TSR101")),
    responses(
        (status = 200, description = "What the code means and what to do", body = String, content_type = "text/html"),
        LookupRefusals,
    )
)]
#[get("/errors/{code}")]
pub(crate) async fn explain_code(name: Path<String>) -> Result<HttpResponse, Problem> {
    let found = Code::ALL.iter().find(|code| code.name() == *name);
    let code = *found.ok_or_else(|| {
        Problem::new(Code::TSR111, "there is no such error code").hint("/errors lists the codes")
    })?;
    let example = example(code);
    let body = ProblemBody::of(&example, Some(REQUEST_ID));
    let json = serde_json::to_string_pretty(&body).unwrap_or_default();
    let again = if code.is_retryable() { "may succeed later" } else { "will fail again" };
    let content = html! {
        h1 { (code.name()) " " small { (code.title()) } }
        p { (code.about()) }
        p { "HTTP status " (code.status().as_u16()) ". The same request " (again) "." }
        @if let Some(hint) = &example.hint {
            h2 { "What to do" }
            p { "In this case: " (hint) "." }
        }
        h2 { "An example" }
        pre { (json) }
        p { a href="/errors" { "All codes" } }
    };
    Ok(page(HttpResponse::Ok(), code.name(), &content))
}

/// Content security policy of the pages. It permits no script, nothing from other hosts, and only
/// the style sheet [`STYLE`], which it identifies by its SHA-256.
const ISOLATED: &str = "default-src 'none'; style-src 'sha256-gcLQhWMlh5jsVnyD0aJHwRfrJpasrPXqE/v2Sdn/b/0='; \
                        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn page_of(code: Code) -> String {
    format!("/errors/{}", code.name())
}

/// Returns a response that contains an HTML page with this title and content.
fn page(mut response: HttpResponseBuilder, title: &str, content: &Markup) -> HttpResponse {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) " - Tessera" }
                style { (PreEscaped(STYLE)) }
            }
            body { (content) }
        }
    };
    response
        .content_type("text/html; charset=utf-8")
        .insert_header((CONTENT_SECURITY_POLICY, ISOLATED))
        .body(page.into_string())
}

/// Returns an example of a problem with this code, created by the same functions as the problems
/// that are sent to clients.
fn example(code: Code) -> Problem {
    let shard = || "shard3".to_owned();
    let said = |detail: &str, hint: &str| Problem::new(code, detail).hint(hint);
    let failed = |error: Error| Problem::from(Failure::rejected(error, None));
    let backup = || BackupId::at(DateTime::UNIX_EPOCH);
    match code {
        Code::TSR003 => failed(Error::PoolExhausted { shard: shard() }),
        Code::TSR004 => failed(Error::DeadlinePassed),
        Code::TSR005 => failed(Error::QueueFull { shard: shard() }),
        Code::TSR006 => said("credentials cannot be examined now", "send again after Retry-After"),
        Code::TSR100 => said("user_id: a filter needs an operator, eq or in", "user_id=eq.value"),
        Code::TSR101 => said("name is missing: a new row of users needs it", "add the member"),
        Code::TSR102 => said("unknown member `dta`", "did you mean `data`?"),
        Code::TSR103 => said("user_id contradicts the shard key", "send the value of user_id"),
        Code::TSR104 => said("a write needs a shard key", "give the row user_id"),
        Code::TSR105 => said("`fly=high` is not a known preference", "leave it out"),
        Code::TSR106 => said("limit must be a number from 0 to 1000", "request the next page"),
        Code::TSR107 => said("Accept rules out application/json", "send Accept: */*"),
        Code::TSR108 => said("the body is larger than 2 MiB", "send it in smaller parts"),
        Code::TSR109 => failed(Error::KeyReused),
        Code::TSR111 => said("there is nothing at this path", "/ lists what there is"),
        Code::TSR112 => said("this path has POST", "the header Allow lists them"),
        Code::TSR113 => said("x-consistency must be one, quorum or all", "send one of these"),
        Code::TSR202 => failed(Error::NoPrimary { shard: shard() }),
        Code::TSR201 => failed(Error::ShardUnavailable { shard: shard() }),
        Code::TSR203 => {
            let slot = Slot::new(0).expect("there is a first slot");
            failed(Error::SlotRefused(SlotRefusal::absent(slot)))
        }
        Code::TSR204 => failed(Error::StorageFull { shard: shard() }),
        Code::TSR205 => {
            let (requested, achieved) = (Level::Quorum, Level::One);
            let error = Error::NotConfirmed { shard: shard(), requested, achieved };
            Problem::from(Failure { outcome: Outcome::Committed, ..Failure::rejected(error, None) })
        }
        Code::TSR301 => failed(Error::Exists),
        Code::TSR302 => failed(Error::NoSuchRow),
        Code::TSR303 => failed(Error::VersionDiffers),
        Code::TSR304 => failed(Error::Constraint { rule: "check" }),
        Code::TSR305 => Error::SeenMayBeLost { shard: shard() }.into(),
        Code::TSR306 => failed(Error::Discarded { table: "users".to_owned() }),
        Code::TSR310 => {
            let (table, suggestion) = ("user".to_owned(), Some("users".to_owned()));
            Error::NoSuchTable { table, suggestion }.into()
        }
        Code::TSR311 => {
            let (table, column) = ("users".to_owned(), "nmae".to_owned());
            let suggestion = Some("name".to_owned());
            Problem::from(&RowError::NoSuchColumn { table, column, suggestion })
        }
        Code::TSR312 => {
            let (column, mismatch) = ("amount".to_owned(), TypeMismatch::NotBigint);
            Problem::from(&RowError::TypeMismatch { column, mismatch })
        }
        Code::TSR320
        | Code::TSR321
        | Code::TSR322
        | Code::TSR323
        | Code::TSR324
        | Code::TSR325
        | Code::TSR326
        | Code::TSR327
        | Code::TSR328
        | Code::TSR329
        | Code::TSR330
        | Code::TSR331
        | Code::TSR332
        | Code::TSR333
        | Code::TSR334
        | Code::TSR335
        | Code::TSR336
        | Code::TSR337
        | Code::TSR338
        | Code::TSR341 => example_of_change(code),
        Code::TSR339 => no_backup_dir(),
        Code::TSR340 => BackupsError::Runs(backup()).into(),
        Code::TSR342 => BackupsError::NoBackup.into(),
        Code::TSR343 => BackupsError::Ended(backup()).into(),
        Code::TSR344 => IndexesError::Dropping { index: "by_status".to_owned() }.into(),
        Code::TSR345 => {
            let (index, suggestion) = ("by_statu".to_owned(), Some("by_status".to_owned()));
            IndexesError::NoIndex { index, suggestion }.into()
        }
        Code::TSR346 => {
            let (pause_ms, pause_max_ms) = (8_400, 2_000);
            IndexesError::PauseTooLong { shard: shard(), pause_ms, pause_max_ms }.into()
        }
        Code::TSR347 => IndexesError::Unsupported.into(),
        Code::TSR348 => LabRunError::Runs.into(),
        Code::TSR349 => LabRunError::TooLong.into(),
        Code::TSR350 => said("there is no table group `sesions`", "did you mean `sessions`?"),
        Code::TSR355 | Code::TSR356 | Code::TSR357 => example_of_partition(code),
        Code::TSR401 => access_problems::missing(),
        Code::TSR403 => failed(Error::Forbidden {
            operations: "delete".to_owned(),
            table: "users".to_owned(),
            lack: "the shard key is not one of this caller's".to_owned(),
        }),
        Code::TSR409 => said("id: the key 4fKq0ZxY81Ab is revoked", "create another key"),
        Code::TSR429 => {
            access_problems::limited("too many credentials are being examined", Duration::ZERO)
        }
        Code::TSR500 => Error::Internal.into(),
    }
}

/// Returns an example of a problem about a partition that is missing, does not exist or would
/// change.
fn example_of_partition(code: Code) -> Problem {
    let (column, known) = (Arc::from("partition_key"), Arc::from("A, B, C"));
    let error = if code == Code::TSR356 {
        PartitionError::Unknown { column, known }
    } else if code == Code::TSR357 {
        PartitionError::Changed { column }
    } else {
        PartitionError::Missing { column, known: Some(known) }
    };
    Problem::from(&error)
}

/// Returns an example of a problem about a refused change of shards or slots, a move or a
/// rebalance.
fn example_of_change(code: Code) -> Problem {
    let refusals = RefusalCode::ALL.into_iter();
    let Some(refusal) = refusals.into_iter().find(|known| Code::of_refusal(*known) == code) else {
        return Error::Internal.into();
    };
    let (place, shard) = ("db4:5432/app".to_owned(), "shard3".to_owned());
    let slots = || (0..64).filter_map(Slot::new).collect();
    let error: ShardChangeError = match refusal {
        RefusalCode::NoShard => ShardChangeError::NoShard { name: "shard9".to_owned() },
        RefusalCode::BadShard => NewShardRefusal::PasswordInUrl.into(),
        RefusalCode::DatabaseInUse => NewShardRefusal::OtherShard { place, shard }.into(),
        RefusalCode::DatabaseUnreachable => {
            NewShardRefusal::Unreachable { place, cause: "connection refused".to_owned() }.into()
        }
        RefusalCode::DatabaseUnsuitable => {
            NewShardRefusal::Unsuitable { place, cause: "its version is 14".to_owned() }.into()
        }
        RefusalCode::NoCredentials => {
            NewShardRefusal::NoCredentials { host: "db4:5432".to_owned() }.into()
        }
        RefusalCode::ShardState => {
            let refusal = MapChangeRefusal::HasSlots { shard, slots: 5_461 };
            MapChangeError::Refused(refusal).into()
        }
        RefusalCode::MapChanged => MapChangeError::Stale { expected: 3, epoch: 4 }.into(),
        RefusalCode::BadFence => return SlotsError::Hold.into(),
        RefusalCode::PlacedByEngine => NewShardRefusal::Unsupported.into(),
        RefusalCode::BadMove => return MovesError::from(NewMoveFault::SlotCount(65)).into(),
        RefusalCode::NoMove => return MovesError::from(MoveListError::NoMove).into(),
        RefusalCode::MoveState => {
            return MovesError::from(MoveListError::Order(MoveOrderFault::NotYetMoved)).into();
        }
        RefusalCode::SlotsMove => {
            let move_name = "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e".to_owned();
            let error = MoveListError::SlotsMove { slots: slots(), move_name };
            return MovesError::from(error).into();
        }
        RefusalCode::NotOwner => return MovesError::NotOwned { shard, slots: slots() }.into(),
        RefusalCode::BadRebalance => {
            return refused(refusal, DraftFault::By("rows".to_owned()).to_string());
        }
        RefusalCode::NoRebalance => {
            return RebalancesError::from(RebalanceListError::NoRebalance).into();
        }
        RefusalCode::RebalanceState => {
            let fault = RebalanceOrderFault::Ended(RebalanceState::Done);
            return RebalancesError::from(RebalanceListError::Order(fault)).into();
        }
        RefusalCode::RebalanceRuns => {
            let runs = "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71".to_owned();
            return RebalancesError::from(RebalanceListError::AlreadyRunning(runs)).into();
        }
        RefusalCode::NoGroup => return RebalancesError::NoGroup("sesions".to_owned()).into(),
        RefusalCode::EngineNeeds => {
            let need =
                "worker2 has wal_level = replica: set wal_level = logical there and restart it";
            return DistributorError::Need(need.to_owned()).into();
        }
    };
    error.into()
}
