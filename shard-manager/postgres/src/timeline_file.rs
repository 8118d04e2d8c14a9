//! Timeline file: the timelines of a primary, as PostgreSQL records them at each promotion.
//!
//! **Invariant:** a history that is read ends with the present timeline of its node.
//! **Not here:** following a promotion (`primary_tracker`).

use diesel_async::AsyncPgConnection;
use model::position::TimelineHistory;

use super::session::Identity;
use super::statement::{Statement, load};
use super::term::timeline_id;

/// Returns the timelines of a primary; only its present one, if it hides the others.
pub(super) async fn history(
    connection: &AsyncPgConnection,
    identity: &Identity,
) -> TimelineHistory {
    let own = || (timeline_id(identity.system, identity.timeline), 0);
    read_timelines(connection, identity)
        .await
        .or_else(|| TimelineHistory::new(vec![own()]))
        .unwrap_or_else(|| unreachable!("one timeline is in order"))
}

/// Reads a primary's file of timelines; `None` if that is impossible.
pub(super) async fn read_timelines(
    connection: &AsyncPgConnection,
    identity: &Identity,
) -> Option<TimelineHistory> {
    let Identity { system, timeline, .. } = *identity;
    let mut timelines = Vec::new();
    if timeline > 1 {
        let sql = format!("SELECT pg_read_file('pg_wal/{timeline:08X}.history')");
        let read = load(connection, Statement { sql: &sql, binds: &[], cached: false }).await;
        let text = match read {
            Ok(rows) => rows.first()?.text(0)?,
            Err(error) => {
                tracing::warn!(%error, "the file of timelines cannot be read: tokens from before a failover may be \
                    refused; GRANT EXECUTE ON FUNCTION pg_read_file(text) to the user of Tessera");
                return None;
            }
        };
        timelines = parse(&text)?;
    }
    // Each line has the end of a timeline, at which the next one began.
    let began = [0].into_iter().chain(timelines.iter().map(|(_, ended)| *ended));
    let numbers = timelines.iter().map(|(timeline, _)| *timeline).chain([timeline]);
    TimelineHistory::new(numbers.map(|timeline| timeline_id(system, timeline)).zip(began).collect())
}

/// Parses lines of timeline, end, and reason.
fn parse(text: &str) -> Option<Vec<(u32, u64)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next()?.parse().ok()?;
            let (high, low) = words.next()?.split_once('/')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((timeline, number(high)? << 32 | number(low)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_timelines_has_the_end_of_each() {
        let text =
            "1\t0/3000148\tno recovery target specified\n\n2\t1/A0\tno recovery target specified\n";
        assert_eq!(parse(text), Some(vec![(1, 0x300_0148), (2, 0x1_0000_00A0)]));
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse("one\t0/0\n"), None);
    }
}
