//! A session seen from the server: bytes at offsets in shared memory, and sockets to the cell that writes them.
//!
//! A [`Session`] is what all clients of it share: its log, its screen, who is attached. Every client owns an [`Attachment`]:
//! a cursor into the log and a data socket of its own, so a keystroke and its echo each cross one task, and no queue. The
//! `keeper` feeds the screen in its own time. It knows neither HTTP nor WebSocket.

mod activity;
mod attachment;
mod clients;
mod cursor;
mod data;
mod echo;
mod keeper;
mod picture;
mod sizing;
mod text;
mod view;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::control::Life;
use sandbox::log::{LogError, LogReader};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use activity::Activity;
pub(crate) use attachment::{Attachment, Hold, Output, Presence, Start, Who, random};
use clients::Clients;
pub(crate) use keeper::{Keep, keep};
pub(crate) use sizing::Sizing;
pub(crate) use text::Utf8;
use view::View;

use crate::screen;

/// What a session says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Its title.
    pub(crate) title: String,
    /// The folder of its shell.
    pub(crate) cwd: Option<String>,
    /// How often it rang.
    pub(crate) bells: u64,
}

/// What all clients of a session share.
pub(crate) struct Session {
    life: Life,
    log: LogReader,
    view: Mutex<View>,
    clients: Clients,
    news: Mutex<News>,
    /// The cell's.
    activity: Arc<Activity>,
    /// Whether a client has seen output that the screen may not have: said once until the keeper has looked.
    watched: AtomicBool,
    seen: Notify,
    grown: Notify,
    ended: CancellationToken,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session").field(&self.life).finish()
    }
}

impl Session {
    /// Takes a log that came from a cell, after checking it; the screen begins where the log does.
    pub(crate) fn new(life: Life, log: impl AsFd) -> Result<Self, LogError> {
        let log = LogReader::open(log)?;
        let view = View::new(&log);
        Ok(Self::with(life, log, view))
    }

    /// As [`Self::new`], for a session of which an earlier server left a checkpoint.
    pub(crate) fn restore(
        life: Life,
        log: impl AsFd,
        kept: u64,
        checkpoint: Option<&OwnedFd>,
    ) -> Result<Self, LogError> {
        let log = LogReader::open(log)?;
        let kept = checkpoint.filter(|_| (log.oldest()..=log.head()).contains(&kept)).map(|file| (kept, file));
        let view = kept.and_then(|(kept, file)| View::restore(&log, kept, &keeper::read_checkpoint(file)?));
        let view = view.unwrap_or_else(|| View::new(&log));
        Ok(Self::with(life, log, view))
    }

    fn with(life: Life, log: LogReader, view: View) -> Self {
        Self {
            life,
            log,
            view: Mutex::new(view),
            clients: Clients::default(),
            news: Mutex::default(),
            activity: Arc::default(),
            watched: AtomicBool::new(false),
            seen: Notify::new(),
            grown: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    /// The same with a rule for its size.
    pub(crate) fn sized_by(self, sizing: Sizing) -> Self {
        Self { clients: Clients::sized_by(sizing), ..self }
    }

    /// The same in a cell of which this is known.
    pub(crate) fn sharing(self, activity: Arc<Activity>) -> Self {
        Self { activity, ..self }
    }

    /// Which of all that had its name.
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// Offset behind the last byte of its output.
    pub(crate) fn head(&self) -> u64 {
        self.log.head()
    }

    /// A number that is another one whenever there is news of the session or of who is attached.
    pub(crate) fn generation(&self) -> u64 {
        self.clients.generation()
    }

    /// What it says of itself.
    pub(crate) fn news(&self) -> News {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many clients are attached to it.
    pub(crate) fn attached(&self) -> usize {
        self.clients.count()
    }

    /// The cell says that its log has grown.
    pub(crate) fn grown(&self) {
        self.grown.notify_one();
    }

    /// It has ended: its keeper may go.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Why the cell ends that it runs in, if that is for a reason that clients are to hear.
    pub(crate) fn farewell(&self) -> Option<&str> {
        self.activity.farewell()
    }

    /// A client has seen output.
    fn touch(&self) {
        if !self.watched.swap(true, Ordering::Relaxed) {
            self.seen.notify_one();
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the clients what the screen has heard.
    fn publish_news(&self) {
        let mut view = self.view();
        let heard = view.take_news();
        if heard == screen::News::default() {
            return;
        }
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.title = view.screen().title().to_owned();
        news.cwd = view.screen().cwd().map(str::to_owned);
        news.bells += u64::from(heard.bells);
        drop((news, view));
        self.clients.ring();
    }
}
