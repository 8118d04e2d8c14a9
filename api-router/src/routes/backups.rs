//! `/api/backup`: creates copies of the cluster in the folder that the setting `backup_dir` names.
//! Available to callers with the scope `operate`; without access control, backups can be begun and
//! cancelled only if the router was started with `--operate`.
//!
//! **Invariant:** a request never contains a path: the id of a backup is the name of its folder.
//! **Not here:** making a backup (`shard_manager::manager`).

use std::sync::Arc;
use std::time::Instant;

use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path, Payload, block};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::Serialize;
use shard_manager::engine::backup_id::BackupId;
use shard_manager::engine::backup_view::BackupView;
use shard_manager::manager::{Backups, BackupsError};
use utoipa::ToSchema;

use crate::app::App;
use crate::body_reader::Members;
use crate::headers::{check_content_type, deadline, refuse_conditions, refuse_row_headers};
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{BackupLookupRefusals, BackupRefusals};

/// Maximum number of bytes of a body, which has no members.
const BODY_BYTES_MAX: usize = 1 << 10;

/// A backup.
#[derive(ToSchema)]
#[schema(as = Backup, example = json!({
    "id": "20261125T093000Z-3fa2", "state": "done", "stage": null,
    "began_at": "2026-11-25T09:30:00.248Z", "as_of": "2026-11-25T09:30:02.117402Z",
    "ended_at": "2026-11-25T09:30:02.861Z", "seconds": 2.613, "rows": 250_000,
    "bytes": 52_428_800, "expected_bytes": null, "writes_held_ms": 4.2, "reason": null,
    "actions": [],
    "shards": [{"shard": "shard1", "rows": 250_000, "bytes": 52_408_320, "expected_bytes": null}]
}))]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub struct BackupAnswer {
    /// Identity, and the name of its folder in `backup_dir`. Later ids are greater.
    id: String,
    /// `running`, `done` (its folder is complete), `failed` or `cancelled` (it has left no copy).
    state: String,
    /// `copying`, `following` (the copies are brought to the same moment) or `checking`; null
    /// unless it is running.
    #[schema(required)]
    stage: Option<String>,
    /// Time at which it began: RFC 3339.
    began_at: String,
    /// Moment whose state the copy contains, on all shards; null before it is complete.
    #[schema(required)]
    as_of: Option<String>,
    /// Time at which it ended; null before, and for a backup by another process.
    #[schema(required)]
    ended_at: Option<String>,
    /// Seconds from its beginning to its end, or until now; null for a backup by another process.
    #[schema(required)]
    seconds: Option<f64>,
    /// Rows of all tables and shards; null before it is complete.
    #[schema(required)]
    rows: Option<u64>,
    /// Bytes of its files; while it is running, those written so far.
    bytes: u64,
    /// Estimated total of bytes; null unless it is running.
    #[schema(required)]
    expected_bytes: Option<u64>,
    /// Milliseconds for which all writes waited; null before it is complete.
    #[schema(required)]
    writes_held_ms: Option<f64>,
    /// Reason why there is no copy; null if it is running or done.
    #[schema(required)]
    reason: Option<String>,
    /// Commands that it accepts now: `cancel`, or none.
    actions: Vec<String>,
    /// Shards of the backup; absent in a list of backups.
    shards: Option<Vec<CopiedShardAnswer>>,
}

/// Copy of a shard.
#[derive(ToSchema)]
#[schema(as = CopiedShard)]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub struct CopiedShardAnswer {
    /// Name of the shard.
    shard: String,
    /// Rows of all tables; null before the backup is complete.
    #[schema(required)]
    rows: Option<u64>,
    /// Bytes of its files, or those written so far.
    bytes: u64,
    /// Estimated total of bytes; null unless the backup is running.
    #[schema(required)]
    expected_bytes: Option<u64>,
}

