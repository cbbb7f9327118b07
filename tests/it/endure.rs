//! Server, launcher, or both are killed again and again while a crowd works; nobody may lose anything, and nothing may pile up.
//!
//! Some twelve kills and thirty sessions in every run of the tests. `make endure` goes on for ten minutes with a hundred
//! sessions; `CLOISTER_ENDURE_S` says for how many seconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::harness::{DEADLINE, Heard, Kept, Server, Settings, Wire, block_on};

/// Who works, where: in each project so many who type, each in a session of its own, and one session that prints all the time.
const PROJECTS: usize = 10;
const PROJECTS_BRIEFLY: usize = 3;
const TYPISTS: u16 = 9;
const FLOOD: u16 = TYPISTS + 1;

/// How long a typist thinks between two lines.
const PAUSE: Duration = Duration::from_millis(300);

/// What the session that floods runs: some megabytes a second.
const FLOODING: &str = "while :; do seq 20000; sleep 0.05; done\r";

/// Kills there are at least: each way, with everybody back and with some still on their way.
const KILLS_MIN: u32 = 12;

/// How many of a kind there may be more at one moment than at another, of what comes and goes, such as a keeper's checkpoint. What a kill
/// left would be there many times.
const COME_AND_GO: usize = 2;

/// How much more memory all cells' inits and the launcher may take at the end: allocators keep some.
const GROWTH_MAX_KIB: u64 = 2048;

#[test]
fn whoever_is_killed_meanwhile_a_crowd_loses_nothing_and_nothing_piles_up() {
    let Some(server) = Server::start_as_service(Settings::default()) else { return };
    let (seconds, projects) = match std::env::var("CLOISTER_ENDURE_S") {
        Ok(text) => (text.parse().expect("CLOISTER_ENDURE_S is in whole seconds"), PROJECTS),
        Err(_) => (0, PROJECTS_BRIEFLY),
    };
    let projects: Vec<_> = (0..projects).map(|_| server.project_with("")).collect();
    let (address, addresses) = watch::channel(server.address);
    let stage = Arc::new(Stage::default());
    block_on(async {
        let crowds: Vec<_> = projects
            .iter()
            .map(|project| Crowd::new(project, &server.token, addresses.clone(), stage.clone()))
            .map(|crowd| tokio::spawn(crowd.work()))
            .collect();
        let killer = {
            let (projects, stage) = (projects.clone(), stage.clone());
            std::thread::spawn(move || kill(server, &projects, &address, &stage, Duration::from_secs(seconds)))
        };
        let mut ended = Vec::new();
        for crowd in crowds {
            ended.push(crowd.await);
        }
        let (_server, report) = killer.join().expect("nothing piles up");
        let lines: u32 = ended.into_iter().map(|ended| ended.expect("nobody loses anything")).sum();
        println!("{report}; {lines} lines typed and heard");
    });
}

/// What killer and crowds know of each other.
#[derive(Default)]
struct Stage {
    /// To which server each crowd has come back, with all of its sessions.
    back: Mutex<BTreeMap<String, SocketAddr>>,
    /// The crowds may finish; or one of them has failed.
    over: AtomicBool,
}

