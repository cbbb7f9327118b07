//! Web terminals that others use, beside ours: a key's echo, a large text, and ^C in the midst of a flood. Each speaks its own
//! protocol; all but one run the image's bash on the host, without a sandbox, and with nothing kept for who comes back.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::client::{Client, Place};
use crate::dialect::Dialect;
use crate::echo::Line;
use crate::folder::Folder;
use crate::peers::{Container, Peers};
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;
use crate::streams::{FLOOD, SLOW, text, write};
use crate::terminals::{Kind, Terminal};

/// A tenth of what ours is sent elsewhere: some of these are slow.
const TEXT_BYTES: usize = 20 << 20;

/// How long ^C may take to show. What some have queued by then takes their clients minutes.
const INTERRUPT_WAIT: Duration = Duration::from_secs(20);

const ROUNDS_MAX: usize = 5;
const INTERRUPTS_MAX: usize = 3;

const TO_PODMAN_MAX: f64 = 1.0;

const OURS: &str = "in a cell";
const PODMAN: &str = "podman exec, node-pty, ws";

/// One of those that are compared, and what it has shown so far.
struct Entrant {
    name: &'static str,
    place: Place,
    /// The text's path, as its shell sees it.
    file: String,
    /// The server's process, if it isn't ours.
    terminal: Option<Terminal>,
    /// How often a terminal was opened.
    opened: usize,
    /// Why it isn't measured any more.
    lost: Option<String>,
    echo: Samples,
    through: Samples,
    interrupt: Samples,
    /// ^C didn't show in time; it isn't tried again.
    late: bool,
}

/// Measures in so many rounds.
pub(crate) fn measure(
    server: &Server,
    peers: &Peers,
    folder: &Folder,
    rounds: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let container = peers.container();
    let mut entrants = entrants(server, peers, container.as_ref(), folder)?;
    let bytes = if rounds < ROUNDS_MAX { TEXT_BYTES / 10 } else { TEXT_BYTES };
    let host = folder.path().join("web-text");
    write(&host, &text(bytes))?;
    write(&server.workspace("web").join("text"), &text(bytes))?;
    if let Ok(container) = &container {
        container.put(&host.display().to_string(), "/tmp/text")?;
    }
    echo(&mut entrants, rounds);
    for _ in 0..rounds.min(ROUNDS_MAX) {
        each(&mut entrants, through);
    }
    for _ in 0..rounds.min(INTERRUPTS_MAX) {
        each(&mut entrants, interrupt);
    }
    judge(&entrants, bytes, report)?;
    drop(entrants);
    server.stop("web")?.ask()
}

/// Ours first, then every peer that can be started.
fn entrants(
    server: &Server,
    peers: &Peers,
    container: Result<&Container<'_>, &String>,
    folder: &Folder,
) -> anyhow::Result<Vec<Entrant>> {
    let path = "/ws/terminal/web/?frames=binary".to_owned();
    let ours = Place { address: server.address.clone(), path, dialect: Dialect::Bytes };
    // It makes the project.
    Client::open(&ours)?.until_prompt()?;
    let host = folder.place("web-text");
    let mut entrants = vec![Entrant::new(OURS, ours, "/workspace/text".to_owned(), None)];
    let mut start = |name, kind, shell: Result<_, String>, file: &str| match shell
        .and_then(|shell| Terminal::start(kind, &shell, folder))
    {
        Ok(terminal) => {
            entrants.push(Entrant::new(name, terminal.place.clone(), file.to_owned(), Some(terminal)));
        }
        Err(reason) => {
            eprintln!("    without {name}: {reason}");
            let mut missing = Entrant::new(name, entrants[0].place.clone(), String::new(), None);
            missing.lost = Some(reason);
            entrants.push(missing);
        }
    };
    let bash = || Ok(peers.bash.clone());
    start("terminado", Kind::Terminado, bash(), &host);
    start("Django Channels, daphne", Kind::Channels, bash(), &host);
    start("node-pty, ws", Kind::NodePty, bash(), &host);
    start(PODMAN, Kind::NodePty, container.map(Container::shell).map_err(String::clone), "/tmp/text");
    start("wetty", Kind::Wetty, bash(), &host);
    Ok(entrants)
}

