//! Hexadecimal text of 32-byte values: the form in which files and catalog tables store digests and
//! secrets.

/// Number of bytes of a value.
const LEN: usize = 32;

/// Parses 64 hexadecimal digits in lower case.
pub(crate) fn parse(text: &str) -> Option<[u8; LEN]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * LEN {
        return None;
    }
    let mut bytes = [0; LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(digit);
        *byte = high? << 4 | low?;
    }
    Some(bytes)
}

/// Returns 64 hexadecimal digits in lower case.
pub(crate) fn format(bytes: &[u8; LEN]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
