//! CPU: the CPU usage of the machine and of the load tester, from Linux's `/proc`.
//!
//! **Invariant:** if `/proc` cannot be read, the tester and the machine count as idle.

use std::time::Instant;

/// Number of clock ticks per second in `/proc`, which is the same on every Linux that Rust
/// supports.
const TICKS_PER_S: f64 = 100.0;

/// CPU use over a span of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// Average number of cores that the tester kept busy.
    pub(crate) own_cores: f64,
    /// Number of cores of the machine.
    pub(crate) cores: f64,
    /// Fraction of the time of all cores that was idle.
    pub(crate) idle_share: f64,
}

/// CPU counters at the start of a measurement.
pub(crate) struct Watch {
    began: Instant,
    own: Option<u64>,
    all: Option<(u64, u64)>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), own: own_ticks(), all: machine_ticks() }
    }

    pub(crate) fn stop(&self) -> Cpu {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let own = match (self.own, own_ticks()) {
            (Some(before), Some(now)) => now.saturating_sub(before) as f64 / TICKS_PER_S / seconds,
            (None, _) | (_, None) => 0.0,
        };
        let idle_share = match (self.all, machine_ticks()) {
            (Some((idle, all)), Some((idle_now, all_now))) => {
                let spent = all_now.saturating_sub(all).max(1);
                (idle_now.saturating_sub(idle) as f64 / spent as f64).min(1.0)
            }
            (None, _) | (_, None) => 1.0,
        };
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        Cpu { own_cores: own, cores, idle_share }
    }
}

/// Returns the user and system time of this process, in ticks.
fn own_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in parentheses, may contain any character.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(field(11)? + field(12)?)
}

/// Returns the idle time and the total time of all cores, in ticks.
fn machine_ticks() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|tick| tick.parse().ok()).collect();
    // The fields are: user nice system idle iowait irq softirq steal. The guest fields after them
    // are part of user.
    Some((*ticks.get(3)? + ticks.get(4)?, ticks.iter().take(8).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let watch = Watch::start();
        let mut sum = 0_u64;
        while own_ticks() == watch.own {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let cpu = watch.stop();
        assert!(cpu.own_cores > 0.0 && cpu.cores >= 1.0, "{cpu:?}");
        assert!((0.0..=1.0).contains(&cpu.idle_share), "{cpu:?}");
    }
}
