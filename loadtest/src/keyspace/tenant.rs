//! Tenant: keys that begin with the name of a tenant and a separator.
//!
//! **Invariant:** the name of a tenant does not contain the separator. A key never belongs to two
//! tenants, even if the name of one begins with the name of the other (`t1` and `t11`).

use anyhow::ensure;

use super::{Names, Shape};

/// Maximum number of tenants of an API key in the router. Each prefix of the keys of a tenant of
/// this run counts as one.
const TENANTS_MAX: usize = 16;

/// Keys of one tenant of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantKeys<'n>(&'n Names);

impl Names {
    /// Restricts the keys to those of a tenant of the run.
    ///
    /// # Errors
    /// Fails if keys cannot begin with the name of a tenant in the cluster's keyspace.
    pub(crate) fn of_tenant(mut self, number: u32) -> anyhow::Result<Self> {
        const SEPARATOR: char = TenantKeys::SEPARATOR;
        self.tenant = Some(number);
        match &mut self.shape {
            Shape::Behind(prefixes) => {
                prefixes.retain(|prefix| !prefix.contains(SEPARATOR));
                prefixes.truncate(TENANTS_MAX);
                ensure!(
                    !prefixes.is_empty(),
                    "--tenants: every part of the keyspace has a {SEPARATOR} in its name"
                );
            }
            Shape::Modulo | Shape::Matrix => {}
            Shape::Integers(_) => {
                anyhow::bail!("--tenants: keys that are integers do not begin with a tenant");
            }
        }
        Ok(self)
    }

    /// Returns the keys of the tenant to which these names are restricted; `None` if they are not
    /// restricted.
    pub(crate) fn tenant(&self) -> Option<TenantKeys<'_>> {
        self.tenant.map(|_| TenantKeys(self))
    }

    /// Returns the beginning that all keys of these names have in their readable form.
    pub(super) fn lead(&self) -> String {
        let run = &self.run;
        match self.tenant {
            None => format!("loadtest-{run}-"),
            Some(tenant) => format!("loadtest-{run}-t{tenant}{}", TenantKeys::SEPARATOR),
        }
    }
}

impl TenantKeys<'_> {
    /// Character between a tenant and the rest of a key.
    pub(crate) const SEPARATOR: char = '~';

    /// Returns the prefixes of this tenant's keys, without the separator: one for each part of the
    /// keyspace.
    pub(crate) fn beginnings(self) -> Vec<String> {
        let lead = self.0.lead();
        let tenant = lead.trim_end_matches(Self::SEPARATOR);
        match &self.0.shape {
            Shape::Behind(prefixes) => {
                prefixes.iter().map(|prefix| format!("{prefix}{tenant}")).collect()
            }
            Shape::Modulo | Shape::Integers(_) => vec![tenant.to_owned()],
            Shape::Matrix => vec![format!("@{tenant}")],
        }
    }

    /// Returns true if a key is one of this tenant.
    pub(crate) fn owns(self, key: &str) -> bool {
        let begins = |tenant: &String| {
            key.strip_prefix(tenant.as_str()).is_some_and(|rest| rest.starts_with(Self::SEPARATOR))
        };
        self.beginnings().iter().any(begins)
    }

    /// Searches a string for a key of another tenant of this run, and returns the beginning of such
    /// a key.
    pub(crate) fn foreign_in(self, text: &str) -> Option<&str> {
        let (own, any) = (self.0.lead(), format!("loadtest-{}-t", self.0.run));
        text.match_indices(&any).find_map(|(at, _)| {
            let (found, _) = text[at..].split_once(Self::SEPARATOR)?;
            let number = &found[any.len()..];
            let is_tenant = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            (is_tenant && !text[at..].starts_with(&own)).then_some(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::Name;

    fn names(keyspace: &str, parameters: &str) -> Names {
        let map = format!(r#"{{"keyspace":"{keyspace}","parameters":{parameters}}}"#);
        Names::of_run(map.as_bytes(), 7_000_000_000_123_456_789).unwrap()
    }

    #[test]
    fn a_tenant_owns_its_keys_and_no_others() {
        for names in [
            names("hash", "{}"),
            names("modulo", "{}"),
            names("list", r#"{"partitions":[["A",2],["B",1]]}"#),
            names("range", r#"{"order":"text","splits":["g","n"],"slots":[0,1,2]}"#),
            names("matrix", r#"{"mode":"id"}"#),
        ] {
            let of_tenants = [1, 2, 11].map(|number| names.clone().of_tenant(number).unwrap());
            let [one, two, eleven] = of_tenants.each_ref().map(|names| names.tenant().unwrap());
            for number in 0..20 {
                for name in [Name::Plain(number), Name::Hot(number), Name::Once(1, number)] {
                    let key = eleven.0.key(name);
                    assert!(eleven.owns(&key), "{key}");
                    assert!(!one.owns(&key) && !two.owns(&key), "{key}");
                    assert!(!one.owns(&names.key(name)), "{key}");
                    assert!(names.is_own(&key) && key.contains(&names.mark()), "{key}");
                    let text = format!(r#"{{"data":[{{"user_id":"{key}"}}]}}"#);
                    assert!(one.foreign_in(&text).is_some(), "{key}");
                    assert_eq!(eleven.foreign_in(&text), None, "{key}");
                }
            }
            assert!(one.beginnings().iter().all(|tenant| !tenant.contains(TenantKeys::SEPARATOR)));
        }
    }

    #[test]
    fn integers_have_no_tenants() {
        let names = names("range", r#"{"order":"numeric","splits":["10"],"slots":[0,1]}"#);
        assert!(names.of_tenant(1).unwrap_err().to_string().contains("integers"));
    }
}
