//! Tenants: the names of a caller's tenants, for which `$tenant` in the role stands. An API key,
//! token or client certificate determines them.
//!
//! Tenants are compared byte by byte. Unicode can encode the same visible text in several ways. If
//! these counted as equal here but not in the databases, a caller could reach rows that the check
//! of its rights did not cover.
//!
//! **Invariant:** a caller has at most [`Tenants::MAX`] tenants, each of 1 to [`Tenants::LEN_MAX`]
//! bytes without control characters. For a caller without tenants, `$tenant` matches no shard key.
//! **Not here:** the keys that a tenant may use (`grant`).

/// Tenants of a caller, sorted and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants(Box<[Box<str>]>);

impl Tenants {
    /// Maximum number of tenants of a caller.
    pub const MAX: usize = 16;
    /// Maximum length of a tenant in bytes. It leaves room for a separator and the rest of a key
    /// within the maximum length of a shard key.
    pub const LEN_MAX: usize = 200;

    /// Creates the empty set of tenants, for which `$tenant` matches no shard key.
    pub fn none() -> Self {
        Self::default()
    }

    /// Checks tenants, and removes duplicates.
    ///
    /// # Errors
    /// [`TenantError`] names the violated rule.
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

    /// Returns true if the set contains this tenant.
    #[inline]
    pub fn contains(&self, tenant: &str) -> bool {
        self.0.iter().any(|known| **known == *tenant)
    }

    /// Checks that no tenant contains one of these separators. With the separator `:`, the tenant
    /// `acme` owns all keys that begin with `acme:`, and these would include all keys of a tenant
    /// `acme:x`.
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

/// Reason why strings are not valid as the tenants of a caller. Its message never quotes a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// A tenant is empty.
    #[error("a tenant has at least one byte")]
    Empty,
    /// A tenant is longer than [`Tenants::LEN_MAX`].
    #[error("a tenant has at most {} bytes, this one has {len}", Tenants::LEN_MAX)]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// A tenant contains a control character.
    #[error("a tenant has no control characters")]
    ControlCharacter,
    /// There are more than [`Tenants::MAX`] tenants.
    #[error("a caller has at most {} tenants", Tenants::MAX)]
    TooMany,
    /// A tenant contains the separator of a grant of the role.
    #[error(
        "the role separates tenants from the rest of a key by `{separator}`, so none may contain it"
    )]
    Separator {
        /// The separator.
        separator: char,
    },
}
