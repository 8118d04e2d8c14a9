//! Explanation: summarises the comparison of the strategies in two sentences.

use super::{Tried, TriedSet};

pub(super) fn of(sets: &[TriedSet]) -> String {
    let all = || sets.iter().flat_map(|set| set.tried.iter().map(move |one| (set, one)));
    let hashed = all().filter(|(_, one)| one.keyspace == "hash" && one.placement == "weighted");
    let hashed = hashed.map(|(_, one)| one.skew).fold(0.0, f64::max);
    let worst = all().filter(|(_, one)| one.keyspace != "hash" && one.placement == "weighted");
    let worst = worst.max_by(|a, b| a.1.skew.total_cmp(&b.1.skew));
    let skew = match worst {
        Some((set, one)) if one.skew > hashed => format!(
            "Keyspace hash with placement weighted gives no shard more than {hashed:.2} times its share of the \
             keys, while keyspace {} reaches {:.2} on keys `{}`, because it keeps keys together and some \
             groups are larger than others.",
            one.keyspace, one.skew, set.name
        ),
        Some(_) | None => format!(
            "Keyspace hash with placement weighted gives no shard more than {hashed:.2} times its share of the \
             keys."
        ),
    };
    format!("{skew} {}", moved(sets))
}

/// Returns the sentence about the fraction of keys that move when a shard is added.
fn moved(sets: &[TriedSet]) -> String {
    let first = sets.iter().flat_map(|set| &set.tried);
    let first: Vec<&Tried> = first.take_while(|one| one.keyspace == "hash").collect();
    let share = |name: &str| {
        let one = first.iter().find(|one| one.placement == name)?;
        let moved = one.moved.first()?.as_ref()?;
        Some((100.0 * moved.share, 100.0 * moved.needed))
    };
    match (share("rebalance"), share("modulo")) {
        (Some((least, needed)), Some((most, _))) => format!(
            "When a shard is added, {needed:.1} % of the keys must move: a rebalance moves {least:.1} %, and a modulo \
             over the shards {most:.1} %, because nearly every slot gets another remainder."
        ),
        (_, _) => "No shard can be added to these placements.".to_owned(),
    }
}
