//! Many cells made and ended, several at a time: afterwards nothing of them is left on the host.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::anyhow;

use crate::client::Client;
use crate::report::{Report, Verdict};
use crate::server::{Server, Traces, wait_for};

/// Cells at a time.
const AT_ONCE: usize = 8;

/// Cells made and ended before: the launcher keeps the id maps of the latest 256 projects, so that their cells start
/// sooner. From then on there is nothing that a further cell may add.
const BEFORE: usize = 300;

/// Makes and ends so many cells, each of a project of its own that is removed with it.
pub(crate) fn measure(server: &Server, cells: usize, report: &mut Report) -> anyhow::Result<()> {
    live(server, 0..BEFORE)?;
    let before = settled(server)?;
    live(server, BEFORE..BEFORE + cells)?;
    server.until_idle()?;
    let mut after = server.traces()?;
    // Connections that were closed are let go of when their task comes to run.
    wait_for(|| {
        after = server.traces().ok()?;
        left_over(&before, &after).is_empty().then_some(())
    });
    let what = format!("{cells} cells made and ended, {AT_ONCE} at a time: nothing is left over");
    report.promise(what, judge(&left_over(&before, &after)));
    Ok(())
}

fn live(server: &Server, numbers: Range<usize>) -> anyhow::Result<()> {
    let next = AtomicUsize::new(numbers.start);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return anyhow::Ok(());
            }
            let project = format!("leak-{number}");
            let mut client = Client::connect(&server.address, &format!("/ws/terminal/{project}/"))?;
            client.until_prompt()?;
            server.remove(&project)?.ask()?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })
}

/// The traces, once they don't change any more.
fn settled(server: &Server) -> anyhow::Result<Traces> {
    server.until_idle()?;
    let mut last = server.traces()?;
    wait_for(|| {
        let now = server.traces().ok()?;
        let same = now == last;
        last = now;
        same.then_some(())
    });
    Ok(last)
}

/// Of what there is more than before; a sweeper that was still at work before is no matter.
fn left_over(before: &Traces, after: &Traces) -> Vec<String> {
    let counts = [
        ("processes", before.processes, after.processes),
        ("mounts", before.mounts, after.mounts),
        ("descriptors", before.descriptors, after.descriptors),
        ("cgroups", before.cgroups, after.cgroups),
        ("files in the run folder", before.run_files.len(), after.run_files.len()),
        ("files in the cells' storage", before.storage.len(), after.storage.len()),
    ];
    let left = counts.iter().filter(|(_, before, after)| after > before);
    left.map(|(what, before, after)| format!("{what}: {before}, then {after}")).collect()
}

fn judge(left: &[String]) -> Verdict {
    if left.is_empty() { Verdict::Kept("nothing".to_owned()) } else { Verdict::Broken(left.join("; ")) }
}
