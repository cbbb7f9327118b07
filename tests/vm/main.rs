//! The package on a real host, from outside of it: installed, enabled, upgraded while people work, rolled back, killed, rebooted,
//! without power. First in a container, at this machine's speed, what needs neither a kernel nor limits of its own;
//! then all of it on one emulated host. Each step says what was seen. `make test-vm` prepares what it needs.

mod guest;
mod hardship;
mod idle;
mod limits;

#[expect(dead_code, reason = "the clients can do more than is used here")]
mod harness;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use guest::Guest;
use harness::{Heard, Kept, Server, Wire};
use nix::sched::CloneFlags;
use serde_json::json;
use tokio::time::{sleep, timeout};

/// Sessions that run through all that happens to the host, by what runs in them; the others are shells.
const SESSIONS: u16 = 50;
const VIM: usize = 0;
const CAT: usize = 1;
const SHELL: usize = 2;

/// How many are opened at once.
const AT_ONCE: usize = 5;

/// Lines that one prints meanwhile, in pieces so small that none is overwritten while its client is away.
const LINES: u32 = 500_000;
const PIECES: u32 = 100;

/// How often server, launcher or both are killed.
const KILLS: u32 = 9;

/// Most exposure that systemd may see in the server.
const EXPOSURE_MAX: f32 = 1.5;

/// How often a client looks whether the server is there again.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Whether the server says that it can work.
const READY: &str = r"(exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && grep --quiet '^HTTP/1.[01] 200' <&3)";

/// How many entries of the journal have a project as a field.
const LOGGED: &str =
    "journalctl --unit cloister --output json --boot | grep --count '\"CLOISTER_PROJECT\":\"demo\"'; true";

/// How many cgroups the cell has.
const CELLS: &str =
    "find /sys/fs/cgroup /run/cgroups -path '*/cloister-cells.service/demo' -type d 2>/dev/null | wc --lines";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let payload = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm/payload");
    go_apart();
    let mut container = Guest::contain(&payload);
    held(format!("a container boots: {}", about(&mut container)));
    let server = install(&mut container);
    // Ends here: the next host has another address and is another server.
    drop(work(&server, container).await);
    let mut guest = Guest::boot(&payload);
    held(format!("a host boots: {}", about(&mut guest)));
    let server = install(&mut guest);
    let (mut clients, mut guest) = work(&server, guest).await;
    limits::hold(&server, &mut guest).await;
    idle::rest(&server, &mut guest).await;
    hardship::endure(&mut clients, &server, &mut guest).await;
    reboots(&mut guest, &server).await;
    outside(&mut guest);
    tarball(&mut guest, &server).await;
}

/// Leaves this machine's network: what the hosts listen on is nobody else's.
fn go_apart() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "ip link set lo up");
}

/// Its kernel and its service manager.
fn about(guest: &mut Guest) -> String {
    guest.run("uname --kernel-release; systemctl --version | head -n 1").replace('\n', " ")
}

/// People at work in all sessions, through an upgrade, the way back, and kills.
async fn work(server: &Server, mut guest: Guest) -> (Clients, Guest) {
    let mut clients = Clients::start(server).await;
    assert_ne!(guest.run(LOGGED).trim(), "0", "the journal has fields");
    held(format!("{SESSIONS} sessions run, opened from outside of the host; the journal has fields"));
    for (package, what) in [("after", "an upgrade"), ("before", "the way back")] {
        clients.type_in(CAT, &format!("for f in parts/*; do cat $f; sleep 0.1; done; echo c''at-{package}\r")).await;
        let away;
        (guest, away) = clients
            .hold_on(server, guest, move |guest| {
                guest.run(&format!("dpkg --force-downgrade --install /payload/{package}.deb"));
            })
            .await;
        clients.hear(server, CAT, &format!("cat-{package}\r\n")).await;
        let lines: String = (1..=LINES).map(|line| format!("{line}\r\n")).collect();
        assert!(clients.kept[CAT].text().contains(&lines), "every line comes once");
        clients.kept[CAT].output.clear();
        held(format!("{what}: no byte is lost or comes twice; clients are away for {away:?} at most"));
    }
    guest = kills(&mut clients, server, guest).await;
    (clients, guest)
}

