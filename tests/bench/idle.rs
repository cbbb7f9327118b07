//! What a cell costs while nobody uses it: memory of the host, per cell, without its shell.

use crate::client::Client;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;

/// Cells at once: many, so that what others on the machine do counts for little in each.
const CELLS: usize = 50;

const KIB_MAX: f64 = 1024.0;

/// Fields of /proc/meminfo that a cell adds to (proc_meminfo(5)): what its processes hold, and what the kernel holds for it.
/// Free memory isn't among them, since caches move it; shared memory is, since a session's log lies there.
const FIELDS: [&str; 6] = ["AnonPages", "Shmem", "Slab", "KernelStack", "PageTables", "Percpu"];

/// Measures in so many rounds: memory with cells, less memory without, by their number.
pub(crate) fn measure(server: &Server, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut per_cell = Samples::default();
    // The first isn't counted: whatever is allocated once for all is there afterwards.
    for number in 0..=rounds {
        let before = settled()?;
        let projects: Vec<String> = (0..CELLS).map(|number| format!("idle-{number}")).collect();
        for project in &projects {
            let mut client = Client::connect(&server.address, &format!("/ws/terminal/{project}/"))?;
            client.until_prompt()?;
            client.until_closed(b"exit\r")?;
        }
        let with = settled()?;
        for project in &projects {
            server.remove(project)?.ask()?;
        }
        let after = settled()?;
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

/// Memory in use in KiB, without what the kernel keeps only as long as nobody wants the room: it is asked to let go of
/// cached directory entries and inodes first.
fn settled() -> anyhow::Result<f64> {
    std::fs::write("/proc/sys/vm/drop_caches", "2")?;
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let wanted = fields.filter(|(name, _)| FIELDS.contains(name));
    Ok(wanted.filter_map(|(_, value)| value.trim().split(' ').next()?.parse::<f64>().ok()).sum())
}
