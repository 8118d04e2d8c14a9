//! Password: a secret, and the files that hold one.
//!
//! **Invariant:** shown as `***` whoever asks; only [`Password::secret`] gives it, to those who send it to its server.
//! **Not here:** which file or variable holds it (the configuration), how it is sent (`postgres::session`).

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Host;

/// Longest file of passwords that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A password, which nothing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// What was typed, or stood in a variable.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The first line of a file.
    ///
    /// # Errors
    /// [`PasswordError`] if it cannot be read, is empty, or is open to others.
    pub fn from_file(path: &Path) -> Result<Self, PasswordError> {
        let text = read_secret(path)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self(line.to_owned())),
            Some(_) | None => Err(PasswordError::Empty { path: path.to_owned() }),
        }
    }

    /// The first line of a file of libpq's format, `host:port:database:user:password`, that fits one of the hosts; `*`
    /// fits anything.
    ///
    /// # Errors
    /// As [`Password::from_file`], or if no line fits.
    pub fn from_passfile(
        path: &Path,
        hosts: &[Host],
        database: &str,
        user: &str,
    ) -> Result<Self, PasswordError> {
        let text = read_secret(path)?;
        let fits = |host: &Host, line: &str| {
            let fields: [String; 5] = fields(line).try_into().ok()?;
            let [known @ .., password] = fields;
            let wanted = [&*host.host, &*host.port.to_string(), database, user];
            let mut pairs = known.iter().zip(wanted);
            pairs.all(|(known, wanted)| known == "*" || known == wanted).then_some(Self(password))
        };
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let found = hosts.iter().find_map(|host| lines().find_map(|line| fits(host, line)));
        found.ok_or_else(|| PasswordError::NoLine {
            path: path.to_owned(),
            wanted: format!("{}:{database}:{user}", hosts[0]),
        })
    }

    /// The secret itself, for the server that asks for it.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The parts between colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        // The password is the last one: a colon in it need not be escaped.
        if character == ':' && fields.len() < 5 {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            let escaped = if character == '\\' { characters.next() } else { None };
            field.push(escaped.unwrap_or(character));
        }
    }
    fields
}

/// The text of a file that only we may read. The group may too if the file is root's, as secrets often are that a
/// service manager hands out.
fn read_secret(path: &Path) -> Result<String, PasswordError> {
    let unreadable =
        |error: std::io::Error| PasswordError::Unreadable { path: path.to_owned(), cause: error };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PasswordError::NoFile { path: path.to_owned() });
    }
    let allowed = if metadata.uid() == 0 { 0o740 } else { 0o700 };
    let mode = metadata.mode() & 0o777;
    if mode & !allowed != 0 {
        return Err(PasswordError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    // A byte more than may be read: a passfile cut off in the middle would lack lines silently.
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(PasswordError::TooLong { path: path.to_owned() });
    }
    Ok(text)
}

/// Why a file gives no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It is not there, or may not be read.
    #[error("the password file {} cannot be read: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("the password file {} is no regular file", path.display())]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// Others may read it.
    #[error(
        "the password file {0} may be read by others (its mode is {mode:04o}): run `chmod 600 {0}`",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is longer than any passfile should be.
    #[error("the password file {} is longer than {FILE_BYTES_MAX} bytes: shorten it", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Its first line is empty.
    #[error("the password file {} has nothing in its first line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It has passwords, but of others.
    #[error("the file {} has no line host:port:database:user:password for {wanted}", path.display())]
    NoLine {
        /// The file.
        path: PathBuf,
        /// Whose password.
        wanted: String,
    },
}
