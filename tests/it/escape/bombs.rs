//! Cells that take all they can: whoever else is there must not notice.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Attacker, status};
use crate::harness::{DEADLINE, Message, Server, block_on};

/// How much a server's memory may grow under a flood, in KiB: some buffers of some clients.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// Ends a project's cell.
fn stop(attacker: &Attacker<'_>) {
    let stopped = attacker.server.command(&["project", "stop", &attacker.project]).output().expect("cloister runs");
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(attacker.processes(), [0; 0], "nothing of the cell is left");
}

#[test]
fn a_fork_bomb_stays_within_its_limit_and_others_do_not_notice() {
    const PROCESSES_MAX: usize = 64;
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::with(&server, &format!("[limits]\npids_max = {PROCESSES_MAX}\ncpu_millis_max = 500\n"));
    block_on(async {
        let mut bystander = server.prompt(&server.project(), "").await;
        let mut terminal = server.prompt(&attacker.project, "").await;
        terminal.send("bomb() { bomb | bomb & }; bomb\r").await;
        terminal.expect("fork: ").await;
        assert_eq!(server.ask("GET", "/healthz", None).await.status, 200);
        assert_eq!(bystander.run("echo alive").await, "alive\r\n");
        let count = attacker.processes().len();
        assert!(count <= PROCESSES_MAX, "{count} processes");
        stop(&attacker);
        assert_eq!(bystander.run("echo alive").await, "alive\r\n");
    });
}

#[test]
fn a_memory_hog_is_killed_and_its_shell_lives() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::with(&server, "[limits]\nmemory_bytes_max = 67_108_864\n");
    let said = attacker.run("python3 -c 'x = b\"x\" * (1 << 30)' 2>/dev/null; echo $?; echo alive");
    assert_eq!(said, "137\nalive\n");
}

#[test]
fn a_cell_that_fills_its_memory_with_what_no_process_owns_ends_alone() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::with(&server, "[limits]\nmemory_bytes_max = 33_554_432\n");
    block_on(async {
        let mut bystander = server.prompt(&server.project(), "").await;
        // Killing processes frees nothing: in the end the kernel kills init, and everything is free.
        attacker.try_run("while head -c 1G /dev/zero > /dev/shm/zeros; do :; done; sleep 1000");
        assert_eq!(attacker.processes(), [0; 0]);
        assert_eq!(bystander.run("echo alive").await, "alive\r\n");
        assert_eq!(attacker.run("ls /dev/shm; echo alive"), "alive\n");
    });
}

#[test]
fn descriptors_end_at_their_limit() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::with(&server, "[limits]\nopen_files_max = 256\n");
    attacker.file("open.py", "kept = []\nfor n in range(300): kept.append(open('/dev/null'))\n");
    let said = attacker.run("python3 /workspace/open.py 2>&1 | tail -1; ulimit -n 257 2>&1 || echo no more");
    assert!(said.starts_with("OSError: [Errno 24]") && said.ends_with("no more\n"), "{said}");
}

#[test]
fn what_the_kernel_has_for_all_is_not_used_up_by_one() {
    let Some(server) = Server::start() else { return };
    let (attacker, bystander) = (Attacker::new(&server), Attacker::new(&server));
    let take = "import ctypes, os, sys\n\
         libc, kept = ctypes.CDLL(None), []\n\
         while libc.inotify_init1(0) >= 0: kept.append(0)\n\
         print('watches', len(kept), flush=True)\n\
         try:\n\
         \x20   while True: kept.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))\n\
         except OSError as error: print('taken', flush=True)\n\
         sys.stdin.read()\n";
    attacker.file("take.py", take);
    bystander.file("take.py", take);
    let mut taking = attacker.start("exec python3 /workspace/take.py");
    let mut output = BufReader::new(taking.stdout.take().expect("its output is piped")).lines().map_while(Result::ok);
    let watches = output.next().expect("it says how many watches it got");
    assert_eq!(output.next().as_deref(), Some("taken"));
    // Another cell gets a terminal and as much as the first one, and the host's root is not concerned.
    let said = bystander.run("python3 /workspace/take.py < /dev/null");
    assert_eq!(said, format!("{watches}\ntaken\n"));
    rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::empty()).expect("root of the host can watch files");
    drop(taking.stdin.take());
    taking.wait().expect("it ends");
}

