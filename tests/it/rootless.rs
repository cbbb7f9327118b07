//! Servers without root: an ordinary user with subordinate ids starts one, and cells work as they do under root's, in real
//! cgroups that are delegated to that user.

use std::os::unix::fs::{MetadataExt, chown};

use rustix::process::Signal;

use crate::harness::{GUEST, SUBORDINATE, Server, Settings, block_on};

/// What is typed in a cell to see that nothing of the kernel's or the host's can be written.
const WRITABLE: &str =
    "find /sys /proc/sys /proc/sysrq-trigger /proc/irq /proc/bus /proc/fs -type f -writable 2>/dev/null | wc -l";

#[test]
fn an_ordinary_user_has_cells() {
    let Some(mut server) = Server::start_as_guest(Settings::default()) else { return };
    block_on(async {
        let project = server.project_with("");
        let workspace = server.projects().join(&project).join("workspace");
        std::fs::create_dir(workspace.join("put")).expect("the folder is made");
        std::fs::write(workspace.join("put/there"), "before").expect("the file is written");
        for path in ["put", "put/there"] {
            chown(workspace.join(path), Some(GUEST), Some(GUEST)).expect("the file is the user's");
        }
        let mut terminal = server.prompt(&project, "").await;
        for (command, said) in [
            (
                "id -un; echo kept > mine; stat -c %U:%G mine /workspace put",
                "root\r\nroot:root\r\nroot:root\r\nroot:root\r\n",
            ),
            ("cat put/there; echo after > put/there", "before"),
            ("stat -c %U /etc/passwd /etc; cat /etc/hostname", &format!("root\r\nroot\r\n{project}\r\n")),
            (
                "head -c 4 /dev/zero | wc -c; echo gone > /dev/null; stat -c %F /dev/null",
                "4\r\ncharacter special file\r\n",
            ),
            (
                "echo /dev/*",
                "/dev/fd /dev/full /dev/mqueue /dev/null /dev/ptmx /dev/pts /dev/random /dev/shm /dev/stderr /dev/stdin",
            ),
            (WRITABLE, "0\r\n"),
            ("unshare -Ur true; mount -t tmpfs none /tmp", "unshare: unshare failed: Operation not permitted\r\n"),
            ("cat /proc/self/uid_map | tr -s ' '", " 0 1 65536\r\n"),
            ("grep -c . /proc/net/dev; echo /sys/class/net/*", "3\r\n/sys/class/net/lo\r\n"),
        ] {
            let shown = terminal.run(command).await;
            assert!(shown.starts_with(said), "{command}: {shown:?}");
        }
        let owner = |path: std::path::PathBuf| std::fs::metadata(path).expect("the file is there").uid();
        for path in ["mine", "put", "put/there"] {
            assert_eq!(owner(workspace.join(path)), SUBORDINATE, "{path}: the cell's root is nobody on the host");
        }
        assert_eq!(owner(server.projects()), GUEST);
        assert_eq!(server.cgroup_file(&project, &["pids.max"]).trim(), "1024", "limits hold");
        assert!(!server.processes(&project).is_empty());
        terminal.run("here=still").await;
        server.signal(Signal::TERM);
        server.ended();
        server.restart();
        let mut terminal = server.open(&project, "").await;
        terminal.send("echo $here-$((40 + 2))\r").await;
        terminal.expect("still-42\r\n").await;
        drop(terminal);
        let removed = server.command(&["project", "rm", &project]).output().expect("cloister runs");
        assert!(removed.status.success(), "{removed:?}");
        assert!(!workspace.exists() && server.processes(&project).is_empty());
    });
}

#[test]
fn cells_without_cgroups_work_without_limits_and_end() {
    let settings = || Settings { cgroups: false, ..Settings::default() };
    for server in [Server::start_with(settings()), Server::start_as_guest(settings())] {
        let Some(server) = server else { return };
        let project = server.project();
        block_on(async {
            let mut terminal = server.prompt(&project, "").await;
            assert_eq!(terminal.run("id -u").await, "0\r\n");
            // One that won't end by itself is killed all the same.
            terminal.send("trap '' HUP TERM; setsid -f sleep 1000; echo rea''dy; kill -STOP $$\r").await;
            terminal.expect("ready\r\n").await;
        });
        let said = |words: &[&str]| {
            let output = server.command(words).output().expect("cloister runs");
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (well, _) = said(&["doctor"]);
        assert!(well, "a doctor finds nothing in the way");
        let (changed, why) = said(&["project", "set", &project, "limits.pids_max=100"]);
        assert!(!changed && why.contains("cells have no cgroups, as configured"), "{why}");
        let (stopped, why) = said(&["project", "stop", &project]);
        assert!(stopped, "{why}");
        let sockets = server.run_dir().join("cells").read_dir().expect("the folder is there").count();
        assert_eq!(sockets, 0, "nothing is left of the cell");
    }
}

#[test]
fn what_an_ordinary_user_lacks_is_named_with_its_remedy() {
    let Some(server) = Server::start_as_guest(Settings::default()) else { return };
    let refused = |project: &str| {
        let output = server.command(&["run", project, "--", "true"]).output().expect("cloister runs");
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let limited = server.project_with("[limits]\ndisk_bytes_max = 1_073_741_824\n");
    let why = refused(&limited);
    assert!(why.contains("limit the disk of project") && why.contains("quota = \"unenforced\""), "{why}");
    let doctor =
        || String::from_utf8(server.command(&["doctor"]).output().expect("cloister runs").stdout).expect("text");
    assert!(
        doctor()
            .contains(&format!("ok     ids for cells    user ids from {SUBORDINATE}, group ids from {SUBORDINATE}\n"))
    );
    let project = server.project_with("");
    for kind in ["subgid", "subuid"] {
        let file = server.run_dir().with_file_name("etc").join(kind);
        let ids = std::fs::read(&file).expect("the file is there");
        std::fs::write(&file, "guest:1:2\n").expect("the file is written");
        let why = refused(&project);
        assert!(
            doctor().contains(&format!("fails  ids for cells    /etc/{kind} gives user guest no 65536 ids")),
            "{kind}"
        );
        std::fs::write(&file, ids).expect("the file is written");
        assert!(why.contains(&format!("usermod --add-{kind}s 100000-165535 guest")), "{why}");
    }
}
