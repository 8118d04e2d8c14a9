//! CSV: splits text in the format of RFC 4180 into records, while more of the text is still
//! arriving.
//!
//! An empty field means null, and a quoted empty field means the empty string. This parser exists
//! because others report both as empty. Fields are separated by commas, and records by line feeds;
//! a carriage return directly before a line feed is part of the line end. A quote that is not the
//! first character of a field is an ordinary character.
//!
//! **Invariant:** a record ends at the first line feed outside quotes, even if the record is
//! malformed; the next record begins after that line feed.
//! **Not here:** converting fields to values of columns (`import`, and the router's routes).

use memchr::{memchr, memchr2};

/// Buffer with the fields of one record; reading the next record replaces them.
#[derive(Debug, Default)]
pub struct Record {
    text: Vec<u8>,
    fields: Vec<Span>,
}

/// End of a field in the buffer, where the next field begins.
#[derive(Clone, Copy, Debug)]
struct Span {
    end: usize,
    quoted: bool,
}

/// Field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'r> {
    /// Content of the field, without the quotes around it and with doubled quotes replaced by
    /// single ones.
    pub text: &'r [u8],
    /// True if the field was quoted.
    pub quoted: bool,
}

/// Part of the input that is one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Length of the record in bytes, including its line end.
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
    /// The input ends inside quotes.
    OpenQuote,
}

impl Record {
    /// Reads the record at the beginning of `text`; `None` if `text` does not contain all of it.
    /// `at_end` states that no more input follows: then the end of `text` ends the record, unless
    /// `text` is empty.
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

    /// Returns the number of bytes of memory that this buffer has allocated.
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

    /// Reads the rest of a field, up to a comma or a line feed; `quoted` is stored with the field.
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
                // The next byte of the input, which has not arrived yet, may be a second quote.
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

/// Search for the end of a record in input that is still arriving. It stores the position that it
/// has reached, so that each byte is examined once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seek {
    at: usize,
    within: Within,
}

/// State of the search at the position that it has reached.
#[derive(Clone, Copy, Debug, Default)]
enum Within {
    /// At the beginning of a field.
    #[default]
    Field,
    /// In an unquoted field, or in the text that follows a closing quote.
    Plain,
    /// Inside quotes.
    Quotes,
    /// After a quote inside quotes: either the first of a doubled quote, or the closing quote.
    Quote,
}

impl Seek {
    /// Returns true if the search has examined at least one byte.
    pub fn is_begun(self) -> bool {
        self.at > 0
    }

    /// Returns true if `text` contains the end of the record with which it begins. `text` must be
    /// the `text` of the previous call, with more input appended.
    pub fn finds_end(&mut self, text: &[u8]) -> bool {
        while let Some(byte) = text.get(self.at) {
            self.within = match (self.within, byte) {
                (Within::Field, b'"') | (Within::Quote, b'"') => Within::Quotes,
                (Within::Field | Within::Plain | Within::Quote, b'\n') => return true,
                (Within::Field | Within::Plain | Within::Quote, b',') => Within::Field,
                (Within::Field | Within::Quote, _) => Within::Plain,
                (Within::Plain, _) => {
                    let rest = &text[self.at..];
                    // The next iteration examines the comma or the line feed.
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

/// Result of reading one field.
struct Read {
    /// Position at which the next field begins.
    after: usize,
    ends_record: bool,
    kind: Kind,
}
