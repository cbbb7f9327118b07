//! What a session costs the server while nothing happens in it: memory of the server's process, for each session at its
//! first prompt. It has a server of its own for each round, since memory that was used before would be used again.

use std::time::Duration;

use crate::client::Client;
use crate::folder::Folder;
use crate::idle::sum_of;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;
use crate::wire::Wire;

/// Several cells, for a cell has at most 64 sessions.
const CELLS: usize = 8;
const SESSIONS_PER_CELL: usize = 25;

const KIB_MAX: f64 = 24.0;

/// How long what a prompt causes goes on: its screen is fed a tenth of a second after.
const REST: Duration = Duration::from_millis(500);

/// Measures in so many rounds.
pub(crate) fn measure(folder: &Folder, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let [mut plain, mut wire, mut detached] = [(); 3].map(|()| Samples::default());
    for _ in 0..rounds {
        round(folder, plainly, &mut plain, Some(&mut detached))?;
        round(folder, by_wire, &mut wire, None)?;
    }
    for (how, samples) in [
        ("with a WebSocket of its own", plain),
        ("with its client, 25 by one WebSocket of cloister.v1", wire),
        ("with no client any more", detached),
    ] {
        report.figure(&format!("memory of the server for an idle session, {how}"), "KiB", &samples);
        let what = format!("an idle session {how}: at most {KIB_MAX} KiB of the server's memory");
        report.promise(what, Verdict::at_most(samples.median(), KIB_MAX, " KiB"));
    }
    Ok(())
}

/// Opens all sessions in a new server, and lets go of them.
fn round<T>(
    folder: &Folder,
    attach: impl Fn(&Server, &str) -> anyhow::Result<T>,
    attached: &mut Samples,
    detached: Option<&mut Samples>,
) -> anyhow::Result<()> {
    let server = Server::start(folder)?;
    // What is allocated once for all is there afterwards.
    let first = attach(&server, "first")?;
    let before = settled(&server)?;
    let per_session = |with: f64| (with - before) / (CELLS * SESSIONS_PER_CELL) as f64;
    let clients: Vec<T> =
        (0..CELLS).map(|cell| attach(&server, &format!("sessions-{cell}"))).collect::<anyhow::Result<_>>()?;
    attached.add(per_session(settled(&server)?));
    drop(clients);
    if let Some(detached) = detached {
        detached.add(per_session(settled(&server)?));
    }
    drop(first);
    Ok(())
}

fn plainly(server: &Server, project: &str) -> anyhow::Result<Vec<Client>> {
    let open = |number| {
        let path = format!("/ws/terminal/{project}/?session=s{number}");
        let mut client = Client::connect(&server.address, &path)?;
        client.until_prompt()?;
        Ok(client)
    };
    (0..SESSIONS_PER_CELL).map(open).collect()
}

fn by_wire(server: &Server, project: &str) -> anyhow::Result<Wire> {
    let mut wire = Wire::connect(&server.address, project)?;
    for number in 0..SESSIONS_PER_CELL {
        wire.attach(&format!("s{number}"))?;
        wire.until_prompt()?;
    }
    Ok(wire)
}

/// Memory of the server's process in KiB, with its page tables, once it is at rest. Of the logs, which cells share with it, it
/// has the half of what it has read.
fn settled(server: &Server) -> anyhow::Result<f64> {
    std::thread::sleep(REST);
    let pid = server.pid();
    let pages = sum_of(&format!("/proc/{pid}/smaps_rollup"), &["Pss"])?;
    Ok(pages + sum_of(&format!("/proc/{pid}/status"), &["VmPTE"])?)
}
