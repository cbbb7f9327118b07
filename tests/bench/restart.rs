//! How long clients are away when the server is restarted, as an upgrade does, or killed. Their sessions are where they were.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::Client;
use crate::folder::Folder;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::{Server, wait_for};

/// Sessions with a client each, all of one project.
const SESSIONS: usize = 50;

const AWAY_MAX_MS: f64 = 1000.0;

/// Restarts so many times each way. A client is back when it has got its session's prompt; the last of them counts, and they come back
/// one after the other.
pub(crate) fn measure(folder: &Folder, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut server = Server::start(folder)?;
    let path = |session: usize| format!("/ws/terminal/restart/?session=s{session}");
    let come_back = |server: &Server| -> anyhow::Result<Vec<Client>> {
        let back = (0..SESSIONS).map(|session| {
            // Until the new server listens, nobody does.
            let connected = wait_for(|| Client::connect(&server.address, &path(session)).ok());
            let mut client = connected.ok_or_else(|| anyhow::anyhow!("the server does not come back"))?;
            // A snapshot's prompt has more behind it than a shell's.
            client.until("\r", b"$ ")?;
            Ok(client)
        });
        back.collect()
    };
    let mut clients = come_back(&server)?;
    for (signal, what) in [(Signal::TERM, "restarted"), (Signal::KILL, "killed")] {
        let mut away = Samples::default();
        for _ in 0..rounds {
            let began = Instant::now();
            server.signal(signal)?;
            // As clients do that hear it: the server waits a second for one that doesn't.
            drop(clients);
            server.follow()?;
            clients = come_back(&server)?;
            away.add_time(began.elapsed());
            std::thread::sleep(Duration::from_millis(200));
        }
        report.figure(&format!("{SESSIONS} clients away when the server is {what}"), "ms", &away);
        let verdict = Verdict::at_most(away.quantile(1.0), AWAY_MAX_MS, " ms");
        report.promise(format!("the server is {what}: {SESSIONS} clients are back within 1 s, each time"), verdict);
    }
    Ok(())
}
