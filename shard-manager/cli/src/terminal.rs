//! Terminal: output of the commands as tables and bars, as plain lines, or as JSON.
//!
//! Results go to standard output, messages to standard error, so that results can be piped.
//!
//! **Invariant:** with `--json`, every command except `completions` writes one JSON document to
//! standard output and nothing else; a command whose result cannot be written fails.
//! **Not here:** the results (`command`).

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, TableComponent, presets};
use indicatif::{
    HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState,
    ProgressStyle,
};
use serde::Serialize;

/// Error that prevented results from being written to standard output.
#[derive(Debug)]
pub(crate) struct Unwritten(pub(crate) io::Error);

/// Prints a line to standard error; errors of writing are ignored.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints results unchanged.
pub(crate) fn print(text: &[u8]) -> Result<(), Unwritten> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(Unwritten)
}

/// Output of a command: results on standard output, progress bars on standard error.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    json: bool,
    is_interactive: bool,
    bars: MultiProgress,
}

impl Terminal {
    /// Creates the output of this process. If `json` is true, results are JSON documents and there
    /// are no progress bars.
    pub(crate) fn new(json: bool) -> Self {
        let watched = std::io::stderr().is_terminal() && !json;
        let target =
            if watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        Self { json, is_interactive: std::io::stdout().is_terminal(), bars }
    }

    /// Returns true if the results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: `document` as JSON with `--json`, otherwise the result of `text`.
    pub(crate) fn show(
        &self,
        document: &impl Serialize,
        text: impl FnOnce(&Self) -> String,
    ) -> Result<(), Unwritten> {
        let mut shown = if self.json {
            serde_json::to_string(document).map_err(|error| Unwritten(error.into()))?
        } else {
            text(self)
        };
        if !shown.ends_with('\n') {
            shown.push('\n');
        }
        print(shown.as_bytes())
    }

    /// Formats a table: with aligned columns if standard output is a terminal, otherwise as one
    /// line per row with tabs between the cells.
    pub(crate) fn table(&self, heads: &[&str], rows: &[Vec<String>]) -> String {
        if !self.is_interactive {
            // Columns without a name hold bars, which are meant for a terminal only.
            let line = |cells: &mut dyn Iterator<Item = &str>| {
                let named = heads.iter().zip(cells).filter(|(head, _)| !head.is_empty());
                named.map(|(_, cell)| cell).collect::<Vec<_>>().join("\t")
            };
            let rows = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
            let head = line(&mut heads.iter().copied());
            return std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n");
        }
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        // Rows are one line high, so a rule after each would make the table harder to read.
        table.remove_style(TableComponent::HorizontalLines);
        table.remove_style(TableComponent::MiddleIntersections);
        table.remove_style(TableComponent::LeftBorderIntersections);
        table.remove_style(TableComponent::RightBorderIntersections);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(heads);
        for row in rows {
            table.add_row(row.iter().map(|text| {
                let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
                let side = if number { CellAlignment::Right } else { CellAlignment::Left };
                Cell::new(text).set_alignment(side)
            }));
        }
        table.to_string()
    }

    /// Formats a share from 0 to 1 as a bar of up to `width` characters; returns an empty string if
    /// standard output is not a terminal.
    pub(crate) fn bar(&self, share: f64, width: usize) -> String {
        if !self.is_interactive {
            return String::new();
        }
        let signs = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
        "█".repeat(signs)
    }

    /// Adds a progress bar with `total` steps and a message; it is hidden if standard error is not
    /// a terminal.
    pub(crate) fn steps(&self, name: &str, total: u64) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix:>10} {bar:20} {msg}");
        let bar = self.bars.add(ProgressBar::new(total));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        bar
    }

    /// Hides the bars while `write` writes lines, so that no fragments of bars remain between the
    /// lines.
    pub(crate) fn above_bars(&self, write: impl FnOnce()) {
        self.bars.suspend(write);
    }

    /// Returns true if progress is to be reported as lines, because bars are hidden and results are
    /// not JSON.
    pub(crate) fn has_lines(&self) -> bool {
        !self.json && self.bars.is_hidden()
    }

    /// Adds a progress bar for `total` units with their rate and the time left; it is hidden if
    /// standard error is not a terminal.
    pub(crate) fn progress(&self, name: &str, total: u64) -> ProgressBar {
        let style =
            "{prefix:>10} {bar:30} {human_pos:>11} of {human_len} {rate:>16} {left:>12} {msg}";
        let style =
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        // The built-in key `per_sec` is not used, because it takes the width of its column as the
        // number of decimals, too.
        let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = out.write_str(&rate(state.per_sec()));
        });
        let style = style.with_key("left", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:#} left", HumanDuration(state.eta()));
        });
        let bar = self.bars.add(ProgressBar::new(total));
        bar.set_style(style);
        bar.set_prefix(name.to_owned());
        bar
    }
}

/// Formats a rate per second without decimals, which would change too fast to be read.
fn rate(per_second: f64) -> String {
    format!("{}/s", HumanCount(per_second.round() as u64))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// Terminal that keeps everything written to it.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<String>>);

    impl TermLike for Kept {
        fn width(&self) -> u16 {
            200
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_progress_bar_is_a_line_with_its_name_position_rate_in_whole_rows_and_time_left() {
        assert_eq!(rate(1_234.567_8), "1,235/s");
        let kept = Kept::default();
        let target = ProgressDrawTarget::term_like(Box::new(kept.clone()));
        let bars = MultiProgress::with_draw_target(target);
        let terminal = Terminal { json: false, is_interactive: true, bars };
        let bars = [terminal.progress("total", 9_000), terminal.progress("shard1", 3_000)];
        for bar in &bars {
            bar.inc(1_000);
            bar.abandon();
        }
        for parts in [["total ", "1,000 of 9,000"], ["shard1 ", "1,000 of 3,000"]] {
            let lines = kept.0.lock().unwrap().clone();
            let (_, line) = lines.rsplit_once(parts[0]).expect("a line of the bar");
            let (line, _) = line.split_once("left").expect("the time left");
            assert!(line.contains(parts[1]) && line.contains("/s"), "{lines}");
        }
        let shown = kept.0.lock().unwrap().clone();
        let numbers = shown.split_whitespace().filter_map(|word| word.strip_suffix("/s"));
        let numbers: Vec<&str> = numbers.collect();
        assert!(!numbers.is_empty(), "{shown}");
        assert!(numbers.iter().all(|number| !number.contains('.')), "{shown}");
    }
}
