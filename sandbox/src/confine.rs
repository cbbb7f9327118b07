//! Walls around a process that has all it needs: the server, from the moment on at which it begins to serve; and one beside it that
//! speaks with somebody outside in its place.
//!
//! Whoever takes it over must find neither the host's files nor the rarely used half of the kernel. What it holds open
//! stays open; everything it starts to do afterwards goes through Landlock, where the kernel has that, and through a filter
//! of system calls: the cells' own, without what only a tenant's programs need (`sandbox/policy/server.txt`). It knows no
//! folder by name and no launcher.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::policy::Catalogue;
use crate::privilege::{conceal, keep_capabilities};
use crate::seccomp::Filter;

/// What a confined process may still reach. Everything else has to be open already.
#[derive(Debug)]
pub struct Reach<'a> {
    /// Folders beneath which it makes, changes and removes files and folders.
    pub written: &'a [BorrowedFd<'a>],
    /// Folders beneath which it reads.
    pub read: &'a [BorrowedFd<'a>],
    /// The TCP port that it listens on, if it does; 0 is one that the kernel chooses.
    pub listens: Option<u16>,
    /// The TCP ports that it connects to, of whichever host: Landlock tells ports apart, not addresses.
    pub connects: &'a [u16],
    /// Whether it looks names up, for which it has datagrams.
    pub finds_names: bool,
}

/// How much of the Landlock rules this kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All.
    Fully,
    /// Those that it knows.
    Partly,
    /// None: it has no Landlock, or it is switched off.
    Not,
}

/// The rules as Linux 6.12 knows them: files, TCP, signals, abstract sockets.
const LANDLOCK: ABI = ABI::V6;

/// Confines the calling thread, and all that it starts, for good: call it while the process has one thread. Landlock is
/// best effort, as older kernels lack it; without the filter nothing is served.
pub fn confine(reach: &Reach<'_>) -> io::Result<Enforced> {
    keep_capabilities(&[])?;
    conceal()?;
    rustix::thread::set_no_new_privs(true)?;
    let enforced = restrict(reach).map_err(io::Error::other)?;
    Filter::compile(&Catalogue::get().server(reach.finds_names)).map_err(io::Error::other)?.apply()?;
    Ok(enforced)
}

/// How much of the Landlock rules this kernel would enforce; nothing is restricted.
pub fn support() -> Enforced {
    let all = rules(CompatLevel::HardRequirement);
    let some = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    match (all, some) {
        (Ok(_), _) => Enforced::Fully,
        (Err(_), Ok(_)) => Enforced::Partly,
        (Err(_), Err(_)) => Enforced::Not,
    }
}

fn rules(level: CompatLevel) -> Result<RulesetCreated, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()
}

