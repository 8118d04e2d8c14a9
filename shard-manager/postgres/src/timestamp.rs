//! Timestamp: conversion between the text form of an instant and the microseconds since 2000 that
//! PostgreSQL sends.
//!
//! The calendar is that of Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms": exact,
//! and cheaper than a general parser, which each row would need three times.
//!
//! **Invariant:** texts are `2026-11-21T10:00:00.000000Z`, of the years 1 to 9999.
//! **Not here:** the forms that clients may send (`value`).

const MICROS_OF_DAY: i64 = 86_400_000_000;
/// Days from 1 March of the year 0 to 1 January 2000.
const DAYS_TO_2000: i64 = 730_425;

/// Converts the text of an instant to microseconds since the beginning of 2000.
pub(super) fn read(text: &str) -> i64 {
    let digits = |range: std::ops::Range<usize>| {
        let digits = text.as_bytes().get(range).unwrap_or_default();
        digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit.wrapping_sub(b'0') & 15))
    };
    let (year, month, day) = (digits(0..4), digits(5..7), digits(8..10));
    let (hours, minutes, seconds) = (digits(11..13), digits(14..16), digits(17..19));
    // Years begin in March, so that a leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - DAYS_TO_2000;
    let seconds = (hours * 60 + minutes) * 60 + seconds;
    days * MICROS_OF_DAY + seconds * 1_000_000 + digits(20..26)
}

/// Appends the text of an instant.
pub(super) fn write(out: &mut Vec<u8>, micros: i64) {
    let days = micros.div_euclid(MICROS_OF_DAY) + DAYS_TO_2000;
    let micros = micros.rem_euclid(MICROS_OF_DAY);
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let seconds = micros / 1_000_000;
    push(out, year, 4);
    for (mark, number) in [
        (b'-', month),
        (b'-', day_of_month),
        (b'T', seconds / 3_600),
        (b':', seconds / 60 % 60),
        (b':', seconds % 60),
    ] {
        out.push(mark);
        push(out, number, 2);
    }
    out.push(b'.');
    push(out, micros % 1_000_000, 6);
    out.push(b'Z');
}

fn push(out: &mut Vec<u8>, number: i64, digits: u32) {
    for place in (0..digits).rev() {
        out.push(b'0' + (number / 10_i64.pow(place) % 10) as u8);
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use model::value::format_timestamp;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn instants_are_those_of_the_calendar(
            micros in -63_082_281_600_000_000_i64..252_455_616_000_000_000,
        ) {
            let epoch: DateTime<Utc> = "2000-01-01T00:00:00Z".parse().unwrap();
            let text = format_timestamp(epoch + TimeDelta::microseconds(micros));
            let mut written = Vec::new();
            write(&mut written, micros);
            prop_assert_eq!(String::from_utf8(written).unwrap(), text.clone());
            prop_assert_eq!(read(&text), micros);
        }
    }
}
