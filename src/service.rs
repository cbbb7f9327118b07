//! What the service manager gives and is told (sd_listen_fds(3), sd_notify(3)). Without one, nothing of this happens.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The listening socket for clients that the service manager opened. Call it, or [`launcher_socket`], once, first.
pub(crate) fn client_socket() -> anyhow::Result<Option<std::net::TcpListener>> {
    let listener =
        ListenFd::from_env().take_tcp_listener(0).context("take the socket that the service manager opened")?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true).context("prepare the socket that the service manager opened")?;
    }
    Ok(listener)
}

/// The listening socket of the launcher that the service manager opened.
pub(crate) fn launcher_socket() -> anyhow::Result<Option<OwnedFd>> {
    use nix::libc::{AF_UNIX, SOCK_SEQPACKET};
    let taken = ListenFd::from_env().take_custom(0, AF_UNIX, SOCK_SEQPACKET, "SOCK_SEQPACKET socket");
    taken.context("take the socket that the service manager opened: it must be ListenSequentialPacket")
}

/// Says that clients are served.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the end has begun.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says now and then that the runtime still gives its tasks their turns, if that is watched.
pub(crate) async fn stay_alive() {
    // Twice as often as is asked for: one word may come late.
    let Some(every) = sd_notify::watchdog_enabled().map(|most| most / 2).filter(|every| *every > Duration::ZERO) else {
        return;
    };
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager can't be told how it is");
    }
}
