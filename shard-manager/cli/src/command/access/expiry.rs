//! Expiry: times and durations on the command line, such as `90d` or `2027-01-31T12:00:00Z`.
//!
//! **Not here:** the checks when the catalog is changed (`engine::access_store`).

use access::unix_time::UnixTime;

/// Units of durations, each with its number of seconds.
const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];

/// Parses a duration, and returns it in seconds.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let seconds = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(*unit)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| number.parse::<u64>().ok()?.checked_mul(*seconds))
    });
    let expected = || "give a number and s, m, h, d or w, such as 90d".to_owned();
    seconds.flatten().ok_or_else(expected)
}

/// Parses the time at which a key expires: either a duration from `now` on, or an RFC 3339 time.
pub(super) fn expiry(text: &str, now: UnixTime) -> Result<UnixTime, String> {
    let end = match (UnixTime::parse(text), duration(text)) {
        (Some(time), _) => time,
        (None, Ok(seconds)) => now.plus(seconds),
        (None, Err(_)) => {
            let expected = "give a duration such as 90d, or a time such as 2027-01-31T12:00:00Z";
            return Err(expected.to_owned());
        }
    };
    if end <= now {
        return Err("this is not in the future".to_owned());
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_do_not_overflow() {
        assert_eq!(duration("90d"), Ok(7_776_000));
        assert_eq!(duration("0s"), Ok(0));
        assert_eq!(duration("2w"), Ok(1_209_600));
        for bad in ["", "d", "90", "-1d", "+1d", "1.5d", "1 d", "99999999999999999999d", "1é"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("18446744073709551615w").is_err());
    }

    #[test]
    fn an_expiry_is_a_time_in_the_future() {
        let now = UnixTime::parse("2026-11-23T12:00:00Z").unwrap();
        assert_eq!(expiry("1h", now), Ok(now.plus(3_600)));
        assert_eq!(
            expiry("2026-11-23T13:00:00+01:00", now),
            Err("this is not in the future".to_owned())
        );
        assert_eq!(expiry("2026-11-23T12:00:01Z", now), Ok(now.plus(1)));
        assert!(expiry("0s", now).is_err());
        assert!(expiry("tomorrow", now).is_err());
        assert_eq!(expiry("18446744073709551615s", now), Ok(UnixTime::MAX));
    }
}
