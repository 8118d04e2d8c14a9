//! Screen: a terminal for the messages of the program, whose contents a test reads.
//!
//! **Not here:** standard output, which stays a pipe.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A terminal to which a running program writes its messages.
pub(crate) struct Screen {
    output: File,
}

impl Screen {
    /// Starts a program with its standard error on a new terminal.
    pub(crate) fn start(mut command: Command) -> (Self, Child) {
        let output = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&output).expect("the terminal is ours");
        unlockpt(&output).expect("the terminal can be opened");
        let path = ptsname(&output, Vec::<u8>::new()).expect("the terminal has a path");
        // A program that another test starts must not hold the terminal open.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let input = rustix::fs::open(path.as_c_str(), flags, Mode::empty()).expect("it opens");
        command.env("TERM", "xterm").stdout(Stdio::piped()).stderr(Stdio::from(input));
        let child = command.spawn().expect("the program starts");
        (Self { output: File::from(output) }, child)
    }

    /// Reads what the program writes until it satisfies a condition or the program has ended;
    /// returns it.
    pub(crate) fn read_until(&mut self, is_enough: impl Fn(&str) -> bool) -> String {
        let mut shown: Vec<u8> = Vec::new();
        let mut bytes = [0_u8; 4_096];
        loop {
            let text = String::from_utf8_lossy(&shown).into_owned();
            if is_enough(&text) {
                return text;
            }
            match self.output.read(&mut bytes) {
                Ok(count @ 1..) => shown.extend_from_slice(&bytes[..count]),
                // Without a writer the terminal cannot be read any more.
                Ok(_) | Err(_) => return text,
            }
        }
    }

    /// Reads what the program writes until it has ended.
    pub(crate) fn read_to_end(&mut self) -> String {
        self.read_until(|_| false)
    }
}