/// Says what held.
fn held(what: impl std::fmt::Display) {
    println!("held     {what}");
}

/// From a blank host to a server that is met from outside.
fn install(guest: &mut Guest) -> Server {
    guest.run("apt-get install --yes /payload/before.deb");
    guest.run("systemd-analyze verify --man=no /usr/lib/systemd/system/cloister*");
    // The package listens on the host alone.
    let listen = r"[Socket]\nListenStream=\nListenStream=0.0.0.0:8000\n";
    guest.run("mkdir --parents /etc/systemd/system/cloister.socket.d");
    guest.run(&format!("printf '{listen}' >/etc/systemd/system/cloister.socket.d/listen.conf"));
    guest.run("systemctl daemon-reload && systemctl enable --now cloister");
    guest.until(READY);
    held("apt installs the package, systemctl enable --now cloister starts it, and it is ready");
    let exposure = guest.run("systemd-analyze security --no-pager cloister.service | tail --lines 1");
    let level = exposure.split_whitespace().find_map(|word| word.parse::<f32>().ok());
    assert!(level.is_some_and(|level| level <= EXPOSURE_MAX), "{exposure}");
    held(exposure.trim().trim_start_matches("→ "));
    guest.run("cloister image import /payload/image --name default && cloister project create demo");
    let token = guest.run("cat /var/lib/cloister/owner.token").trim().to_owned();
    Server { address: guest.address, token }
}

/// Kills server, launcher or both again and again, and looks what that leaves.
async fn kills(clients: &mut Clients, server: &Server, mut guest: Guest) -> Guest {
    let pid = |unit: &str| format!("$(systemctl show --property MainPID --value {unit})");
    let (serving, launching) = (pid("cloister"), pid("cloister-launcher"));
    let counts = format!("pgrep --count bash; ls /proc/{serving}/fd | wc -l; {CELLS}");
    let before = guest.run(&counts);
    let mut longest = Duration::ZERO;
    for kill in 0..KILLS {
        let victims = match kill % 3 {
            0 => serving.clone(),
            1 => launching.clone(),
            _ => format!("{serving} {launching}"),
        };
        let away;
        (guest, away) = clients
            .hold_on(server, guest, move |guest| {
                guest.run(&format!("kill -KILL {victims}"));
                guest.until("systemctl is-active --quiet cloister && systemctl is-active --quiet cloister-launcher");
            })
            .await;
        longest = longest.max(away);
    }
    assert_eq!(before, guest.run(&counts), "processes, descriptors and cgroups");
    held(format!(
        "kill -9 of server, launcher and both, {KILLS} times: the same; clients are away for {longest:?} at most"
    ));
    guest
}

/// A reboot, and a loss of power: the service comes up by itself, and nothing of the cells before is in its way.
async fn reboots(guest: &mut Guest, server: &Server) {
    let started =
        "cloister project create early && echo 'autostart = true' >/var/lib/cloister/projects/early/project.toml";
    guest.run(started);
    for (orderly, what) in [(true, "a reboot"), (false, "a loss of power")] {
        guest.run("sync");
        guest.reboot(orderly);
        guest.until(READY);
        assert_eq!(guest.run(CELLS).trim(), "0", "no cell is left of before");
        guest.until("cloister project ls | grep --quiet '^early .*main'");
        ask_shell(server, "demo", "ls parts | wc -l; echo b''ack\r", &format!("{PIECES}\r\nback\r\n")).await;
        assert_eq!(guest.run(CELLS).trim(), "1");
        held(format!(
            "{what}: the service comes up by itself, starts what is marked, files are there, no cell of before is"
        ));
    }
}

