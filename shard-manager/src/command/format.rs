//! Format: how the rows of a file are written, as `export` and `import` name it.

use std::path::Path;

use clap::ValueEnum;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatName {
    /// A JSON object a line
    Ndjson,
    /// Comma-separated values, the first line being the names of the columns
    Csv,
}

impl FormatName {
    /// The one given, else the one that the file's name tells, else NDJSON.
    pub(super) fn of(given: Option<Self>, file: Option<&Path>) -> Self {
        let ending = file.and_then(Path::extension);
        let csv = ending.is_some_and(|ending| ending.eq_ignore_ascii_case(Self::Csv.ending()));
        given.unwrap_or(if csv { Self::Csv } else { Self::Ndjson })
    }

    /// What the names of such files end in.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_as_it_is_named_unless_somebody_says_otherwise() {
        let of = |given, file: &str| FormatName::of(given, Some(Path::new(file)));
        assert_eq!(of(None, "a/users.csv"), FormatName::Csv);
        assert_eq!(of(None, "USERS.CSV"), FormatName::Csv);
        assert_eq!(of(Some(FormatName::Ndjson), "users.csv"), FormatName::Ndjson);
        for plain in ["users.ndjson", "users", "csv", "-"] {
            assert_eq!(of(None, plain), FormatName::Ndjson, "{plain}");
        }
        assert_eq!(FormatName::of(None, None), FormatName::Ndjson);
    }
}
