//! Every system call and every kind of socket, against what the policy says of it; and who can change what it says.

use std::collections::BTreeSet;

use sandbox::launcher::{Launcher, Request, Settings as LauncherSettings};
use sandbox::policy::{Answer, Catalogue, Choice, Leeway, NOT_THERE, Policy, Profile, Seen, name};
use sandbox::privilege::ServiceUser;
use sandbox::spec::{CellSpec, HostLimits, ImageConfig, LayerId, Limits, Network, ProjectId};

use super::Attacker;
use crate::harness::{Server, Settings};

/// Beyond the newest call by more than Linux adds in twenty years.
const NUMBERS: u32 = 700;

/// What marks a number as one of x32.
const X32: u32 = 0x4000_0000;

/// Arguments that are harmless, and none of which any call accepts.
const NOTHING: [i64; 6] = [-1; 6];

/// The policy of a profile alone.
fn policy(profile: Profile) -> Policy<'static> {
    Catalogue::get().policy(&Choice { profile, ..Choice::default() }).expect("profiles have a policy")
}

/// The error that a call gets, or 0.
fn error(policy: &Policy<'_>, call: &str, arguments: [i64; 6]) -> u16 {
    match policy.decide(call, |index| Seen::Exactly(arguments[index].cast_unsigned())).answer {
        Answer::Allow | Answer::Done => 0,
        Answer::Error(_, number) => number,
    }
}

/// Arguments for calls that say "not there" or "not permitted" of their own accord to those that aren't sensible.
fn arguments(call: &str) -> [i64; 6] {
    match call {
        // Wakes nobody who waits at address 0.
        "futex" => [0, 129, 1, 0, 0, 0],
        // A copy of the process, which ends as its parent does.
        "clone" => [0; 6],
        _ => NOTHING,
    }
}

/// Whether this kernel has a call, of those that are newer than the oldest that cells run on.
fn kernel_has(symbols: &str, call: &str, number: u32) -> bool {
    const OLD: u32 = 424;
    let symbol = |call: &str| symbols.contains(&format!("_sys_{call}\n"));
    number < OLD || !symbol("openat2") || symbol(call)
}

/// The table for numbers.c.
fn table(policy: &Policy<'_>) -> String {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let line = |called: &str, number: u32, error: u16, arguments: [i64; 6]| {
        let [a, b, c, d, e, f] = arguments;
        format!("{called} {number} {error} {a} {b} {c} {d} {e} {f}\n")
    };
    let not_there = match NOT_THERE {
        Answer::Error(_, number) => number,
        other => panic!("{other:?} is no error"),
    };
    let mut table = String::new();
    for number in 0..NUMBERS {
        let call = name(number).unwrap_or("no-call");
        let error = error(policy, call, arguments(call));
        if error != 0 || kernel_has(&symbols, call, number) {
            table.push_str(&line(call, number, error, arguments(call)));
        }
        table.push_str(&line(&format!("{call}-of-x32"), X32 | number, not_there, [0; 6]));
    }
    for number in [4095, 65_535, i32::MAX as u32, 1 << 31, u32::MAX] {
        table.push_str(&line("no-call", number, not_there, NOTHING));
    }
    table
}

/// The table for sockets.c.
fn socket_table(policy: &Policy<'_>) -> String {
    const FLAGS: i64 = 0o2_004_000;
    let mut table = String::new();
    for family in 0..=46 {
        for kind in 1..=10 {
            for protocol in [0, 1, 2, 6, 9, 12, 15, 17, 33, 47, 50, 58, 115, 132, 136, 255, 256, 262] {
                for kind in [kind, FLAGS | kind] {
                    let error = error(policy, "socket", [family, kind, protocol, 0, 0, 0]);
                    table.push_str(&format!("{family} {kind} {protocol} {error}\n"));
                }
            }
        }
    }
    table
}

