//! One session on a WebSocket of several: the attachment behind a channel, and what its client is told of it. It moves
//! frames and waits for nothing; the task that has it does.

use std::task::{Context, Poll};

use tokio::time::{Duration, Instant};

use crate::session::{Attachment, News, Output};
use crate::wire::{Channel, FromServer, OUTPUT_HEAD_BYTES, Tell};
use crate::ws::{CloseCode, CloseFrame, OUTPUT_BYTES_MAX, close};

/// Input that a client may have sent beyond what it was told has arrived, in bytes.
pub(super) const UNTOLD_BYTES_MAX: u64 = 128 * 1024;

/// How much input arrives before the client is told at once, in bytes; of less it is told a moment later.
const TYPED_BYTES: u64 = 16 * 1024;
const TYPED_DELAY: Duration = Duration::from_millis(200);

/// A session on a channel.
pub(super) struct Hold {
    pub(super) channel: Channel,
    attachment: Attachment,
    /// What the client was told: of the clients, of the session, of its input.
    generation: u64,
    news: News,
    typed: u64,
    /// When it is to be told more of its input.
    typed_due: Option<Instant>,
    output: Vec<u8>,
}

/// What goes to the client.
pub(super) enum Message {
    Frame(Vec<u8>),
    Tell(Tell),
    /// The last one of this hold.
    Last(Tell),
}

impl Hold {
    pub(super) fn new(channel: Channel, attachment: Attachment) -> Self {
        let (news, typed) = (News::default(), attachment.typed());
        Self { channel, attachment, generation: 0, news, typed, typed_due: None, output: Vec::new() }
    }

    /// Types bytes of which the first is number `seq`; what was taken before isn't typed twice.
    pub(super) fn input(&mut self, seq: u64, bytes: &[u8]) -> Result<(), CloseFrame> {
        let next = self.attachment.next_seq();
        let known = next.checked_sub(seq).ok_or_else(|| {
            close(CloseCode::Policy, &format!("input of channel {} has a gap: {next} comes next", self.channel.0))
        })?;
        if seq.saturating_add(bytes.len() as u64) > self.typed + UNTOLD_BYTES_MAX {
            let reason = format!("input of channel {} is more than {UNTOLD_BYTES_MAX} bytes ahead", self.channel.0);
            return Err(close(CloseCode::Policy, &reason));
        }
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        self.attachment.input(&bytes[known..]);
        Ok(())
    }

    /// The attachment.
    pub(super) fn attachment(&mut self) -> &mut Attachment {
        &mut self.attachment
    }

    /// Lets go of the session; unmapping its log can wait until nobody else does.
    pub(super) fn detach(self) {
        drop(self.attachment.detach());
    }

    /// Moves what comes from the cell, while the client can't take output.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) {
        // What it says is said again when there is room.
        let _ = self.attachment.poll_input(cx);
    }

    /// The next message for the client.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        if let Some(tell) = self.news() {
            return Poll::Ready(Message::Tell(tell));
        }
        let channel = self.channel;
        loop {
            // The head of an output frame is put before what is appended, once it is known.
            self.output.clear();
            self.output.resize(OUTPUT_HEAD_BYTES, 0);
            let bytes_max = OUTPUT_BYTES_MAX - OUTPUT_HEAD_BYTES;
            let Poll::Ready(output) = self.attachment.poll_output(cx, bytes_max, &mut self.output) else {
                return self.typed().map_or(Poll::Pending, Poll::Ready);
            };
            let message = match output {
                Output::Bytes { offset } => {
                    let mut frame = std::mem::take(&mut self.output);
                    FromServer::put_output_head(&mut frame, channel, offset);
                    Message::Frame(frame)
                }
                Output::Picture => {
                    let bytes = &self.output[OUTPUT_HEAD_BYTES..];
                    Message::Frame(FromServer::Picture { channel, bytes }.encode())
                }
                Output::Reset(size) => Message::Tell(Tell::Reset { channel, size }),
                Output::Painted { offset } => Message::Tell(Tell::Painted { channel, offset }),
                Output::Resized(size) => Message::Tell(Tell::Resized { channel, size }),
                Output::Room => continue,
                Output::Ended(exit) => Message::Last(Tell::Exited { channel, exit }),
                Output::Lost(error) => {
                    tracing::info!(channel = channel.0, %error, "a session is lost");
                    let message = self.attachment.session().farewell().unwrap_or("the cell ended").to_owned();
                    Message::Last(Tell::Lost { channel, message })
                }
            };
            return Poll::Ready(message);
        }
    }

    /// When [`Self::poll_message`] has something to say even if nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        self.typed_due
    }

    /// How much of the client's input has arrived, if it is to be told.
    fn typed(&mut self) -> Option<Message> {
        let typed = self.attachment.typed();
        if typed == self.typed {
            return None;
        }
        let now = Instant::now();
        let due = *self.typed_due.get_or_insert(now + TYPED_DELAY);
        if now < due && typed < self.typed + TYPED_BYTES {
            return None;
        }
        self.typed_due = None;
        self.typed = typed;
        Some(Message::Frame(FromServer::Typed { channel: self.channel, seq: typed }.encode()))
    }

    /// What there is to tell of the session and its clients, one thing at a time.
    fn news(&mut self) -> Option<Tell> {
        let channel = self.channel;
        let generation = self.attachment.session().generation();
        if generation == self.generation {
            return None;
        }
        let news = self.attachment.session().news();
        if news.title != self.news.title {
            self.news.title.clone_from(&news.title);
            return Some(Tell::Title { channel, title: news.title });
        }
        if news.cwd != self.news.cwd {
            self.news.cwd.clone_from(&news.cwd);
            return news.cwd.map(|cwd| Tell::Cwd { channel, cwd });
        }
        if news.bells != self.news.bells {
            self.news.bells = news.bells;
            return Some(Tell::Bell { channel });
        }
        self.generation = generation;
        let (leader, clients) = self.attachment.members();
        Some(Tell::Clients { channel, you: self.attachment.id(), leader, clients })
    }
}