fn restrict(reach: &Reach<'_>) -> Result<Enforced, landlock::RulesetError> {
    let folders = reach.read.iter().map(|folder| (folder, read()));
    let folders = folders.chain(reach.written.iter().map(|folder| (folder, read() | write())));
    let listens = reach.listens.iter().map(|port| NetPort::new(*port, AccessNet::BindTcp));
    let ports = listens.chain(reach.connects.iter().map(|port| NetPort::new(*port, AccessNet::ConnectTcp)));
    let mut rules = rules(CompatLevel::BestEffort)?;
    for port in ports {
        rules = rules.add_rule(port)?;
    }
    for (folder, access) in folders {
        rules = rules.add_rule(PathBeneath::new(folder, access))?;
    }
    let status = rules.restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

/// Looking at files; not executing them.
fn read() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// Making and removing files and folders; no links, sockets, FIFOs or devices.
fn write() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::ErrorKind::PermissionDenied;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::Command;

    use nix::errno::Errno;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket};

    /// What a thread finds that is confined to two folders, one of them to be read alone.
    fn confined(attack: impl FnOnce(&Path, &Path) + Send + 'static) {
        confined_with((Some(0), &[], false), attack);
    }

    /// As [`confined`], to a port that it listens on and those that it connects to, and whether it finds names.
    fn confined_with(
        (listens, connects, finds_names): (Option<u16>, &[u16], bool),
        attack: impl FnOnce(&Path, &Path) + Send + 'static,
    ) {
        let connects = connects.to_vec();
        let folder = tempfile::tempdir().unwrap();
        let [written, read] = ["written", "read"].map(|name| folder.path().join(name));
        for place in [&written, &read] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("file"), "text").unwrap();
        }
        // The walls are the thread's alone.
        std::thread::spawn(move || {
            let [ours, theirs] = [&written, &read].map(|place| File::open(place).unwrap());
            let (written_to, read_from) = ([ours.as_fd()], [theirs.as_fd()]);
            let reach = Reach { written: &written_to, read: &read_from, listens, connects: &connects, finds_names };
            assert_eq!(confine(&reach).unwrap(), support(), "as much as the kernel can");
            attack(&written, &read);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_confined_process_starts_no_program_and_no_process() {
        confined(|_, _| {
            assert_eq!(Command::new("/bin/true").status().unwrap_err().kind(), PermissionDenied);
            // If it were executed, the test would fail with it.
            let executed = nix::unistd::execv(c"/bin/false", &[c"false"]);
            assert!(matches!(executed, Err(Errno::EPERM | Errno::EACCES)), "{executed:?}");
            std::thread::spawn(|| ()).join().expect("threads it may have");
        });
    }

    #[test]
    fn a_confined_process_reaches_no_file_but_its_own() {
        if support() == Enforced::Not {
            eprintln!("skipped: no Landlock");
            return;
        }
        confined(|written, read| {
            let denied = |what: io::Result<()>| assert_eq!(what.unwrap_err().kind(), PermissionDenied);
            for place in ["/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/environ", "/dev/null"] {
                denied(File::open(place).map(drop));
            }
            denied(std::fs::read_dir("/").map(drop));
            denied(std::fs::write(read.join("file"), "changed"));
            denied(std::fs::write(read.join("new"), ""));
            denied(std::os::unix::fs::symlink("file", written.join("link")));
            denied(std::fs::rename(written.join("file"), read.join("other")));
            assert_eq!(std::fs::read_to_string(read.join("file")).unwrap(), "text");
            std::fs::write(written.join("new"), "made").unwrap();
            std::fs::rename(written.join("new"), written.join("file")).unwrap();
            assert_eq!(std::fs::read_to_string(written.join("file")).unwrap(), "made");
            std::fs::create_dir(written.join("folder")).unwrap();
            std::fs::remove_dir(written.join("folder")).unwrap();
        });
    }

    #[test]
    fn a_confined_process_has_tcp_on_its_port_and_local_sockets() {
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        confined(move |_, _| {
            for (family, kind) in [
                (AddressFamily::PACKET, SocketType::RAW),
                (AddressFamily::PACKET, SocketType::DGRAM),
                (AddressFamily::INET, SocketType::RAW),
                (AddressFamily::NETLINK, SocketType::RAW),
                (AddressFamily::from_raw(libc::AF_ALG as u16), SocketType::SEQPACKET),
                (AddressFamily::VSOCK, SocketType::STREAM),
                (AddressFamily::INET6, SocketType::DGRAM),
            ] {
                let refused = socket(family, kind, None).unwrap_err();
                assert!(
                    matches!(refused.raw_os_error(), libc::EPERM | libc::EAFNOSUPPORT),
                    "{family:?} {kind:?}: {refused}"
                );
            }
            assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().kind(), PermissionDenied);
            TcpListener::bind("127.0.0.1:0").unwrap();
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
            // Landlock's, from Linux 6.7 on.
            if support() == Enforced::Fully {
                assert_eq!(TcpListener::bind(elsewhere).unwrap_err().kind(), PermissionDenied);
                assert_eq!(TcpStream::connect(elsewhere).unwrap_err().kind(), PermissionDenied);
            }
        });
    }

    #[test]
    fn a_confined_process_connects_to_the_ports_it_was_given_and_to_no_other() {
        let [given, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [given_at, other_at] = [&given, &other].map(|listener| listener.local_addr().unwrap());
        confined_with((Some(0), &[given_at.port()], false), move |_, _| {
            TcpStream::connect(given_at).unwrap();
            assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().kind(), PermissionDenied);
            if support() == Enforced::Fully {
                assert_eq!(TcpStream::connect(other_at).unwrap_err().kind(), PermissionDenied);
            }
        });
    }

    #[test]
    fn who_finds_names_connects_to_its_ports_and_listens_nowhere() {
        let [named, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, other] = [&named, &other].map(|listener| listener.local_addr().unwrap().port());
        confined_with((None, &[port], true), move |_, _| {
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            let names = UdpSocket::bind("127.0.0.1:0").unwrap();
            names.connect("127.0.0.1:53").unwrap();
            assert_eq!(Command::new("/bin/true").status().unwrap_err().kind(), PermissionDenied);
            if support() == Enforced::Fully {
                assert_eq!(TcpStream::connect(("127.0.0.1", other)).unwrap_err().kind(), PermissionDenied);
                assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), PermissionDenied);
            }
        });
    }

    #[test]
    fn a_confined_process_gets_no_code_no_rights_and_nobody_elses_process() {
        confined(|written, _| {
            assert_eq!(crate::sys::executable_page().unwrap_err().kind(), PermissionDenied);
            let fifo = mknodat(CWD, written.join("fifo"), FileType::Fifo, Mode::RWXU, 0);
            assert_eq!(fifo.unwrap_err().raw_os_error(), libc::EPERM);
            assert_eq!(nix::sys::signal::kill(nix::unistd::getppid(), None), Err(Errno::EPERM));
            // Not by libc, which asks all threads and gives up when they don't agree.
            let itself = rustix::thread::set_thread_uid(rustix::process::getuid());
            assert_eq!(itself.unwrap_err().raw_os_error(), libc::EPERM);
            assert_eq!(nix::unistd::chroot("/"), Err(Errno::EPERM));
            let capabilities = caps::read(None, caps::CapSet::Permitted).unwrap();
            assert!(capabilities.is_empty(), "{capabilities:?}");
        });
    }
}