fn every_number_is_answered_by(profile: Profile) {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::with(&server, &format!("[policy]\nprofile = '{}'\n", profile.name()));
    let table = table(&policy(profile));
    attacker.file("numbers.c", include_str!("numbers.c"));
    attacker.file("table", &table);
    let said = attacker.run("cd /workspace && gcc -o /tmp/numbers numbers.c && /tmp/numbers <table");
    assert_eq!(said, format!("{} tried\n", table.lines().count()));
    #[cfg(target_arch = "x86_64")]
    {
        let said =
            attacker.run("cd /workspace && gcc -o /tmp/numbers numbers.c && grep -v x32 table | /tmp/numbers i386");
        assert_eq!(said, format!("{} tried\n", table.lines().filter(|line| !line.contains("x32")).count()));
    }
}

fn every_socket_is_answered_by(profile: Profile) {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::with(&server, &format!("[policy]\nprofile = '{}'\n", profile.name()));
    let table = socket_table(&policy(profile));
    attacker.file("sockets.c", include_str!("sockets.c"));
    attacker.file("table", &table);
    let said = attacker.run("cd /workspace && gcc -o /tmp/sockets sockets.c && /tmp/sockets <table");
    // Not from the policy, for that may be wrong. Local: stream, datagram, packets. IPv4 and IPv6: stream, datagram.
    // Netlink's route: its two names of one type.
    let had = "1/1 1/2 1/5 2/1 2/2 10/1 10/2 16/2 16/3";
    assert_eq!(said, format!("{had} of {}\n", table.lines().count()));
}

#[test]
fn every_system_call_is_answered_as_the_policy_says() {
    every_number_is_answered_by(Profile::Default);
}

#[test]
fn every_system_call_is_answered_as_the_strict_policy_says() {
    every_number_is_answered_by(Profile::Strict);
}

#[test]
fn every_kind_of_socket_is_answered_as_the_policy_says() {
    every_socket_is_answered_by(Profile::Default);
}

#[test]
fn every_kind_of_socket_is_answered_as_the_strict_policy_says() {
    every_socket_is_answered_by(Profile::Strict);
}

/// Prints for each of these how it ended.
const STRICT: &str = r#"
import ctypes, errno, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, call, *arguments):
    ctypes.set_errno(0)
    ended = libc[call](*arguments)
    print(name, errno.errorcode[ctypes.get_errno()] if ended == -1 else "done")

other = subprocess.Popen(["sleep", "60"])
attempt("ptrace", "ptrace", 16, other.pid, None, None)
attempt("traceme", "ptrace", 0, 0, None, None)
attempt("no new filter", "prctl", 22, 2, None)
attempt("name", "prctl", 15, b"me")
attempt("domain", "personality", 0x40000)
a, b = socket.socketpair()
for option in 26, 50, 51, 52:
    attempt("filter", "setsockopt", a.fileno(), 1, option, b"\0" * 16, 16)
attempt("buffer", "setsockopt", a.fileno(), 1, 7, b"\0\0\1\0", 4)
attempt("multipath", "socket", 2, 1, 262)
other.kill()
"#;

#[test]
fn strict_lets_nothing_look_into_another_process_or_filter_it() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::with(&server, "[policy]\nprofile = 'strict'\n");
    attacker.file("strict.py", STRICT);
    let said = attacker.run("python3 /workspace/strict.py");
    assert_eq!(
        said,
        "ptrace EPERM\ntraceme EPERM\nno new filter EINVAL\nname done\ndomain EPERM\n\
         filter EPERM\nfilter EPERM\nfilter EPERM\nfilter EPERM\nbuffer done\nmultipath EPROTONOSUPPORT\n"
    );
    attacker.file("calls.c", include_str!("calls.c"));
    let said = attacker.run("gcc -o /tmp/calls /workspace/calls.c && /tmp/calls");
    assert!(said.ends_with("\n0 got through\n"), "{said}");
}

/// Says how these three end: io_uring_setup, userfaultfd of the kernel's faults, userfaultfd of user space's alone.
const GRANTED: &str = "python3 -c '\n\
    import ctypes, errno\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    for number, *arguments in (425, 0, None), (323, 0), (323, 1):\n\
    \x20   ended = libc.syscall(number, *arguments)\n\
    \x20   print(errno.errorcode[ctypes.get_errno()] if ended == -1 else \"done\")'";

