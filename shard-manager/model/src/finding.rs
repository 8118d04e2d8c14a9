//! Finding: result of one check of a cluster, a cache or a router, with its severity.
//!
//! **Not here:** the checks (`doctor`).

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The check found no fault.
    Good,
    /// A router would start, but may have problems later.
    Warning,
    /// A router would not start, or would start without this feature.
    Fault,
}

impl Severity {
    /// Returns the name of the severity: `good`, `warning` or `fault`.
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
    /// Severity of the result.
    pub severity: Severity,
    /// Object of the check, such as a node, a folder or a port.
    pub about: String,
    /// Description of the result, with the remedy for a fault.
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
