//! What a cell costs while nobody uses it: memory of the host, per cell, without its shell.

use std::time::Instant;

use anyhow::Context;
use rustix::io::Errno;

use crate::client::Client;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;
use crate::tty::DEADLINE;

/// Cells at once: many, so that what others on the machine do counts for little in each.
const CELLS: usize = 50;

const KIB_MAX: f64 = 1024.0;

/// What the kernel holds for a cell, of /proc/meminfo (proc_meminfo(5)). Not its `AnonPages`, which are everybody's: what
/// the processes hold is asked of them.
const KERNEL: [&str; 3] = ["Slab", "KernelStack", "Percpu"];

/// Measures in so many rounds: memory with cells, less memory without, by their number.
pub(crate) fn measure(server: &Server, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    server.until_idle()?;
    let mut per_cell = Samples::default();
    // The first isn't counted: whatever is allocated once for all is there afterwards.
    for number in 0..=rounds {
        let before = settled(server)?;
        let projects: Vec<String> = (0..CELLS).map(|number| format!("idle-{number}")).collect();
        for project in &projects {
            let mut client = Client::connect(&server.address, &format!("/ws/terminal/{project}/"))?;
            client.until_prompt()?;
            client.until_closed(b"exit\r")?;
        }
        let with = settled(server)?;
        for project in &projects {
            server.remove(project)?.ask()?;
        }
        server.until_idle()?;
        let after = settled(server)?;
        if number > 0 {
            // What went on meanwhile in one direction cancels out.
            per_cell.add((with - f64::midpoint(before, after)) / CELLS as f64);
        }
    }
    report.figure("memory of an idle cell without its shell", "KiB", &per_cell);
    let verdict = Verdict::at_most(per_cell.median(), KIB_MAX, " KiB");
    report.promise("an idle cell without its shell: at most 1 MiB".to_owned(), verdict);
    Ok(())
}

/// Memory in use in KiB, of the kernel and of the server's, the launcher's and the cells' processes. The kernel is asked first
/// to let go of cached directory entries and inodes, which it keeps only as long as nobody wants the room. A process that ends
/// meanwhile, such as a sweeper, means that nothing had settled yet.
fn settled(server: &Server) -> anyhow::Result<f64> {
    let began = Instant::now();
    loop {
        match in_use(server) {
            Err(error) if is_gone(&error) && began.elapsed() < DEADLINE => {}
            counted => return counted,
        }
    }
}

/// Whether something failed because a process has ended.
fn is_gone(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error);
    matches!(error, Some(Errno::SRCH | Errno::NOENT))
}

fn in_use(server: &Server) -> anyhow::Result<f64> {
    std::fs::write("/proc/sys/vm/drop_caches", "2")?;
    let mut sum = sum_of("/proc/meminfo", &KERNEL)?;
    for pid in server.pids() {
        // Pages that several share are counted to each in part; so are those of the sessions' logs.
        sum += sum_of(&format!("/proc/{pid}/smaps_rollup"), &["Pss"])?;
        sum += sum_of(&format!("/proc/{pid}/status"), &["VmPTE"])?;
    }
    Ok(sum)
}

/// The sum of these fields of a file whose lines are `name: number kB`.
pub(crate) fn sum_of(file: &str, wanted: &[&str]) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let fields = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| wanted.contains(name));
    Ok(fields.filter_map(|(_, value)| value.split_whitespace().next()?.parse::<f64>().ok()).sum())
}
