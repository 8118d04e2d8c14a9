//! Address: the file or database in which history is kept.
//!
//! **Invariant:** no `Debug`, `Display` or error shows a password.
//! **Not here:** opening the file or database (`store`).

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio_postgres::config::{Config, Host, SslMode};

/// Maximum number of bytes that are read from a file with a password.
const PASSWORD_BYTES_MAX: u64 = 4 << 10;

/// Place where history is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A file on this machine.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<PostgresAddress>),
}

/// A PostgreSQL database, and the security of the connection to it.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    config: Config,
    /// True if the connection is encrypted and the certificate checked.
    pub(super) verifies_certificate: bool,
    /// File with the trusted certificate authorities; without it, those of the system are trusted.
    pub(super) authorities: Option<PathBuf>,
    password_file: Option<PathBuf>,
}

/// Reason why a string is not an address. The error does not repeat the string, because it may
/// contain a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    /// The string is neither a file nor a PostgreSQL address nor `none`.
    #[error("must be a file, postgres://user@host:5432/database, or none")]
    Form,
    /// The string is not a valid PostgreSQL address.
    #[error(
        "must be postgres://user:password@host:5432/database: write @ as %40, / as %2F, ? as %3F and % as %25 in a \
         user name or password, and no parameters but sslmode, sslrootcert, password_file and those of the driver"
    )]
    Postgres,
    /// A part of the address is missing.
    #[error("names no {0}: write postgres://user@host:5432/database")]
    Lacks(&'static str),
    /// The value of `sslmode` is not supported.
    #[error(
        "sslmode must be disable or verify-full: the modes between them do not check the server. \
         verify-full is the default where a host is not this machine, sslrootcert names a file of authorities"
    )]
    TlsMode,
}

impl StoreAddress {
    /// Reads a path, `postgres://…`, or `none`.
    ///
    /// # Errors
    /// Fails with [`StoreAddressError`], which states what is allowed.
    pub fn parse(text: &str) -> Result<Option<Self>, StoreAddressError> {
        match text {
            "none" => Ok(None),
            "" => Err(StoreAddressError::Form),
            text if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
                Ok(Some(Self::Postgres(Box::new(text.parse()?))))
            }
            // These are other URLs, not paths. Taken as a path, `sqlite:/…` would create a file in
            // a folder named `sqlite:`.
            text if text.contains("://") || text.contains('\0') || text.starts_with("sqlite:") => {
                Err(StoreAddressError::Form)
            }
            path => Ok(Some(Self::Sqlite(path.into()))),
        }
    }
}

impl FromStr for PostgresAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        let (base, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut authorities, mut password_file) = (None, None, None);
        let mut others = Vec::new();
        for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(StoreAddressError::Postgres)?;
            let path = || {
                let decoded = percent_encoding::percent_decode_str(value).decode_utf8();
                decoded.map(|text| PathBuf::from(&*text)).map_err(|_| StoreAddressError::Postgres)
            };
            match name {
                "sslmode" => mode = Some(value),
                "sslrootcert" => authorities = Some(path()?),
                "password_file" => password_file = Some(path()?),
                _ => others.push(pair),
            }
        }
        let plain = if others.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", others.join("&"))
        };
        let mut config: Config = plain.parse().map_err(|_| StoreAddressError::Postgres)?;
        let lacks = [
            ("host", config.get_hosts().is_empty()),
            ("user", config.get_user().is_none_or(str::is_empty)),
            ("database", config.get_dbname().is_none_or(str::is_empty)),
        ];
        if let Some((name, _)) = lacks.into_iter().find(|(_, lacks)| *lacks) {
            return Err(StoreAddressError::Lacks(name));
        }
        let verifies_certificate = match mode {
            Some("verify-full") => true,
            Some("disable") => false,
            None => !config.get_hosts().iter().all(is_local),
            Some(_) => return Err(StoreAddressError::TlsMode),
        };
        config.ssl_mode(if verifies_certificate { SslMode::Require } else { SslMode::Disable });
        Ok(Self { config, verifies_certificate, authorities, password_file })
    }
}

impl PostgresAddress {
    /// Returns the configuration for the driver. The password file is read each time, because it
    /// may have changed.
    pub(super) fn config(&self) -> Result<Config, String> {
        let mut config = self.config.clone();
        if let Some(path) = &self.password_file {
            config.password(
                first_line(path).map_err(|cause| format!("{}: {cause}", path.display()))?,
            );
        }
        Ok(config)
    }
}

fn first_line(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(PASSWORD_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        Some(_) | None => Err("its first line is to be the password, and is empty".to_owned()),
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let loopback = |ip: std::net::IpAddr| ip.to_canonical().is_loopback();
            name == "localhost" || name.parse().is_ok_and(loopback)
        }
        Host::Unix(_) => true,
    }
}

/// Shows the address without user and password.
impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(address) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        let ports = self.config.get_ports();
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match host {
                Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]")?,
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(folder) => write!(f, "{}", folder.display())?,
            }
            if let Some(port) = ports.get(index).or_else(|| ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
