//! Attacks by name, each from inside a real cell: on the kernel, on the host, on other cells, on the server. What is asserted
//! is that they are refused, or that the attacker alone suffers.

mod bombs;
mod calls;
mod neighbours;
mod policy;
mod server;
mod view;

use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use crate::harness::Server;

/// A project whose cell attacks.
struct Attacker<'a> {
    server: &'a Server,
    project: String,
}

impl<'a> Attacker<'a> {
    fn new(server: &'a Server) -> Self {
        Self::with(server, "")
    }

    /// One with its own settings.
    fn with(server: &'a Server, settings: &str) -> Self {
        Self { server, project: server.project_with(settings) }
    }

    fn folder(&self) -> PathBuf {
        self.server.projects().join(&self.project)
    }

    /// Puts a file into the workspace.
    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.folder().join("workspace").join(name), text).expect("the file is written");
    }

    /// Runs a shell script in a cell, to its end.
    fn try_run(&self, script: &str) -> Output {
        let words = ["run", &self.project, "--", "sh", "-c", script];
        self.server.command(&words).stdin(Stdio::null()).output().expect("cloister runs")
    }

    /// As [`Attacker::try_run`]; the cell itself must work, whatever becomes of the script. Gives what it said.
    fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        // The command's own status is 125 if there is no cell.
        assert_ne!(output.status.code(), Some(125), "{output:?}");
        String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
    }

    /// Starts a shell script in a cell; it ends with its standard input.
    fn start(&self, script: &str) -> Child {
        let words = ["run", &self.project, "--", "sh", "-c", script];
        let mut command = self.server.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cloister runs")
    }

    /// The processes of the cell, as the host sees them.
    fn processes(&self) -> Vec<u32> {
        let place = format!("/{}/workspace /workspace ", self.project);
        let pids = std::fs::read_dir("/proc").expect("/proc is there");
        let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let within = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|mounts| mounts.contains(&place))
        };
        pids.filter(within).collect()
    }
}

/// A field of a process's status, as the host sees it.
fn status(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("the kernel knows the field").trim().to_owned()
}
