//! A key's way to the program and back, through the server and through the bare relay.
//!
//! The echo of `cat` is the kernel's own, that of bash is its line editor's. Keys come with gaps, as typed ones do, so every
//! process on the way has gone to sleep. Each line is typed at one after the other.

use std::time::{Duration, Instant};

use crate::client::{Address, Client};
use crate::peers::Peers;
use crate::relay::Relay;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;

/// Pause between keys, during which all that a key causes comes to rest.
const GAP: Duration = Duration::from_millis(5);

/// Keys of a line: fewer than the terminal has columns, so that none wraps.
const KEYS: usize = 40;

/// ^U: the kernel and bash both take a line back at it.
const TAKE_BACK: &[u8] = b"\x15";

const TO_RELAY_MAX: f64 = 1.25;
const LATE_TO_RELAY_MAX: f64 = 1.5;
const TO_PODMAN_MAX: f64 = 1.0;

/// A terminal that is typed at, and how long echoes took in microseconds.
pub(crate) struct Line {
    client: Client,
    /// What was measured.
    pub(crate) times: Samples,
}

/// Measures in so many rounds of [`KEYS`] keys at each terminal.
pub(crate) fn measure(server: &Server, peers: &Peers, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let bare = Relay::start(&peers.bash)?;
    let container = peers.container();
    let podman = container.as_ref().ok().map(|container| Relay::start(&container.shell())).transpose()?;
    for (program, start) in [("cat", Some(&b"cat\r"[..])), ("bash", None)] {
        let mut ours = Line::open(&server.address, &format!("/ws/terminal/echo/?session={program}"), start)?;
        let mut bare = Line::open(&bare.address, "/", start)?;
        let mut podman = podman.as_ref().map(|relay| Line::open(&relay.address, "/", start)).transpose()?;
        for number in 0..=rounds {
            for line in [Some(&mut ours), Some(&mut bare), podman.as_mut()].into_iter().flatten() {
                line.type_at(number > 0)?;
            }
        }
        let podman = podman.map(|line| line.times).ok_or(());
        judge(program, &ours.times, &bare.times, podman.as_ref().ok(), container.as_ref().err(), report);
    }
    server.stop("echo")?.ask()
}

impl Line {
    fn open(address: &Address, path: &str, start: Option<&'static [u8]>) -> anyhow::Result<Self> {
        let mut client = Client::connect(address, path)?;
        client.until_prompt()?;
        if let Some(start) = start {
            client.until_quiet(start)?;
        }
        Ok(Self::of(client))
    }

    /// The line that a client is at.
    pub(crate) fn of(client: Client) -> Self {
        Self { client, times: Samples::default() }
    }

    /// Types a line and takes it back; the first of all isn't counted.
    pub(crate) fn type_at(&mut self, counted: bool) -> anyhow::Result<()> {
        for _ in 0..KEYS {
            std::thread::sleep(GAP);
            let began = Instant::now();
            self.client.until_echo(b"x")?;
            if counted {
                self.times.add(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        self.client.until_quiet(TAKE_BACK)
    }
}

fn judge(
    program: &str,
    ours: &Samples,
    bare: &Samples,
    podman: Option<&Samples>,
    missing: Option<&String>,
    report: &mut Report,
) {
    report.figure(&format!("echo of {program}, in a cell"), "µs", ours);
    report.figure(&format!("echo of {program}, bare relay"), "µs", bare);
    report.promise(
        format!("echo of {program}: at most {TO_RELAY_MAX} × a bare relay without a sandbox"),
        Verdict::at_most(ours.ratio(bare), TO_RELAY_MAX, "×"),
    );
    report.promise(
        format!("echo of {program}: 99 of 100 within {LATE_TO_RELAY_MAX} × those of the bare relay"),
        Verdict::at_most(ours.quantile(0.99) / bare.quantile(0.99), LATE_TO_RELAY_MAX, "×"),
    );
    let what = format!("echo of {program}: below podman exec behind the bare relay");
    match (podman, missing) {
        (Some(podman), _) => {
            report.figure(&format!("echo of {program}, podman exec behind the bare relay"), "µs", podman);
            report.promise(what, Verdict::at_most(ours.ratio(podman), TO_PODMAN_MAX, "×"));
        }
        (None, reason) => report.promise(what, Verdict::Missing(reason.cloned().unwrap_or_default())),
    }
}
