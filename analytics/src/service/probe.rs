//! Probe: asks the service of this machine how it is, for images that have neither a shell nor an HTTP client.
//!
//! **Not here:** what the service answers (`service/routes`).

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long the service may take to accept, and for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a service can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Question {
    /// Whether its process works.
    Live,
    /// Whether it takes requests: not while it ends.
    Ready,
}

/// Why the answer is no.
#[derive(Debug, thiserror::Error)]
pub enum No {
    /// Port 0 is any free port, and nobody knows which.
    #[error("bind names port 0, so nobody knows where the service is: name its port")]
    AnyPort,
    /// Nobody answers.
    #[error("{0} does not answer: {1}")]
    Silent(SocketAddr, std::io::Error),
    /// It answers, and says no.
    #[error("{0} says {1:?}")]
    Said(SocketAddr, String),
}

impl Question {
    /// Asks the service that serves on this address.
    ///
    /// # Errors
    /// [`No`] if it does not say yes.
    pub fn ask(self, bind: SocketAddr) -> Result<(), No> {
        if bind.port() == 0 {
            return Err(No::AnyPort);
        }
        // An address that means all of this machine's is reached through its loopback one.
        let ip = match bind.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        let address = SocketAddr::new(ip, bind.port());
        let line = self.status(address).map_err(|error| No::Silent(address, error))?;
        if line.split(' ').nth(1) == Some("200") {
            return Ok(());
        }
        Err(No::Said(address, line.trim().to_owned()))
    }

    /// The first line of the answer.
    fn status(self, address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let path = match self {
            Self::Live => "/live",
            Self::Ready => "/ready",
        };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    }
}
