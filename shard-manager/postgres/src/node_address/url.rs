//! URL: parses and formats node addresses.
//!
//! **Invariant:** no error repeats a part of the text, except parameter names that cannot be part
//! of a password. So a password with an unescaped `/`, which is parsed as part of something else,
//! does not appear in the log.
//! **Not here:** the use of the parts (`postgres`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::table::closest;

use super::{
    Host, NodeAddress, NodeDefaults, PORT_DEFAULT, Password, PasswordError, SYSTEM_ROOTS, TlsMode,
};

/// Parameters that may follow the `?`.
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

/// Reason why a text is not a valid address.
#[derive(Debug, thiserror::Error)]
pub enum NodeAddressError {
    /// The scheme is not `postgres` or `postgresql`.
    #[error("an address begins with postgres:// or postgresql://")]
    Scheme,
    /// An `@` after the host.
    #[error(
        "an @ stands after the host: in a user name or a password write @ as %40, / as %2F, ? as %3F, : as %3A"
    )]
    StrayAt,
    /// A percent sign without a byte after it, or bytes that are not UTF-8.
    #[error("a % must begin an escaped byte, such as %2F: write % itself as %25")]
    Percent,
    /// The host is missing.
    #[error("an address names a host, such as postgres://user@127.0.0.1:5432/shard1")]
    NoHost,
    /// Hosts before and after the `?`, or a different number of ports than hosts.
    #[error(
        "an address names its hosts once, before or after the ?, and one port for all or for each"
    )]
    Hosts,
    /// The port is not a number in range.
    #[error(
        "a port is a number from 1 to 65535; an IPv6 address stands in brackets, such as [::1]:5432"
    )]
    Port,
    /// The user is missing, and there is no default.
    #[error("an address names a user, such as postgres://user@127.0.0.1:5432/shard1")]
    NoUser,
    /// The database is missing.
    #[error("an address names a database, such as postgres://user@127.0.0.1:5432/shard1")]
    NoDatabase,
    /// An unknown parameter.
    #[error("{name} is not a parameter of an address; {hint}")]
    Parameter {
        /// Name of the parameter, or a note that it has none.
        name: String,
        /// The most similar parameter, or all parameters.
        hint: String,
    },
    /// A parameter that is given twice.
    #[error("{name} is given twice in an address")]
    Twice {
        /// Name of the parameter.
        name: &'static str,
    },
    /// A value that the parameter does not accept.
    #[error("{name} must be {allowed}")]
    Value {
        /// Name of the parameter.
        name: &'static str,
        /// Accepted values.
        allowed: &'static str,
    },
    /// A password in the address of a new shard, which clients send and see.
    #[error("the address contains a password")]
    PasswordGiven,
    /// A user, or a parameter of the connection, in the address of a new shard.
    #[error(
        "leave {name} out: the address of a new shard has hosts, ports and the database, and the \
         settings of the router have the rest"
    )]
    LoginGiven {
        /// Name of the part.
        name: &'static str,
    },
    /// Several sources of the password.
    #[error("an address has one password: in itself, by password_file or by passfile")]
    Passwords,
    /// The password file provides no password.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// Values of the parameters, by their index in the list of parameters.
#[derive(Default)]
struct Parameters([Option<String>; PARAMETERS.len()]);

impl Parameters {
    fn read(text: &str) -> Result<Self, NodeAddressError> {
        let mut read = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = PARAMETERS.iter().position(|known| *known == name);
            let place = place.ok_or_else(|| unknown(name))?;
            if read.0[place].replace(decoded(value)?).is_some() {
                return Err(NodeAddressError::Twice { name: PARAMETERS[place] });
            }
        }
        Ok(read)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let place = PARAMETERS.iter().position(|known| *known == name)?;
        self.0[place].take()
    }
}

fn unknown(name: &str) -> NodeAddressError {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let near = closest(name, PARAMETERS.into_iter()).filter(|_| plain);
    let hint = near.map_or_else(
        || format!("there are: {}", PARAMETERS.join(", ")),
        |near| format!("did you mean {near}?"),
    );
    let name = if plain { name.to_owned() } else { "text after the ?".to_owned() };
    NodeAddressError::Parameter { name, hint }
}

