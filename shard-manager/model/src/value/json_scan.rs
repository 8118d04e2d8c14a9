//! JSON scan: checks that a text is valid JSON without building a tree, which could take up to 90
//! times as much memory as the text.
//!
//! **Invariant:** a text that passes has no half of a surrogate pair in a string, no number too
//! large for binary64, and no deeper nesting than the parser's recursion limit.
//! **Not here:** canonical values of columns, and the refusal of U+0000, which is valid in JSON
//! (`value`).

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// JSON value of any type that is parsed and dropped. Unlike [`serde::de::IgnoredAny`], it decodes
/// strings and converts numbers, so that errors in them are found.
struct Scanned;

/// Returns true if the text is one JSON value.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<Scanned>(text).is_ok()
}

impl<'de> Deserialize<'de> for Scanned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScanVisitor)
    }
}

struct ScanVisitor;

impl<'de> Visitor<'de> for ScanVisitor {
    type Value = Scanned;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Scanned, E> {
        Ok(Scanned)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scanned, E> {
        Ok(Scanned)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Scanned, E> {
        Ok(Scanned)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Scanned, E> {
        Ok(Scanned)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scanned, E> {
        Ok(Scanned)
    }

    fn visit_str<E>(self, _: &str) -> Result<Scanned, E> {
        Ok(Scanned)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Scanned, A::Error> {
        while let Some(Scanned) = elements.next_element()? {}
        Ok(Scanned)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Scanned, A::Error> {
        while let Some((Scanned, Scanned)) = members.next_entry()? {}
        Ok(Scanned)
    }
}
