//! One connection to a session: opened where the one before it broke, and served until it ends. What has to outlive it is
//! in `Kept`.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use sandbox::control::Size;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::end::{End, Failure};
use super::kept::{Kept, Wish};
use super::socket::{Heard, Socket};
use super::target::Target;
use crate::cell::spoken;
use crate::wire::{Ask, Channel, Hex, Tell, ToServer};

/// The only channel that is used.
const CHANNEL: Channel = Channel(1);

/// How often the server is asked for a sign of life, and how long it may give none: a lost packet is sent again by then.
const PING_EVERY: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Longest wait until a session is attached to; its cell may have to be started, and the server gives up after a minute.
const ATTACH_WAIT_MAX: Duration = Duration::from_secs(60);

/// Longest wait for what was typed last to arrive, and for the goodbye to go out.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(1);

/// A hold on a session over a connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    /// Which of all that had the session's name.
    pub(super) life: Hex,
    /// How much was typed and sent, on this connection or before.
    sent: u64,
    /// Up to where output was acknowledged.
    acked: u64,
    /// The size that the server knows.
    size: Size,
    pings: Interval,
    ping: Ping,
    heard: Instant,
}

/// Signs of life that were asked for.
#[derive(Debug)]
struct Ping {
    id: u64,
    due: bool,
}

