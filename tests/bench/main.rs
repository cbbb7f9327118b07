//! `make bench`: every number that docs/performance.md promises, measured with its peers in the same run, and whether each
//! promise is kept.
//!
//! [`server`] is what is measured, from outside, as its users meet it; [`peers`], [`relay`] and [`terminals`] are what it is
//! measured against; [`cells`], [`echo`], [`web`], [`streams`], [`bombs`], [`idle`], [`leaks`], [`sessions`], [`stalled`],
//! [`frozen`], [`restart`] and [`crowd`] measure; [`report`] tells. It knows nothing of the inside.

mod bombs;
mod cells;
mod client;
mod crowd;
mod dialect;
mod echo;
mod folder;
mod frozen;
mod idle;
mod leaks;
mod peers;
mod relay;
mod report;
mod restart;
mod samples;
mod server;
mod sessions;
mod signals;
mod stalled;
mod streams;
mod terminals;
mod tty;
mod web;
mod wire;

use std::process::ExitCode;

use anyhow::{bail, ensure};

use folder::Folder;
use peers::Peers;
use report::Report;
use server::Server;

const USAGE: &str = "usage: scripts/bench [--quick] [--write] [cells] [echo] [web] [streams] [bombs] [idle] [leaks] [sessions] [stalled] [frozen] [restart] [crowd]";

/// The parts that are measured in one server, in their order: those that measure time come first, in a server that has done
/// nothing else.
const TOGETHER: [&str; 7] = ["cells", "echo", "web", "streams", "bombs", "idle", "leaks"];

/// The parts that have servers of their own: their memory and their processor time are only what is measured.
const APART: [&str; 5] = ["sessions", "stalled", "frozen", "restart", "crowd"];

/// What is asked for.
#[derive(Debug)]
struct Options {
    /// A tenth of everything, to see that it works.
    quick: bool,
    /// Whether docs/performance.md is brought up to date.
    write: bool,
    /// The parts; none means all.
    parts: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((word, program)) if word == relay::WORD => relay::run(program.to_vec()).map(|()| true),
        // What isn't started by `cargo bench` is only checked that it builds.
        _ if !words.iter().any(|word| word == "--bench") => Ok(true),
        _ => Options::parse(&words).and_then(|options| bench(&options)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(words: &[String]) -> anyhow::Result<Self> {
        let mut options = Self { quick: false, write: false, parts: Vec::new() };
        for word in words {
            match word.as_str() {
                "--bench" => {}
                "--quick" => options.quick = true,
                "--write" => options.write = true,
                part if TOGETHER.contains(&part) || APART.contains(&part) => options.parts.push(part.to_owned()),
                other => bail!("{other}: {USAGE}"),
            }
        }
        ensure!(!options.write || (!options.quick && options.parts.is_empty()), "--write is for a whole run: {USAGE}");
        Ok(options)
    }

    fn asks_for(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|asked| asked == part)
    }

    fn count(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }
}

/// Measures; whether every promise is kept.
fn bench(options: &Options) -> anyhow::Result<bool> {
    ensure!(rustix::process::geteuid().is_root(), "must be started by root, to make cells: try it with sudo");
    let folder = Folder::make()?;
    let mut report = Report::default();
    if TOGETHER.into_iter().any(|part| options.asks_for(part)) {
        together(&folder, options, &mut report)?;
    }
    for part in APART.into_iter().filter(|part| options.asks_for(part)) {
        eprintln!("==> measuring {part}");
        match part {
            "sessions" => sessions::measure(&folder, options.count(5), &mut report)?,
            "stalled" => stalled::measure(&Server::start(&folder)?, options.count(60), &mut report)?,
            "restart" => restart::measure(&folder, options.count(20), &mut report)?,
            "frozen" => frozen::measure(&folder, options.count(20), options.count(500), &mut report)?,
            _ => crowd::measure(&Server::start(&folder)?, options.count(1000), options.count(20), &mut report)?,
        }
    }
    print!("{}", report.tables());
    if options.write {
        report.write()?;
    }
    Ok(report.is_kept())
}

/// Measures what is measured in one server, and beside peers.
fn together(folder: &Folder, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("==> importing the default image, and unpacking it for the peers");
    let server = Server::start(folder)?;
    let peers = Peers::prepare(folder)?;
    for (name, peer) in peers.all() {
        if let Err(reason) = peer {
            eprintln!("    without {name}: {reason}");
        }
    }
    for part in TOGETHER.into_iter().filter(|part| options.asks_for(part)) {
        eprintln!("==> measuring {part}");
        match part {
            "cells" => cells::measure(&server, &peers, options.count(100), report)?,
            "echo" => echo::measure(&server, &peers, options.count(20), report)?,
            "web" => web::measure(&server, &peers, folder, options.count(20), report)?,
            "streams" => streams::measure(&server, &peers, folder, options.count(10), report)?,
            "bombs" => bombs::measure(&server, &peers, options.count(5), report)?,
            "idle" => idle::measure(&server, options.count(10), report)?,
            _ => leaks::measure(&server, options.count(1000), report)?,
        }
    }
    Ok(())
}
