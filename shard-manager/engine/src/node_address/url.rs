//! URL: how an address is spelled, read and shown.
//!
//! **Invariant:** no error repeats a part of the text but names of parameters that could not be a part of a password:
//! whoever forgets to write `/` as `%2F` in one must not find the rest of it in the log.
//! **Not here:** what the parts are used for (`postgres`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::table::closest;

use super::{Host, NodeAddress, NodeDefaults, PORT_DEFAULT, Password, PasswordError, TlsMode};

/// What may stand after the `?`.
const PARAMETERS: [&str; 11] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "passfile",
    "password",
    "password_file",
    "port",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Longest `connect_timeout` in seconds.
const CONNECT_TIMEOUT_MAX: u64 = 600;

/// Why a text is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It begins with something else.
    #[error("an address begins with postgres:// or postgresql://")]
    Scheme,
    /// An `@` where the host is behind already.
    #[error(
        "an @ stands after the host: in a user name or a password write @ as %40, / as %2F, ? as %3F, : as %3A"
    )]
    StrayAt,
    /// A percent sign that begins no byte, or bytes that are no text.
    #[error("a % begins no character there: write % itself as %25")]
    Percent,
    /// No host.
    #[error("an address names a host, such as postgres://user@127.0.0.1:5432/shard1")]
    NoHost,
    /// Hosts before and after the `?`, or not as many ports as hosts.
    #[error(
        "an address names its hosts once, before or after the ?, and one port for all or for each"
    )]
    Hosts,
    /// Not a number that a port can have.
    #[error(
        "a port is a number from 1 to 65535; an IPv6 address stands in brackets, such as [::1]:5432"
    )]
    Port,
    /// No user, and none that holds for all.
    #[error("an address names a user, such as postgres://user@127.0.0.1:5432/shard1")]
    NoUser,
    /// No database.
    #[error("an address names a database, such as postgres://user@127.0.0.1:5432/shard1")]
    NoDatabase,
    /// A parameter that nobody knows.
    #[error("{name} is no parameter of an address; {hint}")]
    Parameter {
        /// Its name, or that it has none.
        name: String,
        /// The nearest that there is, or all.
        hint: String,
    },
    /// The same parameter again.
    #[error("{name} stands twice in an address")]
    Twice {
        /// Its name.
        name: &'static str,
    },
    /// A value that it cannot have.
    #[error("{name} must be {allowed}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What it can be.
        allowed: &'static str,
    },
    /// A password, and a file that has one.
    #[error("an address has one password: in itself, by password_file or by passfile")]
    Passwords,
    /// A file of passwords gives none.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// The values after the `?`, by the place of their names.
#[derive(Default)]
struct Parameters([Option<String>; PARAMETERS.len()]);

impl Parameters {
    fn read(text: &str) -> Result<Self, AddressError> {
        let mut read = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = PARAMETERS.iter().position(|known| *known == name);
            let place = place.ok_or_else(|| unknown(name))?;
            if read.0[place].replace(decoded(value)?).is_some() {
                return Err(AddressError::Twice { name: PARAMETERS[place] });
            }
        }
        Ok(read)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let place = PARAMETERS.iter().position(|known| *known == name)?;
        self.0[place].take()
    }
}

fn unknown(name: &str) -> AddressError {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let near = closest(name, PARAMETERS.into_iter()).filter(|_| plain);
    let hint = near.map_or_else(
        || format!("there are: {}", PARAMETERS.join(", ")),
        |near| format!("did you mean {near}?"),
    );
    let name = if plain { name.to_owned() } else { "what stands after the ?".to_owned() };
    AddressError::Parameter { name, hint }
}

/// The one or the other; both are once too often.
fn either(
    one: Option<String>,
    other: Option<String>,
    name: &'static str,
) -> Result<Option<String>, AddressError> {
    match (one, other) {
        (Some(_), Some(_)) => Err(AddressError::Twice { name }),
        (one, other) => Ok(one.or(other)),
    }
}

