//! A client that attaches to a flood and never reads: what it costs the server in memory, alone and beside one that reads, and
//! what that one notices. It has a server of its own, since memory that was used before would be used again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::client::Client;
use crate::idle::sum_of;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;

const KIB_MAX: f64 = 1024.0;

/// How long the flood goes on before: the log has come round by then, and the screen has all of its history.
const BEFORE: Duration = Duration::from_secs(3);

/// How long it is looked at without the client that doesn't read.
const WITHOUT: Duration = Duration::from_secs(10);

/// How often memory and throughput are looked at, and how often the client that doesn't read gives a sign of life.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LIVE_EVERY: Duration = Duration::from_secs(10);

/// Ends the flood, and has a word said that isn't typed.
const END: &str = "\x03echo do''ne\r";
const WORD: &[u8] = b"done";

const PATH: &str = "/ws/terminal/stalled/?frames=binary";

/// Measures a stall of so many seconds.
pub(crate) fn measure(server: &Server, seconds: usize, report: &mut Report) -> anyhow::Result<()> {
    let stall = Duration::from_secs(seconds as u64);
    for (how, grown) in [("alone", alone(server, stall)?), ("beside another", beside(server, stall, report)?)] {
        let what =
            format!("a client that doesn't read a flood for {seconds} s, {how}: at most 1 MiB of memory and log");
        report.promise(what, Verdict::at_most(grown, KIB_MAX, " KiB"));
    }
    server.stop("stalled")?.ask()
}

/// Nobody else reads. Gives what memory and log have grown by at most, in KiB.
fn alone(server: &Server, stall: Duration) -> anyhow::Result<f64> {
    let mut client = Client::connect(&server.address, &format!("{PATH}&session=alone"))?;
    client.until_prompt()?;
    let before = watch(server, BEFORE, || Ok(()))?;
    client.type_in(b"yes\r")?;
    let most = stall_with(server, stall, &mut client, || {})?;
    client.until(END, WORD)?;
    Ok(most - before)
}

/// Another one reads as fast as it can. Gives the same.
fn beside(server: &Server, stall: Duration, report: &mut Report) -> anyhow::Result<f64> {
    let path = format!("{PATH}&session=beside");
    let mut reader = Client::connect(&server.address, &path)?;
    reader.until_prompt()?;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut without, mut with) = (Samples::default(), Samples::default());
    let more = |bytes| {
        count.fetch_add(bytes as u64, Ordering::Relaxed);
        !stop.load(Ordering::Relaxed)
    };
    let grown = std::thread::scope(|scope| {
        // The reader stays attached to the end.
        let reading = scope.spawn(|| reader.read_while(b"yes\r", more).map(|()| reader));
        let mut watch_both = || {
            std::thread::sleep(BEFORE);
            let mut rate = Rate::of(&count);
            let before = watch(server, stall.min(WITHOUT), || {
                without.add(rate.next());
                Ok(())
            })?;
            let mut stalled = Client::connect(&server.address, &path)?;
            rate.next();
            let most = stall_with(server, stall, &mut stalled, || with.add(rate.next()))?;
            anyhow::Ok((stalled, most - before))
        };
        let watched = watch_both();
        stop.store(true, Ordering::Relaxed);
        let _reader = reading.join().map_err(|_| anyhow!("the reader panicked"))??;
        let (mut stalled, grown) = watched?;
        // It gets on as soon as it reads.
        stalled.until(END, WORD)?;
        anyhow::Ok(grown)
    })?;
    report.figure("a flood, read by one client", "MB/s", &without);
    report.figure("a flood, read by one client beside one that doesn't read", "MB/s", &with);
    Ok(grown)
}

/// Watches while a client doesn't read, but lives: it would be let go of after a minute. Gives the most that memory was.
fn stall_with(server: &Server, stall: Duration, client: &mut Client, mut look: impl FnMut()) -> anyhow::Result<f64> {
    let mut lived = Instant::now();
    watch(server, stall, || {
        look();
        if lived.elapsed() >= LIVE_EVERY {
            lived = Instant::now();
            client.live()?;
        }
        Ok(())
    })
}

/// Looks at memory for a while; gives the most that it was, in KiB.
fn watch(server: &Server, time: Duration, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut most = memory(server)?;
    while began.elapsed() < time {
        std::thread::sleep(LOOK_EVERY);
        look()?;
        most = most.max(memory(server)?);
    }
    Ok(most)
}

/// The server's own memory, and what its cells hold of logs and checkpoints, in KiB.
fn memory(server: &Server) -> anyhow::Result<f64> {
    let own = sum_of(&format!("/proc/{}/status", server.pid()), &["RssAnon"])?;
    let logs = server.pids().into_iter().flat_map(|pid| kept(&format!("/proc/{pid}/fd")));
    Ok(own + logs.sum::<f64>())
}

/// What is allocated of each file in memory that a process has open, in KiB.
fn kept(descriptors: &str) -> Vec<f64> {
    let entries = Path::new(descriptors).read_dir().into_iter().flatten().filter_map(Result::ok);
    let kept = entries.map(|entry| entry.path()).filter(|path| {
        let target = path.read_link().unwrap_or_default();
        ["/memfd:cloister-log", "/memfd:cloister-checkpoint"].iter().any(|name| {
            let target = target.to_string_lossy();
            target.starts_with(name)
        })
    });
    // Blocks are of 512 bytes, whatever the file system.
    kept.filter_map(|path| path.metadata().ok()).map(|metadata| metadata.blocks() as f64 / 2.0).collect()
}

/// What a reader gets, in megabytes a second, from one look to the next.
struct Rate<'a> {
    count: &'a AtomicU64,
    seen: u64,
    at: Instant,
}

impl<'a> Rate<'a> {
    fn of(count: &'a AtomicU64) -> Self {
        Self { count, seen: count.load(Ordering::Relaxed), at: Instant::now() }
    }

    fn next(&mut self) -> f64 {
        let (seen, at) = (self.count.load(Ordering::Relaxed), Instant::now());
        let rate = (seen - self.seen) as f64 / (at - self.at).as_secs_f64() / 1e6;
        (self.seen, self.at) = (seen, at);
        rate
    }
}
