//! What a neighbour feels of a cell that takes all it can, and how soon that cell's own shell answers again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Address, Client};
use crate::peers::Peers;
use crate::relay::Relay;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;
use crate::streams::{type_line, write};

/// A neighbour's echo of 99 keys in 100 may take so many times as long as beside idle cells.
const BESIDE_MAX: f64 = 3.0;

/// The shell that was typed the bomb into answers within so long of ^C.
const ANSWER_S_MAX: f64 = 2.0;

/// How long a bomb has to unfold before the neighbour types.
const UNFOLDS: Duration = Duration::from_millis(1500);

/// Programs that the bombs need, each ended by the first ^C.
const PROGRAMS: [(&str, &str); 2] = [
    ("forks.py", "while True:\n try: os.fork()\n except OSError: pass\n"),
    ("memory.py", "taken = []\nwhile True: taken.append(bytearray(1 << 20))\n"),
];

/// What is typed, in a cell with the limits that every cell has. Each goes on until ^C.
const BOMBS: [(&str, &[u8]); 4] = [
    ("forks", b"python3 forks.py\r"),
    ("takes memory", b"while :; do python3 memory.py; done\r"),
    (
        "writes and deletes",
        b"while :; do dd if=/dev/zero of=bomb bs=1M count=256 conv=fsync 2>/dev/null; rm bomb; done\r",
    ),
    ("floods", b"yes\r"),
];

/// What is typed into while bombs go off, and how long its echo takes.
struct Typist {
    name: &'static str,
    client: Client,
    idle: Samples,
    beside: Vec<Samples>,
}

/// Measures in so many rounds: a neighbour, and beside it a bare relay, which shows what the kernel alone makes of it.
pub(crate) fn measure(server: &Server, peers: &Peers, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    // Its first session makes the project.
    let mut first = Client::connect(&server.address, "/ws/terminal/bombed/")?;
    first.until_prompt()?;
    first.until_closed(b"exit\r")?;
    for (name, text) in PROGRAMS {
        let text = format!("import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n{text}");
        write(&server.workspace("bombed").join(name), text.as_bytes())?;
    }
    let relay = Relay::start(&peers.bash)?;
    let neighbour = Typist::sit_down("a neighbour", &server.address, "/ws/terminal/neighbour/")?;
    let mut typists = [neighbour, Typist::sit_down("a bare relay", &relay.address, "/")?];
    let mut answers = vec![Samples::default(); BOMBS.len()];
    for _ in 0..rounds.clamp(1, 5) {
        for (number, (_, bomb)) in BOMBS.into_iter().enumerate() {
            for typist in &mut typists {
                type_line(&mut typist.client, &mut typist.idle)?;
            }
            let stop = AtomicBool::new(false);
            let answer = std::thread::scope(|scope| {
                let bombed = scope.spawn(|| explode(&server.address, bomb, &stop));
                std::thread::sleep(UNFOLDS);
                let mut typed = typists.iter_mut().map(|one| type_line(&mut one.client, &mut one.beside[number]));
                let typed = typed.try_for_each(|typed| typed);
                stop.store(true, Ordering::Relaxed);
                let answer = bombed.join().expect("the bombed client doesn't panic");
                typed.and(answer)
            })?;
            answers[number].add(answer.as_secs_f64());
        }
    }
    for Typist { name, idle, beside, .. } in &typists {
        report.figure(&format!("echo of bash, {name}, 99 of 100, beside an idle cell"), "µs", &worst(idle));
        for ((bomb, _), beside) in BOMBS.iter().zip(beside) {
            report.figure(&format!("echo of bash, {name}, 99 of 100, beside a cell that {bomb}"), "µs", &worst(beside));
        }
    }
    let [Typist { idle, beside, .. }, _] = &typists;
    for (((bomb, _), beside), answers) in BOMBS.iter().zip(beside).zip(&answers) {
        let what = format!("echo beside a cell that {bomb}: 99 of 100 within {BESIDE_MAX} × those beside an idle one");
        report.promise(what, Verdict::at_most(beside.quantile(0.99) / idle.quantile(0.99), BESIDE_MAX, "×"));
        let what = format!("the shell of a cell that {bomb} answers within {ANSWER_S_MAX} s of ^C");
        report.promise(what, Verdict::at_most(answers.quantile(1.0), ANSWER_S_MAX, " s"));
    }
    server.stop("bombed")?.ask()?;
    server.stop("neighbour")?.ask()
}

impl Typist {
    fn sit_down(name: &'static str, address: &Address, path: &str) -> anyhow::Result<Self> {
        let mut client = Client::connect(address, path)?;
        client.until_prompt()?;
        type_line(&mut client, &mut Samples::default())?;
        Ok(Self { name, client, idle: Samples::default(), beside: vec![Samples::default(); BOMBS.len()] })
    }
}

/// What 99 of 100 are below.
fn worst(times: &Samples) -> Samples {
    Samples::of(times.quantile(0.99))
}

/// Types a bomb, reads what it prints until it is told to stop, and gives the time until the shell answers after ^C.
fn explode(address: &Address, bomb: &'static [u8], stop: &AtomicBool) -> anyhow::Result<Duration> {
    let mut client = Client::connect(address, "/ws/terminal/bombed/?frames=binary")?;
    client.until_prompt()?;
    client.read_until_told(bomb, stop)?;
    let began = Instant::now();
    client.until("\x03echo al''ive\r", b"alive\r\n")?;
    let answered = began.elapsed();
    client.until_closed(b"exit\r")?;
    Ok(answered)
}
