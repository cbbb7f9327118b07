//! The task that records one session: an attachment that nobody sees, read into a buffer of events, and the buffer now and
//! then written to a tape. While the disk is busy the session's log is what holds its output; if that is too little the
//! recorder gets a snapshot like any slow client. So nothing ever waits for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sandbox::control::{Exit, SessionName};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::cast::Cast;
use super::shelf::{Room, Shelf, Tape};
use super::{Error, WRITE_BYTES_MAX, blocking};
use crate::session::{Attachment, Hold, Output, Presence, Start, Who};
use crate::wire::Role;

/// Most output of one event, in bytes.
const PIECE_BYTES_MAX: usize = 32 * 1024;

/// How much is gathered before it is written, in bytes: with it a write costs little against what it moves.
const BUFFER_BYTES: usize = 256 * 1024;

/// JSON makes six bytes of a control character.
const ESCAPED_BYTES_MAX: usize = 6;
const _: () = assert!(BUFFER_BYTES + 2 * ESCAPED_BYTES_MAX * PIECE_BYTES_MAX <= WRITE_BYTES_MAX);

/// How long an event waits for others to be written with: what is lost if the server is killed.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// How much a second is written in the long run, and how much more at once, in bytes: a program that floods a session
/// for hours must not wear out a disk; a build's or a pager's output is recorded whole.
const RATE_BYTES_PER_S: u64 = 4 << 20;
const BURST: Duration = Duration::from_secs(8);

/// Who records a session.
pub(super) struct Recorder {
    attachment: Attachment,
    shelf: Arc<Shelf>,
    session: SessionName,
    title: String,
    /// Not here while it is being written to.
    tape: Option<Tape>,
    cast: Cast,
    /// When the present file began.
    began: Instant,
    /// Events to be written.
    buffer: Vec<u8>,
    allowance: Allowance,
}

/// Why output isn't gathered any longer.
enum Gathered {
    /// It is time to write.
    Some,
    /// There won't be any more.
    All(Option<Exit>),
}

impl Recorder {
    /// Begins to record a session by what came from its cell. Its file is there when this returns.
    pub(super) async fn begin(
        shelf: Shelf,
        session: SessionName,
        title: String,
        hold: Hold,
        start: Start,
    ) -> Result<Self, Error> {
        let size = hold.size;
        let who = Who { client: 0, role: Role::Viewer, size: None, bell: Arc::default(), presence: Presence::Unseen };
        let attachment = Attachment::new(hold, start, who)
            .map_err(|error| Error::Io { what: "attach to the session".to_owned(), error })?;
        let (shelf, mut buffer) = (Arc::new(shelf), Vec::new());
        let cast = Cast::begin(&title, size, SystemTime::now(), &mut buffer);
        let (began, allowance) = (Instant::now(), Allowance::new());
        let mut recorder = Self { attachment, shelf, session, title, tape: None, cast, began, buffer, allowance };
        recorder.put_in_tape().await?;
        Ok(recorder)
    }

    /// Records until the session ends, or `stop` says so.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<(), Error> {
        loop {
            match stop.run_until_cancelled(self.gather()).await {
                Some(Gathered::Some) if self.write().await? == Room::None => self.change_tape().await?,
                Some(Gathered::Some) => {}
                Some(Gathered::All(exit)) => return self.finish(exit).await,
                None => return self.finish_now().await,
            }
        }
    }

    /// Gathers output until it is to be written. Loses nothing when dropped.
    async fn gather(&mut self) -> Gathered {
        sleep_until(self.allowance.due).await;
        let mut due = None;
        while self.buffer.len() < BUFFER_BYTES {
            let mut bytes = Vec::new();
            let output = self.attachment.output(PIECE_BYTES_MAX, &mut bytes);
            let output = match due {
                None => output.await,
                Some(due) => match timeout_at(due, output).await {
                    Ok(output) => output,
                    Err(_) => break,
                },
            };
            due.get_or_insert_with(|| Instant::now() + FLUSH_EVERY);
            let (at, whole) = (self.began.elapsed(), bytes.len() >= PIECE_BYTES_MAX);
            match output {
                Output::Bytes { .. } | Output::Picture => self.cast.output(at, bytes, &mut self.buffer),
                Output::Reset(size) => self.cast.reset(at, size, &mut self.buffer),
                Output::Resized(size) => self.cast.resized(at, size, &mut self.buffer),
                Output::Painted { .. } | Output::Room => {}
                Output::Ended(exit) => return Gathered::All(Some(exit)),
                Output::Lost(error) => {
                    tracing::info!(%error, "the session is lost");
                    return Gathered::All(None);
                }
            }
            if whole {
                // There may be more where it came from, and others want a turn.
                tokio::task::yield_now().await;
            }
        }
        Gathered::Some
    }

    /// Writes what was gathered.
    async fn write(&mut self) -> Result<Room, Error> {
        let bytes = std::mem::take(&mut self.buffer);
        self.allowance.spend(bytes.len());
        let mut tape = self.tape.take().expect("only here it is away, and an error is the end");
        let written = move || tape.write(&bytes).map(|room| (tape, room));
        let (tape, room) = blocking(written).await?;
        self.tape = Some(tape);
        Ok(room)
    }

    /// Goes on in another file, which begins with a snapshot.
    async fn change_tape(&mut self) -> Result<(), Error> {
        self.began = Instant::now();
        self.cast = Cast::begin(&self.title, self.cast.size(), SystemTime::now(), &mut self.buffer);
        self.put_in_tape().await?;
        self.attachment.start_over();
        Ok(())
    }

    /// Takes a new file, whose head is what was gathered.
    async fn put_in_tape(&mut self) -> Result<(), Error> {
        let (shelf, session, full) = (self.shelf.clone(), self.session.clone(), self.tape.take());
        let head = std::mem::take(&mut self.buffer);
        let tape = blocking(move || {
            // First, so that it may be removed to make room for the next one.
            drop(full);
            shelf.begin(&session, SystemTime::now(), &head)
        });
        let tape = tape.await?;
        tracing::info!(name = %tape.name(), "recording");
        self.tape = Some(tape);
        Ok(())
    }

    /// Ends with what is there by now.
    async fn finish_now(mut self) -> Result<(), Error> {
        let exit = match timeout(Duration::ZERO, self.gather()).await {
            Ok(Gathered::All(exit)) => exit,
            _ => None,
        };
        self.finish(exit).await
    }

    async fn finish(mut self, exit: Option<Exit>) -> Result<(), Error> {
        self.cast.end(self.began.elapsed(), exit, &mut self.buffer);
        self.write().await?;
        // Letting go of it may wait for its shelf, which may wait for the disk.
        let tape = self.tape.take();
        blocking(move || {
            drop(tape);
            Ok(())
        })
        .await
    }
}

