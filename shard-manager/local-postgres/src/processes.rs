//! Processes: suspends, resumes and kills a server with all its child processes.
//!
//! **Invariant:** signals are sent only to the server, whose pid the calling code has verified, and
//! to the processes that are its descendants at that moment.
//! **Not here:** the pid of a node's server (`node`).

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Time limit for a process to be suspended. A process that is waiting for the disk is suspended
/// only after the disk has responded.
const SUSPEND_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

/// Process, as the operating system describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// True if it is suspended by a signal, or has exited already.
    is_suspended: bool,
}

/// Suspends a server and its descendants. Returns whether all of them are suspended.
pub(super) fn freeze(server: Pid) -> bool {
    let deadline = Instant::now() + SUSPEND_MAX;
    loop {
        // The server itself is suspended first, so that it starts no more processes.
        let moving: Vec<_> = family(server).into_iter().filter(|it| !it.is_suspended).collect();
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

/// Resumes a frozen server and its descendants.
pub(super) fn thaw(server: Pid) {
    send(&family(server), Signal::CONT);
}

/// Terminates a frozen server and its descendants. The signals are sent before the processes are
/// resumed, so that they take effect at once.
pub(super) fn end_frozen(server: Pid) {
    let family = family(server);
    send(&family, Signal::QUIT);
    send(&family, Signal::CONT);
}

/// Kills a server and its descendants. They are suspended first, so that none of them starts
/// another process or completes any work after the first one was killed.
pub(super) fn kill(server: Pid) {
    freeze(server);
    send(&family(server), Signal::KILL);
}

/// Returns whether a server is frozen.
pub(super) fn is_frozen(server: Pid) -> bool {
    let number = server.as_raw_nonzero().get();
    let found = match fs::read_to_string(format!("/proc/{number}/stat")) {
        Ok(line) => parse_stat(&line),
        Err(_) if is_proc() => None,
        Err(_) => all().into_iter().find(|it| it.pid == number),
    };
    found.is_some_and(|found| found.is_suspended)
}

fn send(processes: &[Process], signal: Signal) {
    for pid in processes.iter().filter_map(|it| Pid::from_raw(it.pid)) {
        // An error means that the process has exited meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Returns a process and its descendants, with the process itself first.
fn family(server: Pid) -> Vec<Process> {
    let all = all();
    let number = server.as_raw_nonzero().get();
    let mut family: Vec<_> = all.iter().copied().filter(|it| it.pid == number).collect();
    let mut next = 0;
    while let Some(parent) = family.get(next).map(|it| it.pid) {
        family.extend(all.iter().filter(|it| it.parent == parent && it.pid != parent));
        next += 1;
    }
    family
}

fn all() -> Vec<Process> {
    if !is_proc() {
        return list_with_ps();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let stats = names.filter(|name| is_number(name));
    // The file is missing if the process has exited meanwhile.
    stats
        .filter_map(|name| parse_stat(&fs::read_to_string(format!("/proc/{name}/stat")).ok()?))
        .collect()
}

fn is_proc() -> bool {
    fs::exists("/proc/self/stat").unwrap_or(false)
}

/// Parses a line such as `12 (a name) S 1 …`; the name may contain any character.
fn parse_stat(line: &str) -> Option<Process> {
    let (before, after) = line.rsplit_once(") ")?;
    let pid = before.split(' ').next()?.parse().ok()?;
    let mut words = after.split(' ');
    let state = words.next()?;
    Some(Process { pid, parent: words.next()?.parse().ok()?, is_suspended: is_suspended(state) })
}

/// Lists the processes of a system without `/proc`.
fn list_with_ps() -> Vec<Process> {
    let mut command = Command::new("ps");
    let run = command.args(["-A", "-o", "pid=,ppid=,state="]).stdin(Stdio::null()).output();
    let listed = run.map(|ended| String::from_utf8_lossy(&ended.stdout).into_owned());
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Process { pid, parent, is_suspended: is_suspended(words.next()?) })
    };
    listed.unwrap_or_default().lines().filter_map(process).collect()
}

fn is_suspended(state: &str) -> bool {
    state.starts_with(['T', 't', 'Z', 'X'])
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let read = parse_stat("12 (a) S 3) T 7 12 12 0");
        assert_eq!(read, Some(Process { pid: 12, parent: 7, is_suspended: true }));
        assert_eq!(parse_stat("12 (postgres) S 1 0").map(|it| it.is_suspended), Some(false));
        assert_eq!(parse_stat("nothing"), None);
    }

    #[test]
    fn a_child_is_killed_without_a_chance_to_end_by_itself() {
        let mut child = Command::new("sh").args(["-c", "sleep 30; true"]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        while family(pid).len() < 2 {
            sleep(POLL);
        }
        kill(pid);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
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
        assert!(is_frozen(pid) && family(pid).iter().all(|it| it.is_suspended));
        thaw(pid);
        while is_frozen(pid) {
            sleep(POLL);
        }
        freeze(pid);
        end_frozen(pid);
        // A background process of a shell ignores the signal that ends a server, and continues.
        while child.try_wait().unwrap().is_none() {
            if !is_frozen(pid) {
                child.kill().unwrap();
            }
            sleep(POLL);
        }
    }
}
