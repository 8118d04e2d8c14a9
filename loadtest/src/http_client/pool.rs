//! Pool: the kept-alive connections to one router.
//!
//! The number of open connections is the largest number of requests that were in progress at the
//! same time: a user that waits for a response has a connection of its own.
//!
//! **Invariant:** a connection is closed after an error or a timeout on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use credential::Credential;
use hyper::header::{AUTHORIZATION, HeaderValue};

use super::connection::Connection;
use super::target::Target;
use super::trust::Trust;
use super::{Answer, HttpRequest};
use crate::response_check::Failure;

pub(crate) struct Pool {
    target: Target,
    trust: Option<Trust>,
    /// Value of the header `Authorization`, if there is a credential.
    bearer: Option<HeaderValue>,
    /// Idle connections. The one that was used last is at the end and is used next.
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// Creates a pool without an open connection.
    ///
    /// # Errors
    /// Fails if the target uses TLS and this machine trusts no certificates, or if sending the
    /// credential to the target would expose it to others.
    fn new(target: Target, credential: Option<&Credential>) -> anyhow::Result<Self> {
        let bearer = credential.map(|credential| bearer(&target, credential)).transpose()?;
        let trust = target.is_secure().then(|| Trust::in_host(target.host())).transpose()?;
        Ok(Self { target, trust, bearer, idle: Mutex::default() })
    }

    /// Returns a pool for each target, without an open connection.
    ///
    /// # Errors
    /// Fails if a target uses TLS and this machine trusts no certificates, or if sending the
    /// credential to a target would expose it to others.
    pub(crate) fn of(
        targets: &[Target],
        credential: Option<&Credential>,
    ) -> anyhow::Result<Vec<Arc<Self>>> {
        let new = |target: &Target| Ok(Arc::new(Self::new(target.clone(), credential)?));
        targets.iter().map(new).collect()
    }

    /// Returns true if requests are sent with a credential.
    pub(crate) fn has_credential(&self) -> bool {
        self.bearer.is_some()
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Sends one request and reads the complete response, within `patience`.
    pub(crate) async fn send(
        &self,
        asked: HttpRequest,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        match tokio::time::timeout(patience, self.exchange(asked)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(None, "timed out", "timed out")),
        }
    }

    async fn exchange(&self, mut asked: HttpRequest) -> Result<Answer, Failure> {
        asked.headers_mut().insert(hyper::header::HOST, self.target.name.clone());
        if let Some(bearer) = &self.bearer {
            asked.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let mut connection = self.connection().await?;
        let answer = connection.send(asked).await?;
        self.idle().push(connection);
        Ok(answer)
    }

    async fn connection(&self) -> Result<Connection, Failure> {
        loop {
            let Some(mut idle) = self.idle().pop() else {
                return Connection::open(&self.target, self.trust.as_ref()).await;
            };
            if idle.is_ready().await {
                return Ok(idle);
            }
        }
    }

    /// Locks the idle connections. A panic of another task leaves the list intact.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the header value for a credential. It is marked as sensitive, so that debug output does
/// not show it.
fn bearer(target: &Target, credential: &Credential) -> anyhow::Result<HeaderValue> {
    Credential::check_url(&target.to_string())?;
    let mut bearer = HeaderValue::try_from(credential.bearer())?;
    bearer.set_sensitive(true);
    Ok(bearer)
}
