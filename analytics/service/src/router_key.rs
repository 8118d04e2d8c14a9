//! Router key: the API key that the service sends to its routers.
//!
//! **Invariant:** the key is sent only over https or to this machine. Redirects are not followed,
//! so it is never sent to another server. The key is neither shown nor logged.
//! **Not here:** requests to routers (`collector`, `forward`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use credential::Credential;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::http::request::Builder;
use web_kit::http_client::Target;

use crate::config::may_carry_key;

/// Key of the service, if it has one.
#[derive(Clone, Default)]
pub(crate) struct RouterKey(Option<Arc<KeyFile>>);

struct KeyFile {
    path: PathBuf,
    value: ArcSwap<HeaderValue>,
}

impl RouterKey {
    /// Reads the key from the file at `path`. Without a path, the service has no key.
    ///
    /// # Errors
    /// Fails with the reason why the file cannot be used.
    pub(crate) fn open(path: Option<PathBuf>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::default()) };
        let value = ArcSwap::from_pointee(read(&path)?);
        Ok(Self(Some(Arc::new(KeyFile { path, value }))))
    }

    /// Returns true if the service has a key.
    pub(crate) fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// Adds the key to a request to this server, if the connection is encrypted or stays on this
    /// machine.
    pub(crate) fn authorize(&self, target: &Target, request: Builder) -> Builder {
        match self.0.as_ref().filter(|_| may_carry_key(target)) {
            Some(file) => request.header(AUTHORIZATION, HeaderValue::clone(&file.value.load())),
            None => request,
        }
    }

    /// Reads the file again after a router has refused the key, because the key may have been
    /// rotated. The call blocks the thread.
    pub(crate) fn reload(&self) {
        let Some(file) = &self.0 else { return };
        match read(&file.path) {
            Ok(value) => file.value.store(Arc::new(value)),
            Err(cause) => tracing::warn!("the key for routers was not read again: {cause}"),
        }
    }
}

fn read(path: &Path) -> Result<HeaderValue, String> {
    let key = Credential::from_file(path).map_err(|error| format!("router_key_file: {error}"))?;
    let mut value = HeaderValue::from_str(&key.bearer())
        .map_err(|_| format!("router_key_file ({}) has no key or token", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}