#[test]
#[cfg(target_arch = "x86_64")]
fn a_project_is_granted_what_it_asks_for_and_the_operator_allows() {
    let config = "policy.may_allow = ['io-uring', 'page-faults']\n".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    let tried = |settings: &str| Attacker::with(&server, settings).run(GRANTED);
    assert_eq!(tried(""), "ENOSYS\nEPERM\nEPERM\n");
    // EFAULT and EINVAL are the kernel's own answers; that of a kernel without userfaultfd is that it has none.
    let granted = tried("[policy]\nallow = ['io-uring', 'page-faults']\n");
    assert!(granted.starts_with("EFAULT\nEPERM\n") && !granted.ends_with("EPERM\n"), "{granted}");
}

#[test]
fn a_project_can_not_widen_its_policy_by_itself() {
    let config = "policy.profile = 'strict'\n".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    for settings in
        ["[policy]\nallow = ['io-uring']\n", "[policy]\nprofile = 'default'\n", "[policy]\nallow = ['bpf']\n"]
    {
        let output = Attacker::with(&server, settings).try_run("true");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(125) && said.contains("project.toml: policy."), "{settings}: {said}");
    }
    // From inside its settings are out of reach, by any way out of the workspace.
    let attacker = Attacker::new(&server);
    let said = attacker.run(
        "cd /workspace; \
         for way in ../project.toml /proc/self/cwd/../project.toml /proc/1/cwd/project.toml; do \
             echo 'policy.allow = [\"io-uring\"]' >$way; done 2>/dev/null; \
         mv /workspace /other 2>/dev/null && echo moved; \
         ln -s ../project.toml link && echo x >>link; grep -c project.toml /proc/self/mountinfo",
    );
    assert_eq!(said, "0\n");
    assert_eq!(std::fs::read_to_string(attacker.folder().join("project.toml")).expect("it is there"), "");
    assert!(attacker.try_run("true").status.success(), "its settings are as they were");
}

#[test]
fn a_server_in_an_attackers_hands_can_not_widen_a_policy() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| folder.path().join(name);
    let user = ServiceUser::find("cloister").expect("the service user is there");
    let settings = LauncherSettings {
        state: place("state"),
        projects: place("projects"),
        run_dir: place("run"),
        cgroup: format!("{}-launcher", server.project()),
        enforce_quota: true,
        uid: user.uid,
        gid: user.gid,
        host: HostLimits::default(),
        policy: Leeway { profile: Profile::Strict, may_allow: BTreeSet::from(["page-faults".to_owned()]) },
    };
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cloister-launcher"));
    let mut launcher = Launcher::spawn(program, &settings).expect("the launcher starts");
    let mut asked = |profile, allow: &[&str]| {
        let spec = CellSpec {
            project: ProjectId::parse("victim").expect("an id"),
            layers: vec![LayerId::parse(&"0".repeat(64)).expect("a layer")],
            image: ImageConfig::default(),
            env: Default::default(),
            limits: Limits::default(),
            network: Network::None,
            log_bytes: 65_536,
            policy: Choice { profile, allow: allow.iter().map(|&name| name.to_owned()).collect() },
        };
        launcher.send(&Request::StartCell(Box::new(spec))).expect("it listens");
        launcher.answer().expect_err("there is no such project").to_string()
    };
    for (profile, allow) in [
        (Profile::Default, &[][..]),
        (Profile::Strict, &["io-uring"]),
        (Profile::Strict, &["page-faults", "io-uring"]),
        (Profile::Strict, &["default"]),
        (Profile::Strict, &["bpf"]),
        (Profile::Strict, &["*"]),
    ] {
        let said = asked(profile, allow);
        assert!(said.starts_with("check the request: policy."), "{profile:?}, {allow:?}: {said}");
    }
    // What is within its leeway gets as far as the workspace, of which there is none.
    let said = asked(Profile::Strict, &["page-faults"]);
    assert!(said.contains("workspace"), "{said}");
    drop(launcher);
    crate::harness::remove_cgroup(&settings.cgroup);
}
