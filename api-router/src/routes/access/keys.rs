//! `/api/access/keys`: creates, lists, revokes, rotates and resumes the API keys in the catalog.
//!
//! **Invariant:** a whole key is shown only once, in the response to its creation. Keys in
//! `access_keys_file` are listed too, but can be changed in that file only.
//! **Not here:** the limits of the rights that a caller may give (`author`).

use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::access::key::{ApiKey, KeyId, NewApiKey};
use shard_manager::access::key_record::{KeyRecord, KeyState};
use shard_manager::access::tenant::Tenants;
use shard_manager::access::unix_time::UnixTime;
use shard_manager::engine::access_store::{AccessChange, AccessState, NewKey, make_key};
use utoipa::ToSchema;

use super::author::{Author, COMMITTED};
use crate::access::clock::unix_now;
use crate::access::files::FileRecords;
use crate::app::App;
use crate::body_reader::Members;
use crate::problem::{Code, Problem};
use crate::response_headers::{ChangeRefusals, LookupRefusals};

const MEMBERS: [&str; 4] = ["role", "tenants", "name", "expires_at"];
const NO_SUCH_KEY: &str = "there is no key of this id";

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
pub struct ListedKey {
    /// Public part of the key.
    #[schema(example = "4fKq0ZxY81Ab")]
    id: String,
    /// `usable`, `expired`, `revoked` or `suspended`.
    state: &'static str,
    /// Name of the role.
    role: String,
    /// Tenants of its caller.
    tenants: Vec<String>,
    /// Purpose of the key.
    name: String,
    /// Maker of the key.
    made_by: String,
    /// Time at which it was made: RFC 3339.
    made_at: String,
    /// Time from which the key is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// Time at which it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
    /// Last day in UTC on which it was used.
    #[schema(example = "2026-11-23")]
    #[serde(skip_serializing_if = "Option::is_none")]
    used_on: Option<String>,
    /// True for a key of the file of keys, which only the file changes.
    read_only: bool,
}

/// All keys.
#[derive(Serialize, ToSchema)]
pub struct KeyList {
    /// Always true.
    success: bool,
    /// The keys: those of the catalog, then those of the file.
    keys: Vec<ListedKey>,
}

/// One key.
#[derive(Serialize, ToSchema)]
pub struct KeyAnswer {
    /// Always true.
    success: bool,
    /// The whole key, only in the response to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The key without its secret.
    #[serde(flatten)]
    listed: ListedKey,
}

/// A key to be created.
#[derive(ToSchema)]
#[schema(example = json!({"role": "reader", "name": "Reports", "expires_at": "2027-01-31T12:00:00Z"}))]
pub struct KeyRequest {
    /// Name of the role, of which the caller must have all rights.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    role: String,
    /// Tenants that `$tenant` in the role stands for.
    #[schema(max_items = 16)]
    #[expect(dead_code, reason = "as above")]
    tenants: Option<Vec<String>>,
    /// Purpose of the key; the role if it is not given.
    #[schema(max_length = 200)]
    #[expect(dead_code, reason = "as above")]
    name: Option<String>,
    /// Time from which the key is refused: RFC 3339. By default it does not expire.
    #[expect(dead_code, reason = "as above")]
    expires_at: Option<String>,
}

/// The overlap of a rotation.
#[derive(ToSchema)]
#[schema(example = json!({"overlap_s": 86400}))]
pub struct RotationRequest {
    /// Seconds for which the old key remains usable.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    overlap_s: u64,
}

/// Lists the keys, without their secrets.
#[utoipa::path(
    tag = "access",
    responses((status = 200, description = "The keys", body = KeyList), LookupRefusals)
)]
#[get("/api/access/keys")]
pub(crate) async fn list_keys(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let author = Author::of(&app, &request, &[])?;
    let (files, catalog) = author.latest().await;
    let of_catalog = catalog.keys.iter().map(|key| listed(&author, key, false));
    let of_file = files.keys.iter().map(|key| listed(&author, key, true));
    let keys = of_catalog.chain(of_file).collect();
    Ok(HttpResponse::Ok().json(KeyList { success: true, keys }))
}

