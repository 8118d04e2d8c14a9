//! `lab tour`: shows a guided tour in chapters, which can be interrupted and continued later.
//!
//! **Invariant:** the state file names the next chapter; it is written after each chapter, and
//! removed after the last one.
//! **Not here:** the chapters (`lab::tour`).

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ::lab::experiment_observer::{Bar, ExperimentObserver};
use ::lab::lab_error::LabError;
use ::lab::tour::{
    CHAPTERS, Chapter, ChapterServers, ChapterSize, Guide, TourOptions, TourSummary,
    run as read_chapters,
};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chapter_servers::ServersOfChapter;
use super::lab_servers::WorkPlace;
use super::watcher::Watcher;
use super::writer_command;
use crate::command::atomic_file::{Target, refused};
use crate::command::input_stream::Input;
use crate::command::{CommandError, interrupt};
use crate::terminal::{Terminal, print, say};

pub(super) const EXAMPLES: &str = "\
Each of the ten chapters takes about a minute, works on its own small cluster, and names the files
that implement its subject. Enter continues and q quits; the next `lab tour` in the same folder
continues with the next chapter.

Examples:
  shard-manager lab tour
  shard-manager lab tour --chapter 6
  shard-manager lab tour --unattended
  shard-manager lab tour --postgres";

/// Maximum number of bytes of a line that is read between two chapters.
const LINE_MAX: u64 = 1_000;

#[derive(Args, Debug)]
pub(super) struct Options {
    /// Read all chapters without waiting between them, and keep no state
    #[arg(long)]
    unattended: bool,
    /// Begin with this chapter
    #[arg(long, value_name = "N")]
    chapter: Option<usize>,
    /// Seed; the same seed chooses the same keys
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// File that stores the next chapter
    #[arg(long, value_name = "FILE", default_value = "./tessera-tour.json")]
    state: PathBuf,
    #[command(flatten)]
    place: WorkPlace,
}

/// State of a tour that was interrupted.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Number of the next chapter.
    next_chapter: usize,
}

/// Guide that shows the chapters on a terminal.
struct TerminalGuide<'t> {
    watcher: Watcher<'t>,
    is_json: bool,
    /// Path of the state file; `None` if no state is kept.
    state: Option<&'t Path>,
    /// Input from the person who reads the tour; `None` if the tour continues without waiting.
    input: Option<Mutex<BufReader<Input>>>,
}

pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    let waits = !options.unattended && !terminal.is_json();
    let state = waits.then_some(options.state.as_path());
    let left = state.map(read_state).transpose()?.flatten();
    if let (Some(next), None) = (left, options.chapter) {
        say(format_args!(
            "the next tour continues with chapter {next}; --chapter 1 starts from the beginning"
        ));
    }
    let input = waits.then(|| Input::open(Path::new("-"))).transpose()?;
    let guide = TerminalGuide {
        watcher: Watcher::new(terminal),
        is_json: terminal.is_json(),
        state,
        input: input.map(|input| Mutex::new(BufReader::new(input))),
    };
    let program = std::env::current_exe();
    let program = program.map_err(|error| CommandError::Refused(error.to_string()))?;
    let WorkPlace { work_dir, postgres } = &options.place;
    let start_servers = |size: ChapterSize| -> Result<Box<dyn ChapterServers>, LabError> {
        let servers = ServersOfChapter::start(work_dir.as_deref(), (size, options.seed), &guide);
        match servers {
            Ok(servers) => Ok(Box::new(servers)),
            Err(error) => Err(LabError::Failed(error.to_string())),
        }
    };
    let wanted = TourOptions {
        first: options.chapter.or(left).unwrap_or(1),
        seed: options.seed,
        work_folder: work_dir.as_deref(),
        start_writer: &|dir| writer_command(&program, (dir, *postgres), options.seed),
        start_servers: if *postgres { Some(&start_servers) } else { None },
    };
    let summary = read_chapters(wanted, &guide)?;
    let TourSummary { seed, engine, machine, .. } = &summary;
    guide.print(&format!("\nseed {seed}; {engine}; {}\n", machine.sentence()));
    if terminal.is_json() {
        terminal.show(&summary, |_| String::new())?;
    }
    Ok(())
}

/// Returns the number of the next chapter of an interrupted tour; `None` if there is no state file.
fn read_state(path: &Path) -> Result<Option<usize>, CommandError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(path, &error)),
    };
    match serde_json::from_str::<State>(&text) {
        Ok(State { next_chapter }) if (1..=CHAPTERS.len()).contains(&next_chapter) => {
            Ok(Some(next_chapter))
        }
        Ok(_) | Err(_) => {
            let line = "this is not the state of a tour: remove the file, or name another one with --state";
            Err(refused(path, &line))
        }
    }
}

impl TerminalGuide<'_> {
    fn print(&self, text: &str) {
        if !self.is_json {
            // An error is ignored: a closed output does not end the tour.
            let _ = print(text.as_bytes());
        }
    }

    /// Stores the number of the next chapter in the state file, or removes the file after the last
    /// chapter.
    fn remember(&self, next: usize) -> Result<(), CommandError> {
        let Some(path) = self.state else { return Ok(()) };
        if next > CHAPTERS.len() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(refused(path, &error)),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let mut file = Target::begin(path)?;
        let text = json!(State { next_chapter: next }).to_string();
        file.write_all(text.as_bytes()).map_err(|error| refused(path, &error))?;
        file.finish()
    }

    /// Waits for a line of input, and returns false if it is `q` or the input has ended.
    fn goes_on(&self) -> bool {
        let Some(input) = &self.input else { return true };
        self.print("\nEnter continues, q quits: ");
        let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = String::new();
        let read = Read::take(&mut *input, LINE_MAX).read_line(&mut line);
        // The end of the input ends the tour, too.
        read.is_ok_and(|bytes| bytes > 0) && line.trim() != "q"
    }
}

impl ExperimentObserver for TerminalGuide<'_> {
    fn report(&self, line: &str) {
        self.print(&format!("  {line}\n"));
    }

    fn bar(&self, name: &str, total: u64) -> Box<dyn Bar> {
        self.watcher.bar(name, total)
    }

    fn is_cancelled(&self) -> bool {
        interrupt::is_interrupted()
    }
}

impl Guide for TerminalGuide<'_> {
    fn open(&self, number: usize, chapter: &Chapter) {
        let Chapter { title, intro, .. } = chapter;
        self.print(&format!("\n{number}. {title}\n{intro}\n\n"));
    }

    fn close(&self, number: usize, chapter: &Chapter) -> Result<bool, LabError> {
        self.print(&format!("\n  implemented in {}\n", chapter.files.join(" and ")));
        self.remember(number + 1).map_err(|error| LabError::Failed(error.to_string()))?;
        Ok(number == CHAPTERS.len() || self.goes_on())
    }
}
