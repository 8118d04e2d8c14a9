//! URLs: replaces the hosts and ports in the URLs of servers by those of proxies, and nothing else.
//!
//! **Not here:** parsing the other parts of a URL, which the router does.

/// A part of a list of URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum UrlPart<'t> {
    Plain(&'t str),
    Endpoint { host: &'t str, port: u16 },
}

/// Returns the host and port of each URL, in order and with repetitions.
pub(super) fn endpoints(text: &str) -> Vec<(String, u16)> {
    let endpoint = |part| match part {
        UrlPart::Endpoint { host, port } => Some((host.to_owned(), port)),
        UrlPart::Plain(_) => None,
    };
    parts(text).into_iter().filter_map(endpoint).collect()
}

/// Returns URLs with each host and port replaced by `127.0.0.1` and the port that `other` returns
/// for them.
pub(super) fn rewritten(text: &str, other: impl Fn(&str, u16) -> Option<u16>) -> String {
    let report = |part: &UrlPart<'_>| match part {
        UrlPart::Plain(text) => (*text).to_owned(),
        UrlPart::Endpoint { host, port } => match other(host, *port) {
            Some(other) => format!("127.0.0.1:{other}"),
            None => format!("{host}:{port}"),
        },
    };
    parts(text).iter().map(report).collect()
}

fn parts(text: &str) -> Vec<UrlPart<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        parts.push(UrlPart::Plain(before));
        let mut end = after.find(['/', '?']).unwrap_or(after.len());
        if after[..end].ends_with(':') && after[end..].starts_with("//") {
            // The URL has no path and is followed by the next URL, whose scheme is not part of it.
            end = after[..end].rfind(',').unwrap_or(end);
        }
        let (authority, after) = after.split_at(end);
        let hosts = authority.rfind('@').map_or(0, |at| at + 1);
        parts.push(UrlPart::Plain(&authority[..hosts]));
        for (index, host) in authority[hosts..].split(',').enumerate() {
            if index > 0 {
                parts.push(UrlPart::Plain(","));
            }
            let endpoint = host.rsplit_once(':').and_then(|(host, port)| {
                Some(UrlPart::Endpoint { host, port: port.parse().ok()? })
            });
            parts.push(endpoint.unwrap_or(UrlPart::Plain(host)));
        }
        rest = after;
    }
    parts.push(UrlPart::Plain(rest));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ends_are_replaced_whatever_the_shape_of_a_list_is() {
        let plus = |_: &str, port: u16| Some(port + 1);
        for (text, other) in [
            ("postgres://u:p@127.0.0.1:5000/shard1", "postgres://u:p@127.0.0.1:5001/shard1"),
            (
                "postgres://u:1@h:1/a,postgres://u@g:7?x=h:1",
                "postgres://u:1@127.0.0.1:2/a,postgres://u@127.0.0.1:8?x=h:1",
            ),
            (
                "postgres://u@h:1,g:2,h:3/a?target_session_attrs=any",
                "postgres://u@127.0.0.1:2,127.0.0.1:3,127.0.0.1:4/a?target_session_attrs=any",
            ),
            ("postgres://h:1,postgres://[::1]:2", "postgres://127.0.0.1:2,postgres://127.0.0.1:3"),
            ("postgres://h/a", "postgres://h/a"),
            ("", ""),
        ] {
            assert_eq!(rewritten(text, plus), other);
        }
        assert_eq!(rewritten("postgres://h:1/a", |_, _| None), "postgres://h:1/a");
        let found = endpoints("postgres://u@h:1,g:2/a,postgres://h:3/b");
        assert_eq!(found, [("h".to_owned(), 1), ("g".to_owned(), 2), ("h".to_owned(), 3)]);
    }
}
