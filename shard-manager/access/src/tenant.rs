//! Tenants: the texts that stand for `$tenant` in a role, as a key or a token names them.
//!
//! Tenants are compared by bytes. Unicode has several spellings of one text on the screen; if they
//! were equal here but not in the databases, a caller could reach rows that a check did not see.
//!
//! **Invariant:** a caller has at most [`Tenants::MAX`] tenants, each of 1 to [`Tenants::LEN_MAX`]
//! bytes without control characters. A caller without tenants has no keys by `$tenant`.
//! **Not here:** the keys that a tenant may use (`grant`).

/// Tenants of a caller, in ascending order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants(Box<[Box<str>]>);

impl Tenants {
    /// Highest number of tenants of a caller.
    pub const MAX: usize = 16;
    /// Longest tenant in bytes: with a separator and a part after it, it is still a shard key.
    pub const LEN_MAX: usize = 200;

    /// Creates the set without tenants, which matches no key.
    pub fn none() -> Self {
        Self::default()
    }

    /// Checks tenants; one that occurs twice is kept once.
    ///
    /// # Errors
    /// [`TenantError`] names the rule that is broken.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, TenantError> {
        let mut tenants: Vec<Box<str>> = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            if index == Self::MAX {
                return Err(TenantError::TooMany);
            }
            check(text)?;
            tenants.push(text.into());
        }
        tenants.sort_unstable();
        tenants.dedup();
        Ok(Self(tenants.into()))
    }

    /// Returns the tenants, in ascending order.
    #[inline]
    pub fn as_slice(&self) -> &[Box<str>] {
        &self.0
    }

    /// Returns true if there is no tenant.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if this is one of the tenants.
    #[inline]
    pub fn contains(&self, tenant: &str) -> bool {
        self.0.iter().any(|known| **known == *tenant)
    }

    /// Fails if a tenant contains one of these separators. With the separator `:` the tenant `acme`
    /// has the keys that begin with `acme:`, among them those of a tenant `acme:x`.
    ///
    /// # Errors
    /// [`TenantError::Separator`] names the separator.
    pub fn check_separators(
        &self,
        separators: impl IntoIterator<Item = char>,
    ) -> Result<(), TenantError> {
        for separator in separators {
            if self.0.iter().any(|tenant| tenant.contains(separator)) {
                return Err(TenantError::Separator { separator });
            }
        }
        Ok(())
    }
}

fn check(text: &str) -> Result<(), TenantError> {
    if text.is_empty() {
        return Err(TenantError::Empty);
    }
    if text.len() > Tenants::LEN_MAX {
        return Err(TenantError::TooLong { len: text.len() });
    }
    if text.chars().any(char::is_control) {
        return Err(TenantError::ControlCharacter);
    }
    Ok(())
}

/// Reason why texts are not the tenants of a caller. It never quotes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// A text is empty.
    #[error("a tenant has at least one byte")]
    Empty,
    /// A text is longer than [`Tenants::LEN_MAX`].
    #[error("a tenant has at most {} bytes, this one has {len}", Tenants::LEN_MAX)]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// A text contains a control character.
    #[error("a tenant has no control characters")]
    ControlCharacter,
    /// There are more than [`Tenants::MAX`].
    #[error("a caller has at most {} tenants", Tenants::MAX)]
    TooMany,
    /// A text contains the separator of a grant of the role.
    #[error(
        "the role separates tenants from the rest of a key by `{separator}`, so none may contain it"
    )]
    Separator {
        /// The separator.
        separator: char,
    },
}
