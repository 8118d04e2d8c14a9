//! Browser: headless Chromium, driven by the DevTools protocol over a pair of pipes.
//!
//! No port is opened for it, and it ends with the pipes: also if the test is killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::router::PATIENCE;

/// The program, as Debian names it.
const PROGRAM: &str = "chromium";

/// Chromium expects the pipes as its files 3 and 4.
const WIRING: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null";

const FLAGS: [&str; 12] = [
    "--headless",
    "--remote-debugging-pipe",
    // It opens nothing but pages of this repository; as root and in containers it has no sandbox.
    "--no-sandbox",
    "--disable-gpu",
    // Containers have a small one.
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--hide-scrollbars",
];

/// A running browser.
pub(crate) struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Value>,
    last: u64,
    /// Events of the browser, oldest first.
    pub(crate) events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let found = Command::new(PROGRAM)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let is_there = found.is_ok_and(|status| status.success());
        assert!(
            is_there,
            "there is no working {PROGRAM}, in which the dashboard is looked at: ./setup.sh tools installs it"
        );
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", WIRING, PROGRAM]).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, messages) = channel();
        let answers = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { break };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let commands = child.stdin.take();
        Self { child, commands, messages, last: 0, events: Vec::new(), _profile: profile }
    }

    /// Sends a command to the browser, or to the page of a session; its result.
    pub(crate) fn command(&mut self, method: &str, params: &Value, session: Option<&str>) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.as_mut().unwrap().write_all(&bytes).unwrap();
        loop {
            let mut message = self.next();
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// Waits for an event that `is` the one.
    pub(crate) fn wait_for(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        if let Some(event) = self.events.iter().find(|event| is(event)) {
            return event.clone();
        }
        let began = std::time::Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "the browser never told: {what}");
            let message = self.next();
            self.events.push(message.clone());
            if is(&message) {
                return message;
            }
        }
    }

    fn next(&mut self) -> Value {
        // The page itself may wait so long before it answers.
        self.messages.recv_timeout(PATIENCE * 2).expect("the browser answers")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Without its pipe it ends by itself; killed, it would leave its helpers behind.
        self.commands = None;
        let began = std::time::Instant::now();
        while began.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