/// Returns the value that is present; fails if both are.
fn either(
    one: Option<String>,
    other: Option<String>,
    name: &'static str,
) -> Result<Option<String>, NodeAddressError> {
    match (one, other) {
        (Some(_), Some(_)) => Err(NodeAddressError::Twice { name }),
        (one, other) => Ok(one.or(other)),
    }
}

/// Parts of an address, before any file that it names is read.
struct Parts {
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<Host>,
    database: String,
    /// The parameters that are none of the parts above.
    rest: Parameters,
}

impl Parts {
    fn read(text: &str) -> Result<Self, NodeAddressError> {
        let text = text.trim();
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or(NodeAddressError::Scheme)?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if tail.contains('@') {
            return Err(NodeAddressError::StrayAt);
        }
        let (path, parameters) = tail.split_once('?').unwrap_or((tail, ""));
        let mut rest = Parameters::read(parameters)?;
        let (login, places) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(login, rest)| (Some(login), rest));
        let login = login.map(|login| login.split_once(':').unwrap_or((login, "")));
        let (user, password) = match login {
            Some((user, password)) => (filled(user)?, filled(password)?),
            None => (None, None),
        };
        let user = either(user, rest.take("user"), "user")?;
        let database = filled(path.strip_prefix('/').unwrap_or(path))?;
        let database = either(database, rest.take("dbname"), "dbname")?;
        let database = database.ok_or(NodeAddressError::NoDatabase)?;
        let hosts = hosts(places, rest.take("host"), rest.take("port"))?;
        let password = either(password, rest.take("password"), "password")?;
        Ok(Self { user, password, hosts, database, rest })
    }
}

/// Parses an address that has hosts and a database only. Reads no file.
pub(super) fn parse_location(text: &str) -> Result<NodeAddress, NodeAddressError> {
    let Parts { user, password, hosts, database, mut rest } = Parts::read(text)?;
    if password.is_some() {
        return Err(NodeAddressError::PasswordGiven);
    }
    if user.is_some() {
        return Err(NodeAddressError::LoginGiven { name: "the user" });
    }
    if let Some(name) = PARAMETERS.into_iter().find(|name| rest.take(name).is_some()) {
        return Err(NodeAddressError::LoginGiven { name });
    }
    Ok(NodeAddress {
        tls: TlsMode::default_for(&hosts),
        hosts,
        database,
        user: String::new(),
        password: None,
        root_certificates: None,
        connect_timeout: None,
        application: None,
    })
}

pub(super) fn parse(text: &str, defaults: &NodeDefaults) -> Result<NodeAddress, NodeAddressError> {
    let Parts { user, password, hosts, database, rest: mut parameters } = Parts::read(text)?;
    let user = user.or_else(|| defaults.user.clone()).ok_or(NodeAddressError::NoUser)?;
    let password = match (password, parameters.take("password_file"), parameters.take("passfile")) {
        (None, None, None) => defaults.password.clone(),
        (Some(secret), None, None) => Some(Password::new(secret)),
        (None, Some(path), None) => Some(Password::from_file(Path::new(&path))?),
        (None, None, Some(path)) => {
            Some(Password::from_passfile(Path::new(&path), &hosts, &database, &user)?)
        }
        (_, _, _) => return Err(NodeAddressError::Passwords),
    };
    let roots = parameters.take("sslrootcert").map(PathBuf::from);
    let roots = roots.or_else(|| defaults.root_certificates.clone());
    let is_system = roots.as_ref().is_some_and(|roots| roots.as_os_str() == SYSTEM_ROOTS);
    let tls = tls_mode(parameters.take("sslmode"), defaults.tls, &hosts, is_system)?;
    Ok(NodeAddress {
        hosts,
        database,
        user,
        password,
        tls,
        // Without a file, the root certificates of the system are used.
        root_certificates: roots.filter(|_| !is_system),
        connect_timeout: parameters.take("connect_timeout").map(|t| seconds(&t)).transpose()?,
        application: parameters.take("application_name"),
    })
}

