//! Base 62: numbers written with the digits 0 to 9, A to Z and a to z. None of these characters
//! ends a word, so a double click selects a whole number.
//!
//! **Invariant:** a number is written with its most significant digit first, with leading zeros up
//! to the length of the output.
//! **Not here:** the parts of a key (`key`).

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Returns true if all bytes are base-62 digits.
#[inline]
pub(super) fn is_text(text: &[u8]) -> bool {
    // The loop has no early exit, so that the compiler can process many bytes at a time.
    text.iter().fold(true, |all, byte| all & byte.is_ascii_alphanumeric())
}

/// Writes a number, given as big-endian bytes, as base-62 digits that fill `text`. If `text` is too
/// short, the most significant digits are dropped.
pub(super) fn write(number: &[u8], text: &mut [u8]) {
    let mut number = number.to_vec();
    for digit in text.iter_mut().rev() {
        let mut rest: u16 = 0;
        for byte in &mut number {
            let value = rest << 8 | u16::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *digit = DIGITS[usize::from(rest)];
    }
}

/// Parses a number; `None` if a byte is not a base-62 digit or the number does not fit in 32 bits.
#[inline]
pub(super) fn parse_u32(text: &[u8]) -> Option<u32> {
    let mut number: u64 = 0;
    for byte in text {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        number = number.checked_mul(62)?.checked_add(u64::from(digit))?;
    }
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written() {
        for number in [0, 1, 61, 62, 3_843, u32::MAX] {
            let mut text = [0; 6];
            write(&number.to_be_bytes(), &mut text);
            assert_eq!(parse_u32(&text), Some(number));
        }
    }

    #[test]
    fn forty_three_digits_hold_256_bits() {
        let mut highest = [0; 43];
        write(&[0xff; 32], &mut highest);
        let mut lower = [0; 43];
        write(&[[0xff; 31].as_slice(), &[0xfe]].concat(), &mut lower);
        assert_eq!(highest[..42], lower[..42]);
        assert_ne!(highest[42], lower[42]);
        assert_ne!(highest[0], b'0', "the highest digit is in use");
    }
}