/// What takes one more of something, in Python, and how it ends. What is kept in `kept` stays until the bomb ends.
const BOMBS: &[(&str, &str, &[&str])] = &[
    ("descriptors", "kept.append(open('/dev/null'))", &["EMFILE"]),
    ("terminals", "kept.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))", &["ENOSPC"]),
    ("watches", "check(libc.inotify_init1(0))", &["EMFILE"]),
    ("files", "open('/workspace/' + str(n), 'w').close()", &["ENOSPC", "EDQUOT"]),
    ("folders", "os.mkdir('/workspace/folder' + str(n))", &["ENOSPC", "EDQUOT"]),
    ("links", "os.link('/workspace/mark', '/workspace/link' + str(n))", &["EMLINK", "ENOSPC", "EDQUOT"]),
    ("message queues", "check(libc.mq_open(f'/q{n}'.encode(), 0o102, 0o600, None))", &["EMFILE", "ENOSPC"]),
    ("System V's queues", "check(libc.msgget(0, 0o600))", &["ENOSPC"]),
    ("System V's semaphores", "check(libc.semget(0, 250, 0o600))", &["ENOSPC"]),
    ("System V's memory", "check(libc.shmget(0, 1 << 30, 0o600))", &["ENOSPC"]),
    ("keys", "check(libc.syscall(248, b'user', f'k{n}'.encode(), b'v', 1, -3))", &["EPERM"]),
    ("timers", "check(libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())))", &["EAGAIN"]),
    (
        "pipes",
        "kept.append(os.pipe()); fcntl.fcntl(kept[-1][1], 1031, 1 << 20); os.write(kept[-1][1], bytes(1 << 20))",
        &["EPERM"],
    ),
    // In messages that nobody receives they count for no process.
    (
        "descriptors on their way",
        "kept.append(socket.socketpair()); socket.send_fds(kept[-1][0], [b'x'], [0] * 250)",
        &["ETOOMANYREFS"],
    ),
];

/// Most of anything that a bomb tries to take.
const TAKES: usize = 200_000;

/// A program that takes until it gets no more, says why, and keeps all until its input ends.
fn bomb(take: &str, takes: usize) -> String {
    format!(
        "import ctypes, errno, fcntl, os, socket, sys\n\
         libc, kept = ctypes.CDLL(None, use_errno=True), []\n\
         def check(result):\n\
         \x20   if result < 0: raise OSError(ctypes.get_errno(), '')\n\
         def take(n):\n\
         \x20   {take}\n\
         try:\n\
         \x20   for n in range({takes}): take(n)\n\
         \x20   print('no end', flush=True)\n\
         except OSError as error: print(errno.errorcode[error.errno], flush=True)\n\
         sys.stdin.read()\n"
    )
}

#[test]
fn whatever_is_taken_all_of_neighbours_still_get() {
    let Some(server) = Server::start() else { return };
    // Each takes from a cell of its own, and all that they took is held at once.
    let bombs: Vec<_> = BOMBS
        .iter()
        .map(|(name, take, ends)| {
            let of_disk = ends.contains(&"EDQUOT");
            let settings = if of_disk { "[limits]\ndisk_bytes_max = 67_108_864\n" } else { "" };
            let attacker = Attacker::with(&server, settings);
            let program = bomb(take, TAKES);
            let script = format!("touch /workspace/mark; exec python3 -c \"{program}\"");
            let mut taking = attacker.start(&script);
            let mut output = BufReader::new(taking.stdout.take().expect("its output is piped")).lines();
            let end = output.next().and_then(Result::ok).unwrap_or_default();
            assert!(ends.contains(&end.as_str()), "{name} end by {end:?}");
            (attacker, taking, output)
        })
        .collect();
    // One of each is what somebody else needs, in a cell that isn't there yet, and on the host.
    let bystander = Attacker::new(&server);
    block_on(async {
        let mut terminal = server.prompt(&bystander.project, "").await;
        assert_eq!(terminal.run("tty; touch mark").await, "/dev/pts/0\r\n");
    });
    let takes: Vec<&str> = BOMBS.iter().filter(|(name, ..)| *name != "keys").map(|(_, take, _)| *take).collect();
    let one = bomb(&takes.join("\n\x20   "), 1);
    assert_eq!(bystander.run(&format!("exec python3 -c \"{one}\"")), "no end\n");
    rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::empty()).expect("root of the host can watch files");
    for (attacker, mut taking, output) in bombs {
        drop((taking.stdin.take(), output));
        taking.wait().expect("it ends");
        assert_eq!(attacker.run("echo alive"), "alive\n");
    }
}

