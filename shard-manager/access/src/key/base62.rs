//! Base 62: digits, then upper-case and lower-case letters. A text of them has no character that
//! ends a word, so a double click selects it whole.
//!
//! **Invariant:** numbers have the highest digit first and fill their text.
//! **Not here:** the parts of a key (`key`).

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Returns true if all characters are digits of base 62.
#[inline]
pub(super) fn is_text(text: &[u8]) -> bool {
    // Without an early exit, the processor can examine many bytes at a time.
    text.iter().fold(true, |all, byte| all & byte.is_ascii_alphanumeric())
}

/// Writes a number, given by its bytes with the highest first. Digits above those that fit are
/// dropped.
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

/// Parses a number; `None` if a character is not a digit or the number is above 32 bits.
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
