//! A host of the test's own, and a root shell in it: emulated by qemu with a disk of its own, or a container.

mod container;
mod emulator;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where `scripts/vm` puts it.
const MADE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/vm");

/// How long a command may take, and what ends the host: the processor may be emulated.
const COMMAND_WAIT: Duration = Duration::from_secs(300);

/// What makes a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Emulator,
    Container,
}

/// A host. Dropping it takes its power away.
pub(crate) struct Guest {
    maker: Maker,
    folder: TempDir,
    /// Where its port 8000 is met from outside.
    pub(crate) address: SocketAddr,
    machine: Child,
    shell: BufReader<UnixStream>,
    commands: u32,
}

impl Guest {
    /// Boots a host with a disk of its own, and a second one that holds a folder as an archive.
    pub(crate) fn boot(payload: &Path) -> Self {
        let folder = own_folder();
        emulator::prepare(folder.path(), payload);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.expect("a free port");
        let (machine, shell) = emulator::start(folder.path(), address);
        let mut guest = Self { maker: Maker::Emulator, folder, address, machine, shell, commands: 0 };
        guest.run("mkdir /payload && tar xf /dev/vdb -C /payload");
        guest
    }

    /// Starts a container with the disk's files, a volume for the server's state, and this process's network.
    pub(crate) fn contain(payload: &Path) -> Self {
        let folder = own_folder();
        let (machine, shell) = container::start(folder.path(), payload);
        let address = (Ipv4Addr::LOCALHOST, 8000).into();
        let mut guest = Self { maker: Maker::Container, folder, address, machine, shell, commands: 0 };
        guest.run(container::LIMITS);
        guest
    }

    /// Runs a command as root; its output, if it exits with 0.
    pub(crate) fn run(&mut self, command: &str) -> String {
        match self.try_run(command) {
            (0, output) => output,
            (status, output) => panic!("{command:?} exited with {status}: {output}"),
        }
    }

    /// Runs a command as root; its status and output.
    pub(crate) fn try_run(&mut self, command: &str) -> (i32, String) {
        self.commands += 1;
        let mark = format!("@@{}:", self.commands);
        let line = format!("{{ {command}\n}} </dev/null; echo \"@@{}:$?\"\n", self.commands);
        self.shell.get_mut().write_all(line.as_bytes()).expect("the shell takes input");
        let mut output = String::new();
        loop {
            let mut line = String::new();
            let length =
                self.shell.read_line(&mut line).unwrap_or_else(|error| panic!("{command:?}: {error}; {output}"));
            assert!(length > 0, "the host is gone in {command:?}: {output}");
            // The last line of the output may have no end.
            if let Some((rest, status)) = line.split_once(&mark) {
                return (status.trim().parse().expect("a status"), output + rest);
            }
            output += &line;
        }
    }

    /// Waits until a command exits with 0.
    pub(crate) fn until(&mut self, command: &str) {
        let by = Instant::now() + COMMAND_WAIT;
        while self.try_run(command).0 != 0 {
            assert!(Instant::now() < by, "{command:?} never holds");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Boots the host anew: after it was shut down in good order, or after its power was taken away.
    pub(crate) fn reboot(&mut self, orderly: bool) {
        assert_eq!(self.maker, Maker::Emulator, "a container's files go with it");
        if orderly {
            self.shell.get_mut().write_all(b"systemctl poweroff\n").expect("the shell takes input");
            let by = Instant::now() + COMMAND_WAIT;
            while self.machine.try_wait().expect("it is our child").is_none() {
                assert!(Instant::now() < by, "the host doesn't shut down");
                std::thread::sleep(Duration::from_millis(100));
            }
        } else {
            self.machine.kill().and_then(|()| self.machine.wait()).expect("it is our child");
        }
        (self.machine, self.shell) = emulator::start(self.folder.path(), self.address);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.machine.kill();
        let _ = self.machine.wait();
        if self.maker == Maker::Container {
            container::sweep(self.folder.path());
        }
    }
}

fn own_folder() -> TempDir {
    tempfile::Builder::new().prefix("vm.").tempdir_in("/var/tmp").expect("a temporary folder")
}
