//! Finding: result of an examination of a cluster, a cache or a router, and its severity.
//!
//! **Not here:** the examinations (`doctor`).

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No fault.
    Good,
    /// A router starts, but problems are possible later.
    Warning,
    /// A router does not start, or starts without this feature.
    Fault,
}

impl Severity {
    /// Returns `good`, `warning` or `fault`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// Result of one examination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Severity.
    pub severity: Severity,
    /// Subject: a node, a folder, a port.
    pub about: String,
    /// Description, and the remedy.
    pub text: String,
}

impl Finding {
    /// Creates a finding without a fault.
    pub fn good(about: impl Into<String>, text: impl ToString) -> Self {
        Self { severity: Severity::Good, about: about.into(), text: text.to_string() }
    }

    /// Creates a finding that may cause problems.
    pub fn warning(about: impl Into<String>, text: impl ToString) -> Self {
        Self { severity: Severity::Warning, about: about.into(), text: text.to_string() }
    }

    /// Creates a finding that must be fixed.
    pub fn fault(about: impl Into<String>, text: impl ToString) -> Self {
        Self { severity: Severity::Fault, about: about.into(), text: text.to_string() }
    }
}