impl Entrant {
    fn new(name: &'static str, place: Place, file: String, terminal: Option<Terminal>) -> Self {
        let none = Samples::default;
        let (echo, through, interrupt) = (none(), none(), none());
        Self { name, place, file, terminal, opened: 0, lost: None, echo, through, interrupt, late: false }
    }

    /// Opens a new terminal, and waits for its prompt.
    fn open(&mut self) -> anyhow::Result<Client> {
        let mut place = self.place.clone();
        if self.terminal.is_none() {
            // With ours a session would go on.
            self.opened += 1;
            place.path.push_str(&format!("&session=web-{}", self.opened));
        }
        let mut client = Client::open(&place)?;
        client.until_prompt()?;
        Ok(client)
    }

    /// Lets it do something, unless it has failed before; if it fails now it is left out from here on.
    fn attempt<T>(&mut self, act: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> Option<T> {
        if self.lost.is_some() {
            return None;
        }
        let done = act(self);
        done.map_err(|error| {
            eprintln!("    {} is left out: {error:#}", self.name);
            self.lost = Some(format!("{error:#}"));
        })
        .ok()
    }
}

fn each(entrants: &mut [Entrant], act: impl Fn(&mut Entrant) -> anyhow::Result<()>) {
    for entrant in entrants {
        entrant.attempt(&act);
    }
}

/// Keys at each in turns, on one connection.
fn echo(entrants: &mut [Entrant], rounds: usize) {
    let open = |entrant: &mut Entrant| Ok(Line::of(entrant.open()?));
    let mut lines: Vec<Option<Line>> = entrants.iter_mut().map(|entrant| entrant.attempt(open)).collect();
    for number in 0..=rounds {
        for (entrant, line) in entrants.iter_mut().zip(&mut lines) {
            if let Some(line) = line {
                entrant.attempt(|_| line.type_at(number > 0));
            }
        }
    }
    for (entrant, line) in entrants.iter_mut().zip(lines) {
        entrant.echo = line.map(|line| line.times).unwrap_or_default();
    }
}

/// All of the text.
fn through(entrant: &mut Entrant) -> anyhow::Result<()> {
    let mut client = entrant.open()?;
    let began = Instant::now();
    client.until(&format!("cat {}; echo do''ne\r", entrant.file), b"done\r\n")?;
    entrant.through.add_time(began.elapsed());
    Ok(())
}

/// ^C, for a client whose network is slow.
fn interrupt(entrant: &mut Entrant) -> anyhow::Result<()> {
    if entrant.late {
        return Ok(());
    }
    let mut client = entrant.open()?;
    match client.interrupt(FLOOD, SLOW, INTERRUPT_WAIT)? {
        Some(time) => entrant.interrupt.add_time(time),
        None => entrant.late = true,
    }
    Ok(())
}

fn judge(entrants: &[Entrant], bytes: usize, report: &mut Report) -> anyhow::Result<()> {
    let (ours, podman) = (&entrants[0], entrants.iter().find(|entrant| entrant.name == PODMAN));
    if let Some(reason) = &ours.lost {
        bail!("{reason}");
    }
    for entrant in entrants {
        report.figure(&format!("web terminals, echo of bash: {}", entrant.name), "µs", &entrant.echo);
    }
    for entrant in entrants {
        let what = format!("web terminals, cat of {} MiB: {}", bytes >> 20, entrant.name);
        report.figure(&what, "ms", &entrant.through);
    }
    for entrant in entrants {
        let what = format!("web terminals, ^C in the midst of yes, network of 2 MB/s: {}", entrant.name);
        if entrant.late {
            report.remark(&what, &format!("later than {} s", INTERRUPT_WAIT.as_secs()));
        } else {
            report.figure(&what, "ms", &entrant.interrupt);
        }
    }
    if let Some(podman) = podman {
        let verdict = match &podman.lost {
            Some(reason) => Verdict::Missing(reason.clone()),
            None => Verdict::at_most(ours.echo.ratio(&podman.echo), TO_PODMAN_MAX, "×"),
        };
        report.promise("echo of bash: below podman exec behind node-pty and ws".to_owned(), verdict);
    }
    Ok(())
}
