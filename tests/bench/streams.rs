//! Output by the megabyte: how fast it comes, how soon ^C shows in the midst of it, what it costs a neighbour, and how soon a
//! client that comes back has the whole screen.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::client::{Address, Client, Network};
use crate::folder::Folder;
use crate::peers::Peers;
use crate::relay::Relay;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;
use crate::tty::DEADLINE;
use crate::wire::Wire;

/// What is sent through: lines of base64, as long as a terminal is wide.
const TEXT_BYTES: usize = 200 << 20;
const LINE_BYTES: usize = 76;

/// What a browser's terminal takes, in bytes a second, and how it takes them.
const SLOW_BYTES_PER_S: f64 = 2e6;
pub(crate) const SLOW: Network = Network { bytes_per_s: SLOW_BYTES_PER_S, piece_bytes: 16 * 1024 };

/// How long a flood goes on before ^C, and beside a neighbour.
pub(crate) const FLOOD: Duration = Duration::from_secs(2);

/// Lines that a returning client gets back.
const HISTORY_LINES: usize = 10_000;

const KEYS: usize = 200;
const GAP: Duration = Duration::from_millis(5);

const TO_RELAY_MIN: f64 = 0.95;
const SHOWN_MS_MAX: f64 = 100.0;
const SHOWN_BROWSER_MS_MAX: f64 = 300.0;
const BESIDE_FLOOD_MAX: f64 = 1.5;
const BESIDE_FLOOD_MS_MAX: f64 = 3.0;
const BACK_MS_MAX: f64 = 20.0;

/// Measures in so many rounds.
pub(crate) fn measure(
    server: &Server,
    peers: &Peers,
    folder: &Folder,
    rounds: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let relay = Relay::start(&peers.bash)?;
    through(server, &relay, folder, rounds, report)?;
    interrupt(server, rounds, report)?;
    beside_a_flood(server, rounds, report)?;
    back(server, rounds, report)?;
    server.stop("streams")?.ask()
}

/// All of a large text, through the server and through the relay.
fn through(server: &Server, relay: &Relay, folder: &Folder, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    const PATH: &str = "/ws/terminal/streams/?frames=binary";
    let mut ours = Client::connect(&server.address, PATH)?;
    ours.until_prompt()?;
    let bytes = if rounds < 3 { TEXT_BYTES / 10 } else { TEXT_BYTES };
    let text = text(bytes);
    let (host, inside) = (folder.path().join("text"), server.workspace("streams").join("text"));
    write(&host, &text)?;
    write(&inside, &text)?;
    let mut theirs = Client::connect(&relay.address, "/")?;
    theirs.until_prompt()?;
    let (mut our_times, mut their_times) = (Samples::default(), Samples::default());
    for _ in 0..rounds.min(5) {
        for (client, file, times) in
            [(&mut ours, Path::new("/workspace/text"), &mut our_times), (&mut theirs, host.as_path(), &mut their_times)]
        {
            let began = Instant::now();
            client.until(&format!("cat {}; echo do''ne\r", file.display()), b"done\r\n")?;
            times.add_time(began.elapsed());
            client.until_prompt()?;
        }
    }
    report.figure(&format!("cat of {} MiB, in a cell", bytes >> 20), "ms", &our_times);
    report.figure(&format!("cat of {} MiB, bare relay", bytes >> 20), "ms", &their_times);
    let what = format!("cat of {} MiB: at least {TO_RELAY_MIN} × as fast as the bare relay", bytes >> 20);
    report.promise(what, Verdict::at_least(their_times.ratio(&our_times), TO_RELAY_MIN, "×"));
    Ok(())
}

/// ^C in the midst of `yes`, for a client whose network is slow and for one whose terminal is.
fn interrupt(server: &Server, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let (mut network, mut browser) = (Samples::default(), Samples::default());
    for _ in 0..rounds.min(5) {
        let mut client = Client::connect(&server.address, "/ws/terminal/streams/?session=network&frames=binary")?;
        client.until_prompt()?;
        network.add_time(client.interrupt(FLOOD, SLOW, DEADLINE)?.context("^C never shows")?);
        client.until_closed(b"exit\r")?;
        let mut wire = Wire::connect(&server.address, "streams")?;
        wire.attach("browser")?;
        wire.until_prompt()?;
        browser.add_time(wire.interrupt(FLOOD, SLOW_BYTES_PER_S)?);
        wire.type_in(b"exit\r")?;
        wire.until_exit()?;
    }
    report.figure("^C in the midst of yes, network of 2 MB/s", "ms", &network);
    report.figure("^C in the midst of yes, terminal of 2 MB/s", "ms", &browser);
    let what = |who: &str, bound: f64| format!("^C shows within {bound} ms, {who} of 2 MB/s");
    report.promise(what("network", SHOWN_MS_MAX), Verdict::at_most(network.median(), SHOWN_MS_MAX, " ms"));
    let verdict = Verdict::at_most(browser.median(), SHOWN_BROWSER_MS_MAX, " ms");
    report.promise(what("a browser's terminal", SHOWN_BROWSER_MS_MAX), verdict);
    Ok(())
}