impl Stage {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Waits until every crowd has come back to this server.
    fn wait_for_all(&self, projects: usize, server: &Server) {
        let by = Instant::now() + 2 * DEADLINE;
        let are_back = || {
            let back = self.back.lock().expect("nobody panics with it");
            back.values().filter(|address| **address == server.address).count() == projects
        };
        while !are_back() && !self.is_over() {
            assert!(Instant::now() < by, "not everybody comes back; the server's log:\n{}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Kills for so long; then everybody may finish. What there was once all had begun must be what there is in the end.
fn kill(
    mut server: Server,
    projects: &[String],
    address: &watch::Sender<SocketAddr>,
    stage: &Stage,
    time: Duration,
) -> (Server, String) {
    stage.wait_for_all(projects.len(), &server);
    let began = Instant::now();
    let (mut kills, mut before) = (0_u32, None);
    while !stage.is_over() && (began.elapsed() < time || kills < KILLS_MIN || kills % 3 != 0) {
        if kills % 3 != 0 {
            server.kill_launcher();
        }
        if kills % 3 != 1 {
            server.signal(Signal::KILL);
            server.ended();
        }
        if kills % 3 != 0 {
            server.restart_launcher();
        }
        if kills % 3 != 1 {
            server.restart();
            address.send(server.address).expect("the crowds are there");
            // Now and then the next one comes while they are still on their way.
            if kills % 4 != 3 {
                stage.wait_for_all(projects.len(), &server);
            }
        }
        kills += 1;
        std::thread::sleep(Duration::from_millis(u64::from(kills) * 137 % 700));
        if kills == 6 {
            stage.wait_for_all(projects.len(), &server);
            before = Some(Holdings::of(&server, projects));
        }
    }
    stage.wait_for_all(projects.len(), &server);
    if stage.is_over() {
        return (server, String::new());
    }
    let (before, after) = (before.expect("there were some kills"), Holdings::of(&server, projects));
    let more = |what: &String| after.counts[what].saturating_sub(before.counts[what]);
    let most = before.counts.keys().map(more).max().expect("something is counted");
    assert!(most <= COME_AND_GO, "processes, descriptors and cgroups: {before:?}, then {after:?}");
    assert!(after.memory_kib <= before.memory_kib + GROWTH_MAX_KIB, "{before:?}, then {after:?}");
    stage.end();
    let (before, after) = (before.memory_kib, after.memory_kib);
    let memory = format!("memory of inits and launcher {before} KiB, at the end {after} KiB");
    (server, format!("{kills} kills in {time:?}; {memory}"))
}

/// What the host holds for the crowds.
#[derive(Debug)]
struct Holdings {
    /// By what is counted.
    counts: BTreeMap<String, usize>,
    /// Memory of the inits' and the launcher's own; not the sessions' logs, which are shared and full sooner or later.
    memory_kib: u64,
}

impl Holdings {
    fn of(server: &Server, projects: &[String]) -> Self {
        let mut counts = BTreeMap::new();
        let mut memory_kib = anonymous_kib(server.launcher());
        counts.insert("descriptors of the server".to_owned(), server.descriptors());
        counts.insert("descriptors of the launcher".to_owned(), descriptors(server.launcher()));
        counts.insert("cgroups".to_owned(), server.cgroups());
        for (number, project) in projects.iter().enumerate() {
            let processes = server.processes(project);
            let init = processes[0];
            memory_kib += anonymous_kib(init);
            // What the flood runs comes and goes.
            let stays = |pid: &&Pid| !matches!(name(**pid).as_str(), "seq" | "sleep" | "");
            counts.insert(format!("processes of cell {number}"), processes.iter().filter(stays).count());
            counts.insert(format!("descriptors of cell {number}"), descriptors(init));
        }
        Self { counts, memory_kib }
    }
}

fn of_process(pid: Pid, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default()
}

fn name(pid: Pid) -> String {
    of_process(pid, "comm").trim().to_owned()
}

fn descriptors(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("it runs").count()
}

fn anonymous_kib(pid: Pid) -> u64 {
    let status = of_process(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it runs");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Who works in a project, on one connection after the other.
struct Crowd {
    project: String,
    token: String,
    addresses: watch::Receiver<SocketAddr>,
    stage: Arc<Stage>,
    typists: Vec<Typist>,
    /// Which life the session that floods has.
    flood: Option<Value>,
    /// Where it has connected to.
    address: Option<SocketAddr>,
}

/// One who types a line, waits for its answer, and thinks.
struct Typist {
    kept: Kept,
    /// How many lines were typed.
    lines: u32,
    /// When the next one is, once there was an answer.
    next: Option<Instant>,
}

impl Drop for Crowd {
    /// Nobody need wait for one who has failed.
    fn drop(&mut self) {
        self.stage.end();
    }
}

impl Crowd {
    fn new(project: &str, token: &str, addresses: watch::Receiver<SocketAddr>, stage: Arc<Stage>) -> Self {
        let typist = |channel| {
            let kept = Kept::new(channel, &format!("s{channel}"));
            Typist { kept, lines: 0, next: Some(Instant::now()) }
        };
        let typists = (1..=TYPISTS).map(typist).collect();
        Self {
            project: project.to_owned(),
            token: token.to_owned(),
            addresses,
            stage,
            typists,
            flood: None,
            address: None,
        }
    }

    /// Works until it is over, and every line that was typed was answered once; how many there were.
    async fn work(mut self) -> u32 {
        let mut wire = self.connect().await;
        wire.input(FLOOD, 0, FLOODING.as_bytes()).await;
        loop {
            let heard = wire.heard().await;
            self.hear(&mut wire, &heard).await;
            if matches!(heard, Heard::Typed(FLOOD, _)) {
                break;
            }
        }
        self.is_back();
        loop {
            match timeout(Duration::from_millis(20), wire.heard()).await {
                Ok(Heard::Gone | Heard::Closed(..)) => {
                    wire = self.connect().await;
                    self.is_back();
                }
                Ok(heard) => self.hear(&mut wire, &heard).await,
                Err(_) => {}
            }
            let over = self.stage.is_over();
            let mut waiting = 0;
            for typist in &mut self.typists {
                typist.go_on(&mut wire, over).await;
                waiting += usize::from(typist.next.is_none());
            }
            if over && waiting == 0 {
                return self.typists.iter().map(|typist| typist.lines).sum();
            }
        }
    }

    /// Comes back to all sessions, which must be the same.
    async fn connect(&mut self) -> Wire {
        let by = Instant::now() + 2 * DEADLINE;
        loop {
            assert!(Instant::now() < by, "nobody can come back to {}", self.project);
            let address = *self.addresses.borrow();
            if let Some(mut wire) = Wire::connect(address, &self.token, &self.project).await
                && self.attach(&mut wire).await
            {
                self.address = Some(address);
                return wire;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_back(&self) {
        let address = self.address.expect("it has connected");
        self.stage.back.lock().expect("nobody panics with it").insert(self.project.clone(), address);
    }

    /// Attaches to all sessions; `false` if the connection breaks meanwhile.
    async fn attach(&mut self, wire: &mut Wire) -> bool {
        for typist in &mut self.typists {
            typist.kept.attach(wire).await;
        }
        wire.say(json!({
            "type": "attach", "channel": FLOOD, "session": "flood", "client": "00000000000000f1", "cols": 80, "rows": 24,
        }))
        .await;
        let mut attached = 0;
        while attached < TYPISTS + 1 {
            let heard = wire.heard().await;
            match &heard {
                Heard::Gone | Heard::Closed(..) => return false,
                // An overloaded machine's cells may take longer than a client is let wait.
                Heard::Told(told) if told["type"] == "refused" => return false,
                Heard::Told(told) if told["type"] == "attached" => attached += 1,
                _ => {}
            }
            self.hear(wire, &heard).await;
        }
        true
    }

    async fn hear(&mut self, wire: &mut Wire, heard: &Heard) {
        match heard {
            Heard::Output(FLOOD, offset, bytes) => wire.ack(FLOOD, offset + bytes.len() as u64).await,
            Heard::Told(told) if told["channel"] == FLOOD => match told["type"].as_str() {
                Some("painted") => wire.ack(FLOOD, told["offset"].as_u64().expect("a number")).await,
                Some("attached") => {
                    let life = self.flood.get_or_insert_with(|| told["life"].clone());
                    assert_eq!(*life, told["life"], "the session lives on");
                }
                Some("refused" | "exited" | "lost") => panic!("{told}"),
                _ => {}
            },
            _ => {
                for typist in &mut self.typists {
                    typist.kept.hear(wire, heard).await;
                }
            }
        }
    }
}

impl Typist {
    /// Types the next line if it is time; takes note of the answer to the last one. When it is `over`, types no more.
    async fn go_on(&mut self, wire: &mut Wire, over: bool) {
        match self.next {
            None => {
                let answer = format!("line {}\r\n", self.lines);
                let Some(at) = self.kept.text().find(&answer) else { return };
                self.kept.output.drain(..at + answer.len());
                self.next = Some(Instant::now() + PAUSE);
            }
            Some(due) if due <= Instant::now() && !over => {
                self.lines += 1;
                self.next = None;
                // Were one typed twice, or not at all, the answer would be another one.
                self.kept.typed.extend_from_slice(b"echo line $((n += 1))\r");
                self.kept.send(wire).await;
            }
            Some(_) => {}
        }
    }
}
