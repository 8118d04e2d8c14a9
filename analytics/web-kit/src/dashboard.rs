//! Dashboard: the files of the web pages, which are embedded in the program from the folder
//! `web-kit/dashboard`.
//!
//! The pages use the same JSON as other clients. Programs serve the page at `/dashboard`, and its
//! scripts, styles and images below `/dashboard/`; routers also serve `lab.html` at `/lab`.
//!
//! **Invariant:** no file loads anything from another origin, and no HTML contains inline scripts
//! or styles, so that the pages work under [`CONTENT_SECURITY_POLICY`].
//! **Not here:** HTTP, metrics.

use std::sync::LazyLock;

/// Value of the header `Content-Security-Policy`.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// Contents of the file.
    pub body: &'static [u8],
    /// Value of `ETag`, including the quotes. It changes with the body.
    pub etag: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Includes a file of the folder `dashboard`.
macro_rules! part {
    ($path:literal, $content_type:expr) => {
        ($path, $content_type, include_bytes!(concat!("../dashboard/", $path)))
    };
}

/// Name, content type and content of each file; the first is the page itself.
const PARTS: [(&str, &str, &[u8]); 41] = [
    part!("index.html", HTML),
    part!("page.css", CSS),
    part!("advice.js", SCRIPT),
    part!("alerts.js", SCRIPT),
    part!("arrows.js", SCRIPT),
    part!("cache.js", SCRIPT),
    part!("cards.js", SCRIPT),
    part!("chart.js", SCRIPT),
    part!("element.js", SCRIPT),
    part!("errors.js", SCRIPT),
    part!("heatmap.js", SCRIPT),
    part!("judgement.js", SCRIPT),
    part!("key_box.js", SCRIPT),
    part!("keys.js", SCRIPT),
    part!("lab.css", CSS),
    part!("lab.html", HTML),
    part!("lab.js", SCRIPT),
    part!("lab_flow.js", SCRIPT),
    part!("lab_levels.js", SCRIPT),
    part!("lab_pictures.js", SCRIPT),
    part!("lab_strategy.js", SCRIPT),
    part!("login.js", SCRIPT),
    part!("movement.js", SCRIPT),
    part!("moves.js", SCRIPT),
    part!("numbers.js", SCRIPT),
    part!("orders.js", SCRIPT),
    part!("page.js", SCRIPT),
    part!("palette.js", SCRIPT),
    part!("parts.js", SCRIPT),
    part!("plot.js", SCRIPT),
    part!("rebalance.js", SCRIPT),
    part!("replicas.js", SCRIPT),
    part!("slots.js", SCRIPT),
    part!("span.js", SCRIPT),
    part!("spread.js", SCRIPT),
    part!("stream.js", SCRIPT),
    part!("table.js", SCRIPT),
    part!("theme.js", SCRIPT),
    part!("traffic.js", SCRIPT),
    part!("units.js", SCRIPT),
    part!("view.js", SCRIPT),
];

static ETAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    PARTS.iter().map(|(.., body)| format!("\"{:016x}\"", fingerprint(body))).collect()
});

/// Returns the file at a path below `/dashboard/`; the page itself has the empty path.
pub fn file(path: &str) -> Option<File> {
    let wanted = if path.is_empty() { "index.html" } else { path };
    let place = PARTS.iter().position(|(name, ..)| *name == wanted)?;
    let (_, content_type, body) = PARTS[place];
    Some(File { content_type, body, etag: &ETAGS[place] })
}

/// Returns the 64-bit FNV-1a hash. It need not be cryptographic, because a collision gives no
/// advantage to an attacker here.
fn fingerprint(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::{PARTS, file};

    #[test]
    fn every_file_of_the_folder_is_served_and_no_other() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let served =
            |name: &String| [".html", ".css", ".js"].iter().any(|ending| name.ends_with(ending));
        let found: BTreeSet<String> =
            names.map(|name| name.into_string().unwrap()).filter(served).collect();
        assert_eq!(found, PARTS.iter().map(|(name, ..)| (*name).to_owned()).collect());
        for name in ["../Cargo.toml", "/page.css", "page", "index.html/"] {
            assert_eq!(file(name), None, "{name}");
        }
        assert_eq!(file(""), file("index.html"));
    }

    #[test]
    fn files_that_differ_have_tags_that_differ() {
        let tags: BTreeSet<_> = PARTS.iter().map(|(name, ..)| file(name).unwrap().etag).collect();
        assert_eq!(tags.len(), PARTS.len());
        assert!(
            tags.iter().all(|tag| tag.len() == 18 && tag.starts_with('"') && tag.ends_with('"'))
        );
    }

    #[test]
    fn no_file_contacts_another_origin_and_markup_has_no_inline_code() {
        for (name, _, body) in PARTS {
            let text = std::str::from_utf8(body).unwrap();
            // Names of XML namespaces look like URLs but are not fetched.
            let own = text.replace("http://www.w3.org/2000/svg", "");
            for word in [
                "http:",
                "https:",
                "//cdn",
                "@import",
                "eval(",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
            ] {
                assert!(!own.contains(word), "{name}: {word}");
            }
        }
        for name in ["", "lab.html"] {
            let page = std::str::from_utf8(file(name).unwrap().body).unwrap();
            assert!(
                !page.contains("<style")
                    && !page.contains(" style=")
                    && !page.contains(" onclick=")
            );
            assert!(
                page.split("<script").skip(1).all(|tag| tag
                    .split('>')
                    .next()
                    .unwrap()
                    .contains("src="))
            );
        }
    }

    #[test]
    fn whatever_one_file_names_is_there() {
        let quoted = |text: &str, before: &str| {
            let parts = text.split(before).skip(1);
            parts.map(|rest| rest.split('"').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for (name, _, body) in PARTS {
            let text = std::str::from_utf8(body).unwrap();
            let wanted = if name.ends_with(".html") {
                [quoted(text, "src=\"dashboard/"), quoted(text, "href=\"dashboard/")].concat()
            } else {
                quoted(text, "from \"./")
            };
            for path in wanted {
                assert!(file(&path).is_some(), "{name} names {path}");
            }
        }
    }
}
