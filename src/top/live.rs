//! The table on a terminal, drawn again with every look, key and size, and the terminal as it was afterwards, however it ends.
//!
//! A terminal that takes nothing holds nothing up: a picture is drawn when the one before is written.

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep_until};

use super::ask::{Look, Server};
use super::rows::Rows;
use super::table;
use crate::cli::SortBy;
use crate::tty::{self, Event, Events, Input, Output, Raw};

/// To the second screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// After the first look: until there are two, nobody knows who uses the processors.
const SECOND_LOOK_WAIT: Duration = Duration::from_millis(500);

/// What was typed to end it: q, ^C, ^D.
const QUIT: [u8; 3] = [b'q', 3, 4];

/// What is shown.
struct View<'a> {
    server: &'a Server,
    sort: SortBy,
    last: Look,
    rows: Rows,
    /// Why there is no newer look.
    trouble: Option<String>,
}

/// Shows the table until somebody ends it.
pub(super) async fn show(server: &Server, sort: SortBy, every: Duration) -> anyhow::Result<ExitCode> {
    // Before anything is drawn: what is wrong at first is best said in one line.
    let last = server.look().await?;
    let mut events = Events::listen().context("listen for signals")?;
    let raw = Raw::enter().context("set the terminal to raw mode")?;
    let mut output = Output::start();
    output.put(ENTER.into());
    let mut view = View { server, sort, rows: Rows::new(None, last.clone()), last, trouble: None };
    let end = view.run(every, &mut output, &mut events, &raw).await;
    output.put(LEAVE.into());
    // The terminal may be gone: there is nobody to tell.
    let _ = output.finish(&mut events, end.is_some()).await;
    drop(raw);
    Ok(end.map_or(ExitCode::SUCCESS, |signal| ExitCode::from(128_u8.saturating_add(signal))))
}

impl View<'_> {
    /// Looks and draws until somebody quits; gives the signal if one ended it.
    async fn run(&mut self, every: Duration, output: &mut Output, events: &mut Events, raw: &Raw) -> Option<u8> {
        let server = self.server;
        let mut input = Input::start();
        let mut looking: Option<Pin<Box<dyn Future<Output = anyhow::Result<Look>> + '_>>> = None;
        let mut next = Instant::now() + SECOND_LOOK_WAIT.min(every);
        let mut stale = true;
        loop {
            if stale && output.unwritten() == 0 {
                output.put(self.picture().into());
                stale = false;
            }
            let waits = output.unwritten() > 0;
            let look = async {
                match &mut looking {
                    Some(looking) => Some(looking.await),
                    None => {
                        sleep_until(next).await;
                        None
                    }
                }
            };
            tokio::select! {
                looked = look => match looked {
                    Some(looked) => {
                        looking = None;
                        next = Instant::now() + every;
                        self.take(looked);
                        stale = true;
                    }
                    None => looking = Some(Box::pin(server.look())),
                },
                written = std::future::poll_fn(|cx| output.poll_written(cx)), if waits => {
                    // Whoever looked at it is gone.
                    if written.is_err() {
                        return None;
                    }
                }
                keys = input.next(), if !input.is_piped() => {
                    if keys.is_none_or(|keys| keys.iter().any(|key| !self.press(*key))) {
                        return None;
                    }
                    stale = true;
                }
                event = events.next() => {
                    match event {
                        Event::Ended(signal) => return Some(signal),
                        // Without the terminal there is nothing to bring back, and a signal comes next.
                        Event::Continued => {
                            drop(raw.enter_again());
                            output.put(ENTER.into());
                        }
                        Event::Resized => {}
                    }
                    stale = true;
                }
            }
        }
    }

    fn take(&mut self, looked: anyhow::Result<Look>) {
        match looked {
            Ok(look) => {
                self.rows = Rows::new(Some(&self.last), look.clone());
                self.last = look;
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(format!("{error:#}")),
        }
    }

    /// Takes a key; `false` if it is one that quits.
    fn press(&mut self, key: u8) -> bool {
        self.sort = match key {
            b'c' => SortBy::Cpu,
            b'm' => SortBy::Memory,
            b'p' => SortBy::Pids,
            b'w' => SortBy::Waiting,
            b'l' => SortBy::Clients,
            b'u' => SortBy::Uptime,
            b'i' => SortBy::Id,
            _ => return !QUIT.contains(&key),
        };
        true
    }

    /// A whole window.
    fn picture(&self) -> String {
        let size = tty::size().unwrap_or(sandbox::control::Size::DEFAULT);
        let summary = match &self.trouble {
            Some(trouble) => format!("no answer, trying again: {trouble}"),
            None => table::summary(&self.rows),
        };
        let sorted = self.rows.sorted(self.sort);
        let lines = table::window(&sorted, &summary, usize::from(size.cols), usize::from(size.rows));
        // Each line is cleared before it is written: behind one that is as wide as the window its last letter would go.
        let below = if lines.len() < usize::from(size.rows) { "\r\n\x1b[J" } else { "" };
        format!("\x1b[H\x1b[K{}{below}", lines.join("\r\n\x1b[K"))
    }
}
