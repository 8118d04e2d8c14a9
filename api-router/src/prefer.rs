//! `Prefer` (RFC 7240): what a client would like, and what it is told of it.
//!
//! **Invariant:** of a preference given twice the first counts; what is not known is ignored, unless the client
//! asks for `handling=strict`; a preference whose neglect could lose data is refused.
//! **Not here:** what follows from a preference (the routes).

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::{Code, Problem};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// A preference that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// `return=minimal`: leave the row out of the answer to a write.
    Minimal,
    /// `return=representation`: put it in.
    Representation,
    /// `fanout=deny`: refuse to read all shards.
    DenyFanout,
    /// `partial=allow`: answer a read of all shards though some of them cannot.
    AllowPartial,
    /// `count=exact`: tell how many rows there are beside those of the page.
    CountExact,
    /// `tx=per-shard`: each shard's part of a bulk write is stored as a whole or not at all.
    PerShard,
    /// `handling=strict`: refuse what would else be ignored.
    Strict,
    /// `handling=lenient`: the opposite, which needs no saying.
    Lenient,
}

impl Preference {
    const ALL: [Self; 8] = [
        Self::Minimal,
        Self::Representation,
        Self::DenyFanout,
        Self::AllowPartial,
        Self::CountExact,
        Self::PerShard,
        Self::Strict,
        Self::Lenient,
    ];

    /// As it is spelled: name and value.
    fn spelling(self) -> (&'static str, &'static str) {
        match self {
            Self::Minimal => ("return", "minimal"),
            Self::Representation => ("return", "representation"),
            Self::DenyFanout => ("fanout", "deny"),
            Self::AllowPartial => ("partial", "allow"),
            Self::CountExact => ("count", "exact"),
            Self::PerShard => ("tx", "per-shard"),
            Self::Strict => ("handling", "strict"),
            Self::Lenient => ("handling", "lenient"),
        }
    }

    fn text(self) -> String {
        let (name, value) = self.spelling();
        format!("{name}={value}")
    }
}

/// The preferences of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefer(Vec<Preference>);

impl Prefer {
    /// Reads the header.
    ///
    /// # Errors
    /// TSR105 if one is unknown and `handling=strict`; TSR113 if it is not text, or asks for a transaction that
    /// there is not.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut known: Vec<Preference> = Vec::new();
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
                let found =
                    Preference::ALL.into_iter().find(|one| one.spelling() == (&name, &value));
                match found {
                    Some(preference) => known.push(preference),
                    // All or nothing was asked for: to ignore that would store a part.
                    None if name == "tx" => return Err(bad("tx=per-shard, or without tx")),
                    None => unknown = Some(wish.trim().chars().take(80).collect::<String>()),
                }
                seen.push(name);
            }
        }
        match unknown.filter(|_| known.contains(&Preference::Strict)) {
            Some(wish) => {
                let known = Preference::ALL.map(Preference::text).join(", ");
                let problem =
                    Problem::new(Code::TSR105, format!("`{wish}` is no known preference"));
                Err(problem.hint(format!("known: {known}")))
            }
            None => Ok(Self(known)),
        }
    }

    /// Whether the client would like this.
    pub fn has(&self, preference: Preference) -> bool {
        self.0.contains(&preference)
    }

    /// The value of `Preference-Applied`: those of `honoured` that were asked for, and `handling=strict`, which
    /// every route honours by reading the header at all.
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
