//! A user at a terminal: a shell in a PTY of the test's own, in which commands are typed.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use tempfile::TempDir;

use crate::harness::{DEADLINE, Server};

/// What the shell says when it waits for a command.
const PROMPT: &str = "user> ";

/// Somebody who sits at a terminal of 100 columns and 30 rows, with the command `cloister` for a server's folders.
pub(crate) struct User {
    master: Option<Box<dyn MasterPty + Send>>,
    keyboard: Box<dyn Write + Send>,
    screen: Receiver<Vec<u8>>,
    shell: Box<dyn Child + Send + Sync>,
    _programs: TempDir,
    /// What was shown and not expected yet.
    text: String,
    number: u32,
}

impl User {
    /// Opens a terminal and waits for the shell.
    pub(crate) fn sit_down(server: &Server) -> Self {
        let programs = tempfile::tempdir().expect("a temporary folder");
        write_script(&programs.path().join("cloister"), &server.command(&[]));
        let size = PtySize { cols: 100, rows: 30, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).expect("a PTY");
        let mut command = CommandBuilder::new("/bin/sh");
        command.env_clear();
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.path().display()));
        command.env("TERM", "xterm-256color");
        command.env("PS1", PROMPT);
        command.cwd("/");
        let shell = pair.slave.spawn_command(command).expect("a shell");
        let mut output = pair.master.try_clone_reader().expect("a reader");
        let (shown, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if shown.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let keyboard = pair.master.take_writer().expect("a writer");
        let (master, text) = (Some(pair.master), String::new());
        let mut user = Self { master, keyboard, screen, shell, _programs: programs, text, number: 0 };
        user.expect(PROMPT);
        user
    }

    /// Types; a line ends with `\r`.
    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until `wanted` is shown, and gives all up to its end that nobody expected before.
    pub(crate) fn expect(&mut self, wanted: &str) -> String {
        let by = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            match self.screen.recv_timeout(by.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => panic!("no {wanted:?}; there was {:?}", self.text),
                Err(RecvTimeoutError::Disconnected) => panic!("gone before {wanted:?}; there was {:?}", self.text),
            }
        }
    }

    /// Waits for the user's own shell: the command that was typed has ended.
    pub(crate) fn expect_prompt(&mut self) -> String {
        self.expect(PROMPT)
    }

    /// The output of a command in the user's shell, whose `$?` is that of the command before.
    pub(crate) fn asks(&mut self, command: &str) -> String {
        self.number += 1;
        let number = self.number;
        // What is typed is echoed: the marks differ from it by their quotes.
        self.types(&format!("s=$?; echo 'be''gin-{number}'; (exit $s); {command}; echo 'e''nd-{number}'\r"));
        self.expect(&format!("begin-{number}\r\n"));
        let end = format!("end-{number}\r\n");
        let output = self.expect(&end);
        self.expect_prompt();
        output[..output.len() - end.len()].trim_end().to_owned()
    }

    /// The status of the last command.
    pub(crate) fn status(&mut self) -> String {
        self.asks("echo $?")
    }

    /// The terminal's modes: raw or not, and all the rest.
    pub(crate) fn modes(&mut self) -> String {
        self.asks("stty -g")
    }

    /// Starts `cloister` with these words and gives its process id.
    pub(crate) fn starts(&mut self, words: &str) -> i32 {
        self.types(&format!("sh -c 'echo p\"\"id=$$; exec cloister {words}'\r"));
        self.expect("pid=");
        let line = self.expect("\r\n");
        line.trim().parse().expect("a process id")
    }

    /// Gives the window another size.
    pub(crate) fn resizes(&mut self, cols: u16, rows: u16) {
        let master = self.master.as_ref().expect("the terminal is open");
        master.resize(PtySize { cols, rows, ..PtySize::default() }).expect("the terminal takes a size");
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Hangs up, as a closed window does.
        self.master = None;
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Writes a program that runs `command` with more words.
fn write_script(path: &std::path::Path, command: &Command) {
    let mut script = "#!/bin/sh\nexec".to_owned();
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        script.push_str(&format!(" '{}'", word.to_str().expect("test folders are UTF-8")));
    }
    script.push_str(" \"$@\"\n");
    std::fs::write(path, script).expect("the script is written");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("the script can be run");
}
