//! What every client's WebSocket has, whatever is spoken on it: signs of life, and an end. It knows no session.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::ws::{CloseCode, CloseFrame, Socket, close};

/// How often a client is asked for a sign of life.
pub(in crate::api) const PING_EVERY: Duration = Duration::from_secs(20);

/// How long a client may give none: two answers may be lost, and a laptop's lid be closed for a moment.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// When a client was last heard of.
pub(super) struct Pulse {
    heard: Instant,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { heard: Instant::now() }
    }
}

impl Pulse {
    /// When to [`Self::ask`].
    pub(super) fn pings() -> Interval {
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings
    }

    /// Something came from the client.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Asks for a sign of life, unless the client owes one for too long.
    pub(super) fn ask(&self, socket: &mut Socket) -> Result<(), End> {
        if self.heard.elapsed() > SILENCE_MAX {
            tracing::info!("gave no sign of life");
            return Err(End::Lost);
        }
        socket.ping().map_err(|_| End::Lost)
    }
}

/// How a client's time ends.
pub(super) enum End {
    /// We say why.
    Close(CloseFrame),
    /// It said goodbye.
    Closed,
    /// It is gone.
    Lost,
}

impl End {
    /// The server stops; the sessions go on.
    pub(super) fn restarting() -> Self {
        Self::Close(close(CloseCode::Restart, "server is restarting"))
    }

    /// Says the last words. A task does well to wait for it in a box: it has the socket, and would keep room for that all along.
    pub(super) async fn say(self, socket: Socket) {
        match self {
            Self::Close(frame) => {
                tracing::info!(code = u16::from(frame.code), reason = %frame.reason, "detached");
                socket.close(frame).await;
            }
            Self::Closed => {
                tracing::info!("left");
                socket.closed().await;
            }
            Self::Lost => tracing::info!("lost"),
        }
    }
}
