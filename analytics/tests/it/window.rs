//! Tests of windows: valid values, and the errors for invalid ones.

use analytics::{Window, WindowError};

use crate::{millis, seconds};

#[test]
fn the_names_are_windows_and_five_minutes_is_the_default() {
    let named = Window::NAMES.map(|name| Window::parse(name).unwrap().length());
    let hour = 3_600;
    let lengths = [60, 300, 900, hour, 6 * hour, 24 * hour, 7 * 24 * hour];
    assert_eq!(named, lengths.map(seconds));
    assert_eq!(Window::from_query(None, None).unwrap(), Window::parse("5m").unwrap());
}

#[test]
fn a_time_range_is_a_whole_number_of_ms_up_to_an_hour() {
    for (text, length) in [
        ("1", millis(1)),
        ("300000", seconds(300)),
        ("3600000", seconds(3_600)),
        ("007", millis(7)),
    ] {
        assert_eq!(Window::from_query(None, Some(text)).unwrap().length(), length);
    }
}

#[test]
fn any_other_time_range_is_refused() {
    for text in [
        "",
        " ",
        "abc",
        "0",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "NaN",
        "Infinity",
        "0x10",
        "1_000",
        " 60000",
        "60000 ",
        "3600001",
        "18446744073709551616",
        "99999999999999999999999999",
        "５",
    ] {
        let refused = Window::parse_time_range(text).unwrap_err();
        assert!(refused.to_string().contains("from 1 to 3600000"), "{refused}");
    }
}

#[test]
fn any_other_name_is_refused_with_the_names_that_are_allowed() {
    for text in ["", "5M", "5m ", "2m", "5", "300000", "1d", "5m\0"] {
        let refused = Window::parse(text).unwrap_err();
        assert!(refused.to_string().contains("1m, 5m, 15m, 1h"), "{refused}");
    }
}

#[test]
fn both_spellings_at_once_are_refused() {
    assert_eq!(Window::from_query(Some("5m"), Some("300000")), Err(WindowError::Both));
}

#[test]
fn a_refusal_repeats_only_the_beginning_of_what_was_sent() {
    let refused = Window::parse(&"ü".repeat(100_000)).unwrap_err();
    assert!(refused.to_string().len() < 200);
}
