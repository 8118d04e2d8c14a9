//! `GET /lab`: serves the page of the lab. Its scripts and styles are among the files of the
//! dashboard.
//!
//! **Invariant:** the page is the same for everyone: its scripts get the data from `/api/lab`.
//! **Not here:** the files of the page (`analytics::dashboard`).

use actix_web::{HttpRequest, HttpResponse, get};
use analytics::static_assets;

use crate::problem::{Code, Problem};
use crate::response_headers::LookupRefusals;

/// Name of the page among the files of the dashboard.
const PAGE: &str = "lab.html";

/// Shows the page of the lab.
#[utoipa::path(
    tag = "lab",
    responses(
        (status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 304, description = "The page is the one of If-None-Match"),
        LookupRefusals,
    )
)]
#[get("/lab")]
pub(crate) async fn show_lab(request: HttpRequest) -> Result<HttpResponse, Problem> {
    // The query string is ignored here, because the script of the page reads it.
    static_assets::file(PAGE, request.headers())
        .ok_or_else(|| Problem::new(Code::TSR500, "the program lacks its page of the lab"))
}
