//! HTTP client: sends HTTP/1.1 requests, with or without TLS.
//!
//! **Invariant:** every exchange is limited in time and in bytes. A connection is not used again
//! after a failure. Redirects are not followed, and proxies are not used.
//! **Not here:** the contents of requests.

mod target;

pub use target::{Target, parse_url};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use recorder::tls_roots;

/// Maximum number of characters that an error quotes from another program.
const ERROR_TEXT_MAX: usize = 200;

/// A complete request; its URI is the path.
pub type ClientRequest = Request<Full<Bytes>>;

/// A complete response.
#[derive(Debug)]
pub struct ClientResponse {
    /// Status of the response.
    pub status: u16,
    /// Headers of the response.
    pub headers: HeaderMap,
    /// Body of the response, read to its end.
    pub body: Bytes,
}

/// Reason why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The server is unreachable, or its certificate is not valid.
    #[error("{0}")]
    Unreachable(String),
    /// The response took too long.
    #[error("no whole answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    /// The connection broke, or the response is not HTTP.
    #[error("no whole answer: {0}")]
    Broken(String),
    /// The response is too long.
    #[error("the answer is longer than {} MiB", .0 >> 20)]
    TooLong(usize),
}

/// Client of one server. It has at most one connection, which stays open between exchanges.
pub struct HttpClient {
    target: Target,
    tls: Option<TlsConnector>,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl HttpClient {
    /// Creates a client for `target`; `tls` is used if the target requires it.
    pub fn new(target: Target, tls: Option<&Arc<ClientConfig>>) -> Self {
        let tls = tls.filter(|_| target.is_secure).cloned().map(TlsConnector::from);
        Self { target, tls, open: None }
    }

    /// Sends a request and reads the whole response, of at most `longest` bytes.
    pub async fn exchange(
        &mut self,
        request: ClientRequest,
        patience: Duration,
        longest: usize,
    ) -> Result<ClientResponse, HttpError> {
        let exchange = self.attempt(request, longest);
        match tokio::time::timeout(patience, exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                self.open = None;
                Err(HttpError::Late(patience))
            }
        }
    }

    async fn attempt(
        &mut self,
        mut request: ClientRequest,
        longest: usize,
    ) -> Result<ClientResponse, HttpError> {
        request.headers_mut().insert(HOST, self.target.host_header.clone());
        let mut connection = self.connection().await?;
        let sent = connection.send_request(request).await;
        let (head, body) = sent.map_err(|error| broken(&error))?.into_parts();
        let body = Limited::new(body, longest).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broken(&error),
            Err(error) if error.is::<LengthLimitError>() => HttpError::TooLong(longest),
            Err(error) => HttpError::Broken(error.to_string()),
        })?;
        self.open = Some(connection);
        Ok(ClientResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// Returns the open connection, if the server has not closed it meanwhile, or a new one.
    async fn connection(&mut self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        if let Some(mut open) = self.open.take()
            && open.ready().await.is_ok()
        {
            return Ok(open);
        }
        let Target { host, port, address, .. } = &self.target;
        let connected = match address {
            Some(address) => TcpStream::connect((*address, *port)).await,
            None => TcpStream::connect((&**host, *port)).await,
        };
        let stream = connected.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        match &self.tls {
            None => over(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|error| HttpError::Unreachable(error.to_string()))?;
                let secured = tls.connect(name, stream).await;
                over(secured.map_err(|error| unreachable(&error))?).await
            }
        }
    }
}

async fn over<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, HttpError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // Errors of the connection reach the task that waits for the response.
    tokio::spawn(async move { drop(driver.await) });
    Ok(sender)
}

fn unreachable(error: &io::Error) -> HttpError {
    // The usual text also contains the number of the OS error, which is of no use here.
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return HttpError::Unreachable("connection refused".to_owned());
    }
    let said = error.to_string();
    let reported = tls_roots::explained(&said).map_or_else(|| printable(&said), str::to_owned);
    HttpError::Unreachable(reported)
}

fn broken(error: &hyper::Error) -> HttpError {
    let cause =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    HttpError::Broken(printable(&cause))
}

/// Shortens a string from another program and removes control characters, so that it can be logged.
pub fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(ERROR_TEXT_MAX).collect()
}