/// What the server tells or asks beyond the host, which its unit must not be in the way of.
fn outside(guest: &mut Guest) {
    let variables = "CLOISTER_TLS_ACME_DOMAINS=ide.example.org OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318";
    let dropin = "/run/systemd/system/cloister.service.d/outside.conf";
    guest.run(&format!(
        "mkdir --parents $(dirname {dropin}) && printf '[Service]\\nEnvironment={variables}\\n' >{dropin}"
    ));
    guest.run("systemctl daemon-reload && systemctl restart cloister");
    for said in ["no certificate for ide.example.org could be fetched", "traces are exported"] {
        guest.until(&format!("journalctl --unit cloister --boot | grep --quiet '{said}'"));
    }
    guest.run("pgrep --exact --uid cloister cloister-acme");
    guest.run(&format!("rm {dropin} && systemctl daemon-reload && systemctl restart cloister"));
    guest.until(READY);
    assert_eq!(guest.run("pgrep --count cloister-acme; true").trim(), "0");
    held(
        "what asks outside of the host does so under the unit: for a certificate that nobody gives here, and for a collector",
    );
}

/// Another host, with another service user, the tarball in place of the package, and what was moved there: projects are as they
/// were. Then a version over itself with a session in it, and away.
async fn tarball(guest: &mut Guest, server: &Server) {
    ask_shell(server, "demo", "chown 1000 parts/aa && echo go''ne\r", "gone\r\n").await;
    guest.run("systemctl stop cloister.socket cloister && cloister project stop --all");
    guest.run("tar --create --file /var/tmp/moved.tar --directory / var/lib/cloister etc/cloister");
    guest.run("CLOISTER_PURGE_DATA=yes apt-get purge --yes cloister && userdel cloister && ! ls /var/lib/cloister");
    guest.run("sed -i /^cloister:/d /etc/subuid /etc/subgid && useradd --system other");
    guest.run("mkdir dist && tar --extract --file /payload/dist.tar.gz --directory dist --strip-components 1");
    guest.run("dist/install.sh && tar --extract --file /var/tmp/moved.tar --directory /");
    guest.run("systemctl enable --now cloister");
    guest.until(READY);
    ask_shell(server, "demo", "kept=yes; stat --format %u parts/aa parts/ab\r", "1000\r\n0\r\n").await;
    held("tar moves projects and images to a host where the service user has another id: owners of files are the same");
    guest.run("dist/install.sh");
    guest.until(READY);
    ask_shell(server, "demo", "echo $kept=kept\r", "yes=kept\r\n").await;
    guest.run("dist/install.sh --uninstall");
    assert_eq!(
        guest.run("find /usr/local /etc/systemd -name '*cloister*.service'; pgrep --count cell-init; true").trim(),
        "0"
    );
    held("the tarball installs, installs over itself while a session runs, and leaves nothing");
}

/// Types a line in a project's session `main`, and waits for what it shows.
async fn ask_shell(server: &Server, project: &str, line: &str, shown: &str) {
    let mut wire = server.wire(project).await;
    let attached = wire.attach(1, "main", json!({})).await;
    wire.input(1, attached["typed"].as_u64().expect("a number"), line.as_bytes()).await;
    wire.expect(1, shown).await;
}

/// Clients of all sessions, on one connection.
struct Clients {
    wire: Wire,
    kept: Vec<Kept>,
    /// How often they have held on.
    times: u32,
}

