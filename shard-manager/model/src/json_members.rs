//! JSON members: splits a JSON object into member names and raw values, without parsing the values
//! into a tree.
//!
//! **Invariant:** members are in the order of the JSON text, and repeated names are kept, so that
//! `row_change` can report them.
//! **Not here:** the meaning of the members (`row_change`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl Members<'_> {
    /// Returns the JSON of `object` without the members for whose names `keeps` returns false;
    /// `None` if `object` is not the JSON of an object.
    pub fn keep(object: &[u8], keeps: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
        let Members(members) = serde_json::from_slice(object).ok()?;
        let mut kept = Vec::with_capacity(object.len());
        for (name, value) in members.into_iter().filter(|(name, _)| keeps(name)) {
            kept.push(if kept.is_empty() { b'{' } else { b',' });
            serde_json::to_writer(&mut kept, &*name).ok()?;
            kept.push(b':');
            kept.extend_from_slice(value.get().as_bytes());
        }
        kept.extend_from_slice(if kept.is_empty() { b"{}" } else { b"}" });
        Some(kept)
    }

    /// Maximum number of members of one object. A table has at most 200 columns of its own.
    pub const MAX: usize = 256;
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(Name(name)) = map.next_key()? {
                    if members.len() == Members::MAX {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Name of a member, borrowed from the JSON text unless it contains escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}
