//! `/api/access/roles`: lists, defines and removes roles.
//!
//! **Invariant:** a role that a file defines can be changed in the file only, because a definition
//! in the catalog would have no effect in this router.
//! **Not here:** the JSON of a role (`shard_manager::access::role`), the limits of the rights that
//! a caller may give (`author`).

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, get, put};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::access::role::AccessRole;
use shard_manager::engine::access_store::AccessChange;
use utoipa::ToSchema;

use super::author::{Author, COMMITTED};
use crate::app::App;
use crate::body_reader::Members;
use crate::problem::{Code, Problem};
use crate::response_headers::{ChangeRefusals, LookupRefusals};

const MEMBERS: [&str; 5] = ["role", "grants", "scopes", "weight", "limits"];

/// A role.
#[derive(Serialize, ToSchema)]
pub struct ListedRole {
    /// Name of the role.
    #[schema(example = "shop")]
    name: String,
    /// `built_in`, `file` or `catalog`. A role of the file replaces one of the catalog.
    source: &'static str,
    /// Grants, scopes and limits.
    #[schema(value_type = Object)]
    definition: Box<RawValue>,
}

/// All roles.
#[derive(Serialize, ToSchema)]
pub struct RoleList {
    /// Always true.
    success: bool,
    /// The roles that are in force.
    roles: Vec<ListedRole>,
}

/// One role.
#[derive(Serialize, ToSchema)]
pub struct RoleAnswer {
    /// Always true.
    success: bool,
    /// The role.
    #[serde(flatten)]
    role: ListedRole,
}

/// Response to a removal.
#[derive(Serialize, ToSchema)]
pub struct RemovalAnswer {
    /// Always true.
    pub(super) success: bool,
}

/// Lists the roles that are in force in this router.
#[utoipa::path(
    tag = "access",
    responses((status = 200, description = "The roles", body = RoleList), LookupRefusals)
)]
#[get("/api/access/roles")]
pub(crate) async fn list_roles(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let roles = roles(&Author::of(&app, &request, &[])?);
    Ok(HttpResponse::Ok().json(RoleList { success: true, roles }))
}

/// Returns a role that is in force in this router.
#[utoipa::path(
    tag = "access",
    params(("name" = String, Path, description = "Name of the role", example = "shop")),
    responses((status = 200, description = "The role", body = RoleAnswer), LookupRefusals)
)]
#[get("/api/access/roles/{name}")]
pub(crate) async fn find_role(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    show(&Author::of(&app, &request, &[])?, &name)
}

/// Defines a role, or replaces its definition.
///
/// The rights of the caller must cover the role for every tenant. The keys of the role have the new
/// rights at once here, and within a second in every router.
#[utoipa::path(
    tag = "access",
    params(
        ("name" = String, Path, description = "Name of the role", example = "shop"),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for the body to arrive; 5000 by default", minimum = 100, maximum = 60000),
    ),
    request_body(content = serde_json::Value, description = "The role, with its grants, scopes and limits"),
    responses((status = 200, description = "The role", body = RoleAnswer), ChangeRefusals)
)]
#[put("/api/access/roles/{name}")]
pub(crate) async fn put_role(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let mut author = Author::of(&app, &request, &[])?;
    let body = author.read_body(&request, payload).await?;
    Members::of_body(&body)?.check_names(&MEMBERS)?;
    let role = AccessRole::parse(std::str::from_utf8(&body).unwrap_or_default());
    let role = role.map_err(|error| Problem::new(Code::TSR101, error.to_string()))?;
    if role.name() != name.as_str() {
        return Err(Problem::new(Code::TSR101, "role must be the name in the path"));
    }
    let (files, _) = author.known();
    if files.roles.iter().any(|known| known.name() == role.name()) {
        return Err(Problem::new(Code::TSR409, "role: access_roles_file defines this role")
            .hint("change the file: its definition replaces that of the catalog"));
    }
    author.check_covers(&role, None)?;
    author.change(&AccessChange::PutRoles(vec![role])).await?;
    show(&author, &name).map_err(|problem| problem.outcome(COMMITTED))
}

/// Removes a role that no key has.
#[utoipa::path(
    tag = "access",
    params(("name" = String, Path, description = "Name of the role", example = "shop")),
    responses((status = 200, description = "It is removed", body = RemovalAnswer), ChangeRefusals)
)]
#[delete("/api/access/roles/{name}")]
pub(crate) async fn remove_role(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let author = Author::of(&app, &request, &[])?;
    let (_, catalog) = author.known();
    let is_kept = catalog.roles.iter().any(|role| role.name() == name.as_str());
    if !is_kept && !AccessRole::is_reserved(&name) {
        let detail = "the catalog has no role of this name";
        return Err(Problem::new(Code::TSR111, detail).hint("GET /api/access/roles lists them"));
    }
    author.change(&AccessChange::RemoveRole(name.as_str().into())).await?;
    Ok(HttpResponse::Ok().json(RemovalAnswer { success: true }))
}

/// Returns the roles in force, in order of precedence. If several have the same name, only the
/// first one is returned.
fn roles(author: &Author<'_>) -> Vec<ListedRole> {
    let (files, catalog) = author.known();
    let built_in = AccessRole::built_in();
    let (reserved, replaceable): (Vec<&AccessRole>, Vec<&AccessRole>) =
        built_in.iter().partition(|role| AccessRole::is_reserved(role.name()));
    let named = |source: &'static str| move |role| (source, role);
    let all = reserved
        .into_iter()
        .map(named("built_in"))
        .chain(files.roles.iter().map(named("file")))
        .chain(catalog.roles.iter().map(named("catalog")))
        .chain(replaceable.into_iter().map(named("built_in")));
    let mut seen = std::collections::BTreeSet::new();
    all.filter(|(_, role)| seen.insert(role.name()))
        .filter_map(|(source, role)| {
            let definition = RawValue::from_string(role.to_json()).ok()?;
            Some(ListedRole { name: role.name().to_owned(), source, definition })
        })
        .collect()
}

fn show(author: &Author<'_>, name: &str) -> Result<HttpResponse, Problem> {
    let role = roles(author).into_iter().find(|role| role.name == name);
    let role = role.ok_or_else(|| {
        Problem::new(Code::TSR111, "there is no role of this name")
            .hint("GET /api/access/roles lists them")
    })?;
    Ok(HttpResponse::Ok().json(RoleAnswer { success: true, role }))
}
