//! Request hints: suggests a remedy for a request that is nearly right, such as a shard key that
//! contradicts the row, a path with a typo, or a parameter of another API.
//!
//! **Invariant:** a hint names only things that exist; a path or a word that has too little in
//! common with an existing one gets no hint.
//! **Not here:** the problems that hints belong to (`problem`).

/// Returns the remedy for a shard key that differs from the row's routing column. `stored` is the
/// stored value of that column; `None` if it is null.
pub fn contradiction(column: &str, stored: Option<&str>) -> String {
    match stored {
        Some(stored) => format!(
            "send `{stored}` as the shard key, as {column} is stored, or leave the shard key out"
        ),
        None => format!("give {column} the shard key as its value, or leave it out"),
    }
}

/// Remedy for a delete that matched no row. The usual hint, which is to insert the row, would be
/// useless here.
pub const NOTHING_TO_REMOVE: &str =
    "there is nothing left to remove; if there should be, check the id and the shard key";

/// Remedy in every response to an unknown path.
const LISTS: &str = "/ lists what there is, /swagger-ui/ explains it";

/// Returns the remedy for a path that does not exist. `routes` are the existing paths; `is_table`
/// returns true for the name of a table.
pub fn no_such_path<'r>(
    path: &str,
    routes: impl Iterator<Item = &'r str>,
    is_table: impl Fn(&str) -> bool,
) -> String {
    if let Some(route) = nearest_path(path, routes) {
        return format!("did you mean `{route}`? {LISTS}");
    }
    let last = path.trim_matches('/').rsplit('/').next().unwrap_or("");
    if is_table(last) {
        return format!("rows of {last} are at /api/read?table={last}; {LISTS}");
    }
    LISTS.to_owned()
}

/// Finds the route that differs from this path only by upper case, an extra slash, a missing
/// `/api`, or a typo.
fn nearest_path<'r>(path: &str, routes: impl Iterator<Item = &'r str>) -> Option<&'r str> {
    /// Maximum length of a path that is compared with the routes: a longer one is not a typo, and
    /// comparing it would waste time.
    const WRITTEN_MAX: usize = 64;
    if path.len() > WRITTEN_MAX {
        return None;
    }
    let written = path.to_ascii_lowercase();
    let near = routes.filter_map(|route| {
        let distance = distance(core(&written), core(route))?;
        // Of two equally near routes, prefer the one whose whole path is nearer.
        Some((distance, strsim::damerau_levenshtein(&written, route), route))
    });
    near.min().map(|(_, _, route)| route)
}

/// Returns the part of a path that distinguishes it from others: without the surrounding slashes, a
/// leading `/api` (even if misspelt) and a version such as `/v1`.
fn core(path: &str) -> &str {
    let is_version = |text: &str| text.parse::<u8>().is_ok();
    let mut rest = path.trim_matches('/');
    while let Some((first, after)) = rest.split_once('/') {
        let is_api = strsim::damerau_levenshtein(first, "api") <= 1;
        if !is_api && !first.strip_prefix('v').is_some_and(is_version) {
            break;
        }
        rest = after;
    }
    rest
}

/// Counts the typos in a path compared with a route; `None` if the numbers of segments differ, or a
/// segment has too many typos.
fn distance(written: &str, route: &str) -> Option<usize> {
    if route.is_empty() || written.split('/').count() != route.split('/').count() {
        return None;
    }
    written.split('/').zip(route.split('/')).try_fold(0, |sum, (written, route)| {
        if route.starts_with('{') {
            return (!written.is_empty()).then_some(sum);
        }
        let most = match route.len() {
            0..=3 => 0,
            4..=5 => 1,
            longer => longer / 3,
        };
        let distance = strsim::damerau_levenshtein(written, route);
        (distance <= most).then_some(sum + distance)
    })
}

/// Remedy for a method that a path does not support, if no other route can be suggested.
const ALLOWED: &str = "send one of these methods: the header Allow lists them";

/// Returns the remedy for a method that a path about rows does not support.
pub fn no_such_method_for_rows(method: &str) -> &'static str {
    match method {
        "PATCH" => {
            "PATCH is not supported here: POST /api/write with op update changes columns of a row, PUT /api/kv/{key} puts a value"
        }
        "DELETE" => {
            "DELETE is not supported here: POST /api/write with op delete removes a row, DELETE /api/kv/{key} removes a value"
        }
        _ => ALLOWED,
    }
}

/// Returns the remedy for a method that a path does not support. `below` is the path below it that
/// supports the method, if there is one.
pub fn no_such_method(method: &str, below: Option<&str>) -> String {
    match below {
        Some(below) => format!("did you mean {method} {below}? Or {ALLOWED}"),
        None => ALLOWED.to_owned(),
    }
}