pub(super) fn parse(text: &str, defaults: &NodeDefaults) -> Result<NodeAddress, AddressError> {
    let text = text.trim();
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    let rest = rest.ok_or(AddressError::Scheme)?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if tail.contains('@') {
        return Err(AddressError::StrayAt);
    }
    let (path, parameters) = tail.split_once('?').unwrap_or((tail, ""));
    let mut parameters = Parameters::read(parameters)?;

    let (login, places) =
        authority.rsplit_once('@').map_or((None, authority), |(login, rest)| (Some(login), rest));
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (filled(user)?, filled(password)?),
        None => (None, None),
    };
    let user = either(user, parameters.take("user"), "user")?.or_else(|| defaults.user.clone());
    let user = user.ok_or(AddressError::NoUser)?;
    let database = filled(path.strip_prefix('/').unwrap_or(path))?;
    let database = either(database, parameters.take("dbname"), "dbname")?;
    let database = database.ok_or(AddressError::NoDatabase)?;
    let hosts = hosts(places, parameters.take("host"), parameters.take("port"))?;

    let password = either(password, parameters.take("password"), "password")?;
    let password = match (password, parameters.take("password_file"), parameters.take("passfile")) {
        (None, None, None) => defaults.password.clone(),
        (Some(secret), None, None) => Some(Password::new(secret)),
        (None, Some(path), None) => Some(Password::from_file(Path::new(&path))?),
        (None, None, Some(path)) => {
            Some(Password::from_passfile(Path::new(&path), &hosts, &database, &user)?)
        }
        (_, _, _) => return Err(AddressError::Passwords),
    };
    let tls = match parameters.take("sslmode") {
        Some(name) => TlsMode::find(&name).ok_or(AddressError::Value {
            name: "sslmode",
            allowed: "disable, prefer, require, verify-ca or verify-full",
        })?,
        None => defaults.tls.unwrap_or_else(|| TlsMode::default_for(&hosts)),
    };
    let root_certificates = match parameters.take("sslrootcert") {
        // libpq's word for the default that we have anyway.
        Some(path) if path == "system" => None,
        Some(path) => Some(PathBuf::from(path)),
        None => defaults.root_certificates.clone(),
    };
    Ok(NodeAddress {
        hosts,
        database,
        user,
        password,
        tls,
        root_certificates,
        connect_timeout: parameters.take("connect_timeout").map(|t| seconds(&t)).transpose()?,
        application: parameters.take("application_name"),
    })
}

fn seconds(text: &str) -> Result<Duration, AddressError> {
    let seconds = text.parse().ok().filter(|seconds| (1..=CONNECT_TIMEOUT_MAX).contains(seconds));
    let allowed = "a number of seconds from 1 to 600";
    seconds.map(Duration::from_secs).ok_or(AddressError::Value { name: "connect_timeout", allowed })
}

/// The hosts before the `?`, or those after it.
fn hosts(
    places: &str,
    named: Option<String>,
    ports: Option<String>,
) -> Result<Vec<Host>, AddressError> {
    if places.is_empty() {
        let named = named.filter(|named| !named.is_empty()).ok_or(AddressError::NoHost)?;
        let names: Vec<&str> = named.split(',').collect();
        let ports = ports.map_or(Ok(vec![PORT_DEFAULT]), |ports| {
            ports.split(',').map(port).collect::<Result<Vec<_>, _>>()
        })?;
        if ports.len() != 1 && ports.len() != names.len() {
            return Err(AddressError::Hosts);
        }
        let host = |(name, port): (&&str, &u16)| match *name {
            "" => Err(AddressError::NoHost),
            name => Ok(Host { host: unbracketed(name).to_owned(), port: *port }),
        };
        return names.iter().zip(ports.iter().cycle()).map(host).collect();
    }
    if named.is_some() || ports.is_some() {
        return Err(AddressError::Hosts);
    }
    places.split(',').map(place).collect()
}

fn place(text: &str) -> Result<Host, AddressError> {
    let end_of_brackets = text.rfind(']').map_or(0, |end| end + 1);
    let colon = text[end_of_brackets..].find(':').map(|at| end_of_brackets + at);
    let (name, port) = match colon {
        Some(colon) => (&text[..colon], port(&text[colon + 1..])?),
        None => (text, PORT_DEFAULT),
    };
    let host = filled(unbracketed(name))?.ok_or(AddressError::NoHost)?;
    Ok(Host { host, port })
}

fn unbracketed(name: &str) -> &str {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

fn port(text: &str) -> Result<u16, AddressError> {
    text.parse().ok().filter(|port| *port > 0).ok_or(AddressError::Port)
}

/// What is spelled there, if anything is.
fn filled(text: &str) -> Result<Option<String>, AddressError> {
    Ok(Some(decoded(text)?).filter(|text| !text.is_empty()))
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = digit(rest.next()).zip(digit(rest.next()));
            let (high, low) = pair.ok_or(AddressError::Percent)?;
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| AddressError::Percent)?;
    // PostgreSQL ends texts with a zero byte.
    if text.contains('\0') { Err(AddressError::Percent) } else { Ok(text) }
}

fn encoded(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

pub(super) fn redacted(address: &NodeAddress) -> String {
    let mut shown = "postgres://".to_owned();
    encoded(&address.user, &mut shown);
    if address.password.is_some() {
        shown.push_str(":***");
    }
    for (index, host) in address.hosts.iter().enumerate() {
        shown.push(if index == 0 { '@' } else { ',' });
        if host.is_socket() {
            encoded(&host.host, &mut shown);
            let _ = write!(shown, ":{}", host.port);
        } else {
            let _ = write!(shown, "{host}");
        }
    }
    shown.push('/');
    encoded(&address.database, &mut shown);
    let _ = write!(shown, "?sslmode={}", address.tls);
    if let Some(path) = &address.root_certificates {
        let _ = write!(shown, "&sslrootcert={}", path.display());
    }
    if let Some(timeout) = address.connect_timeout {
        let _ = write!(shown, "&connect_timeout={}", timeout.as_secs());
    }
    if let Some(application) = &address.application {
        shown.push_str("&application_name=");
        encoded(application, &mut shown);
    }
    shown
}
