//! Machine: facts about the hardware and the program, which a reader needs to judge measured
//! numbers.

use std::fs;

use serde::Serialize;

/// Hardware, operating system and program with which numbers were measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Number of cores that this process may use.
    pub cores: usize,
    /// Main memory in bytes; 0 if the system does not report it.
    pub memory_bytes: u64,
    /// Name and version of the kernel.
    pub kernel: String,
    /// Version of this program.
    pub tessera: &'static str,
    /// True if the program was compiled without optimisation, so that its times are not meaningful.
    pub is_debug_build: bool,
}

impl Machine {
    /// Returns the facts about this machine.
    pub fn here() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|kib| kib.trim_end_matches("kB").trim().parse::<u64>().ok());
        let kernel = text("/proc/sys/kernel/osrelease");
        Self {
            processor: field(&text("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.unwrap_or(0) << 10,
            kernel: format!("{} {}", std::env::consts::OS, kernel.trim()),
            tessera: env!("CARGO_PKG_VERSION"),
            is_debug_build: cfg!(debug_assertions),
        }
    }

    /// Returns the facts as a sentence.
    pub fn sentence(&self) -> String {
        let Self { processor, cores, memory_bytes, kernel, tessera, is_debug_build } = self;
        let memory = *memory_bytes as f64 / f64::from(1 << 30);
        let build =
            if *is_debug_build { ", built without optimisation: times say little" } else { "" };
        let noun = if *cores == 1 { "core" } else { "cores" };
        format!("{processor}, {cores} {noun}, {memory:.1} GiB, {kernel}; Tessera {tessera}{build}")
    }
}

/// Returns the peak resident memory of this process in bytes; `None` if the system does not report
/// it.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}
