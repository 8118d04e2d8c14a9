//! Text: charts drawn with characters, for terminals and for Markdown.
//!
//! **Invariant:** the number of lines and their width are bounded, whatever the data.
//! **Not here:** the charts of the page (`bars`, `slots`, `ring`).

use report_page::axis::Scale;

use super::bars::number;
use super::{BarChart, OwnedSlots, RingChart, SlotChart};

/// Number of characters of the longest bar.
const BAR: usize = 36;
/// Maximum number of characters of a label; a longer one is cut off.
const LABEL: usize = 22;
/// Maximum number of groups of bars; the table has all of them.
const GROUPS_MAX: usize = 24;
/// Maximum number of maps of slots.
const MAPS_MAX: usize = 24;
/// Number of characters that stand for all slots, or for a whole ring.
const COLUMNS: usize = 64;
/// Signs of the shards, in the order of their numbers; further shards repeat them.
const SIGNS: &[u8] = b"123456789abcdefghijklmnopqrstuvwxyz";
/// Sign of a place without an owner.
const WITHOUT_OWNER: char = '.';

/// Draws horizontal bars, one in each line.
pub(super) fn bars(chart: &BarChart) -> String {
    let groups = &chart.groups[..chart.groups.len().min(GROUPS_MAX)];
    let scale = Scale::fitting(groups.iter().flat_map(|(_, values)| values.iter().copied()));
    let left = width(groups.iter().map(|(label, _)| label));
    let has_series = chart.series.len() > 1;
    let middle = if has_series { width(chart.series.iter()) } else { 0 };
    let mut lines = vec![chart.title.clone()];
    for (label, values) in groups {
        for (index, value) in values.iter().enumerate() {
            let label = if index == 0 { cut(label) } else { String::new() };
            let series = chart.series.get(index).filter(|_| has_series);
            let series = series.map(|name| cut(name)).unwrap_or_default();
            let bar = "█".repeat((scale.place(*value) * BAR as f64).round() as usize);
            let value = number(*value, chart.unit);
            lines.push(format!("  {label:left$}  {series:middle$} ▏{bar} {value}"));
        }
    }
    if scale.is_logarithmic() {
        lines.push("  (logarithmic: equal lengths are equal ratios)".to_owned());
    }
    without_trailing_space(&lines)
}

/// Draws the owners of all slots, one map in each line.
pub(super) fn slots(chart: &SlotChart, slot_count: u16) -> String {
    let maps = &chart.rows[..chart.rows.len().min(MAPS_MAX)];
    let left = width(maps.iter().map(|(label, _)| label));
    let mut lines = vec![chart.title.clone()];
    for (label, ranges) in maps {
        let owners = (0..COLUMNS).map(|column| {
            let slot = column * usize::from(slot_count) / COLUMNS;
            owner_of(ranges, u16::try_from(slot).unwrap_or(u16::MAX))
        });
        let label = cut(label);
        lines.push(format!("  {label:left$}  {}", signs(owners)));
    }
    lines.push(legend(&chart.shards));
    without_trailing_space(&lines)
}

/// Draws a ring as a line: the owner of each place is the next point clockwise.
pub(super) fn ring(chart: &RingChart) -> String {
    let owners = (0..COLUMNS).map(|column| {
        let place = (column as f64 + 0.5) / COLUMNS as f64;
        let next = chart.points.partition_point(|(at, _)| *at < place);
        chart.points.get(next).or_else(|| chart.points.first()).map(|(_, shard)| *shard)
    });
    let line = format!("  {}", signs(owners));
    without_trailing_space(&[chart.title.clone(), line, legend(&chart.shards)])
}

fn owner_of(ranges: &[OwnedSlots], slot: u16) -> Option<usize> {
    let at = ranges.partition_point(|(_, last, _)| *last < slot);
    ranges.get(at).filter(|(first, ..)| *first <= slot).map(|(.., shard)| *shard)
}

