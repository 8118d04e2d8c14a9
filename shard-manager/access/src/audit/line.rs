//! Line: writes the members of an audit log line as escaped JSON.
//!
//! **Invariant:** a line contains no control characters and no characters that reorder text (only
//! their escapes), so it is shown as a single line in a file, a terminal and an editor.
//! **Not here:** the members of an event (`event`).

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};

/// Maximum length of a string value in a line, in bytes before escaping. Longer strings are cut.
pub(super) const TEXT_MAX: usize = 256;
/// Suffix of a string that was cut.
const CUT: &str = "…";

/// Writer that appends members to a JSON object, each with a comma before it.
pub(super) struct LineWriter<'o>(pub(super) &'o mut String);

impl LineWriter<'_> {
    pub(super) fn name(&mut self, name: &str) {
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    pub(super) fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        push_text(self.0, text);
    }

    pub(super) fn maybe(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub(super) fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        let _ = write!(self.0, "{number}");
    }

    pub(super) fn hex(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.0.push('"');
        push_hex(self.0, bytes);
        self.0.push('"');
    }

    pub(super) fn texts<'t>(&mut self, name: &str, texts: impl Iterator<Item = &'t str>) {
        self.name(name);
        let mut sign = '[';
        for text in texts {
            self.0.push(sign);
            push_text(self.0, text);
            sign = ',';
        }
        self.0.push_str(if sign == '[' { "[]" } else { "]" });
    }
}

/// Appends a string in quotes, cut to [`TEXT_MAX`] bytes and escaped.
fn push_text(out: &mut String, text: &str) {
    let end = text.floor_char_boundary(TEXT_MAX);
    out.push('"');
    for c in text[..end].chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if is_hidden(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    if end < text.len() {
        out.push_str(CUT);
    }
    out.push('"');
}

/// Returns true for a character that ends a line, controls a terminal, is invisible or reorders
/// text. All these characters can be escaped with four hexadecimal digits.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

/// Appends bytes as hexadecimal digits in lower case.
pub(super) fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Formats a time, in milliseconds since 1970, as RFC 3339 in UTC.
pub(super) fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis);
    time.unwrap_or(DateTime::UNIX_EPOCH).to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        push_text(&mut out, text);
        out
    }

    #[test]
    fn text_of_a_client_stays_in_its_quotes_and_in_its_line() {
        assert_eq!(quoted("a\"b\\c\n\r\0"), "\"a\\\"b\\\\c\\u000a\\u000d\\u0000\"");
        assert_eq!(
            quoted("\u{9b}31m\u{7f}\u{202e}\u{2028}"),
            "\"\\u009b31m\\u007f\\u202e\\u2028\""
        );
        assert_eq!(quoted("Zoë 漢 🦀"), "\"Zoë 漢 🦀\"");
        for text in ["a\"b\\c\n\r\0", "\u{9b}\u{202e}", "Zoë 漢 🦀"] {
            assert_eq!(serde_json::from_str::<String>(&quoted(text)).ok().as_deref(), Some(text));
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(quoted(&"x".repeat(256)).len(), 258);
        assert_eq!(quoted(&"x".repeat(1 << 20)).len(), 258 + CUT.len());
        let odd = format!("x{}", "é".repeat(1 << 19));
        assert_eq!(quoted(&odd), format!("\"x{}{CUT}\"", "é".repeat(127)));
        assert_eq!(quoted(&"\0".repeat(1 << 20)).len(), 2 + 256 * 6 + CUT.len());
    }

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(time(1_800_000_000_007), "2027-01-15T08:00:00.007Z");
        assert_eq!(time(u64::MAX), "1970-01-01T00:00:00.000Z");
    }
}
