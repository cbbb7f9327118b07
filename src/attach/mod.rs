//! `cloister attach`: this terminal as a client of a session on a server, over the same WebSocket as a browser.
//!
//! A connection may break at any byte, and nothing is lost or comes twice: [`kept`] is what outlives it, what is [`shown`]
//! here and what was [`typed`]; [`link`] is one connection, over a [`socket`] to a [`target`]; [`near`] is this side, with the
//! [`keys`] that are the way out. [`list`] only asks who is there. It needs no privilege and no launcher.

mod end;
mod kept;
mod keys;
mod link;
mod list;
mod near;
mod shown;
mod socket;
mod target;
mod typed;
mod whole;

use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, anyhow};
use sandbox::control::{Exit, SessionName};
use sandbox::spec::ProjectId;

use crate::cli::AttachOptions;
use crate::client;
use crate::config::Config;
use crate::session::random;
use crate::tty::{Events, Input, Output, Raw};
use crate::wire::Role;
use end::{End, Failure};
use kept::{Kept, Wish};
use keys::DetachKeys;
use link::Link;
use near::Near;
use target::Target;

/// First and longest pause between two attempts to connect again: a restart takes less than a second, a network longer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Attaches this terminal to a session until its program ends or the keys are typed.
pub(crate) fn run(config: &Config, options: AttachOptions) -> anyhow::Result<ExitCode> {
    let project =
        ProjectId::parse(&options.project).with_context(|| format!("project `{}`", options.project.escape_debug()))?;
    let session = SessionName::try_from(options.session).map_err(|reason| anyhow!("--session: {reason}"))?;
    let keys = DetachKeys::parse(&options.detach_keys).map_err(|reason| anyhow!("--detach-keys: {reason}"))?;
    let keys = if std::io::stdin().is_terminal() { keys } else { DetachKeys::none() };
    let (address, token) = client::server(config, &options.server)?;
    let target = Target::new(address, project, &token)?;
    let role = if options.view { Role::Viewer } else { Role::Writer };
    let wish = Wish::new(session, random()?, role);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        if options.ls { list::print(&target, &wish).await } else { attach(&target, wish, keys).await }
    })
}

async fn attach(target: &Target, wish: Wish, keys: DetachKeys) -> anyhow::Result<ExitCode> {
    let mut link = Link::open(target, &wish).await.map_err(|failure| failure.at_first(target))?;
    let mut near = Near {
        events: Events::listen().context("listen for signals")?,
        raw: Raw::enter().context("set the terminal to raw mode")?,
        input: Input::start(),
        keys,
    };
    let mut kept = Kept::new(wish, Output::start());
    let end = loop {
        match serve(&mut near, &mut kept, link).await {
            End::Lost(reason) => match again(target, &mut near, &mut kept, reason).await {
                Ok(another) => link = another,
                Err(end) => break end,
            },
            end => break end,
        }
    };
    leave(end, near, kept).await
}

/// Serves a connection until it or everything ends.
async fn serve(near: &mut Near, kept: &mut Kept, mut link: Link) -> End {
    if let Err(end) = kept.go_on(&link) {
        return end;
    }
    let end = near.until(kept, true, |cx, kept| link.poll(cx, kept)).await.unwrap_or_else(|end| end);
    match &end {
        End::Lost(_) => {}
        End::Detached => link.leave(kept).await,
        _ => link.close().await,
    }
    end
}

/// Connects again, however long it takes.
async fn again(target: &Target, near: &mut Near, kept: &mut Kept, mut reason: String) -> Result<Link, End> {
    let mut pause = PAUSE.0;
    loop {
        kept.shown.say(&format!("no connection to {} ({reason}), trying again", target.project()));
        // Of many clients that a server lost not all come at once.
        let jitter = random().map_or(0.0, |number| number as f64 / u64::MAX as f64);
        let (wish, wait) = (kept.wish(), pause.mul_f64(1.0 - jitter / 2.0));
        pause = (2 * pause).min(PAUSE.1);
        let opening = async {
            tokio::time::sleep(wait).await;
            Link::open(target, &wish).await
        };
        let mut opening = pin!(opening);
        let opened = near.until(kept, false, |cx, kept| match kept.shown.poll(cx) {
            Poll::Ready(end) => Poll::Ready(Err(end)),
            Poll::Pending => opening.as_mut().poll(cx).map(Ok),
        });
        match opened.await?? {
            Ok(link) => {
                kept.shown.unsay("connected again");
                return Ok(link);
            }
            Err(Failure::Refused(reason)) => return Err(End::Failed(reason)),
            Err(Failure::Unreachable(why) | Failure::Unable(why)) => reason = why,
        }
    }
}

/// Gives the terminal back as it was, and says how it ended.
async fn leave(end: End, near: Near, kept: Kept) -> anyhow::Result<ExitCode> {
    let Near { raw, mut events, .. } = near;
    let unarrived = kept.typed.kept();
    let mut output = kept.shown.end();
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
        End::Exited(Exit::Code(status)) => Ok(ExitCode::from(status)),
        End::Exited(Exit::Signal(signal)) | End::Signalled(signal) => Ok(ExitCode::from(128_u8.saturating_add(signal))),
        End::Detached => {
            eprintln!("cloister: detached; the session goes on");
            if unarrived > 0 {
                eprintln!("cloister: the last {unarrived} bytes that were typed may not have arrived");
            }
            Ok(ExitCode::SUCCESS)
        }
        End::Lost(reason) | End::Failed(reason) => Err(anyhow!(reason)),
    }
}
