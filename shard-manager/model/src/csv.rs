//! CSV: splits text into records of RFC 4180 as it arrives.
//!
//! This parser exists because an empty field means null and a quoted empty field the empty text,
//! and other parsers report both as empty. Fields are separated by commas, records by line feeds (a
//! carriage return before a line feed belongs to the line feed). A quote that does not begin a
//! field is an ordinary character.
//!
//! **Invariant:** a record ends at the first line feed outside quotes, even if it is malformed;
//! reading continues after it.
//! **Not here:** the meaning of the fields (`import`, and the router's routes).

use memchr::{memchr, memchr2};

/// Fields of one record, valid until the next one is read.
#[derive(Debug, Default)]
pub struct Record {
    text: Vec<u8>,
    fields: Vec<Span>,
}

/// End of a field in the text, which is the start of the next one.
#[derive(Clone, Copy, Debug)]
struct Span {
    end: usize,
    quoted: bool,
}

/// Field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'r> {
    /// Text without quotes.
    pub text: &'r [u8],
    /// True if the field was quoted.
    pub quoted: bool,
}

/// Part of a text that is one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Length of the record, its line end included.
    pub bytes: usize,
    /// Kind of the record.
    pub kind: Kind,
}

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The line is empty.
    Blank,
    /// The record has fields.
    Fields,
    /// A closing quote is followed by something other than a comma or the end of the record.
    TextAfterQuote,
    /// The text ends inside quotes.
    OpenQuote,
}

impl Record {
    /// Reads the record at the beginning of `text`; `None` if it is incomplete. With `at_end` no
    /// text follows, and the end of a text that is not empty ends the record.
    pub fn read(&mut self, text: &[u8], at_end: bool) -> Option<Cut> {
        self.text.clear();
        self.fields.clear();
        match text {
            [b'\n', ..] => return Some(Cut { bytes: 1, kind: Kind::Blank }),
            [b'\r', b'\n', ..] => return Some(Cut { bytes: 2, kind: Kind::Blank }),
            [] => return None,
            _ => {}
        }
        let (mut at, mut kind) = (0, Kind::Fields);
        loop {
            let field = if text.get(at) == Some(&b'"') {
                self.quoted(text, at + 1, at_end)?
            } else {
                self.plain(text, at, at_end, false)?
            };
            if kind == Kind::Fields {
                kind = field.kind;
            }
            at = field.after;
            if field.ends_record {
                return Some(Cut { bytes: at, kind });
            }
        }
    }

    /// Returns the size of this buffer in bytes.
    pub fn held(&self) -> usize {
        self.text.capacity() + self.fields.capacity() * size_of::<Span>()
    }

    /// Returns the fields of the record that was read last.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        (0..self.fields.len()).map(|index| {
            let begin = index.checked_sub(1).map_or(0, |before| self.fields[before].end);
            let Span { end, quoted } = self.fields[index];
            Field { text: &self.text[begin..end], quoted }
        })
    }

    /// Reads a field up to a comma or a line feed; `quoted` is recorded with it.
    fn plain(&mut self, text: &[u8], at: usize, at_end: bool, quoted: bool) -> Option<Read> {
        let rest = &text[at..];
        let found = memchr2(b',', b'\n', rest);
        let end = found.or_else(|| at_end.then_some(rest.len()))?;
        let ends_record = rest.get(end) != Some(&b',');
        let mut value = &rest[..end];
        if ends_record {
            value = value.strip_suffix(b"\r").unwrap_or(value);
        }
        self.text.extend_from_slice(value);
        self.fields.push(Span { end: self.text.len(), quoted });
        let after = at + end + usize::from(found.is_some());
        Some(Read { after, ends_record, kind: Kind::Fields })
    }

    /// Reads a field after its opening quote.
    fn quoted(&mut self, text: &[u8], mut at: usize, at_end: bool) -> Option<Read> {
        loop {
            let rest = &text[at..];
            let Some(quote) = memchr(b'"', rest) else {
                return at_end.then(|| {
                    self.text.extend_from_slice(rest);
                    self.fields.push(Span { end: self.text.len(), quoted: true });
                    Read { after: text.len(), ends_record: true, kind: Kind::OpenQuote }
                });
            };
            self.text.extend_from_slice(&rest[..quote]);
            at += quote + 1;
            match text.get(at) {
                Some(b'"') => {
                    self.text.push(b'"');
                    at += 1;
                }
                // The next byte may be a second quote.
                None if !at_end => return None,
                Some(_) | None => break,
            }
        }
        let begin = self.text.len();
        let mut read = self.plain(text, at, at_end, true)?;
        if self.text.len() > begin {
            read.kind = Kind::TextAfterQuote;
        }
        Some(read)
    }
}

/// Position up to which growing text was searched for the end of a record, so that each byte is
/// examined once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seek {
    at: usize,
    within: Within,
}

/// State of the search at the end of the text.
#[derive(Clone, Copy, Debug, Default)]
enum Within {
    /// Before a field.
    #[default]
    Field,
    /// In a field without quotes, or after its closing quote.
    Plain,
    /// In quotes.
    Quotes,
    /// After a quote in quotes: the first of two, or the closing one.
    Quote,
}

impl Seek {
    /// Returns true if some text was examined.
    pub fn is_begun(self) -> bool {
        self.at > 0
    }

    /// Returns true if the record at the start of `text` ends in it; `text` must be the text of the
    /// last call with more appended.
    pub fn finds_end(&mut self, text: &[u8]) -> bool {
        while let Some(byte) = text.get(self.at) {
            self.within = match (self.within, byte) {
                (Within::Field, b'"') | (Within::Quote, b'"') => Within::Quotes,
                (Within::Field | Within::Plain | Within::Quote, b'\n') => return true,
                (Within::Field | Within::Plain | Within::Quote, b',') => Within::Field,
                (Within::Field | Within::Quote, _) => Within::Plain,
                (Within::Plain, _) => {
                    let rest = &text[self.at..];
                    // The comma or the line end is examined next.
                    self.at += memchr2(b',', b'\n', rest).unwrap_or(rest.len());
                    continue;
                }
                (Within::Quotes, _) => {
                    let rest = &text[self.at..];
                    match memchr(b'"', rest) {
                        Some(quote) => self.at += quote,
                        None => {
                            self.at = text.len();
                            return false;
                        }
                    }
                    Within::Quote
                }
            };
            self.at += 1;
        }
        false
    }
}

/// Field that was read.
struct Read {
    /// Start of the next field.
    after: usize,
    ends_record: bool,
    kind: Kind,
}