/// How much may be written: bytes are paid with time, and time is saved up for a burst.
struct Allowance {
    /// When everything written so far is paid for.
    paid: Instant,
    /// Nothing may be written before.
    due: Instant,
}

impl Allowance {
    fn new() -> Self {
        let now = Instant::now();
        Self { paid: now, due: now }
    }

    fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        self.paid = self.paid.max(now) + Duration::from_secs(1).mul_f64(bytes as f64 / RATE_BYTES_PER_S as f64);
        self.due = self.paid.checked_sub(BURST).map_or(now, |due| due.max(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::shelf::Bounds;
    use crate::session::Session;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    use sandbox::control::{FromCell, Life, Size};
    use sandbox::log::{LogWriter, RING_BYTES_MIN};
    use std::io::read_to_string;
    use std::path::Path;

    const SMALL: Bounds = Bounds { file_bytes_max: 4000, bytes_max: 40_000, files_max: 10, step_bytes: 2000 };

    fn shelf(root: &Path) -> Shelf {
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let folder = rustix::fs::open(root, flags, rustix::fs::Mode::empty()).unwrap();
        Shelf::new(folder, Arc::default(), SMALL)
    }

    /// What was recorded, the oldest first.
    fn recorded(root: &Path) -> Vec<String> {
        let mut paths: Vec<_> =
            root.join("recordings").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        // The first of a second has no number, and `.` comes behind `-`.
        paths.sort_by_key(|path| crate::record::Name::parse(path.file_name().unwrap().to_str().unwrap()));
        paths.iter().map(|path| read_to_string(std::fs::File::open(path).unwrap()).unwrap()).collect()
    }

    #[test]
    fn a_full_file_is_followed_by_one_that_begins_with_a_snapshot() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let mut log = LogWriter::create(RING_BYTES_MIN).unwrap();
            let (data, cell) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            let session = Arc::new(Session::new(Life(7), log.file()).unwrap());
            let hold = Hold { session, data, size: Size::DEFAULT, typed: 0 };
            let (name, title) = (SessionName::main(), "demo/main".to_owned());
            let recorder =
                Recorder::begin(shelf(root.path()), name, title, hold, Start::Resume(0)).await.expect("it begins");
            assert_eq!(recorded(root.path())[0].lines().count(), 1, "its head is there at once");
            let task = tokio::spawn(async move { recorder.run(&CancellationToken::new()).await });
            let say = |frame: FromCell| send(&cell, &frame.encode(), SendFlags::NOSIGNAL).unwrap();
            log.append(b"first ");
            log.append(&[b'x'; 2500]);
            say(FromCell::Wake { taken: 0 });
            let by = Instant::now() + Duration::from_secs(10);
            while recorded(root.path()).len() < 2 && Instant::now() < by {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            log.append(b" last");
            say(FromCell::Ended(Exit::Code(0)));
            task.await.unwrap().expect("it ends well");
            let files = recorded(root.path());
            assert_eq!(files.len(), 2);
            let event = |line: &str| serde_json::from_str::<(f64, String, String)>(line).unwrap();
            let output = |file: &str| -> String {
                file.lines().skip(1).map(event).filter(|(_, kind, _)| kind == "o").map(|(.., data)| data).collect()
            };
            assert_eq!(output(&files[0]), format!("first {}", "x".repeat(2500)));
            assert!(output(&files[1]).contains("first xxx") && output(&files[1]).contains(" last"));
            assert_eq!(files[1].lines().last().map(|line| event(line).1).as_deref(), Some("x"));
        });
    }

    #[test]
    fn a_burst_is_free_and_a_flood_is_paced() {
        let mut allowance = Allowance::new();
        let began = Instant::now();
        let burst = RATE_BYTES_PER_S * BURST.as_secs();
        (0..burst / 1024).for_each(|_| allowance.spend(1024));
        assert!(allowance.due < began + Duration::from_secs(1));
        (0..10).for_each(|_| allowance.spend(RATE_BYTES_PER_S as usize));
        assert!(allowance.due > began + Duration::from_secs(9));
    }
}
