//! A cell's life, measured beside its peers: first prompt in a new cell, a further session, the end.
//!
//! Each round does everything once, so all of it meets the same moments of a busy machine.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::client::Client;
use crate::peers::{Peer, Peers};
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;
use crate::tty::{Program, Tty};

/// Rounds that aren't counted: caches warm up.
const WARM_UP_ROUNDS: usize = 3;

/// podman takes its turn in every so many rounds: it takes as long as all the others together, several times.
const PODMAN_EVERY: usize = 5;

const NEW_CELL_TO_BUBBLEWRAP_MAX: f64 = 1.5;
const PODMAN_TO_NEW_CELL_MIN: f64 = 12.0;
const FURTHER_TO_BASH_MAX: f64 = 1.5;
const TEARDOWN_MS_MAX: f64 = 2.0;

/// The project whose cell is made and ended, and the one whose cell goes on.
const FLEETING: &str = "fleeting";
const LASTING: &str = "lasting";

/// What is measured, in milliseconds.
#[derive(Default)]
struct Times {
    new_cell: Samples,
    further: Samples,
    upgrade: Samples,
    teardown: Samples,
    bash: Samples,
    bubblewrap: Samples,
    crun: Samples,
    podman: Samples,
}

/// Measures in so many rounds.
pub(crate) fn measure(server: &Server, peers: &Peers, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut resident = Client::connect(&server.address, &terminal(LASTING, "main"))?;
    resident.until_prompt()?;
    for _ in 0..WARM_UP_ROUNDS {
        round(server, peers, false, &mut Times::default())?;
    }
    let mut times = Times::default();
    for number in 0..rounds {
        round(server, peers, number % PODMAN_EVERY == 0, &mut times)?;
    }
    server.stop(LASTING)?.ask()?;
    judge(&times, peers, report);
    Ok(())
}

fn round(server: &Server, peers: &Peers, podman: bool, times: &mut Times) -> anyhow::Result<()> {
    times.new_cell.add_time(first_prompt(server, &terminal(FLEETING, "main"), |_| {
        let stop = server.stop(FLEETING)?;
        let began = Instant::now();
        stop.ask()?;
        times.teardown.add_time(began.elapsed());
        ensure!(server.is_gone(FLEETING), "a cell was said to be gone, but is not");
        Ok(())
    })?);
    peer(&peers.bubblewrap, &mut times.bubblewrap)?;
    times
        .further
        .add_time(first_prompt(server, &terminal(LASTING, "further"), |mut client| client.until_closed(b"exit\r"))?);
    times.bash.add_time(to_prompt(&peers.bash)?);
    times.upgrade.add_time(upgrade(server)?);
    peer(&peers.crun, &mut times.crun)?;
    if podman {
        peer(&peers.podman, &mut times.podman)?;
    }
    Ok(())
}

/// From before the TCP connection until the prompt is there; `end` ends the session.
fn first_prompt(
    server: &Server,
    path: &str,
    end: impl FnOnce(Client) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut client = Client::connect(&server.address, path)?;
    client.until_prompt()?;
    let took = began.elapsed();
    end(client)?;
    Ok(took)
}

/// What a WebSocket alone takes: from before the TCP connection to a session that runs until the answer 101.
fn upgrade(server: &Server) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let _client = Client::connect(&server.address, &terminal(LASTING, "main"))?;
    Ok(began.elapsed())
}

fn peer(peer: &Peer, times: &mut Samples) -> anyhow::Result<()> {
    if let Ok(program) = peer {
        times.add_time(to_prompt(program)?);
    }
    Ok(())
}

/// From before the terminal is opened until the prompt is there.
fn to_prompt(program: &Program) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let tty = Tty::start(program)?;
    tty.until_prompt()?;
    let took = began.elapsed();
    tty.exit()?;
    Ok(took)
}

fn terminal(project: &str, session: &str) -> String {
    format!("/ws/terminal/{project}/?session={session}")
}

fn judge(times: &Times, peers: &Peers, report: &mut Report) {
    report.figure("first prompt, new cell", "ms", &times.new_cell);
    report.figure("first prompt, bubblewrap", "ms", &times.bubblewrap);
    report.figure("first prompt, crun run", "ms", &times.crun);
    report.figure("first prompt, podman run", "ms", &times.podman);
    report.figure("first prompt, further session", "ms", &times.further);
    report.figure("first prompt, bash without a sandbox", "ms", &times.bash);
    report.figure("WebSocket connect to a session that runs", "ms", &times.upgrade);
    report.figure("teardown, stop to nothing left", "ms", &times.teardown);

    let ratio = times.new_cell.ratio(&times.bubblewrap);
    report.promise(
        format!("first prompt in a new cell: at most {NEW_CELL_TO_BUBBLEWRAP_MAX} × bubblewrap"),
        Verdict::at_most(ratio, NEW_CELL_TO_BUBBLEWRAP_MAX, "×").unless_missing(&peers.bubblewrap),
    );
    let ratio = times.podman.ratio(&times.new_cell);
    report.promise(
        format!("first prompt in a new cell: at least {PODMAN_TO_NEW_CELL_MIN} × faster than podman run"),
        Verdict::at_least(ratio, PODMAN_TO_NEW_CELL_MIN, "×").unless_missing(&peers.podman),
    );
    let ratio = (times.further.median() - times.upgrade.median()) / times.bash.median();
    report.promise(
        format!(
            "further session in a running cell, less the WebSocket's connect: at most {FURTHER_TO_BASH_MAX} × bash without a sandbox"
        ),
        Verdict::at_most(ratio, FURTHER_TO_BASH_MAX, "×"),
    );
    let median = times.teardown.median();
    report.promise(format!("teardown: at most {TEARDOWN_MS_MAX} ms"), Verdict::at_most(median, TEARDOWN_MS_MAX, " ms"));
}
