//! Doctor: checks a cluster before a router starts on it, and reports what to repair.
//!
//! A start stops at the first fault. The doctor checks everything, including conditions that do not
//! prevent a start but hurt later: after a crash, a failover, or when the disk is full.
//!
//! **Invariant:** a check changes nothing, neither on a server nor in a folder.
//! **Not here:** the router itself, its port and its certificate.

mod cache;
mod files;
mod servers;
mod workers;

pub use cache::cache;
pub use files::files;
pub use servers::servers;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No fault.
    Good,
    /// A router starts, but this may cause a failure later.
    Warning,
    /// A router does not start, or does not use this.
    Fault,
}

impl Verdict {
    /// Returns `good`, `warning` or `fault`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Severity.
    pub verdict: Verdict,
    /// Subject of the check: a node, a folder, a port.
    pub about: String,
    /// Finding, and what to do about it.
    pub text: String,
}

impl Finding {
    /// Creates a finding without a fault.
    pub fn good(about: impl Into<String>, text: impl ToString) -> Self {
        Self { verdict: Verdict::Good, about: about.into(), text: text.to_string() }
    }

    /// Creates a warning.
    pub fn warning(about: impl Into<String>, text: impl ToString) -> Self {
        Self { verdict: Verdict::Warning, about: about.into(), text: text.to_string() }
    }

    /// Creates a fault.
    pub fn fault(about: impl Into<String>, text: impl ToString) -> Self {
        Self { verdict: Verdict::Fault, about: about.into(), text: text.to_string() }
    }
}
