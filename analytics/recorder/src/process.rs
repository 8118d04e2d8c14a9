//! Process: CPU time, memory and open files of this process, for the metrics `process_*`.
//!
//! **Not here:** systems other than Linux: where `/proc` cannot be read, these metrics are missing.

use std::fs;

/// Clock ticks per second in `/proc`. Linux reports times in ticks of 1/100 s, independently of the
/// tick rate that the kernel uses internally.
const TICKS: f64 = 100.0;

/// Current figures of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProcessNow {
    pub(crate) cpu_seconds: f64,
    /// Time in s since 1970 UTC.
    pub(crate) start_seconds: f64,
    pub(crate) virtual_bytes: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: Option<u64>,
}

impl ProcessNow {
    /// Reads the figures; returns `None` if the system does not provide them.
    pub(crate) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The program name is in parentheses and may contain spaces and parentheses, so the fields
        // are split after the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |place: usize| fields.get(place - 3)?.parse::<f64>().ok();
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let of = |name: &str| figure(&status, name);
        let system = fs::read_to_string("/proc/stat").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Some(Self {
            cpu_seconds: (number(14)? + number(15)?) / TICKS,
            start_seconds: figure(&system, "btime")? as f64 + number(22)? / TICKS,
            virtual_bytes: of("VmSize:")? << 10,
            resident_bytes: of("VmRSS:")? << 10,
            threads: of("Threads:")?,
            // The descriptor of the folder itself, which is open while the entries are counted, is
            // subtracted.
            open_fds: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
            max_fds: figure(&limits, "Max open files"),
        })
    }
}

/// Returns the number after a name at the start of a line.
fn figure(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
