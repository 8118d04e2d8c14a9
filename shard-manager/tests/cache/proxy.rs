//! Proxy in front of Redis, and the settings to reach Redis through it.

use std::time::Duration;

use shard_manager::cache::CacheSettings;

use crate::redis_server::Server;
use crate::tcp_proxy::{ProxyMode, TcpProxy};

/// A proxy in front of one Redis.
pub(crate) struct Proxy(TcpProxy);

impl Proxy {
    pub(crate) fn to(redis: &Server) -> Self {
        Self(TcpProxy::to(redis.port()))
    }

    /// Settings to reach Redis through this proxy.
    pub(crate) fn settings(&self, redis: &Server) -> CacheSettings {
        self.settings_as("", redis)
    }

    /// Settings to reach Redis through this proxy with credentials: `user:password@`.
    pub(crate) fn settings_as(&self, user: &str, redis: &Server) -> CacheSettings {
        let address = format!("redis://{user}127.0.0.1:{}", self.0.port).parse().unwrap();
        CacheSettings { address, ..redis.settings() }
    }

    /// Delays all further answers of Redis.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.set(ProxyMode::Late(delay));
    }

    /// Loses the traffic of all current connections from now on, without ending them.
    pub(crate) fn lose_all(&self) {
        self.0.lose_existing();
    }

    /// Holds traffic in both directions until it is released.
    pub(crate) fn hold(&self, held: bool) {
        self.0.set(if held { ProxyMode::Held } else { ProxyMode::Open });
    }
}