/// Returns a hint about the parameter to send instead of one that is common in other APIs.
pub fn hint_for_parameter(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "page" | "after" | "before" | "next" | "page_token" | "pagetoken" => {
            "send next_cursor of the page before as cursor; limit says how many rows a page has"
        }
        "per_page" | "perpage" | "page_size" | "pagesize" | "size" | "top" | "take" | "max" => {
            "limit says how many rows a page has"
        }
        "skip" | "start" | "from" => "offset passes over rows; a cursor is better",
        "sort" | "sort_by" | "sortby" | "order_by" | "sort_order" => {
            "did you mean `order`? For example order=column.desc"
        }
        "fields" | "field" | "attributes" | "projection" => {
            "did you mean `select`? For example select=column,column"
        }
        "q" | "query" | "search" | "filter" | "filters" => {
            "a filter is column=op.value, for example name=ilike.jo*"
        }
        "group_by" | "groupby" | "having" | "distinct" => {
            "this is not supported: select takes columns only; Prefer: count=exact adds total"
        }
        _ => return None,
    })
}

/// Describes a feature of PostgREST in an item of `select` that Tessera does not support, and an
/// alternative; `None` if the item may be the name of a column.
pub fn hint_for_output(item: &str) -> Option<(&'static str, &'static str)> {
    if item.contains("count(") {
        let hint = "send the header Prefer: count=exact, which adds total to the answer";
        return Some(("functions are not supported in select", hint));
    }
    if item.contains("->") {
        let hint = "select the column, which holds the whole value";
        return Some(("paths into json are not supported in select", hint));
    }
    // In the cast `column::type`, the first colon was taken for the end of an alias.
    if item.starts_with(':') {
        return Some(("casts are not supported in select", "select the column as it is"));
    }
    let hint = "select columns, and work the rest out from the rows; of other tables read the rows by their shard key";
    item.contains('(')
        .then_some(("functions and embedded tables are not supported in select", hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: [&str; 14] = [
        "/",
        "/write",
        "/read",
        "/live",
        "/health",
        "/docs",
        "/stats",
        "/errors/{code}",
        "/api/write",
        "/api/read",
        "/api/bulk-write",
        "/api/kv/{key}",
        "/api/tables/{name}",
        "/swagger-ui/",
    ];

    fn nearest(path: &str) -> Option<&'static str> {
        nearest_path(path, ROUTES.into_iter())
    }

    #[test]
    fn a_path_that_is_nearly_right_names_its_route() {
        for (path, route) in [
            ("/api/reads", "/api/read"),
            ("/api/wirte", "/api/write"),
            ("/wirte", "/write"),
            ("/API/READ", "/api/read"),
            ("/api/write/", "/api/write"),
            ("//api/read", "/api/read"),
            ("/apii/read", "/api/read"),
            ("/api/v1/read", "/api/read"),
            ("/v2/bulk-write", "/api/bulk-write"),
            ("/bulk-write", "/api/bulk-write"),
            ("/api/bulk_write", "/api/bulk-write"),
            ("/api/table/users", "/api/tables/{name}"),
            ("/api/errors/TSR100", "/errors/{code}"),
            ("/kv/user_1", "/api/kv/{key}"),
            ("/swagger-ui", "/swagger-ui/"),
            ("/swaggerui", "/swagger-ui/"),
        ] {
            assert_eq!(nearest(path), Some(route), "{path}");
        }
    }

    #[test]
    fn only_methods_of_paths_about_rows_lead_to_writes_of_rows() {
        for method in ["PATCH", "DELETE"] {
            assert!(no_such_method_for_rows(method).contains("POST /api/write"), "{method}");
            assert_eq!(no_such_method(method, None), ALLOWED);
        }
        assert_eq!(no_such_method_for_rows("PUT"), ALLOWED);
        let below = no_such_method("DELETE", Some("/api/shards/{name}"));
        assert!(below.starts_with("did you mean DELETE /api/shards/{name}?"), "{below}");
    }

    #[test]
    fn a_path_that_is_like_none_names_none() {
        for path in [
            "/a",
            "/.env",
            "/.git/config",
            "/admin",
            "/api",
            "/api/",
            "/robots.txt",
            "/favicon.ico",
            "/wp-login.php",
            "/users",
            "/orders/5",
            "/v1/users",
            "/k8/pods",
            "/file",
            "/nowhere",
            "/%00",
        ] {
            assert_eq!(nearest(path), None, "{path}");
        }
        let long = format!("/api/read{}", "d".repeat(100));
        assert_eq!(nearest(&long), None);
    }
}
