//! The host as qemu emulates it, with a kernel of its own: a disk, and a second one that holds what is brought along.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{COMMAND_WAIT, MADE};

/// How long it may take to boot.
const BOOT_WAIT: Duration = Duration::from_secs(300);

/// How often the emulator is started for one boot.
const STARTS_MAX: u32 = 3;

/// Makes its disks in `folder`.
pub(super) fn prepare(folder: &Path, payload: &Path) {
    let made = Path::new(MADE).join("disk");
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(made).arg(folder.join("disk")));
    run(Command::new("tar").arg("cf").arg(folder.join("payload")).arg("-C").arg(payload).arg("."));
}

fn run(command: &mut Command) {
    assert!(command.status().is_ok_and(|status| status.success()), "{command:?}");
}

/// Starts it, and waits for its shell. An emulator that ends before the host is up, as qemu's does now and then by an assertion of
/// its own, is started again.
pub(super) fn start(folder: &Path, address: SocketAddr) -> (Child, BufReader<UnixStream>) {
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
    let drive = |name: &str, more: &str| {
        format!("file={},format=raw,if=virtio,cache.writeback=on,cache.no-flush=on{more}", file(name))
    };
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