impl Link {
    /// Connects and attaches.
    pub(super) async fn open(target: &Target, wish: &Wish) -> Result<Self, Failure> {
        let mut socket = Socket::over(target.open().await?).await;
        let attached = tokio::time::timeout(ATTACH_WAIT_MAX, attach(&mut socket, wish)).await;
        let (life, typed) = attached.unwrap_or_else(|_| Err(Failure::Unable("no answer in time".to_owned())))?;
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            socket,
            life,
            sent: typed,
            acked: wish.offset.unwrap_or(0),
            size: wish.size,
            pings,
            ping: Ping { id: 0, due: false },
            heard: Instant::now(),
        })
    }

    /// How much of what was typed has arrived on earlier connections.
    pub(super) fn typed(&self) -> u64 {
        self.sent
    }

    /// Moves everything along; ready when it ends.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, kept: &mut Kept) -> Poll<End> {
        match self.poll_turns(cx, kept) {
            Poll::Ready(Err(end)) => Poll::Ready(end),
            _ => Poll::Pending,
        }
    }

    /// Sees that what was typed has arrived, and says goodbye; without much patience.
    pub(super) async fn leave(mut self, kept: &mut Kept) {
        let arrived = std::future::poll_fn(|cx| match self.poll(cx, kept) {
            Poll::Pending if kept.typed.kept() > 0 => Poll::Pending,
            _ => Poll::Ready(()),
        });
        let _ = tokio::time::timeout(LEAVE_WAIT_MAX, arrived).await;
        self.close().await;
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        let _ = tokio::time::timeout(LEAVE_WAIT_MAX, self.socket.close("detached")).await;
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>, kept: &mut Kept) -> Poll<Result<Infallible, End>> {
        loop {
            if let Poll::Ready(end) = kept.shown.poll(cx) {
                return Poll::Ready(Err(end));
            }
            self.poll_speak(cx, kept)?;
            if !kept.shown.has_room() {
                // It isn't listened to at the moment.
                self.heard = Instant::now();
            } else if let Poll::Ready(heard) = self.socket.poll_heard(cx)? {
                self.heard = Instant::now();
                self.take(heard, kept)?;
                continue;
            }
            std::task::ready!(self.pings.poll_tick(cx));
            if self.heard.elapsed() >= SILENCE_MAX {
                return Poll::Ready(Err(End::Lost("the server is silent".to_owned())));
            }
            self.ping.due = true;
        }
    }

    /// Says what there is to say, as long as there is room for it.
    fn poll_speak(&mut self, cx: &mut Context<'_>, kept: &Kept) -> Result<(), End> {
        while let Poll::Ready(ready) = self.socket.poll_ready(cx) {
            ready?;
            if !self.speak(kept)? {
                break;
            }
        }
        match self.socket.poll_flushed(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Says one thing; `false` if there is nothing to say.
    fn speak(&mut self, kept: &Kept) -> Result<bool, End> {
        if self.size != kept.wish.size {
            self.size = kept.wish.size;
            let Size { cols, rows } = self.size;
            self.socket.ask(&Ask::Resize { channel: CHANNEL, cols, rows })?;
        } else if let Some(bytes) = kept.typed.next(self.sent) {
            self.socket.send(ToServer::Input { channel: CHANNEL, seq: self.sent, bytes: &bytes })?;
            self.sent += bytes.len() as u64;
        } else if let Some(offset) = kept.shown.ack(self.acked) {
            self.socket.send(ToServer::Ack { channel: CHANNEL, offset })?;
            self.acked = offset;
        } else if std::mem::take(&mut self.ping.due) {
            self.ping.id += 1;
            self.socket.ask(&Ask::Ping { id: self.ping.id })?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn take(&mut self, heard: Heard, kept: &mut Kept) -> Result<(), End> {
        match heard {
            Heard::Output { offset, bytes } => kept.shown.output(offset, bytes)?,
            Heard::Picture { bytes } => kept.shown.picture(bytes),
            Heard::Typed { seq } if seq <= self.sent && kept.typed.arrived(seq) => {}
            Heard::Typed { seq } => return Err(typed_wrongly(seq)),
            Heard::Tell(Tell::Reset { .. }) => kept.shown.reset(),
            Heard::Tell(Tell::Painted { offset, .. }) => kept.shown.painted(offset),
            Heard::Tell(Tell::Title { title, .. }) => kept.shown.entitle(&title),
            Heard::Tell(Tell::Exited { exit, .. }) => return Err(End::Exited(exit)),
            Heard::Tell(Tell::Lost { message, .. }) => return Err(End::Failed(message.escape_debug().to_string())),
            Heard::Tell(Tell::OutOfMemory { limit_bytes, victim, .. }) => {
                let victim = victim.map_or("a program".to_owned(), |victim| victim.escape_debug().to_string());
                kept.shown.say(&format!("out of memory: {victim} was killed (limit {} MiB)", limit_bytes >> 20));
            }
            Heard::Tell(Tell::OutOfPids { limit, .. }) => {
                kept.shown.say(&format!("out of processes: no more than {limit} at once, end some"));
            }
            Heard::Tell(Tell::OutOfDisk { limit_bytes, .. }) => {
                kept.shown.say(&format!("out of disk: no more than {} MiB, delete something", limit_bytes >> 20));
            }
            Heard::Tell(Tell::Frozen { .. }) => {
                kept.shown.say("frozen, since nothing happened for long: a key has it go on")
            }
            Heard::Tell(Tell::Thawed) => kept.shown.unsay("it goes on"),
            Heard::Tell(Tell::IdleStop { idle_s }) => {
                let idle = spoken(Duration::from_secs(idle_s));
                return Err(End::Failed(format!("the project was stopped, since nothing happened in it for {idle}")));
            }
            // The size is the window's, and bells and folders come in the output too.
            Heard::Tell(_) | Heard::Life => {}
        }
        Ok(())
    }
}

/// The server has more of what was typed than there was, or less than it said before.
pub(super) fn typed_wrongly(seq: u64) -> End {
    End::Failed(format!("the server says that {seq} bytes of input have arrived, which can't be"))
}

/// Holds the session; gives its life and how much has arrived of what was typed.
async fn attach(socket: &mut Socket, wish: &Wish) -> Result<(Hex, u64), Failure> {
    socket.ask(&wish.ask(CHANNEL))?;
    loop {
        match socket.heard().await? {
            Heard::Tell(Tell::Attached { life, started, .. }) if wish.life.is_some_and(|known| known != life) => {
                if started {
                    hang_up(socket, wish).await;
                }
                return Err(Failure::Refused(format!("session {} has ended meanwhile", wish.session)));
            }
            Heard::Tell(Tell::Attached { life, typed, .. }) => return Ok((life, typed)),
            Heard::Tell(Tell::Refused { message, .. }) => {
                return Err(Failure::Refused(message.escape_debug().to_string()));
            }
            _ => {}
        }
    }
}

/// Ends a session that nobody asked for: it was started because the one that was meant is gone.
async fn hang_up(socket: &mut Socket, wish: &Wish) {
    let ended = async {
        socket.ask(&Ask::Close { session: wish.session.clone() })?;
        while !matches!(socket.heard().await?, Heard::Tell(Tell::Exited { .. } | Tell::Lost { .. })) {}
        Ok::<_, End>(())
    };
    // Its cell may linger a little; what matters is that this ends.
    let _ = tokio::time::timeout(LEAVE_WAIT_MAX, ended).await;
}