/// Creates a key. The response is the only one that shows it.
///
/// The rights of the caller must cover those of the key.
#[utoipa::path(
    tag = "access",
    params(("x-deadline-ms" = Option<u32>, Header, description = "Longest time for the body to arrive; 5000 by default", minimum = 100, maximum = 60000)),
    request_body = KeyRequest,
    responses((status = 201, description = "The new key", body = KeyAnswer), ChangeRefusals)
)]
#[post("/api/access/keys")]
pub(crate) async fn create_key(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let mut author = Author::of(&app, &request, &[])?;
    let body = author.read_body(&request, payload).await?;
    let made = make_key()?;
    let key = new_key(&body, &made)?;
    author.check_may_give(&key.role, &key.tenants)?;
    author.change(&AccessChange::CreateKey(key)).await?;
    reveal(&author, &made)
}

/// Returns a key, without its secret.
#[utoipa::path(
    tag = "access",
    params(("id" = String, Path, description = "Public part of the key", example = "4fKq0ZxY81Ab")),
    responses((status = 200, description = "The key", body = KeyAnswer), LookupRefusals)
)]
#[get("/api/access/keys/{id}")]
pub(crate) async fn find_key(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let author = Author::of(&app, &request, &[])?;
    let id = parse_id(&id)?;
    let (files, catalog) = author.latest().await;
    Ok(HttpResponse::Ok().json(answer(&author, (&files, &catalog), id, None)?))
}

/// Revokes a key permanently. It is refused at once here, and within a second by every router.
#[utoipa::path(
    tag = "access",
    params(("id" = String, Path, description = "Public part of the key", example = "4fKq0ZxY81Ab")),
    responses((status = 200, description = "The revoked key", body = KeyAnswer), ChangeRefusals)
)]
#[delete("/api/access/keys/{id}")]
pub(crate) async fn revoke_key(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let author = Author::of(&app, &request, &[])?;
    let key = changeable(&author, &id)?;
    author.change(&AccessChange::RevokeKey(key.id)).await?;
    show(&author, key.id)
}

/// Replaces a key by a new one with the same role, tenants and name.
///
/// Both work until the overlap is over. The rights of the caller must cover those of the key.
#[utoipa::path(
    tag = "access",
    params(
        ("id" = String, Path, description = "Public part of the key", example = "4fKq0ZxY81Ab"),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for the body to arrive; 5000 by default", minimum = 100, maximum = 60000),
    ),
    request_body = RotationRequest,
    responses((status = 201, description = "The new key", body = KeyAnswer), ChangeRefusals)
)]
#[post("/api/access/keys/{id}/rotate")]
pub(crate) async fn rotate_key(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let mut author = Author::of(&app, &request, &[])?;
    let body = author.read_body(&request, payload).await?;
    let members = Members::of_body(&body)?;
    members.check_names(&["overlap_s"])?;
    let overlap = members.get("overlap_s").and_then(|json| json.get().parse::<u64>().ok());
    let overlap_s = overlap.ok_or_else(|| {
        Problem::new(Code::TSR101, "overlap_s must be a number of seconds, 0 or more")
    })?;
    let key = changeable(&author, &id)?;
    author.check_may_give(&key.role, &key.tenants)?;
    let made = make_key()?;
    let (successor, digest) = (made.id(), made.digest());
    let change = AccessChange::RotateKey { id: key.id, successor, digest, overlap_s };
    author.change(&change).await?;
    reveal(&author, &made)
}

/// Makes a key usable again that a restore has suspended.
///
/// The rights of the caller must cover those of the key.
#[utoipa::path(
    tag = "access",
    params(("id" = String, Path, description = "Public part of the key", example = "4fKq0ZxY81Ab")),
    responses((status = 200, description = "The usable key", body = KeyAnswer), ChangeRefusals)
)]
#[post("/api/access/keys/{id}/resume")]
pub(crate) async fn resume_key(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let author = Author::of(&app, &request, &[])?;
    let key = changeable(&author, &id)?;
    author.check_may_give(&key.role, &key.tenants)?;
    author.change(&AccessChange::ResumeKey(key.id)).await?;
    show(&author, key.id)
}

fn listed(author: &Author<'_>, key: &KeyRecord, read_only: bool) -> ListedKey {
    ListedKey {
        id: key.id.to_string(),
        state: match key.state(unix_now()) {
            KeyState::Usable => "usable",
            KeyState::Expired => "expired",
            KeyState::Revoked => "revoked",
            KeyState::Suspended => "suspended",
        },
        role: key.role.to_string(),
        tenants: key.tenants.as_slice().iter().map(|tenant| tenant.to_string()).collect(),
        name: key.name.to_string(),
        made_by: key.made_by.to_string(),
        made_at: key.made_at.format(),
        expires_at: key.expires_at.map(UnixTime::format),
        revoked_at: key.revoked_at.map(UnixTime::format),
        used_on: author.used_on(key).map(UnixTime::format_day),
        read_only,
    }
}

