//! Browser: headless Chromium, driven by the DevTools protocol over a pair of pipes.
//!
//! Starting one costs more than a test, so tests use browsers one after the other. No port is
//! opened for a browser, and it ends with the pipes: also if the process of the tests is killed.
//!
//! **Invariant:** a test has its browser alone, in a context of its own: without cookies, storage,
//! cached files and events of earlier tests. A browser that a failed test used is not used again.

use std::io::{BufRead, BufReader, Write};
use std::ops::{Deref, DerefMut};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::router::PATIENCE;

/// The program, as Debian names it.
const PROGRAM: &str = "chromium";

/// Chromium expects the pipes as its files 3 and 4. Its profile is removed when it has ended, which
/// may be after the end of the tests.
const WIRING: &str = "profile=$1; shift; \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null; \
    rm -rf -- \"$profile\"";

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

/// Browsers that no test uses at present.
static IDLE: Mutex<Vec<Browser>> = Mutex::new(Vec::new());

/// A running browser.
pub(crate) struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Value>,
    last: u64,
    /// Session of the page that is open.
    session: Option<String>,
    /// Events of the browser and of the open page, oldest first.
    pub(crate) events: Vec<Value>,
    _profile: TempDir,
}

/// A page of a browser that one test uses alone, until it is dropped.
pub(crate) struct Tab {
    browser: Option<Browser>,
    /// Identifies what the page stores and caches.
    context: Value,
}

impl Tab {
    /// Opens an empty page, in a browser that an earlier test may have used.
    pub(crate) fn open() -> Self {
        let idle = IDLE.lock().unwrap().pop();
        let mut browser = idle.unwrap_or_else(Browser::start);
        let mut made = browser.command("Target.createBrowserContext", &json!({}));
        let context = json!({"browserContextId": made["browserContextId"].take()});
        let mut target = context.clone();
        target["url"] = json!("about:blank");
        let made = browser.command("Target.createTarget", &target);
        let params = json!({"targetId": made["targetId"], "flatten": true});
        let attached = browser.command("Target.attachToTarget", &params);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        Self { browser: Some(browser), context }
    }
}

impl Deref for Tab {
    type Target = Browser;

    fn deref(&self) -> &Browser {
        self.browser.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Tab {
    fn deref_mut(&mut self) -> &mut Browser {
        self.browser.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let browser = self.browser.take().filter(|_| !std::thread::panicking());
        if let Some(mut browser) = browser {
            browser.session = None;
            browser.command("Target.disposeBrowserContext", &self.context);
            browser.events.clear();
            IDLE.lock().unwrap().push(browser);
        }
    }
}

impl Browser {
    fn start() -> Self {
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
        let profile = crate::folders::temporary();
        let mut command = Command::new("sh");
        command.args(["-c", WIRING, "sh"]).arg(profile.path()).arg(PROGRAM).args(FLAGS);
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
        let (session, events) = (None, Vec::new());
        Self { child, commands, messages, last: 0, session, events, _profile: profile }
    }

    /// Sends a command to the page that is open, or to the browser if there is none; its result.
    pub(crate) fn command(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = &self.session {
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
            assert!(began.elapsed() < PATIENCE, "the browser never reported: {what}");
            let message = self.next();
            self.events.push(message.clone());
            if is(&message) {
                return message;
            }
        }
    }

    /// Returns the next message that does not come from the page of an earlier test.
    fn next(&mut self) -> Value {
        loop {
            // The page itself may wait so long before it answers.
            let message = self.messages.recv_timeout(PATIENCE * 2).expect("the browser answers");
            let session = message["sessionId"].as_str();
            if session.is_none() || session == self.session.as_deref() {
                return message;
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Without its pipe it ends by itself, and the shell with it; killed, it would leave its
        // helpers behind.
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
