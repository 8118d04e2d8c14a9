//! User count: the number of users of an experiment, which a flag or an environment variable sets.

use ::lab::run::{USERS_DEFAULT, USERS_MAX};
use clap::Args;

use crate::command::CommandError;
use crate::command::generate::{USERS_VARIABLE, users_of_variable};

/// Number of users of an experiment, on the command line.
#[derive(Args, Debug)]
pub(super) struct UserCount {
    // The argument parser does not read the variable, because it would report an invalid value as
    // one of the flag.
    /// Number of users [env: MAX_GEN_USERS] [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=USERS_MAX))]
    users: Option<u64>,
}

impl UserCount {
    /// Returns the number that the flag gives, or else the environment variable, or else the
    /// default.
    ///
    /// # Errors
    /// Fails if there is no flag and the variable is not a number from 1 to `USERS_MAX`.
    pub(super) fn get(&self) -> Result<u64, CommandError> {
        if let Some(users) = self.users {
            return Ok(users);
        }
        match users_of_variable()? {
            None => Ok(USERS_DEFAULT),
            Some(users) if (1..=USERS_MAX).contains(&users) => Ok(users),
            Some(users) => Err(CommandError::Refused(format!(
                "{USERS_VARIABLE} must be from 1 to {USERS_MAX}, not {users}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        _users: UserCount,
    }

    #[test]
    fn the_help_names_the_default_number() {
        let help = Line::command().render_help().to_string();
        assert!(help.contains(&format!("[default: {USERS_DEFAULT}]")), "{help}");
    }
}