/// Backups of a router.
#[derive(Serialize, ToSchema)]
pub struct BackupsAnswer {
    /// Always true.
    success: bool,
    /// The backups without their shards, the latest first: the running one, the last 100 in the
    /// folder, and the last ones that have failed or were cancelled since this router started.
    #[schema(value_type = Vec<BackupAnswer>)]
    backups: Vec<BackupView>,
}

/// Options of a backup: there are none.
#[derive(ToSchema)]
#[schema(as = NewBackup, example = json!({}))]
pub struct BackupRequest {}

/// Begins a backup: a copy of the cluster as of one moment, while rows are read and written.
///
/// The copy is a folder in `backup_dir`, in the format of `shard-manager backup` and `shard-manager
/// restore`. It contains every write that was acknowledged before the request. If this router
/// stops, the backup is cancelled.
#[utoipa::path(
    tag = "operations",
    params(("x-deadline-ms" = Option<u32>, Header, description = "Longest time for the body to arrive; 5000 by default", minimum = 100, maximum = 60000)),
    request_body(content = Option<BackupRequest>, description = "May be left out"),
    responses(
        (status = 202, description = "The backup has begun; Location is its path", body = BackupAnswer),
        BackupRefusals,
    )
)]
#[post("/api/backup")]
pub(crate) async fn begin_backup(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let headers = request.headers();
    Parameters::parse(request.query_string())?.check_names(&[])?;
    refuse_row_headers(headers)?;
    refuse_conditions(headers)?;
    check_content_type(headers)?;
    let deadline = Instant::now() + deadline(headers)?;
    let (body, _share) = app.read_body(&request, payload, BODY_BYTES_MAX, deadline).await?;
    if !body.is_empty() {
        Members::of_body(&body)?.check_names(&[])?;
    }
    let begun = app.backups()?.begin()?;
    let location = (LOCATION, format!("/api/backup/{}", begun.id));
    Ok(HttpResponse::Accepted().insert_header(location).json(begun))
}

/// Lists the running backup, those in the folder, and those that failed or were cancelled.
#[utoipa::path(
    tag = "operations",
    responses((status = 200, description = "The backups", body = BackupsAnswer), BackupLookupRefusals)
)]
#[get("/api/backup")]
pub(crate) async fn list_backups(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let backups = run(&app, |backups| backups.list()).await?;
    Ok(HttpResponse::Ok().json(BackupsAnswer { success: true, backups }))
}

/// Shows a backup with its shards.
#[utoipa::path(
    tag = "operations",
    params(("id" = String, Path, description = "The backup", example = "20261125T093000Z-3fa2")),
    responses((status = 200, description = "The backup", body = BackupAnswer), BackupLookupRefusals)
)]
#[get("/api/backup/{id}")]
pub(crate) async fn find_backup(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let found = run(&app, move |backups| backups.get(&identity(&id)?)).await?;
    Ok(HttpResponse::Ok().json(found))
}

/// Cancels a running backup. It ends soon, and leaves no folder.
#[utoipa::path(
    tag = "operations",
    params(("id" = String, Path, description = "The backup", example = "20261125T093000Z-3fa2")),
    responses((status = 200, description = "The backup, which is still running", body = BackupAnswer), BackupRefusals)
)]
#[post("/api/backup/{id}/cancel")]
pub(crate) async fn cancel_backup(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    refuse_row_headers(request.headers())?;
    refuse_conditions(request.headers())?;
    let cancelled = run(&app, move |backups| backups.cancel(&identity(&id)?)).await?;
    Ok(HttpResponse::Ok().json(cancelled))
}

fn identity(text: &str) -> Result<BackupId, BackupsError> {
    BackupId::parse(text).ok_or(BackupsError::NoBackup)
}

/// Runs work on the backup folder on a thread that may block.
async fn run<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Backups) -> Result<T, BackupsError> + Send + 'static,
) -> Result<T, Problem> {
    let backups = Arc::clone(app.backups()?);
    let done = block(move || work(&backups)).await;
    let done = done.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    Ok(done?)
}