impl Clients {
    /// Opens all sessions.
    async fn start(server: &Server) -> Self {
        let kept = (1..=SESSIONS).map(|channel| Kept::new(channel, &format!("s{channel}"))).collect();
        let mut clients = Self { wire: server.wire("demo").await, kept, times: 0 };
        // A few shells at a time: an emulated processor starts one in half a second.
        for few in (0..clients.kept.len()).collect::<Vec<_>>().chunks(AT_ONCE) {
            for &session in few {
                let kept = &mut clients.kept[session];
                kept.typed = format!("n={}; echo $n-ready\r", kept.channel).into_bytes();
                kept.attach(&mut clients.wire).await;
            }
            for &session in few {
                clients.hear(server, session, &format!("{}-ready\r\n", session + 1)).await;
            }
        }
        clients
            .type_in(
                SHELL,
                &format!("mkdir parts && seq {LINES} >all && split -n l/{PIECES} all parts/ && echo m''ade\r"),
            )
            .await;
        clients.hear(server, SHELL, "made\r\n").await;
        clients.type_in(VIM, "vim -u NONE words\r").await;
        clients
    }

    async fn type_in(&mut self, session: usize, keys: &str) {
        let kept = &mut self.kept[session];
        kept.typed.extend_from_slice(keys.as_bytes());
        kept.send(&mut self.wire).await;
    }

    /// Works in every session while something is done to the host, and after it; gives the host back, and for how long there
    /// was no connection.
    async fn hold_on(
        &mut self,
        server: &Server,
        mut guest: Guest,
        done: impl FnOnce(&mut Guest) + Send + 'static,
    ) -> (Guest, Duration) {
        self.times += 1;
        let time = self.times;
        let doing = std::thread::spawn(move || {
            done(&mut guest);
            guest
        });
        self.work(&format!("during-{time}")).await;
        let mut away = Duration::ZERO;
        while !doing.is_finished() {
            away = away.max(self.step(server).await);
        }
        self.work(&format!("after-{time}")).await;
        for session in SHELL..self.kept.len() {
            for when in ["during", "after"] {
                away = away.max(self.hear(server, session, &format!("{}-{when}-{time}\r\n", session + 1)).await);
            }
        }
        self.type_in(SHELL, &format!("until grep -qx after-{time} words; do sleep 0.1; done; echo v''im-{time}\r"))
            .await;
        self.hear(server, SHELL, &format!("vim-{time}\r\n")).await;
        (doing.join().expect("it is done"), away)
    }

    /// Types a word in every session: what vim writes, and what shells say.
    async fn work(&mut self, word: &str) {
        self.type_in(VIM, &format!("o{word}\x1b:w\r")).await;
        for session in SHELL..self.kept.len() {
            self.type_in(session, &format!("echo $n-{word}\r")).await;
        }
    }

    /// Types a word in every shell, and hears their answers.
    async fn answer(&mut self, server: &Server, word: &str) {
        for session in SHELL..self.kept.len() {
            self.type_in(session, &format!("echo $n-{word}\r")).await;
        }
        for session in SHELL..self.kept.len() {
            self.hear(server, session, &format!("{}-{word}\r\n", session + 1)).await;
        }
    }

    /// Hears until a session has shown something; gives how long there was no connection.
    async fn hear(&mut self, server: &Server, session: usize, shown: &str) -> Duration {
        let mut away = Duration::ZERO;
        while !self.kept[session].text().contains(shown) {
            away = away.max(self.step(server).await);
        }
        away
    }

    /// Hears one thing, or nothing for a moment. Comes back when the connection breaks, and gives how long that took.
    async fn step(&mut self, server: &Server) -> Duration {
        let heard = timeout(Duration::from_millis(100), self.wire.heard()).await;
        match heard {
            Ok(Heard::Gone | Heard::Closed(..)) => {
                let began = Instant::now();
                self.wire = loop {
                    match server.try_wire("demo").await {
                        Some(wire) => break wire,
                        None => sleep(TRY_EVERY).await,
                    }
                };
                for kept in &mut self.kept {
                    kept.attach(&mut self.wire).await;
                }
                began.elapsed()
            }
            Ok(heard) => {
                for kept in &mut self.kept {
                    kept.hear(&mut self.wire, &heard).await;
                }
                Duration::ZERO
            }
            Err(_) => Duration::ZERO,
        }
    }
}
