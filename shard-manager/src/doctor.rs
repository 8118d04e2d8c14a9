//! Doctor: what a cluster is like before a router starts on it, and what should be mended.
//!
//! A start stops at the first thing that is wrong. This looks at everything, also at what a start does not mind and the
//! day after it does: a crash, a failover, a disk that fills.
//!
//! **Invariant:** looking changes nothing, neither on a server nor in a folder.
//! **Not here:** the router itself, its port and its certificate.

mod cache;
mod files;
mod servers;
mod workers;

pub use cache::cache;
pub use files::files;
pub use servers::servers;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// A router starts, and something may hurt one day.
    Warning,
    /// A router does not start, or does without this.
    Fault,
}

impl Verdict {
    /// `good`, `warning` or `fault`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was looked at: a node, a folder, a port.
    pub about: String,
    /// What was found, and what to do about it.
    pub text: String,
}

impl Finding {
    /// Something as it should be.
    pub fn good(about: impl Into<String>, text: impl ToString) -> Self {
        Self { verdict: Verdict::Good, about: about.into(), text: text.to_string() }
    }

    /// Something that may hurt.
    pub fn warning(about: impl Into<String>, text: impl ToString) -> Self {
        Self { verdict: Verdict::Warning, about: about.into(), text: text.to_string() }
    }

    /// Something that must be mended.
    pub fn fault(about: impl Into<String>, text: impl ToString) -> Self {
        Self { verdict: Verdict::Fault, about: about.into(), text: text.to_string() }
    }
}
