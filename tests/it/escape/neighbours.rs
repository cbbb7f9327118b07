//! The host and other cells, looked for from inside a cell.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::{Attacker, status};
use crate::harness::{Server, Settings, block_on};

/// Waits for the line that a started script says first.
fn wait_for(running: &mut std::process::Child, line: &str) {
    let mut said = String::new();
    BufReader::new(running.stdout.take().expect("its output is piped"))
        .read_line(&mut said)
        .expect("it says something");
    assert_eq!(said.trim_end(), line);
}

#[test]
fn sockets_of_the_host_are_out_of_reach() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let name = format!("canary-{}", attacker.project);
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _local = UnixListener::bind_addr(&address).expect("the test may listen");
    let listener = TcpListener::bind("0.0.0.0:0").expect("the test may listen");
    let ports = [listener.local_addr().expect("it listens").port(), server.address.port()];
    attacker.file(
        "connect.py",
        &format!(
            "import socket\n\
             def attack(what, family, address):\n\
             \x20   with socket.socket(family) as attempt:\n\
             \x20       attempt.settimeout(5)\n\
             \x20       try: attempt.connect(address)\n\
             \x20       except OSError as error: return\n\
             \x20       print('through:', what)\n\
             attack('abstract', socket.AF_UNIX, '\\0{name}')\n\
             for port in {ports:?}:\n\
             \x20   for host in ('127.0.0.1', '10.0.2.15', '169.254.169.254'): attack(host, socket.AF_INET, (host, port))\n\
             \x20   attack('IPv6', socket.AF_INET6, ('::1', port))\n\
             print(sorted(name for _, name in socket.if_nameindex()))\n\
             print(sum('canary' in line for line in open('/proc/net/unix')))\n\
             print(len(open('/proc/net/route').readlines()))\n"
        ),
    );
    assert_eq!(attacker.run("python3 /workspace/connect.py"), "['lo']\n0\n1\n");
}

#[test]
fn cells_do_not_see_each_other() {
    let Some(server) = Server::start() else { return };
    let (one, other) = (Attacker::new(&server), Attacker::new(&server));
    one.file(
        "live.py",
        "import socket, subprocess, sys\n\
         open('/tmp/secret', 'w').close(); open('/dev/shm/secret', 'w').close()\n\
         listener = socket.socket(socket.AF_UNIX); listener.bind('\\0secret'); listener.listen()\n\
         subprocess.run(['ipcmk', '-M', '4096'], check=True, stdout=subprocess.DEVNULL)\n\
         print('living', flush=True)\n\
         sys.stdin.read()\n",
    );
    let mut living = one.start("exec python3 /workspace/live.py");
    wait_for(&mut living, "living");
    let said = other.run(
        "ls /tmp /dev/shm /workspace; ipcs -m | grep 4096; ps -e -o args= | grep live.py | grep -v grep; \
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"\\0secret\")' 2>&1 | tail -1; \
         kill -9 -1 2>/dev/null; echo alone",
    );
    // `kill -9 -1` reaches every process but init and the sender.
    assert_eq!(
        said,
        "/dev/shm:\n\n/tmp:\n\n/workspace:\nConnectionRefusedError: [Errno 111] Connection refused\nalone\n"
    );
    assert_eq!(one.processes().len(), 2, "the other cell lives: its init and its program");

    // Both are root inside, and different nobodies outside.
    let mut sleeping = other.start("echo sleeping; cat");
    wait_for(&mut sleeping, "sleeping");
    let users = |attacker: &Attacker<'_>| -> Vec<u32> {
        let uids = attacker.processes().into_iter().map(|pid| status(pid, "Uid"));
        uids.map(|uids| uids.split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a uid")).collect()
    };
    let (ones, others) = (users(&one), users(&other));
    assert!(!ones.is_empty() && !others.is_empty());
    assert!(ones.iter().chain(&others).all(|uid| *uid >= 0x1000_0000), "{ones:?} {others:?}");
    assert!(ones.iter().all(|uid| others.iter().all(|other| uid >> 16 != other >> 16)), "{ones:?} {others:?}");
    for mut running in [living, sleeping] {
        drop(running.stdin.take());
        running.wait().expect("it ends");
    }
}

