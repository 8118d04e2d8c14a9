//! Denials: rules that refuse tokens, and all credentials of a tenant, before they expire.
//!
//! A signed token cannot be revoked by its issuer, so a denial must be kept until all tokens to
//! which it applies have expired.
//!
//! A tenant is denied when its account is closed or its data is being stolen. Then every kind of
//! credentials must be refused, so the denial also applies to the tenant's API keys. They need not
//! be revoked one by one, and can be used again when the denial ends.
//!
//! **Invariant:** a denial of a tenant refuses every caller that has this tenant, with an API key
//! or a token, even if the caller has other tenants as well.
//! **Not here:** revoked keys, which are marked in their records (`key_record`).

mod document;

use std::collections::HashMap;

use crate::json_member::MemberError;
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;

/// Tokens or callers that a denial refuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DenialSubject {
    /// One token, identified by its issuer and its `jti`.
    TokenId {
        /// `iss`.
        issuer: Box<str>,
        /// `jti`.
        id: Box<str>,
    },
    /// All tokens that an issuer has issued for a subject.
    Subject {
        /// `iss`.
        issuer: Box<str>,
        /// `sub`.
        subject: Box<str>,
    },
    /// All callers of a tenant.
    Tenant(Box<str>),
    /// All tokens of an issuer whose `iat` is before a time, or that have no `iat`. The issuer sets
    /// `iat` by its own clock: if that clock may be fast, the time must be later by the same
    /// amount.
    IssuedBefore {
        /// `iss`.
        issuer: Box<str>,
        /// Time before which a token must have been issued to be refused.
        time: UnixTime,
    },
}

/// Rule that refuses credentials that would otherwise be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Tokens or callers that are refused.
    pub subject: DenialSubject,
    /// Time from which the denial no longer applies; `None` if it applies forever.
    pub until: Option<UnixTime>,
}

impl Denial {
    /// Parses the JSON of a denial. It has either `issuer` and one of `jti`, `sub` and
    /// `issued_before`, or `tenant`. The optional member `until` is the end of the denial.
    ///
    /// # Errors
    /// [`MemberError`] names the faulty member and states how to correct it.
    pub fn parse(json: &str) -> Result<Self, MemberError> {
        document::parse(json)
    }

    /// Returns the JSON of the denial, which [`Denial::parse`] reads.
    pub fn to_json(&self) -> String {
        document::format(self)
    }

    /// Returns true if the denial no longer applies at the time `now`.
    pub fn has_ended(&self, now: UnixTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Claims of a token by which a denial may refuse it.
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

/// Denials, indexed by the tokens or callers that they refuse. Each is stored with the time from
/// which it no longer applies.
#[derive(Debug, Default)]
pub struct Denials {
    exact: HashMap<DenialSubject, UnixTime>,
    issued_before: HashMap<Box<str>, Vec<(UnixTime, UnixTime)>>,
}

impl Denials {
    /// Builds the index of these denials.
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

    /// Returns true if a token is denied at the time `now`.
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

    /// Returns the time until which a caller with these tenants is denied, which may have passed;
    /// `None` if no denial names one of the tenants.
    pub fn tenants_denied_until(&self, tenants: &Tenants) -> Option<UnixTime> {
        if self.exact.is_empty() {
            return None;
        }
        let until = |tenant: &str| self.exact.get(&DenialSubject::Tenant(tenant.into()));
        tenants.as_slice().iter().filter_map(|tenant| until(tenant)).max().copied()
    }
}