/// Parses a key id. The problem never repeats the given text, which may be a whole key.
fn parse_id(text: &str) -> Result<KeyId, Problem> {
    if ApiKey::is_like(text) {
        return Err(Problem::new(Code::TSR111, "this is a key, and not its id").hint(
            "the id is the 12 characters after tsr_; rotate the key, for paths are kept in logs",
        ));
    }
    KeyId::parse(text).ok_or_else(|| Problem::new(Code::TSR111, NO_SUCH_KEY))
}

/// Returns the record of a key in the catalog, which can be changed through the API.
fn changeable(author: &Author<'_>, id: &str) -> Result<KeyRecord, Problem> {
    let id = parse_id(id)?;
    let (files, catalog) = author.known();
    if let Some(key) = catalog.keys.iter().find(|key| key.id == id) {
        return Ok(key.clone());
    }
    Err(if files.keys.iter().any(|key| key.id == id) {
        Problem::new(Code::TSR409, "id: the key is one of access_keys_file")
            .hint("change its line in the file")
    } else {
        Problem::new(Code::TSR111, NO_SUCH_KEY)
    })
}

/// Returns the response about one key, which is in the catalog or in the files.
fn answer(
    author: &Author<'_>,
    (files, catalog): (&FileRecords, &AccessState),
    id: KeyId,
    key: Option<String>,
) -> Result<KeyAnswer, Problem> {
    let found = |keys: &[KeyRecord], read_only| {
        let key = keys.iter().find(|key| key.id == id);
        key.map(|key| listed(author, key, read_only))
    };
    let listed = found(&catalog.keys, false).or_else(|| found(&files.keys, true));
    let listed = listed.ok_or_else(|| Problem::new(Code::TSR111, NO_SUCH_KEY))?;
    Ok(KeyAnswer { success: true, key, listed })
}

/// Returns the response to a change of a key.
///
/// # Errors
/// TSR111 if the change is stored, but not in force in this router.
fn show(author: &Author<'_>, id: KeyId) -> Result<HttpResponse, Problem> {
    let (files, catalog) = author.known();
    let answer = answer(author, (&files, &catalog), id, None);
    Ok(HttpResponse::Ok().json(answer.map_err(|problem| problem.outcome(COMMITTED))?))
}

/// Returns the response to the creation of a key, the only one that contains the whole key.
///
/// # Errors
/// TSR111 if the key is stored, but not in force in this router.
fn reveal(author: &Author<'_>, made: &NewApiKey) -> Result<HttpResponse, Problem> {
    let (files, catalog) = author.known();
    let key = Some(made.reveal().to_owned());
    let answer = answer(author, (&files, &catalog), made.id(), key);
    let answer = answer.map_err(|problem| problem.outcome(COMMITTED))?;
    let mut response = HttpResponse::Created();
    response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    Ok(response.json(answer))
}

fn new_key(body: &[u8], made: &NewApiKey) -> Result<NewKey, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&MEMBERS)?;
    let bad = |detail: String| Problem::new(Code::TSR101, detail);
    let role = members.required_text("role")?;
    let tenants = members.get("tenants").map_or_else(|| Ok(Vec::new()), texts)?;
    let tenants = Tenants::parse(tenants.iter().map(String::as_str));
    let name = members.text("name")?.unwrap_or_else(|| role.clone());
    let expires_at = members.text("expires_at")?.map(|text| {
        let time = UnixTime::parse(&text);
        time.ok_or_else(|| bad("expires_at must be a time such as 2027-01-31T12:00:00Z".to_owned()))
    });
    Ok(NewKey {
        id: made.id(),
        digest: made.digest(),
        role: role.into(),
        tenants: tenants.map_err(|error| bad(format!("tenants: {error}")))?,
        name: name.into(),
        expires_at: expires_at.transpose()?,
    })
}

fn texts(json: &RawValue) -> Result<Vec<String>, Problem> {
    let list = serde_json::from_str(json.get());
    list.map_err(|_| Problem::new(Code::TSR101, "tenants must be a list of texts"))
}