/// Returns the mode that is given, that of the defaults, or the default for the hosts. Refuses
/// `sslrootcert=system` with a mode that would not use these certificates; libpq refuses it with
/// `verify-ca` as well. Without a mode, `sslrootcert=system` means `verify-full`.
fn tls_mode(
    given: Option<String>,
    default: Option<TlsMode>,
    hosts: &[Host],
    is_system: bool,
) -> Result<TlsMode, NodeAddressError> {
    let given = given.map(|name| {
        TlsMode::find(&name).ok_or(NodeAddressError::Value {
            name: "sslmode",
            allowed: "disable, prefer, require, verify-ca or verify-full",
        })
    });
    let tls = match given.transpose()?.or(default) {
        Some(tls) => tls,
        None if is_system => TlsMode::VerifyFull,
        None => TlsMode::default_for(hosts),
    };
    if is_system && !tls.always_verifies() {
        return Err(NodeAddressError::Value {
            name: "sslmode",
            allowed: "verify-ca or verify-full where sslrootcert is system",
        });
    }
    Ok(tls)
}

fn seconds(text: &str) -> Result<Duration, NodeAddressError> {
    let seconds = text.parse().ok().filter(|seconds| (1..=CONNECT_TIMEOUT_MAX).contains(seconds));
    let allowed = "a number of seconds from 1 to 600";
    seconds
        .map(Duration::from_secs)
        .ok_or(NodeAddressError::Value { name: "connect_timeout", allowed })
}

/// Returns the hosts before the `?`, or those after it.
fn hosts(
    places: &str,
    named: Option<String>,
    ports: Option<String>,
) -> Result<Vec<Host>, NodeAddressError> {
    if places.is_empty() {
        let named = named.filter(|named| !named.is_empty()).ok_or(NodeAddressError::NoHost)?;
        let names: Vec<&str> = named.split(',').collect();
        let ports = ports.map_or(Ok(vec![PORT_DEFAULT]), |ports| {
            ports.split(',').map(port).collect::<Result<Vec<_>, _>>()
        })?;
        if ports.len() != 1 && ports.len() != names.len() {
            return Err(NodeAddressError::Hosts);
        }
        let host = |(name, port): (&&str, &u16)| match *name {
            "" => Err(NodeAddressError::NoHost),
            name => Ok(Host { host: unbracketed(name).to_owned(), port: *port }),
        };
        return names.iter().zip(ports.iter().cycle()).map(host).collect();
    }
    if named.is_some() || ports.is_some() {
        return Err(NodeAddressError::Hosts);
    }
    places.split(',').map(place).collect()
}

fn place(text: &str) -> Result<Host, NodeAddressError> {
    let end_of_brackets = text.rfind(']').map_or(0, |end| end + 1);
    let colon = text[end_of_brackets..].find(':').map(|at| end_of_brackets + at);
    let (name, port) = match colon {
        Some(colon) => (&text[..colon], port(&text[colon + 1..])?),
        None => (text, PORT_DEFAULT),
    };
    let host = filled(unbracketed(name))?.ok_or(NodeAddressError::NoHost)?;
    Ok(Host { host, port })
}

fn unbracketed(name: &str) -> &str {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

fn port(text: &str) -> Result<u16, NodeAddressError> {
    text.parse().ok().filter(|port| *port > 0).ok_or(NodeAddressError::Port)
}

/// Decodes the text, unless it is empty.
fn filled(text: &str) -> Result<Option<String>, NodeAddressError> {
    Ok(Some(decoded(text)?).filter(|text| !text.is_empty()))
}

fn decoded(text: &str) -> Result<String, NodeAddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = digit(rest.next()).zip(digit(rest.next()));
            let (high, low) = pair.ok_or(NodeAddressError::Percent)?;
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| NodeAddressError::Percent)?;
    // A zero byte ends a text in PostgreSQL.
    if text.contains('\0') { Err(NodeAddressError::Percent) } else { Ok(text) }
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

/// Appends hosts and database.
fn places(address: &NodeAddress, out: &mut String) {
    for (index, host) in address.hosts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if host.is_socket() {
            encoded(&host.host, out);
            let _ = write!(out, ":{}", host.port);
        } else {
            let _ = write!(out, "{host}");
        }
    }
    out.push('/');
    encoded(&address.database, out);
}

pub(super) fn location(address: &NodeAddress) -> String {
    let mut shown = "postgres://".to_owned();
    places(address, &mut shown);
    shown
}

pub(super) fn redacted(address: &NodeAddress) -> String {
    let mut shown = "postgres://".to_owned();
    encoded(&address.user, &mut shown);
    if address.password.is_some() {
        shown.push_str(":***");
    }
    shown.push('@');
    places(address, &mut shown);
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