fn signs(owners: impl Iterator<Item = Option<usize>>) -> String {
    owners.map(|owner| owner.map_or(WITHOUT_OWNER, sign)).collect()
}

fn sign(shard: usize) -> char {
    char::from(SIGNS[shard % SIGNS.len()])
}

fn legend(shards: &[String]) -> String {
    let shown = shards.iter().take(SIGNS.len()).enumerate();
    let names = shown.map(|(number, name)| format!("{} {}", sign(number), cut(name)));
    let mut legend = format!("  {}", names.collect::<Vec<_>>().join("  "));
    if shards.len() > SIGNS.len() {
        legend.push_str(&format!("  and {} more", shards.len() - SIGNS.len()));
    }
    legend
}

fn width<'t>(labels: impl Iterator<Item = &'t String>) -> usize {
    labels.map(|label| label.chars().count()).max().unwrap_or(0).min(LABEL)
}

fn cut(label: &str) -> String {
    if label.chars().count() <= LABEL {
        return label.to_owned();
    }
    label.chars().take(LABEL - 1).chain(['…']).collect()
}

fn without_trailing_space(lines: &[String]) -> String {
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_numbers_and_have_the_names_of_their_series() {
        let groups = vec![("insert".to_owned(), vec![4.0, 2.0])];
        let series = vec!["one".to_owned(), "sharded".to_owned()];
        let drawn = bars(&BarChart { title: "p99".to_owned(), unit: "ms", series, groups });
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[0], "p99");
        let length = |line: &str| line.matches('█').count();
        assert_eq!((length(lines[1]), length(lines[2])), (BAR, BAR / 2), "{drawn}");
        assert!(lines[1].starts_with("  insert  one     ▏█"), "{drawn}");
        assert!(lines[2].starts_with("          sharded ▏█"), "{drawn}");
        assert!(lines[2].ends_with("█ 2.00 ms"), "{drawn}");
    }

    #[test]
    fn a_map_of_slots_shows_the_owner_of_each_part_and_of_parts_without_one() {
        let rows = vec![("now".to_owned(), vec![(0, 31, 0), (48, 63, 1)])];
        let shards = vec!["shard1".to_owned(), "shard2".to_owned()];
        let drawn = slots(&SlotChart { title: "Owners".to_owned(), shards, rows }, 64);
        let line = format!("  now  {}{}{}", "1".repeat(32), ".".repeat(16), "2".repeat(16));
        assert_eq!(drawn, format!("Owners\n{line}\n  1 shard1  2 shard2"));
    }

    #[test]
    fn a_ring_shows_the_next_point_clockwise_and_begins_again_after_the_last_one() {
        let shards = vec!["shard1".to_owned(), "shard2".to_owned()];
        let points = vec![(0.25, 0), (0.5, 1)];
        let drawn = ring(&RingChart { title: "Ring".to_owned(), shards, points });
        let line = format!("  {}{}{}", "1".repeat(16), "2".repeat(16), "1".repeat(32));
        assert_eq!(drawn, format!("Ring\n{line}\n  1 shard1  2 shard2"));
    }

    #[test]
    fn a_chart_of_much_data_stays_small() {
        let names = vec!["x".repeat(1_000); 500];
        let groups = names.iter().map(|name| (name.clone(), vec![0.0, 1e9])).collect();
        let title = "t".to_owned();
        let chart = BarChart { title: title.clone(), unit: "", series: names.clone(), groups };
        assert!(bars(&chart).lines().count() <= 2 * GROUPS_MAX + 2);
        let rows = names.iter().map(|name| (name.clone(), vec![(0, 16_383, 499)])).collect();
        let chart = SlotChart { title, shards: names, rows };
        let drawn = slots(&chart, 16_384);
        assert!(drawn.lines().count() <= MAPS_MAX + 2);
        assert!(drawn.lines().all(|line| line.chars().count() < 1_000), "{drawn}");
    }
}
