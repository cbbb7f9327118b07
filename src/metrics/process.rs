//! What the kernel says of this process. Its files are opened before the walls around the server go up, and read behind them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::fs::Dir;
use rustix::process::{Resource, getrlimit};

/// Longer than `/proc/self/status` is.
const STATUS_BYTES_MAX: usize = 8192;

/// This process, as the kernel shows it.
pub(super) struct Process {
    /// Nothing where there is no `/proc`.
    status: Option<File>,
    /// Walked from its beginning, by one at a time.
    descriptors: Option<Mutex<Dir>>,
    started_s: f64,
}

/// What it looks like now; what can't be had is 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub(super) resident_bytes: f64,
    pub(super) virtual_bytes: f64,
    pub(super) threads: f64,
    pub(super) descriptors: f64,
    pub(super) descriptors_max: f64,
    pub(super) cpu_s: f64,
    pub(super) started_s: f64,
}

impl Process {
    /// Opens what tells of this process; call it as it starts.
    pub(super) fn open() -> Self {
        let descriptors = File::open("/proc/self/fd").ok().and_then(|folder| Dir::new(folder).ok());
        Self {
            status: File::open("/proc/self/status").ok(),
            descriptors: descriptors.map(Mutex::new),
            started_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        }
    }

    /// Looks at it.
    pub(super) fn look(&self) -> Look {
        let status = self.status.as_ref().map(text).unwrap_or_default();
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let cpu = getrusage(UsageWho::RUSAGE_SELF);
        Look {
            resident_bytes: number(&status, "VmRSS:") * 1024.0,
            virtual_bytes: number(&status, "VmSize:") * 1024.0,
            threads: number(&status, "Threads:"),
            descriptors: self.descriptors.as_ref().map_or(0.0, count),
            // No limit is more than there can be.
            descriptors_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as f64,
            cpu_s: cpu.map_or(0.0, |used| seconds(used.user_time()) + seconds(used.system_time())),
            started_s: self.started_s,
        }
    }
}

fn text(file: &File) -> String {
    let mut text = vec![0; STATUS_BYTES_MAX];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    text.truncate(length);
    String::from_utf8_lossy(&text).into_owned()
}

/// The first number behind a word that begins a line (proc_pid_status(5)).
fn number(status: &str, word: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(word));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// How many entries a folder has besides itself and its parent.
fn count(folder: &Mutex<Dir>) -> f64 {
    let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
    folder.rewind();
    let names = folder.by_ref().map_while(Result::ok).filter(|entry| !entry.file_name().to_bytes().starts_with(b"."));
    names.count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself_each_time() {
        let process = Process::open();
        let before = process.look();
        assert!(before.resident_bytes > 1e5 && before.virtual_bytes > before.resident_bytes, "{before:?}");
        assert!(before.threads >= 1.0 && before.started_s > 1.7e9, "{before:?}");
        let held: Vec<_> = (0..500).map(|_| File::open("/proc/self/status").unwrap()).collect();
        let after = process.look();
        // Others may close some meanwhile.
        assert!(after.descriptors >= before.descriptors + 400.0, "{before:?} {after:?}");
        assert!(after.descriptors <= after.descriptors_max && after.cpu_s >= before.cpu_s, "{after:?}");
        drop(held);
    }
}
