//! Connection: a kept-alive connection, which carries one request at a time.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::target::Target;
use super::trust::{Trust, refusal};
use super::{ANSWER_BYTES_MAX, Answer, CERTIFICATE_REFUSED, HttpRequest, NOT_CONNECTED, broken};
use crate::response_check::Failure;

/// Connection to a router. Dropping this value closes the connection.
pub(super) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub(super) async fn open(target: &Target, trust: Option<&Trust>) -> Result<Self, Failure> {
        let refused = |error: io::Error| reason(&error);
        let stream = TcpStream::connect(target.address()).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        match trust {
            None => Self::over(stream).await,
            Some(trust) => Self::over(trust.secure(stream).await.map_err(refused)?).await,
        }
    }

    async fn over<S>(stream: S) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::new(None, NOT_CONNECTED, &error.to_string()))?;
        // Errors of the driver are also returned to the request that waits for a response, so they
        // are ignored here.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self(sender))
    }

    /// Returns true if a request can be sent, and false if the other side has closed the connection
    /// meanwhile.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.0.ready().await.is_ok()
    }

    pub(super) async fn send(&mut self, asked: HttpRequest) -> Result<Answer, Failure> {
        let sent = self.0.send_request(asked).await;
        let answer = sent.map_err(|error| broken(None, &error))?;
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        let body =
            Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| match error
                .downcast::<hyper::Error>(
            ) {
                Ok(error) => broken(Some(status), &error),
                Err(error) if error.is::<LengthLimitError>() => {
                    Failure::new(Some(status), "no answer", "longer than 8 MiB")
                }
                Err(error) => Failure::new(Some(status), "no answer", &error.to_string()),
            })?;
        Ok(Answer { status, headers: head.headers, body: body.to_bytes() })
    }
}

/// Describes an error of a connection, such as "Connection refused", without its error number. If
/// the certificate was refused, the description also contains the remedy.
fn reason(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Failure::new(None, NOT_CONNECTED, "Connection refused");
    }
    match refusal(error) {
        Some(detail) => Failure { status: None, code: CERTIFICATE_REFUSED.to_owned(), detail },
        None => Failure::new(None, NOT_CONNECTED, &error.to_string()),
    }
}
