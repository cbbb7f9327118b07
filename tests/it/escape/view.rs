//! What a cell sees of the kernel, of its devices and of its own init.

use super::{Attacker, status};
use crate::harness::Server;

#[test]
fn nothing_of_the_kernels_can_be_written_and_nothing_of_inits_read() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    attacker.file("view.py", include_str!("view.py"));
    assert_eq!(attacker.run("cd /workspace && exec python3 view.py"), "looked at everything\n");
}

#[test]
fn the_mount_table_holds_what_the_plan_says() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let said = attacker.run("cut -d' ' -f5,6 /proc/self/mountinfo | sed 's/,relatime//; s/,idmapped//'");
    let options = |place: &str| {
        let line = said.lines().rfind(|line| line.split(' ').next() == Some(place));
        line.unwrap_or_else(|| panic!("{place} is not mounted: {said}"))
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    for (place, expected) in [
        ("/", "rw,nosuid,nodev"),
        ("/dev", "ro,nosuid,noexec"),
        ("/dev/pts", "rw,nosuid,noexec"),
        ("/dev/shm", "rw,nosuid,nodev,noexec"),
        ("/dev/mqueue", "rw,nosuid,nodev,noexec"),
        ("/proc", "rw,nosuid,nodev,noexec"),
        ("/proc/sys", "ro,nosuid,nodev,noexec"),
        ("/sys", "ro,nosuid,nodev,noexec"),
        ("/workspace", "rw,nosuid,nodev"),
    ] {
        assert_eq!(options(place), expected, "{place}");
    }
    let types = attacker.run("stat -f -c %T /proc /sys /dev/pts /dev /dev/shm");
    assert_eq!(types, "proc\nsysfs\ndevpts\ntmpfs\ntmpfs\n");
}

#[test]
fn the_programs_behind_a_cell_can_not_be_overwritten() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let mut running = attacker.start("echo started; cat");
    let output = std::io::BufReader::new(running.stdout.take().expect("its output is piped"));
    let started = std::io::BufRead::lines(output).next();
    assert!(matches!(started, Some(Ok(line)) if line == "started"));
    let binary = std::fs::read(env!("CARGO_BIN_EXE_cloister-launcher")).expect("the launcher is there");
    // A program that an administrator of the cell's runs is what it opens as /proc/<pid>/exe.
    let said = attacker.run(
        "for exe in /proc/[0-9]*/exe; do \
             case $(readlink $exe) in /usr/*|'') ;; *) echo \"seen: $exe\";; esac; \
         done; (exec 9>/proc/1/exe) 2>/dev/null && echo through; echo tried",
    );
    assert_eq!(said, "tried\n");
    let inits: Vec<u32> = attacker.processes().into_iter().filter(|pid| status(*pid, "Name") == "cell-init").collect();
    assert!(!inits.is_empty());
    for init in inits {
        // Not the file on disk, but a sealed copy in memory.
        let program = std::fs::read_link(format!("/proc/{init}/exe")).expect("the test may look");
        assert!(program.to_string_lossy().starts_with("/memfd:cloister-launcher"), "{program:?}");
        let copy = std::fs::File::open(format!("/proc/{init}/exe")).expect("the test may open it");
        let seals = rustix::fs::fcntl_get_seals(&copy).expect("a file in memory has seals");
        assert!(seals.contains(rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SEAL), "{seals:?}");
    }
    assert!(std::fs::read(env!("CARGO_BIN_EXE_cloister-launcher")).expect("it is still there") == binary);
    drop(running.stdin.take());
    running.wait().expect("it ends");
}
