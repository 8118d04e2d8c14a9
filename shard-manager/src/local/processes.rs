//! Processes: a server with all that it has started, frozen and thawed.
//!
//! **Invariant:** a signal goes to the server, whose number the caller vouches for, and to processes that descend from
//! it at that moment; to nobody else.
//! **Not here:** which process is a node's server (`node`).

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to stand still: one that waits for the disk does so after that.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

/// A process as the system tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// Stopped by a signal, or ended already.
    is_still: bool,
}

/// Freezes a server and all that it has started; whether all of them stand still.
pub(super) fn freeze(server: Pid) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The server comes first: after that it starts nothing more.
        let moving: Vec<_> = family(server).into_iter().filter(|it| !it.is_still).collect();
        if moving.is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        send(&moving, Signal::STOP);
        sleep(POLL);
    }
}

/// Lets a frozen server and all that it has started go on.
pub(super) fn thaw(server: Pid) {
    send(&family(server), Signal::CONT);
}

/// Tells a frozen server and all that it has started to end at once: none of them does anything else before.
pub(super) fn end_frozen(server: Pid) {
    let family = family(server);
    send(&family, Signal::QUIT);
    send(&family, Signal::CONT);
}

/// Whether a server is frozen.
pub(super) fn is_frozen(server: Pid) -> bool {
    let number = server.as_raw_nonzero().get();
    let found = match fs::read_to_string(format!("/proc/{number}/stat")) {
        Ok(line) => of_stat(&line),
        Err(_) if is_proc() => None,
        Err(_) => all().into_iter().find(|it| it.pid == number),
    };
    found.is_some_and(|found| found.is_still)
}

fn send(processes: &[Process], signal: Signal) {
    for pid in processes.iter().filter_map(|it| Pid::from_raw(it.pid)) {
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// A process and those that descend from it, itself first.
fn family(server: Pid) -> Vec<Process> {
    let all = all();
    let number = server.as_raw_nonzero().get();
    let mut family: Vec<_> = all.iter().copied().filter(|it| it.pid == number).collect();
    let mut at = 0;
    while let Some(parent) = family.get(at).map(|it| it.pid) {
        family.extend(all.iter().filter(|it| it.parent == parent && it.pid != parent));
        at += 1;
    }
    family
}

fn all() -> Vec<Process> {
    if !is_proc() {
        return of_ps();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let stats = names.filter(|name| is_number(name));
    // One that has ended meanwhile has no file any more.
    stats
        .filter_map(|name| of_stat(&fs::read_to_string(format!("/proc/{name}/stat")).ok()?))
        .collect()
}

fn is_proc() -> bool {
    fs::exists("/proc/self/stat").unwrap_or(false)
}

/// A line such as `12 (a name) S 1 …`; the name may hold anything.
fn of_stat(line: &str) -> Option<Process> {
    let (before, after) = line.rsplit_once(") ")?;
    let pid = before.split(' ').next()?.parse().ok()?;
    let mut words = after.split(' ');
    let state = words.next()?;
    Some(Process { pid, parent: words.next()?.parse().ok()?, is_still: is_still(state) })
}

/// Where the system has no folder of processes.
fn of_ps() -> Vec<Process> {
    let mut command = Command::new("ps");
    let asked = command.args(["-A", "-o", "pid=,ppid=,state="]).stdin(Stdio::null()).output();
    let said = asked.map(|ended| String::from_utf8_lossy(&ended.stdout).into_owned());
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Process { pid, parent, is_still: is_still(words.next()?) })
    };
    said.unwrap_or_default().lines().filter_map(process).collect()
}

fn is_still(state: &str) -> bool {
    state.starts_with(['T', 't', 'Z', 'X'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let read = of_stat("12 (a) S 3) T 7 12 12 0");
        assert_eq!(read, Some(Process { pid: 12, parent: 7, is_still: true }));
        assert_eq!(of_stat("12 (postgres) S 1 0").map(|it| it.is_still), Some(false));
        assert_eq!(of_stat("nothing"), None);
    }

    #[test]
    fn a_child_is_frozen_and_goes_on_with_what_it_has_started() {
        let mut child = Command::new("sh").args(["-c", "sleep 30; true"]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        while family(pid).len() < 2 {
            sleep(POLL);
        }
        assert!(!is_frozen(pid));
        assert!(freeze(pid));
        assert!(is_frozen(pid) && family(pid).iter().all(|it| it.is_still));
        thaw(pid);
        while is_frozen(pid) {
            sleep(POLL);
        }
        freeze(pid);
        end_frozen(pid);
        // Whoever was started in the background of a shell ignores what ends a server, and goes on instead.
        while child.try_wait().unwrap().is_none() {
            if !is_frozen(pid) {
                child.kill().unwrap();
            }
            sleep(POLL);
        }
    }
}
