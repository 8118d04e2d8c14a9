//! Health probe: checks a program on this machine over HTTP. It is meant for container images that
//! have neither a shell nor an HTTP client.
//!
//! **Not here:** the responses to the requests of a probe (`readiness`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longest time for connecting, and for each part of the response.
const PATIENCE: Duration = Duration::from_secs(3);

/// Kind of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HealthQuery {
    /// Checks that the process works
    Live,
    /// Checks that the program takes requests: not while it starts or ends
    Ready,
}

/// Reason why a check fails.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The configured port is 0, which stands for any free port, so the actual port is unknown.
    #[error("bind has port 0, so the port is unknown: set a port")]
    AnyPort,
    /// The program does not respond.
    #[error("{0} does not answer: {1}")]
    NoResponse(SocketAddr, std::io::Error),
    /// The program responds with a status other than 200.
    #[error("{0} answers {1:?}")]
    BadStatus(SocketAddr, String),
}

impl HealthQuery {
    fn path(self) -> &'static str {
        match self {
            Self::Live => "/live",
            Self::Ready => "/ready",
        }
    }

    /// Checks the program on this address.
    ///
    /// # Errors
    /// Fails with [`HealthError`] unless the response is a success.
    pub fn check(self, bind: SocketAddr) -> Result<(), HealthError> {
        self.check_through(bind, |_, stream| Ok(stream))
    }

    /// Checks the program on this address through a wrapped connection, such as TLS.
    ///
    /// # Errors
    /// Fails with [`HealthError`] unless the response is a success.
    pub fn check_through<S: Read + Write>(
        self,
        bind: SocketAddr,
        wrap: impl FnOnce(IpAddr, TcpStream) -> std::io::Result<S>,
    ) -> Result<(), HealthError> {
        if bind.port() == 0 {
            return Err(HealthError::AnyPort);
        }
        let address = SocketAddr::new(reached_by(bind.ip()), bind.port());
        let stream = connect(address).and_then(|stream| wrap(address.ip(), stream));
        let line = stream.and_then(|stream| self.exchange(address, stream));
        let line = line.map_err(|error| HealthError::NoResponse(address, error))?;
        if line.split(' ').nth(1) == Some("200") {
            return Ok(());
        }
        Err(HealthError::BadStatus(address, line.trim().to_owned()))
    }

    /// Sends the request and returns the first line of the response.
    fn exchange(
        self,
        address: SocketAddr,
        mut stream: impl Read + Write,
    ) -> std::io::Result<String> {
        let path = self.path();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Returns the loopback address in place of an unspecified one.
fn reached_by(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => ip,
    }
}
