//! `cloister attach`: this terminal as a client of a session on a server, over the same WebSocket as a browser.
//!
//! [`target`] is what to attach to, [`link`] one connection to it, [`keys`] the way out. It needs no privilege and no
//! launcher; when the link is lost it opens another, and says so on one line.

mod keys;
mod link;
mod target;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use sandbox::control::SessionName;
use sandbox::privilege::ServiceUser;
use sandbox::spec::ProjectId;
use tokio::time::Instant;

use crate::cli::AttachOptions;
use crate::config::Config;
use crate::token;
use crate::tty::{Event, Events, Input, Output, Raw};
use keys::DetachKeys;
use link::{End, Failure, Link, Terminal};
use target::Target;

/// First and longest pause between two attempts to get a lost link back: a restart takes a second, a network longer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How long a link is tried to get back: a reboot is over by then.
const LOST_MAX: Duration = Duration::from_secs(600);

/// What a key typed while there is no link sounds like: it goes nowhere.
const BELL: &[u8] = b"\x07";

/// Attaches this terminal to a session until its program ends or the keys are typed.
pub(crate) fn run(config: &Config, options: AttachOptions) -> anyhow::Result<ExitCode> {
    let project =
        ProjectId::parse(&options.project).with_context(|| format!("project `{}`", options.project.escape_debug()))?;
    let session = SessionName::try_from(options.session).map_err(|reason| anyhow!("--session: {reason}"))?;
    let keys = DetachKeys::parse(&options.detach_keys).map_err(|reason| anyhow!("--detach-keys: {reason}"))?;
    let keys = if std::io::stdin().is_terminal() { keys } else { DetachKeys::none() };
    let token = options.token.map_or_else(|| owner_token(config), Ok)?;
    let target = Target::new(&options.url.unwrap_or_else(|| own_server(config)), project, session, &token)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(attach(&target, keys))
}

/// The token of the server on this machine.
fn owner_token(config: &Config) -> anyhow::Result<String> {
    let read = || {
        let state = File::open(&config.state).with_context(|| config.state.display().to_string())?;
        let uid = ServiceUser::find(&config.user).map_or(0, |user| user.uid);
        token::read_owner(state.as_fd(), uid)
    };
    read().context("no token: give one by CLOISTER_TOKEN or --token, or be root on the server's machine")
}

/// The address of the server on this machine.
fn own_server(config: &Config) -> String {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    format!("http://{address}")
}

async fn attach(target: &Target, keys: DetachKeys) -> anyhow::Result<ExitCode> {
    let mut link = match Link::open(target).await {
        Ok(link) => link,
        Err(Failure::Refused(reason)) => return Err(anyhow!(reason)),
        Err(Failure::Unreachable(reason)) => {
            return Err(anyhow!(reason).context(format!(
                "no server at {}: start it with `cloister serve`, or name another by --url",
                target.server()
            )));
        }
    };
    let mut terminal = Terminal {
        events: Events::listen().context("listen for signals")?,
        raw: Raw::enter().context("set the terminal to raw mode")?,
        input: Input::start(),
        output: Output::start(),
        keys,
    };
    let end = loop {
        match link.relay(target, &mut terminal).await {
            End::Lost(reason) => match again(target, &mut terminal, reason).await {
                Ok(another) => link = another,
                Err(end) => break end,
            },
            end => break end,
        }
    };
    leave(end, terminal).await
}

/// Gets a lost link back, in growing intervals and not for ever.
async fn again(target: &Target, terminal: &mut Terminal, mut reason: String) -> Result<Link, End> {
    let deadline = Instant::now() + LOST_MAX;
    let mut pause = PAUSE.0;
    while Instant::now() < deadline {
        let opening = async {
            tokio::time::sleep(pause).await;
            Link::open(target).await
        };
        terminal.output.say(&format!("{reason}; trying again")).await.map_err(End::output)?;
        match meanwhile(terminal, opening).await? {
            Ok(link) => {
                // The session's recent output comes again with a new link.
                terminal.output.clear().await.map_err(End::output)?;
                return Ok(link);
            }
            Err(Failure::Refused(reason)) => return Err(End::Failed(reason)),
            Err(Failure::Unreachable(why)) => reason = why,
        }
        pause = (2 * pause).min(PAUSE.1);
    }
    Err(End::Failed(format!("the link was lost and didn't come back: {reason}")))
}

/// Waits for something while there is no link: keys that don't detach are refused audibly.
async fn meanwhile<T>(terminal: &mut Terminal, work: impl Future<Output = T>) -> Result<T, End> {
    tokio::pin!(work);
    let Terminal { raw, input, output, events, keys } = terminal;
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            event = events.next() => match event {
                Event::Ended(signal) => return Err(End::Signalled(signal)),
                // Without the terminal there is nothing to bring back, and a signal comes next.
                Event::Continued => drop(raw.enter_again()),
                Event::Resized => {}
            },
            piece = input.next(), if !input.is_piped() => {
                let piece = piece.ok_or(End::Signalled(1))?;
                let (_, detached) = keys.typed(&piece);
                if detached {
                    return Err(End::Detached);
                }
                output.write(Bytes::from_static(BELL)).await.map_err(End::output)?;
            }
        }
    }
}

/// Gives the terminal back as it was, and says how it ended.
async fn leave(end: End, terminal: Terminal) -> anyhow::Result<ExitCode> {
    let Terminal { raw, output, mut events, .. } = terminal;
    if !matches!(end, End::Exited(_)) {
        output.make_plain();
    }
    let finished = output.finish(&mut events, matches!(end, End::Signalled(_))).await;
    drop(raw);
    let end = match finished {
        Err(error) if matches!(end, End::Exited(_)) => End::output(error),
        _ => end,
    };
    match end {
        End::Exited(status) => Ok(ExitCode::from(status)),
        End::Detached => {
            eprintln!("cloister: detached; the session goes on");
            Ok(ExitCode::SUCCESS)
        }
        End::Signalled(signal) => Ok(ExitCode::from(128 + signal)),
        End::Lost(reason) | End::Failed(reason) => Err(anyhow!(reason)),
    }
}
