//! A host of the test's own, and a root shell in it: emulated by qemu with a disk of its own, or a container.

#[path = "container.rs"]
mod container;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where `scripts/vm` puts it.
const MADE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/vm");

/// How long it may take to boot, and a command to end: the processor is emulated.
const BOOT_WAIT: Duration = Duration::from_secs(300);
const COMMAND_WAIT: Duration = Duration::from_secs(300);

/// How often the emulator is started for one boot.
const STARTS_MAX: u32 = 3;

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
        let made = Path::new(MADE).join("disk");
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(made).arg(folder.path().join("disk")));
        run(Command::new("tar").arg("cf").arg(folder.path().join("payload")).arg("-C").arg(payload).arg("."));
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.expect("a free port");
        let (machine, shell) = start(folder.path(), address);
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
            let by = Instant::now() + BOOT_WAIT;
            while self.machine.try_wait().expect("it is our child").is_none() {
                assert!(Instant::now() < by, "the host doesn't shut down");
                std::thread::sleep(Duration::from_millis(100));
            }
        } else {
            self.machine.kill().and_then(|()| self.machine.wait()).expect("it is our child");
        }
        (self.machine, self.shell) = start(self.folder.path(), self.address);
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

/// Starts it, and waits for its shell. An emulator that ends before the host is up, as qemu's does now and then by an assertion of
/// its own, is started again.
fn start(folder: &Path, address: SocketAddr) -> (Child, BufReader<UnixStream>) {
    for _ in 1..STARTS_MAX {
        if let Ok(started) = try_start(folder, address) {
            return started;
        }
    }
    try_start(folder, address).unwrap_or_else(|reason| panic!("{reason}"))
}

/// An error only if the emulator ends.
fn try_start(folder: &Path, address: SocketAddr) -> Result<(Child, BufReader<UnixStream>), String> {
    let socket: PathBuf = folder.join("shell");
    let _ = std::fs::remove_file(&socket);
    let file = |name: &str| folder.join(name).display().to_string();
    // Not that of the hardware unless somebody knows that it works: a guest that hangs says nothing.
    let accelerator = std::env::var("VM_ACCEL").unwrap_or_else(|_| "tcg,thread=multi".to_owned());
    let drive = |name: &str, more: &str| format!("file={},format=raw,if=virtio,cache=unsafe{more}", file(name));
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35,vmport=off", "-cpu", "Nehalem", "-smp", "2", "-m", "1536M", "-accel", &accelerator])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-kernel", &format!("{MADE}/kernel"), "-initrd", &format!("{MADE}/initrd")])
        .args(["-append", "console=ttyS0 root=/dev/vda rw quiet mitigations=off audit=0 panic=-1"])
        .args(["-drive", &drive("disk", ""), "-drive", &drive("payload", ",readonly=on")])
        .args(["-serial", &format!("file:{}", file("console"))])
        .args(["-device", "virtio-serial-pci", "-chardev"])
        .arg(format!("socket,id=shell,path={},server=on,wait=off", socket.display()))
        .args(["-device", "virtserialport,chardev=shell,name=shell"])
        // Nothing goes out of it; what comes in is what the test connects.
        .arg("-netdev")
        .arg(format!("user,id=net,restrict=on,hostfwd=tcp:{address}-10.0.2.15:8000"))
        .args(["-device", "virtio-net-pci,netdev=net"])
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu starts: scripts/install-deps vm");
    let by = Instant::now() + BOOT_WAIT;
    let mut ensure_running = || match machine.try_wait().expect("it is our child") {
        None => Ok(()),
        Some(status) => Err(format!("qemu ended with {status} before the host was up: {}", console(folder))),
    };
    let shell = loop {
        match UnixStream::connect(&socket) {
            Ok(shell) => break shell,
            Err(error) => assert!(Instant::now() < by, "qemu's socket: {error}"),
        }
        ensure_running()?;
        std::thread::sleep(Duration::from_millis(50));
    };
    shell.set_read_timeout(Some(BOOT_WAIT)).expect("a deadline");
    let mut shell = BufReader::new(shell);
    // What is written before the shell is there may be lost.
    let mut line = String::new();
    shell.get_ref().set_read_timeout(Some(Duration::from_secs(2))).expect("a deadline");
    loop {
        // It may be gone by now, which is looked at below.
        let _ = shell.get_mut().write_all(b"echo booted\n");
        line.clear();
        match shell.read_line(&mut line) {
            Ok(1..) if line.trim() == "booted" => break,
            Ok(0) => std::thread::sleep(Duration::from_millis(100)),
            _ => {}
        }
        ensure_running()?;
        assert!(Instant::now() < by, "the host doesn't boot: {}", console(folder));
    }
    shell.get_ref().set_read_timeout(Some(COMMAND_WAIT)).expect("a deadline");
    Ok((machine, shell))
}

/// The end of what the host said.
fn console(folder: &Path) -> String {
    let text = std::fs::read(folder.join("console")).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
}

fn run(command: &mut Command) {
    assert!(command.status().is_ok_and(|status| status.success()), "{command:?}");
}
