//! Benchmark of the checker: time and peak memory to check a million operations, from memory and
//! from a file.
//!
//! `cargo bench -p checker --bench checker`. The history is that of a simulated run with 64 hot
//! rows and 100 000 cold ones, drawn by Zipf's law. The peak memory must be that of a process that
//! only checks, so the program starts itself a second time to check the file.

#[path = "../tests/checker/server.rs"]
mod server;

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use checker::check;
use checker::history::{OperationHistory, lines};
use server::{BrokenPromise, Settings};

const OPERATIONS: usize = 1_000_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, judge, path] = args.as_slice()
        && judge == "judge"
    {
        return judge_file(Path::new(path));
    }
    let made = Instant::now();
    let settings = Settings {
        seed: 1,
        operations: 900_000,
        sessions: 64,
        hot: 64,
        cold: 100_000,
        broken: BrokenPromise::Nothing,
    };
    let mut history = server::run(settings);
    assert!(history.operations.len() >= OPERATIONS, "{} operations", history.operations.len());
    println!("made {} in {:.2} s", size(&history), made.elapsed().as_secs_f64());

    judge(&history);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.jsonl");
    let writing = Instant::now();
    let file = File::create(&path).expect("a file");
    lines::write(&history, &mut BufWriter::with_capacity(1 << 18, file)).expect("room");
    let bytes = path.metadata().expect("a file").len();
    println!("written {} MB in {:.2} s", bytes / 1_000_000, writing.elapsed().as_secs_f64());

    // All operations are on two rows. This would reveal a check that takes more than O(n log n)
    // time in the number of operations of a row.
    let two = server::run(Settings { hot: 1, cold: 1, ..settings });
    println!("made {}", size(&two));
    judge(&two);
    drop(two);

    history.operations = Vec::new();
    let program = std::env::current_exe().expect("a program");
    let status = Command::new(program).arg("judge").arg(&path).status().expect("it starts");
    assert!(status.success());
}

fn judge_file(path: &Path) {
    let reading = Instant::now();
    let file = File::open(path).expect("a file");
    let history = lines::read(&mut BufReader::with_capacity(1 << 18, file)).expect("a history");
    let mb = peak_mb();
    println!("read {} in {:.2} s, peak {mb} MB", size(&history), reading.elapsed().as_secs_f64());
    judge(&history);
    println!("read and checked: peak {} MB", peak_mb());
}

fn judge(history: &OperationHistory) {
    let checking = Instant::now();
    let report = check(history);
    println!("checked in {:.2} s", checking.elapsed().as_secs_f64());
    assert!(report.passed(), "{}", report.text(history));
}

fn size(history: &OperationHistory) -> String {
    format!("{} operations of {} rows", history.operations.len(), history.keys.len())
}

/// Returns the peak memory of this process, in megabytes.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1_024 / 1_000_000
}