#[test]
fn a_flood_of_arbitrary_bytes_hurts_neither_server_nor_neighbours() {
    let Some(server) = Server::start() else { return };
    let (project, neighbour) = (server.project(), server.project());
    let memory = || -> u64 { status(server.id(), "VmRSS").trim_end_matches(" kB").parse().expect("a number of KiB") };
    block_on(async {
        let mut bystander = server.prompt(&neighbour, "").await;
        let mut reader = server.prompt(&project, "").await;
        // One that never reads, and has the server's text frames rather than bytes.
        let _idle = server.open(&project, "").await;
        let before = memory();
        reader
            .send("printf '\\033]0;\\000\\377\\033[999999999;999999999H'; head -c 25M /dev/urandom; echo; echo en''d\r")
            .await;
        let (mut tail, mut most) = (String::new(), before);
        let mut asked = Instant::now();
        while !tail.contains("end\r\n") {
            match reader.message().await {
                Some(Message::Text(text)) => tail.push_str(&text),
                Some(Message::Close(frame)) => panic!("closed by {frame:?}"),
                Some(_) => {}
                None => panic!("gone"),
            }
            let start = tail.char_indices().rev().nth(64).map_or(0, |(at, _)| at);
            tail.drain(..start);
            if asked.elapsed() > Duration::from_millis(250) {
                asked = Instant::now();
                most = most.max(memory());
                assert_eq!(bystander.run("echo alive").await, "alive\r\n");
            }
        }
        most = most.max(memory());
        assert!(most <= before + GROWTH_KIB_MAX, "from {before} to {most} KiB");
        assert_eq!(reader.run("echo alive").await, "alive\r\n");
    });
}

#[test]
fn a_cell_that_starves_its_own_init_harms_itself_alone() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    block_on(async {
        let mut terminal = server.prompt(&attacker.project, "").await;
        let mut bystander = server.prompt(&server.project(), "").await;
        // The kernel lets equals limit each other. From then on init can't even wait for its terminals.
        terminal.send("python3 -c 'import resource as r; r.prlimit(1, r.RLIMIT_NOFILE, (1, 1))'\r").await;
        let starved = |pid: u32| {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
            limits.lines().any(|line| line.split_whitespace().eq(["Max", "open", "files", "1", "1", "files"]))
        };
        let by = Instant::now() + DEADLINE;
        while !attacker.processes().into_iter().any(starved) {
            assert!(Instant::now() < by, "init is not starved");
            std::thread::sleep(Duration::from_millis(20));
        }
        let refused = server.try_open(&attacker.project, "&session=more").await;
        assert!(refused.is_err(), "a cell without descriptors opened another terminal");
        assert_eq!(bystander.run("echo alive").await, "alive\r\n");
        stop(&attacker);
        drop(terminal);
        server.prompt(&attacker.project, "").await;
    });
}

#[test]
fn folders_deeper_than_any_path_go_with_their_cell_and_what_their_links_name_stays() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let canary = server.projects().join("canary");
    std::fs::create_dir(&canary).expect("the canary is made");
    std::fs::write(canary.join("file"), "sings").expect("the canary is made");
    attacker.file(
        "dig.py",
        &format!(
            "import os\n\
             os.chdir('/var')\n\
             for depth in range(1000):\n\
             \x20   for name in ('.removing-1', 'deeper'): os.mkdir(name)\n\
             \x20   for target in ('/', '{canary}', '../../..'): os.symlink(target, 'to' + str(len(target)))\n\
             \x20   open('file', 'w').close()\n\
             \x20   os.chdir('deeper')\n\
             os.chmod('..', 0)\n\
             print('dug')\n",
            canary = canary.display()
        ),
    );
    assert_eq!(attacker.run("python3 /workspace/dig.py"), "dug\n");
    let left = |folder: &str| -> usize {
        let names = server.state().join(folder).read_dir().expect("the folder is there").filter_map(Result::ok);
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with(&attacker.project)).count()
    };
    assert_eq!(left("cells"), 0);
    let by = Instant::now() + DEADLINE;
    while left("trash") > 0 {
        assert!(Instant::now() < by, "the trash is not emptied");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(std::fs::read_to_string(canary.join("file")).expect("the canary is there"), "sings");
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn sequences_that_fill_a_huge_screen_hold_up_nobody_else() {
    let Some(server) = Server::start() else { return };
    let (project, neighbour) = (server.project(), server.project());
    block_on(async {
        let mut bystander = server.prompt(&neighbour, "").await;
        let mut bomber = server.prompt(&project, "&cols=2000&rows=100").await;
        // Each three bytes touch all cells; and each line's end moves all rows within margins.
        bomber.send("printf '\\033[2;99r'; yes $'\\033#8\\n\\033#8\\n' | head -c 4M; echo en''d\r").await;
        for _ in 0..20 {
            assert_eq!(bystander.run("echo alive").await, "alive\r\n");
        }
        // Who comes now waits for the screen to be parsed, and nobody waits for him.
        let _late = server.open(&project, "").await;
        for _ in 0..20 {
            assert_eq!(bystander.run("echo alive").await, "alive\r\n");
        }
        let refused = server.try_open(&project, "&cols=2000&rows=2000").await.err().expect("that is too large");
        assert!(refused.status == 400 && refused.body.contains("at most 200000"), "{refused:?}");
    });
}
