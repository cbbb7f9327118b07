//! What a cell uses, and how often it met a limit: as the kernel counts it. The launcher reads it, so a cell has no say in it.

use serde::{Deserialize, Serialize};

/// A running cell's use of what is limited. What this kernel doesn't count is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory, page cache included.
    pub memory: Memory,
    /// Processor time.
    pub cpu: Cpu,
    /// Processes and threads.
    pub pids: Pids,
    /// How much of its time the cell has to wait for want of something.
    pub pressure: Pressure,
}

/// Use of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// In bytes, now.
    pub bytes: Option<u64>,
    /// The most it ever was.
    pub bytes_peak: Option<u64>,
    /// The most it may be.
    pub bytes_max: Option<u64>,
    /// How many processes the kernel killed for want of it.
    pub kills: u64,
    /// The program that it killed last, up to 15 bytes of its name; `None` where the launcher can't read the kernel's log.
    pub victim: Option<String>,
}

/// Use of processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Processor time since the cell's birth in microseconds.
    pub used_us: Option<u64>,
    /// How long it had to wait because it had used up its share, in microseconds.
    pub throttled_us: Option<u64>,
    /// Its share in thousandths of one processor.
    pub millis_max: Option<u64>,
}

/// Use of process numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pids {
    /// Now.
    pub count: Option<u64>,
    /// The most there ever were.
    pub peak: Option<u64>,
    /// The most there may be.
    pub max: Option<u64>,
    /// How many were refused.
    pub refusals: u64,
}

/// Pressure stall information (the kernel's Documentation/accounting/psi.rst).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// For want of a processor.
    pub cpu: Option<Stall>,
    /// For want of memory.
    pub memory: Option<Stall>,
    /// For want of disks.
    pub io: Option<Stall>,
}

/// How much of the time some tasks, or all at once, were kept waiting: percent over the last 10 s, microseconds since birth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// Some of them, in percent.
    pub some_percent: f32,
    /// Some of them, in all.
    pub some_us: u64,
    /// All of them, in percent.
    pub full_percent: f32,
    /// All of them, in all.
    pub full_us: u64,
}

impl Stall {
    /// Reads a pressure file; `None` if it says nothing of the kind.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            Some((field("avg10")?.parse().ok()?, field("total")?.parse().ok()?))
        };
        let (some_percent, some_us) = line("some")?;
        let (full_percent, full_us) = line("full").unwrap_or_default();
        Some(Self { some_percent, some_us, full_percent, full_us })
    }
}

#[cfg(test)]
mod tests {
    use super::Stall;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text =
            "some avg10=1.50 avg60=0.20 avg300=0.00 total=4711\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=12\n";
        let stall = Stall { some_percent: 1.5, some_us: 4711, full_percent: 0.25, full_us: 12 };
        assert_eq!(Stall::parse(text), Some(stall));
        // Before Linux 5.13 the processors' had one line.
        let (some, _) = text.split_once('\n').unwrap();
        assert_eq!(Stall::parse(some), Some(Stall { full_percent: 0.0, full_us: 0, ..stall }));
        assert_eq!(Stall::parse(""), None);
    }
}
