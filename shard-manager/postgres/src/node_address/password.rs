//! Password: a secret, and the files that hold one.
//!
//! **Invariant:** `Debug` and `Display` show `***`; only [`Password::secret`] returns the password,
//! for the code that sends it to the server.
//! **Not here:** the choice of the file or variable (the configuration), authentication
//! (`postgres::session`).

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Host;

/// Maximum size of a password file, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Returns a password from text that was typed or read from a variable.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// Reads the password from the first line of a file.
    ///
    /// # Errors
    /// [`PasswordError`] if the file cannot be read, has an empty first line, or may be read by
    /// others.
    pub fn from_file(path: &Path) -> Result<Self, PasswordError> {
        let text = read_secret(path)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self(line.to_owned())),
            Some(_) | None => Err(PasswordError::Empty { path: path.to_owned() }),
        }
    }

    /// Reads the password from the first line of a libpq password file,
    /// `host:port:database:user:password`, that matches one of the hosts; `*` matches anything.
    ///
    /// # Errors
    /// [`PasswordError`], as [`Password::from_file`] returns it, or if no line matches.
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

    /// Returns the password itself, for the server that requires it.
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

/// Splits a line at its colons; a backslash escapes the next character.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        // The password comes last: a colon in it need not be escaped.
        if character == ':' && fields.len() < 5 {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            let escaped = if character == '\\' { characters.next() } else { None };
            field.push(escaped.unwrap_or(character));
        }
    }
    fields
}

/// Reads a file that only its owner may read. A group may read it too if root owns the file, which
/// is common for secrets that a service manager provides.
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
    // One byte more than allowed is read: a password file cut off in the middle would silently lack
    // lines.
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(PasswordError::TooLong { path: path.to_owned() });
    }
    Ok(text)
}

/// Reason why a file provides no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The file does not exist or cannot be read.
    #[error("the password file {} cannot be read: {cause}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        cause: std::io::Error,
    },
    /// The path is that of a directory, a pipe or a device.
    #[error("the password file {} is not a regular file", path.display())]
    NoFile {
        /// Path of the file.
        path: PathBuf,
    },
    /// Other users may read the file.
    #[error(
        "the password file {0} may be read by others (its mode is {mode:04o}): run `chmod 600 {0}`",
        path.display()
    )]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Permissions of the file.
        mode: u32,
    },
    /// The file is longer than any passfile should be.
    #[error("the password file {} is longer than {FILE_BYTES_MAX} bytes: shorten it", path.display())]
    TooLong {
        /// Path of the file.
        path: PathBuf,
    },
    /// The first line of the file is empty.
    #[error("the password file {} has nothing in its first line", path.display())]
    Empty {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file has passwords, but none for this node.
    #[error("the file {} has no line host:port:database:user:password for {wanted}", path.display())]
    NoLine {
        /// Path of the file.
        path: PathBuf,
        /// Host, port, database and user that no line matches.
        wanted: String,
    },
}
