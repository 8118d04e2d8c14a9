//! `Prefer` (RFC 7240): parses the preferences of a client, and lists the preferences that were
//! applied.
//!
//! **Invariant:** if a preference is repeated, its first value counts. An unknown preference is
//! ignored, unless the client sends `handling=strict`. A preference that the route cannot honour is
//! refused if ignoring it could lose data.
//! **Not here:** the effect of a preference (the routes).

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::{Code, Problem};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// A preference that the router supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// `return=minimal`: leave the row out of the response to a write.
    Minimal,
    /// `return=representation`: include the row.
    Representation,
    /// `fanout=deny`: refuse to read all shards.
    DenyFanout,
    /// `partial=allow`: return the rows of a read of all shards even if some shards fail.
    AllowPartial,
    /// `count=exact`: report the number of all matching rows, not only those of the page.
    CountExact,
    /// `tx=per-shard`: each shard's part of a bulk write is stored as a whole or not at all.
    PerShard,
    /// `tx=rollback`: only report the effect of a change of indexes.
    Rollback,
    /// `handling=strict`: refuse unknown preferences instead of ignoring them.
    Strict,
    /// `handling=lenient`: ignore unknown preferences, which is the default.
    Lenient,
}

impl Preference {
    const ALL: [Self; 9] = [
        Self::Minimal,
        Self::Representation,
        Self::DenyFanout,
        Self::AllowPartial,
        Self::CountExact,
        Self::PerShard,
        Self::Rollback,
        Self::Strict,
        Self::Lenient,
    ];

    /// Returns the name and the value of the preference, as a client spells them.
    fn spelling(self) -> (&'static str, &'static str) {
        match self {
            Self::Minimal => ("return", "minimal"),
            Self::Representation => ("return", "representation"),
            Self::DenyFanout => ("fanout", "deny"),
            Self::AllowPartial => ("partial", "allow"),
            Self::CountExact => ("count", "exact"),
            Self::PerShard => ("tx", "per-shard"),
            Self::Rollback => ("tx", "rollback"),
            Self::Strict => ("handling", "strict"),
            Self::Lenient => ("handling", "lenient"),
        }
    }

    fn text(self) -> String {
        let (name, value) = self.spelling();
        format!("{name}={value}")
    }
}

/// Known preferences that one request contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefer(Vec<Preference>);

impl Prefer {
    /// Parses the header of a request about rows.
    ///
    /// # Errors
    /// TSR105 if a preference is unknown and `handling=strict` is set; TSR113 if the header is not
    /// visible ASCII, or its `tx` has a value that the route does not support.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        Self::parse_with(headers, Preference::PerShard)
    }

    /// Parses the header of a request that changes indexes.
    ///
    /// # Errors
    /// Errors of [`Prefer::parse`].
    pub fn parse_of_change(headers: &HeaderMap) -> Result<Self, Problem> {
        Self::parse_with(headers, Preference::Rollback)
    }

    /// Parses the header for a route that supports only the value `transaction` of `tx`.
    fn parse_with(headers: &HeaderMap, transaction: Preference) -> Result<Self, Problem> {
        let is_known = |one: &Preference| one.spelling().0 != "tx" || *one == transaction;
        let mut known: Vec<Preference> = Vec::new();
        // Only known names are remembered: there may be thousands of unknown names, and comparing
        // each with all the others would take too long.
        let mut seen: Vec<String> = Vec::new();
        let mut unknown = None;
        for value in headers.get_all(&PREFER) {
            let text = value.to_str().map_err(|_| bad("visible ASCII"))?;
            for wish in text.split(',').filter_map(|wish| wish.split(';').next()) {
                let (name, value) = wish.split_once('=').unwrap_or((wish, ""));
                let name = name.trim().to_ascii_lowercase();
                let value = value.trim().trim_matches('"').to_ascii_lowercase();
                if name.is_empty() || seen.contains(&name) {
                    continue;
                }
                if !Preference::ALL.iter().any(|one| one.spelling().0 == name) {
                    unknown = Some(wish);
                    continue;
                }
                let found = Preference::ALL
                    .into_iter()
                    .filter(is_known)
                    .find(|one| one.spelling() == (&name, &value));
                match found {
                    Some(preference) => known.push(preference),
                    // The client requests a transaction that this route does not offer: ignoring
                    // the wish could store only a part of the rows.
                    None if name == "tx" => {
                        return Err(bad(&format!("{}, or without tx", transaction.text())));
                    }
                    None => unknown = Some(wish),
                }
                seen.push(name);
            }
        }
        match unknown.filter(|_| known.contains(&Preference::Strict)) {
            Some(wish) => {
                let wish: String = wish.trim().chars().take(80).collect();
                let known = Preference::ALL.into_iter().filter(is_known).map(Preference::text);
                let known = known.collect::<Vec<_>>().join(", ");
                let problem =
                    Problem::new(Code::TSR105, format!("`{wish}` is not a known preference"));
                Err(problem.hint(format!("known: {known}")))
            }
            None => Ok(Self(known)),
        }
    }

    /// Returns true if the client sent this preference.
    pub fn has(&self, preference: Preference) -> bool {
        self.0.contains(&preference)
    }

    /// Returns the value of `Preference-Applied`: the preferences of the client that are in
    /// `honoured`, and `handling=strict`, which every route honours by parsing the header.
    pub fn applied(&self, honoured: &[Preference]) -> Option<HeaderValue> {
        let asked =
            self.0.iter().filter(|one| honoured.contains(one) || **one == Preference::Strict);
        let text = asked.map(|preference| preference.text()).collect::<Vec<_>>().join(", ");
        HeaderValue::from_str(&text).ok().filter(|value| !value.is_empty())
    }
}

fn bad(allowed: &str) -> Problem {
    Problem::new(Code::TSR113, format!("prefer must be {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Prefer, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(PREFER, HeaderValue::from_str(text).unwrap());
        Prefer::parse(&headers)
    }

    #[test]
    fn any_number_of_unknown_names_is_ignored_or_refused_under_strict_handling() {
        let names: Vec<String> = (0..30_000).map(|number| format!("name{number}=1")).collect();
        let names = names.join(", ");
        let lenient = parsed(&format!("return=minimal, {names}, return=representation")).unwrap();
        assert_eq!(lenient, Prefer(vec![Preference::Minimal]), "the first value counts");
        for text in [format!("handling=strict, {names}"), format!("{names}, handling=strict")] {
            let refused = parsed(&text).unwrap_err();
            assert_eq!(refused.code().name(), "TSR105");
            assert_eq!(refused.detail(), "`name29999=1` is not a known preference");
        }
    }
}