#[test]
fn nobody_but_the_service_user_can_speak_to_a_cell() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let mut living = attacker.start("echo living; cat");
    wait_for(&mut living, "living");
    let look = |path: std::path::PathBuf| {
        let metadata = std::fs::symlink_metadata(path).expect("it is there");
        (metadata.uid(), metadata.mode() & 0o777)
    };
    let (service, _) = look(server.projects());
    assert_ne!(service, 0);
    let sockets = server.run_dir().join("cells");
    assert_eq!(look(sockets.join(format!("{}.sock", attacker.project))), (service, 0o600));
    assert_eq!(look(sockets), (0, 0o755));
    assert_eq!(look(attacker.folder()), (service, 0o750));
    assert_eq!(look(server.state().join("cells")), (0, 0o700));
    drop(living.stdin.take());
    living.wait().expect("it ends");
}

#[test]
fn nothing_of_the_servers_environment_is_in_a_cell() {
    let Some(server) = Server::start() else { return };
    // Cargo has given it to the test, and the test to the server.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let attacker = Attacker::new(&server);
    let said = attacker.run("cat /proc/[0-9]*/environ | tr '\\0' '\\n' | cut -d= -f1 | sort -u");
    let expected = ["COLORTERM", "HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "USER"];
    let others: Vec<&str> = said.lines().filter(|name| !expected.contains(name)).collect();
    assert_eq!(others, ["cat: /proc/1/environ: Permission denied"], "{said}");
}

#[test]
fn links_in_the_workspace_lead_into_the_cell_alone() {
    let Some(server) = Server::start() else { return };
    let attacker = Attacker::new(&server);
    let secret = server.projects().join("secret");
    std::fs::write(&secret, "host").expect("the secret is written");
    let said = attacker.run(&format!(
        "cd /workspace; ln -s {secret} absolute; ln -s ../../secret relative; ln -s /etc/hostname name; \
         ln -s /proc/1/root/etc/shadow magic; \
         for link in absolute relative magic; do cat $link 2>/dev/null && echo through: $link; done; cat name",
        secret = secret.display()
    ));
    assert_eq!(said, format!("{}\n", attacker.project));
}

/// Looks for every way to a freezer: files of cgroups, mounts of them, descriptors that somebody has left behind.
const FREEZERS: &str = "import ctypes, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    for kind in (b'cgroup2', b'cgroup'):\n\
    \x20   os.makedirs('/tmp/groups', exist_ok=True)\n\
    \x20   if libc.mount(b'none', b'/tmp/groups', kind, 0, None) == 0: print('mounted', kind)\n\
    for top, _, files in os.walk('/sys', followlinks=False):\n\
    \x20   for name in files:\n\
    \x20       if name.startswith(('cgroup.', 'freezer.')): print('found', top, name)\n\
    for pid in filter(str.isdigit, os.listdir('/proc')):\n\
    \x20   try: links = [os.readlink(f'/proc/{pid}/fd/{number}') for number in os.listdir(f'/proc/{pid}/fd')]\n\
    \x20   except OSError: continue\n\
    \x20   print(*(link for link in links if 'cgroup' in link), sep='\\n', end='')\n\
    print('looked')\n";

#[test]
fn no_cell_freezes_itself_or_another_and_only_itself_by_stopping() {
    let config = "idle_freeze_s = 1\n".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    let attacker = Attacker::new(&server);
    attacker.file("freezers.py", FREEZERS);
    assert_eq!(attacker.run("python3 /workspace/freezers.py"), "looked\n");
    block_on(async {
        // One that makes itself look busy harms nobody: it is not frozen, and its limits hold. One whose programs have all
        // been stopped by themselves is as idle as any, and its first key is heard.
        let neighbour = server.project();
        let mut shell = server.wire_prompt(&neighbour, "main").await;
        let mut wire = server.wire_prompt(&attacker.project, "main").await;
        wire.input(1, 0, b"kill -STOP -1; kill -STOP $$\r").await;
        wire.told("frozen").await;
        shell.told("frozen").await;
        wire.input(1, 29, b"x").await;
        wire.told("thawed").await;
        shell.input(1, 0, b"echo un''hurt\r").await;
        shell.expect(1, "unhurt\r\n").await;
    });
}
