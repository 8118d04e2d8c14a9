//! Words: formats numbers with separators between the thousands.

use std::fmt::Display;

/// Formats a number with separators between the thousands, such as `12,345`; below 10, a fraction
/// is shown with one decimal place.
pub fn grouped(number: f64) -> String {
    if number.abs() < 10.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    group(format!("{number:.0}"))
}

/// Formats a count with separators between the thousands.
pub fn count(number: impl Display) -> String {
    group(number.to_string())
}

fn group(digits: String) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let reported = [0.0, 0.25, 9.0, 999.4, 1_000.0, 1_234_567.0, -123_456.0].map(grouped);
        assert_eq!(reported, ["0", "0.2", "9", "999", "1,000", "1,234,567", "-123,456"]);
        assert_eq!(count(12_345_u64), "12,345");
    }
}
