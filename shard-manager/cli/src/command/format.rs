//! Format: the file formats that `export` writes and `import` reads.

use std::path::Path;

use clap::ValueEnum;

/// File format of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatName {
    /// One JSON object per line
    Ndjson,
    /// Comma-separated values with the column names in the first line
    Csv,
}

impl FormatName {
    /// Returns the given format, or else CSV if the file has the extension `csv`, or else NDJSON.
    pub(super) fn of(given: Option<Self>, file: Option<&Path>) -> Self {
        let ending = file.and_then(Path::extension);
        let csv = ending.is_some_and(|ending| ending.eq_ignore_ascii_case(Self::Csv.ending()));
        given.unwrap_or(if csv { Self::Csv } else { Self::Ndjson })
    }

    /// Returns the file extension.
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
    fn the_file_name_decides_the_format_unless_one_is_given() {
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