/// A key's echo, alone and beside a session that floods at full speed.
fn beside_a_flood(server: &Server, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut typing = Client::connect(&server.address, "/ws/terminal/streams/?session=typing")?;
    typing.until_prompt()?;
    let (mut alone, mut beside) = (Samples::default(), Samples::default());
    for round in 0..=rounds.min(5) {
        let mut unused = Samples::default();
        let (alone, beside) = if round == 0 { (&mut unused.clone(), &mut unused) } else { (&mut alone, &mut beside) };
        type_line(&mut typing, alone)?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&server.address, &stop));
            std::thread::sleep(FLOOD / 4);
            let typed = type_line(&mut typing, beside);
            stop.store(true, Ordering::Relaxed);
            flood.join().expect("the flood doesn't panic").and(typed)
        })?;
    }
    let ms = |samples: &Samples, share| samples.quantile(share) / 1e3;
    report.figure("echo of bash, alone", "µs", &alone);
    report.figure("echo of bash, beside a session that floods", "µs", &beside);
    let what = format!("echo beside a flood: half within {BESIDE_FLOOD_MAX} × of alone");
    report.promise(what, Verdict::at_most(beside.ratio(&alone), BESIDE_FLOOD_MAX, "×"));
    let what = format!("echo beside a flood: 99 of 100 within {BESIDE_FLOOD_MS_MAX} ms");
    report.promise(what, Verdict::at_most(ms(&beside, 0.99), BESIDE_FLOOD_MS_MAX, " ms"));
    Ok(())
}

/// Types keys one after the other, and measures in microseconds how long each takes to show.
pub(crate) fn type_line(client: &mut Client, times: &mut Samples) -> anyhow::Result<()> {
    for key in 0..KEYS {
        std::thread::sleep(GAP);
        let began = Instant::now();
        client.until_echo(b"x")?;
        times.add(began.elapsed().as_secs_f64() * 1e6);
        if key % 40 == 39 {
            client.until_quiet(b"\x15")?;
        }
    }
    Ok(())
}

fn flood(address: &Address, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut client = Client::connect(address, "/ws/terminal/streams/?session=flood&frames=binary")?;
    client.until_prompt()?;
    client.read_while(b"yes\r", |_| !stop.load(Ordering::Relaxed))?;
    client.until_closed(b"\x03exit\r")
}

/// A client that comes to a session with a long history, until it has all of the screen.
fn back(server: &Server, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut first = Client::connect(&server.address, "/ws/terminal/streams/?session=long&frames=binary")?;
    first.until_prompt()?;
    first.until(&format!("head -n {} /workspace/text; echo do''ne\r", HISTORY_LINES + 100), b"done\r\n")?;
    first.until_prompt()?;
    let mut times = Samples::default();
    for _ in 0..rounds.max(5) {
        let began = Instant::now();
        let mut wire = Wire::connect(&server.address, "streams")?;
        wire.attach("long")?;
        let bytes = wire.until_painted()?;
        times.add_time(began.elapsed());
        anyhow::ensure!(bytes > HISTORY_LINES * LINE_BYTES, "only {bytes} bytes of history");
    }
    report.figure("a client comes back to 10,000 lines of history", "ms", &times);
    let what = format!("back with {HISTORY_LINES} lines of history within {BACK_MS_MAX} ms");
    report.promise(what, Verdict::at_most(times.median(), BACK_MS_MAX, " ms"));
    Ok(())
}

/// So many bytes of lines, at most.
pub(crate) fn text(bytes: usize) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 1_u64;
    let mut digit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        DIGITS[(state >> 58) as usize]
    };
    let line = |_| (0..LINE_BYTES).map(|_| digit()).chain([b'\n']).collect::<Vec<u8>>();
    (0..bytes / (LINE_BYTES + 1)).flat_map(line).collect()
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
