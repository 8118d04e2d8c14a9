//! Denials: tokens and tenants that are refused although their credentials have not expired.
//!
//! A signed token cannot be taken back, so a denial is kept until all tokens that it is about have
//! expired.
//!
//! A tenant is denied when its account is closed or its data are being stolen. Then it does not
//! matter which kind of credentials comes next, so its keys stop as well. They need not be revoked
//! one by one, and are usable again when the denial ends.
//!
//! **Invariant:** a denial of a tenant refuses its keys as well as its tokens, and every caller
//! that has the tenant among others.
//! **Not here:** revoked keys, which are marked in their records (`key_record`).

mod document;

use std::collections::HashMap;

use crate::json_member::MemberError;
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;

/// Object of a denial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DenialSubject {
    /// One token, by issuer and `jti`.
    TokenId {
        /// `iss`.
        issuer: Box<str>,
        /// `jti`.
        id: Box<str>,
    },
    /// All tokens of a subject.
    Subject {
        /// `iss`.
        issuer: Box<str>,
        /// `sub`.
        subject: Box<str>,
    },
    /// All callers of a tenant.
    Tenant(Box<str>),
    /// All tokens of an issuer that were issued before a time by its own clock, or do not state
    /// when they were issued. If that clock may be fast, the time must be later by as much.
    IssuedBefore {
        /// `iss`.
        issuer: Box<str>,
        /// The time.
        time: UnixTime,
    },
}

/// Refusal of credentials that would otherwise be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Object of the denial.
    pub subject: DenialSubject,
    /// Time from which it is void; never if `None`.
    pub until: Option<UnixTime>,
}

impl Denial {
    /// Parses the JSON of a denial: `issuer` with `jti`, `sub` or `issued_before`, or a `tenant`
    /// alone, and the end of the denial as `until`.
    ///
    /// # Errors
    /// [`MemberError`] names the member and what to do about it.
    pub fn parse(json: &str) -> Result<Self, MemberError> {
        document::parse(json)
    }

    /// Returns the JSON of the denial, which [`Denial::parse`] reads.
    pub fn to_json(&self) -> String {
        document::format(self)
    }

    /// Returns true if it is void at a time.
    pub fn has_ended(&self, now: UnixTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Claims of a token that a denial may be about.
#[derive(Clone, Copy, Debug)]
pub struct TokenIdentity<'t> {
    /// `iss`.
    pub issuer: &'t str,
    /// `sub`.
    pub subject: Option<&'t str>,
    /// `jti`.
    pub id: Option<&'t str>,
    /// `iat`.
    pub issued_at: Option<UnixTime>,
}

/// Denials, found by their object. Each is void from the time that is kept with it.
#[derive(Debug, Default)]
pub struct Denials {
    exact: HashMap<DenialSubject, UnixTime>,
    issued_before: HashMap<Box<str>, Vec<(UnixTime, UnixTime)>>,
}

impl Denials {
    /// Collects denials.
    pub fn new(denials: impl IntoIterator<Item = Denial>) -> Self {
        let mut collected = Self::default();
        for Denial { subject, until } in denials {
            let until = until.unwrap_or(UnixTime::MAX);
            if let DenialSubject::IssuedBefore { issuer, time } = subject {
                collected.issued_before.entry(issuer).or_default().push((time, until));
            } else {
                let known = collected.exact.entry(subject).or_insert(until);
                *known = (*known).max(until);
            }
        }
        collected
    }

    /// Returns true if a token is denied at a time.
    pub fn denies_token(&self, token: &TokenIdentity<'_>, now: UnixTime) -> bool {
        let issuer = || token.issuer.into();
        let by_id = token.id.map(|id| DenialSubject::TokenId { issuer: issuer(), id: id.into() });
        let by_subject = token
            .subject
            .map(|subject| DenialSubject::Subject { issuer: issuer(), subject: subject.into() });
        let exact = [by_id, by_subject];
        let denies =
            |subject: &DenialSubject| self.exact.get(subject).is_some_and(|until| now < *until);
        let is_too_old = |(time, until): &(UnixTime, UnixTime)| {
            now < *until && token.issued_at.is_none_or(|issued_at| issued_at < *time)
        };
        let issued_before = self.issued_before.get(token.issuer);
        exact.iter().flatten().any(denies)
            || issued_before.is_some_and(|before| before.iter().any(is_too_old))
    }

    /// Returns the time until which a caller with these tenants is denied, if it is.
    pub fn tenants_denied_until(&self, tenants: &Tenants) -> Option<UnixTime> {
        if self.exact.is_empty() {
            return None;
        }
        let until = |tenant: &str| self.exact.get(&DenialSubject::Tenant(tenant.into()));
        tenants.as_slice().iter().filter_map(|tenant| until(tenant)).max().copied()
    }
}
