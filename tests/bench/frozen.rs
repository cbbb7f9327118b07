//! Cells that are frozen: how long the first key's echo takes, beside that of a cell which runs, and what many cost while nothing
//! happens. It has a server of its own that freezes soon.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::client::Client;
use crate::folder::Folder;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::{Server, wait_for};

/// Cells that are typed at, one after the other.
const CELLS: usize = 50;

/// Pause before a key.
const GAP: Duration = Duration::from_millis(5);

/// How long processor time is counted.
const COUNTED: Duration = Duration::from_secs(20);

const THAW_MS_MAX: f64 = 50.0;

/// Processor time of all frozen cells together and what looks after them, in thousandths of one processor.
const MILLIS_MAX: f64 = 1.0;

/// Measures keys in so many rounds, which fit in a line, and the processor time of so many cells.
pub(crate) fn measure(folder: &Folder, rounds: usize, cells: usize, report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start_with(folder, "idle_freeze_s = 1\n")?;
    keys(&server, rounds, report)?;
    processors(&server, cells, report)
}

/// A key into a frozen cell, and the next one into the same cell, which runs then.
fn keys(server: &Server, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let [mut frozen, mut running] = [(); 2].map(|()| Samples::default());
    let projects: Vec<String> = (0..CELLS).map(|number| format!("typed-{number}")).collect();
    let mut clients = Vec::with_capacity(CELLS);
    for project in &projects {
        let mut client = Client::connect(&server.address, &format!("/ws/terminal/{project}/"))?;
        client.until_prompt()?;
        clients.push(client);
    }
    for number in 0..=rounds {
        for (project, client) in projects.iter().zip(&mut clients) {
            until_frozen(server, project)?;
            for samples in [&mut frozen, &mut running] {
                std::thread::sleep(GAP);
                let began = Instant::now();
                client.until_echo(b"x")?;
                // The first round isn't counted.
                if number > 0 {
                    samples.add(began.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
    }
    report.figure("echo of bash, the first key in a frozen cell", "µs", &frozen);
    report.figure("echo of bash, the next key in that cell", "µs", &running);
    for (share, whose) in [(0.5, "half"), (0.99, "99 of 100")] {
        report.promise(
            format!("the first key in a frozen cell: echoes of {whose} within {THAW_MS_MAX} ms"),
            Verdict::at_most(frozen.quantile(share) / 1e3, THAW_MS_MAX, " ms"),
        );
    }
    report.remark(
        "99 of 100 echoes of bash: the first key in a frozen cell, the next key",
        &format!("{:.0} µs, {:.0} µs", frozen.quantile(0.99), running.quantile(0.99)),
    );
    drop(clients);
    projects.iter().try_for_each(|project| server.remove(project)?.ask())
}

/// What frozen cells with a shell each take, that nobody looks at.
fn processors(server: &Server, cells: usize, report: &mut Report) -> anyhow::Result<()> {
    let projects: Vec<String> = (0..cells).map(|number| format!("frozen-{number}")).collect();
    for project in &projects {
        Client::connect(&server.address, &format!("/ws/terminal/{project}/"))?.until_prompt()?;
    }
    projects.iter().try_for_each(|project| until_frozen(server, project))?;
    let before = worked(server)?;
    let began = Instant::now();
    std::thread::sleep(COUNTED);
    let millis = (worked(server)? - before).as_secs_f64() / began.elapsed().as_secs_f64() * 1e3;
    for project in &projects {
        ensure!(server.is_frozen(project), "{project} doesn't stay frozen");
    }
    let what = format!("processor time of {cells} frozen cells, with server and launcher");
    report.figure(&what, "µs a second", &Samples::of(millis * 1e3));
    report.promise(
        format!("{cells} frozen cells, with server and launcher: at most {MILLIS_MAX} ‰ of one processor"),
        Verdict::at_most(millis, MILLIS_MAX, " ‰"),
    );
    projects.iter().try_for_each(|project| server.remove(project)?.ask())
}

fn until_frozen(server: &Server, project: &str) -> anyhow::Result<()> {
    wait_for(|| server.is_frozen(project).then_some(())).with_context(|| format!("{project} is not frozen"))
}

/// How long the server, the launcher and all cells have worked so far.
fn worked(server: &Server) -> anyhow::Result<Duration> {
    let mut ns = server.cells_processor_ns()?;
    for pid in [server.pid(), server.launcher()] {
        for task in Path::new("/proc").join(pid.to_string()).join("task").read_dir()? {
            // The time on a processor in nanoseconds comes first (the kernel's Documentation/scheduler/sched-stats.rst).
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            ns += text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).context("no schedstat")?;
        }
    }
    Ok(Duration::from_nanos(ns))
}
