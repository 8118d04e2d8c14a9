//! Mode: the permission to serve a cluster without access control, as its catalog stores it.
//!
//! **Invariant:** the first router with access control turns the mode on; only the command line
//! turns it off.
//! **Not here:** the mode of a router, which has a third value: to observe only (`api-router`).

/// Mode that a catalog stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// Routers may serve the cluster whatever their own mode is.
    #[default]
    Off,
    /// Only routers that check credentials may serve the cluster.
    On,
}

impl AccessMode {
    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
        }
    }

    /// Returns the mode of this name.
    pub fn find(name: &str) -> Option<Self> {
        [Self::Off, Self::On].into_iter().find(|mode| mode.name() == name)
    }
}
