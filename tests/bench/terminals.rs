//! Web terminals that others use, each as a process of its own: started on a free port, and tried. Those that are libraries
//! serve by a few lines in `peers/`. scripts/install-peers installs all of them; which, and how, is its business.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::client::{Address, Client, Place};
use crate::dialect::Dialect;
use crate::folder::Folder;
use crate::server::wait_for;
use crate::signals;
use crate::tty::{Program, last_line};

/// Where they are installed, and where the lines lie that make servers of them.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-peers");
const LINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/peers");

/// A web terminal's process. Dropping it ends it.
pub(crate) struct Terminal {
    process: Child,
    /// Where its terminals are.
    pub(crate) place: Place,
}

/// A web terminal, or why there is none.
pub(crate) type Candidate = Result<Terminal, String>;

/// One of the kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Terminado,
    Channels,
    NodePty,
    Wetty,
}

impl Terminal {
    /// Starts one whose terminals run `shell`, and tries whether it comes to a prompt.
    pub(crate) fn start(kind: Kind, shell: &Program, folder: &Folder) -> Candidate {
        let started = Self::serve(kind, shell, folder).and_then(|terminal| {
            Client::open(&terminal.place)?.until_prompt()?;
            Ok(terminal)
        });
        started.map_err(|error| format!("{error:#}"))
    }

    fn serve(kind: Kind, shell: &Program, folder: &Folder) -> anyhow::Result<Self> {
        let port = free_port()?;
        let log = folder.path().join(format!("{kind:?}.log"));
        let words = kind.words(port, shell, folder)?;
        let env = shell.env.iter().map(|(key, value)| (key, value));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(env).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log)?);
        let process = signals::spawn(&mut command).context("not installed: scripts/install-peers tells why")?;
        let socket = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let place = Place {
            address: Address { socket, token: String::new() },
            path: kind.path().to_owned(),
            dialect: kind.dialect(),
        };
        let mut terminal = Self { process, place };
        let listens = wait_for(|| {
            let ended = terminal.process.try_wait().ok().flatten().is_some();
            (ended || TcpStream::connect(socket).is_ok()).then_some(!ended)
        });
        if listens != Some(true) {
            bail!("does not serve: {}", last_line(&std::fs::read(&log)?));
        }
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Kind {
    /// The server's program and arguments.
    fn words(self, port: u16, shell: &Program, folder: &Folder) -> anyhow::Result<Vec<String>> {
        let python = format!("{INSTALLED}/python/bin/python");
        let node = format!("{INSTALLED}/node");
        let mut words = match self {
            Self::Terminado => vec![python, format!("{LINES}/terminado_server.py")],
            Self::Channels => vec![python, format!("{LINES}/channels_server.py")],
            Self::NodePty => {
                // Node looks for packages above the file that asks for them.
                let script = format!("{INSTALLED}/node-pty/server.mjs");
                let copied = std::fs::copy(format!("{LINES}/node_pty_server.mjs"), &script);
                copied.context("not installed: scripts/install-peers tells why")?;
                vec![node, script]
            }
            Self::Wetty => return wetty(port, shell, folder),
        };
        words.push(port.to_string());
        words.extend(shell.words.iter().cloned());
        Ok(words)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Wetty => "/wetty/socket.io/?EIO=4&transport=websocket",
            _ => "/terminal",
        }
    }

    fn dialect(self) -> Dialect {
        match self {
            Self::Terminado => Dialect::Terminado,
            Self::Channels | Self::NodePty => Dialect::Text,
            Self::Wetty => Dialect::SocketIo,
        }
    }
}

/// wetty's own command. Started by root it runs another than login(1) if told to, by one word.
fn wetty(port: u16, shell: &Program, folder: &Folder) -> anyhow::Result<Vec<String>> {
    let main = format!("{INSTALLED}/wetty/node_modules/wetty/build/main.js");
    ensure!(Path::new(&main).is_file(), "not installed: scripts/install-peers tells why");
    let script = folder.place("wetty-shell");
    std::fs::write(&script, format!("#!/bin/sh\nexec {}\n", shell.words.join(" ")))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let port = port.to_string();
    let node = format!("{INSTALLED}/node");
    let words = [&node, &main, "--host", "127.0.0.1", "--port", &port, "--base", "/wetty", "--command", &script];
    Ok(words.map(str::to_owned).to_vec())
}

/// A port that nobody listened at just now.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
