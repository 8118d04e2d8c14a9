//! Backup id: the identity of a backup that a router makes, which is also the name of its folder.
//!
//! An id is the time at which the backup began, so ids sort by time: `20261125T093000Z-3fa2` is the
//! second in UTC and the fraction of the second in 1/65536.
//!
//! **Invariant:** an id is a plain folder name, so no string from a client can refer to a path
//! outside the folder for backups.
//! **Not here:** the folders (`backup_folder`).

use std::fmt;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

/// Format of the time, to the second.
const SECOND: &str = "%Y%m%dT%H%M%SZ";
/// Length of a time in this format.
const SECOND_LEN: usize = 16;
/// Number of hexadecimal digits of the fraction.
const PART_LEN: usize = 4;
/// Number of equal parts into which a second is divided.
const PARTS: u64 = 1 << 16;
const NANOS: u64 = 1_000_000_000;

/// Identity of a backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

impl BackupId {
    /// Returns the identity of a backup that begins at this time.
    pub fn at(time: DateTime<Utc>) -> Self {
        // A leap second is counted by chrono as more than 10^9 nanoseconds.
        let nanos = u64::from(time.timestamp_subsec_nanos()).min(NANOS - 1);
        Self(format!("{}-{:04x}", time.format(SECOND), nanos * PARTS / NANOS))
    }

    /// Parses an identity; returns `None` if the string is not a valid identity.
    pub fn parse(text: &str) -> Option<Self> {
        time_of(text)?;
        Some(Self(text.to_owned()))
    }

    /// Returns the time at which the backup began.
    pub fn time(&self) -> DateTime<Utc> {
        time_of(&self.0).unwrap_or_default()
    }

    /// Returns an identity that is later by one or two parts of a second.
    pub fn next(&self) -> Self {
        // One part (1/65536 s) is 15 259 nanoseconds, rounded up.
        Self::at(self.time() + TimeDelta::nanoseconds(15_259 * 2))
    }

    /// Returns the identity as a string.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn time_of(text: &str) -> Option<DateTime<Utc>> {
    let (second, part) = text.split_once('-')?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if second.len() != SECOND_LEN || part.len() != PART_LEN || !part.bytes().all(is_digit) {
        return None;
    }
    let time = NaiveDateTime::parse_from_str(second, SECOND).ok()?.and_utc();
    let part = u64::from_str_radix(part, 16).ok()?;
    // Signs and blanks, which the parsers accept, are not permitted.
    (time.format(SECOND).to_string() == second)
        .then(|| time + TimeDelta::nanoseconds((part * NANOS / PARTS).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> BackupId {
        BackupId::parse(text).expect(text)
    }

    #[test]
    fn ids_are_in_the_order_of_time_and_name_it() {
        let time = DateTime::parse_from_rfc3339("2026-11-25T09:30:00.2486Z").expect("a time");
        let time = time.to_utc();
        let earlier = BackupId::at(time);
        assert_eq!(earlier.name(), "20261125T093000Z-3fa4");
        let error = time - earlier.time();
        assert!(error >= TimeDelta::zero() && error < TimeDelta::microseconds(16), "{error}");
        let later = BackupId::at(time + TimeDelta::microseconds(16));
        assert!(earlier < later && later.name() > earlier.name());
        for text in ["20261125T093000Z-3fa4", "20261125T093000Z-ffff", "20261231T235959Z-ffff"] {
            assert!(id(text) < id(text).next(), "{text}");
            assert_eq!(BackupId::parse(id(text).next().name()), Some(id(text).next()));
        }
    }

    #[test]
    fn only_a_plain_name_is_an_id() {
        for text in [
            "",
            "..",
            "monday",
            "20261125T093000Z",
            "20261125T093000Z-",
            "20261125T093000Z-3FA2",
            "20261125T093000Z-3fa",
            "20261125T093000Z-3fa22",
            "20261325T093000Z-3fa2",
            "2026-1125T09300Z-3fa2",
            "20261125T 93000Z-3fa2",
            "+2026125T093000Z-3fa2",
            "20261125T093000Z-3fa2-unfinished",
            "20261125T093000Z-../a",
            "20261125T093000Z/3fa2",
        ] {
            assert_eq!(BackupId::parse(text), None, "{text}");
        }
    }
}
