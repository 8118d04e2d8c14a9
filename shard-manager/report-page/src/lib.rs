//! Report page: a report as one self-contained HTML page, and common parts of its graphs.
//!
//! **Invariant:** the page has no script and fetches nothing. Texts of servers, files and the
//! command line never become markup, and cannot change the direction of other text
//! (`hidden_characters`).
//! **Not here:** the contents of a report (the load tester, the lab).
#![forbid(unsafe_code)]

pub mod axis;
mod hidden_characters;
pub mod words;

use maud::{Markup, PreEscaped, html};

use hidden_characters::remove_hidden;

/// Content security policy of the page. A browser that enforces it runs and fetches nothing, even
/// if some text became markup.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Returns a page with this title and this content.
pub fn page(title: &str, content: &Markup) -> String {
    let title = remove_hidden(html! { title { (title) } });
    let main = remove_hidden(html! { main { (content) } });
    let page = html! {
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                (title)
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { (main) }
        }
    };
    format!("<!DOCTYPE html>\n{}\n", page.into_string())
}

/// Formats a coordinate, rounded to a tenth of a pixel, which is too fine to see.
pub fn px(place: f64) -> String {
    let rounded = (place * 10.0).round() / 10.0;
    rounded.to_string()
}
