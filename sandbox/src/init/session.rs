//! One session: a terminal, the program in it, its log, and the clients' data sockets.
//!
//! The session is its terminal's only reader and writer. Output goes into the log, where clients read it at their own
//! pace; it waits only for the credit of the fastest, and for a server that needs what it would overwrite. Input is written
//! in the order of its arrival, and each byte of it once, however often a client has to send it.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use portable_pty::{MasterPty, PtySize, native_pty_system};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::program::Program;
use super::watch::{Source, Watch};
use crate::control::{
    Exit, FRAME_BYTES_MAX, FromCell, INPUT_WINDOW_BYTES, Label, Life, SessionName, Size, ToCell, WAKES_MAX,
};
use crate::log::{Event, LogWriter};
use crate::packet;
use crate::privilege::conceal;
use crate::spec::CellSpec;
use crate::sys;
use crate::users::CellUser;

/// Most data sockets of a session: a class that watches one terminal.
const CLIENTS_MAX: usize = 256;

/// Clients whose place in their input is remembered, those that typed last: more than can be attached, since one that comes
/// back must be known again.
const TYPISTS_MAX: usize = 2 * CLIENTS_MAX;

/// Most reads of a terminal in one turn: draining it "until EAGAIN" makes the echo of a neighbour ten times slower.
const READS_PER_TURN: usize = 4;

/// Most bytes of one read; the kernel gives up to 19 KiB at once.
const READ_BYTES_MAX: usize = 32 * 1024;

/// Set in what a terminal says happened if output was thrown away (TIOCPKT_FLUSHWRITE).
const FLUSHED: u8 = 2;

/// A read of fewer bytes is the echo of a keystroke, behind which nothing comes: asking for more would only cost time.
const ECHO_BYTES: usize = 64;

/// Output of one turn that nobody reads as it comes, in bytes: more than an echo or a prompt.
const BULK_BYTES: u64 = 1024;

/// How long after somebody typed in a session the output of others waits for it: longer than the pause between two words.
const TYPING: Duration = Duration::from_secs(1);

/// How fast that output comes meanwhile, in bytes a second: a dozen screens. Its program waits most of the time then, and so
/// do the kernel's terminal layer, the server and the client.
const BESIDE_TYPING_BYTES_PER_S: u64 = 1 << 20;

/// Room for whatever is read in one go, from a terminal or from a client: one for all, so that a keystroke doesn't begin
/// with clearing it.
pub(super) const SCRATCH_BYTES: usize = READ_BYTES_MAX;
const _: () = assert!(SCRATCH_BYTES > FRAME_BYTES_MAX, "a frame that is too long must be seen to be");

/// How long a program has to end after a hang-up before it is killed.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);

pub(super) struct Session {
    /// Its number among the sessions that run, for [`Source`].
    number: u8,
    name: SessionName,
    label: Label,
    life: Life,
    /// Gone once it was hung up.
    terminal: Option<Terminal>,
    log: LogWriter,
    clients: Vec<Client>,
    client_numbers: u32,
    input: VecDeque<Input>,
    /// Who typed last is last.
    typists: VecDeque<Typist>,
    kept: Option<Kept>,
    size: Size,
    leader: Pid,
    exit: Option<Exit>,
    /// No more output can come.
    drained: bool,
    kill_at: Option<Instant>,
    /// Output of the last turn, in bytes, as long as it hasn't rested from it.
    read: u64,
    rest_until: Option<Instant>,
    /// It rests after each read, as long as others are typed in.
    paced: bool,
    typed_at: Option<Instant>,
}

/// A terminal's master side.
struct Terminal {
    /// Owns it; sizes it.
    master: Box<dyn MasterPty + Send>,
    /// The same, non-blocking, for bytes.
    bytes: OwnedFd,
    /// What it is watched for.
    watched: EventFlags,
}

/// A data socket.
struct Client {
    /// In the order of their coming; nobody attaches four billion times.
    number: u32,
    socket: OwnedFd,
    /// How often it was woken, and how often it may be.
    wakes: u64,
    wakes_upto: u64,
    /// How far it lets us write; 0 if it doesn't care.
    upto: u64,
    /// Input bytes received, written to the terminal, and of these reported.
    received: u64,
    taken: u64,
    reported: u64,
}

/// How many bytes of a client's input have arrived.
struct Typist {
    client: u64,
    typed: u64,
}

/// What a server still needs of the output.
struct Kept {
    /// First offset that mustn't be overwritten.
    from: u64,
    /// Offset at which it wants to hear of the log's growth, unless it has.
    until: Option<u64>,
    checkpoint: Option<OwnedFd>,
}

/// Input that the terminal hasn't taken yet.
struct Input {
    /// Number of the client.
    client: u32,
    bytes: Vec<u8>,
    written: usize,
}

impl Session {
    /// Opens a terminal and starts its program.
    pub(super) fn start(
        number: u8,
        name: SessionName,
        size: Size,
        spec: &CellSpec,
        command: &[String],
    ) -> Result<Self, String> {
        let program = Program::new(spec, command)?;
        let mut log = LogWriter::create(spec.log_bytes).map_err(|error| format!("the log can't be made: {error}"))?;
        log.mark(Event::Resized(size));
        let mut life = [0; 8];
        rustix::rand::getrandom(&mut life, rustix::rand::GetRandomFlags::empty()).map_err(|error| error.to_string())?;
        let (master, leader) = as_user(&program.user, || {
            let pair =
                native_pty_system().openpty(pty_size(size)).map_err(|error| format!("no terminal: {error:#}"))?;
            let child = pair
                .slave
                .spawn_command(program.command)
                .map_err(|error| format!("the program can't be started: {error:#}"))?;
            let leader = child.process_id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
            Ok((pair.master, leader.ok_or("the program has no pid")?))
        })?;
        let descriptor = master.as_raw_fd().ok_or("the terminal has no descriptor")?;
        let bytes = sys::duplicate(descriptor).map_err(|error| error.to_string())?;
        rustix::io::ioctl_fionbio(&bytes, true).map_err(|error| error.to_string())?;
        sys::packet_mode(&bytes).map_err(|error| error.to_string())?;
        Ok(Self {
            number,
            name,
            label: Label::default(),
            life: Life(u64::from_le_bytes(life)),
            terminal: Some(Terminal { master, bytes, watched: EventFlags::empty() }),
            log,
            clients: Vec::new(),
            client_numbers: 0,
            input: VecDeque::new(),
            typists: VecDeque::new(),
            kept: None,
            size,
            leader,
            exit: None,
            drained: false,
            kill_at: None,
            read: 0,
            rest_until: None,
            paced: false,
            typed_at: None,
        })
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    pub(super) fn name(&self) -> &SessionName {
        &self.name
    }

    pub(super) fn label(&self) -> &Label {
        &self.label
    }

    pub(super) fn set_label(&mut self, label: Label) {
        self.label = label;
    }

    pub(super) fn life(&self) -> Life {
        self.life
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn leader(&self) -> Pid {
        self.leader
    }

    /// The log's memory, to hand to a client.
    pub(super) fn log(&self) -> &OwnedFd {
        self.log.file()
    }

    /// Size of the log's ring in bytes.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log.ring_bytes()
    }

    /// Adds a client; gives its end of the data socket.
    pub(super) fn attach(&mut self, watch: &Watch) -> Result<OwnedFd, String> {
        if self.clients.len() >= CLIENTS_MAX {
            return Err(format!("the session has {CLIENTS_MAX} clients already"));
        }
        let (socket, theirs) = packet::pair().map_err(|error| error.to_string())?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| error.to_string())?;
        let number = self.client_numbers;
        let watched = watch.add(&socket, Source::Client(self.number, number), EventFlags::IN);
        watched.map_err(|error| format!("its data socket can't be watched: {error}"))?;
        self.client_numbers = number.wrapping_add(1);
        self.clients.push(Client {
            number,
            socket,
            wakes: 0,
            wakes_upto: 0,
            upto: self.log.head() + self.log.ring_bytes() / 2,
            received: 0,
            taken: 0,
            reported: 0,
        });
        Ok(theirs)
    }

    /// How many bytes of a client's input have arrived.
    pub(super) fn typed(&self, client: u64) -> u64 {
        self.typists.iter().find(|typist| typist.client == client).map_or(0, |typist| typist.typed)
    }

    /// What a server still needs, and its checkpoint.
    pub(super) fn kept(&self) -> Option<(u64, Option<BorrowedFd<'_>>)> {
        self.kept.as_ref().map(|kept| (kept.from, kept.checkpoint.as_ref().map(AsFd::as_fd)))
    }

    /// From now on a server needs the output from offset `from` on, and wants to hear of growth at `until`. An offset that
    /// isn't in the log, or less than it needed before, says nothing.
    pub(super) fn keep(&mut self, from: u64, until: u64, checkpoint: Option<OwnedFd>) {
        let oldest = self.log.head().saturating_sub(self.log.ring_bytes());
        let least = self.kept.as_ref().map_or(oldest, |kept| kept.from.max(oldest));
        if (least..=self.log.head()).contains(&from) {
            // Beyond a full log nothing grows.
            let until = until.min(from + self.log.ring_bytes());
            self.kept = Some(Kept { from, until: Some(until), checkpoint });
        }
    }

    /// Whether the log has grown as far as a server wanted to hear; said once.
    pub(super) fn has_grown(&mut self) -> bool {
        let head = self.log.head();
        self.kept.as_mut().is_some_and(|kept| kept.until.take_if(|until| *until <= head).is_some())
    }

    /// Has its terminal watched for what matters now.
    pub(super) fn watch(&mut self, watch: &Watch) -> rustix::io::Result<()> {
        let mut events = EventFlags::empty();
        events.set(EventFlags::IN, !self.drained && self.rest_until.is_none() && self.room() > 0);
        // ^C is news also where there is no room for output.
        events.set(EventFlags::PRI, !self.drained);
        events.set(EventFlags::OUT, !self.input.is_empty());
        if let Some(terminal) = &mut self.terminal {
            watch.change(&terminal.bytes, Source::Terminal(self.number), terminal.watched, events)?;
            terminal.watched = events;
        }
        Ok(())
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.kill_at.into_iter().chain(self.rest_until).min()
    }

    /// Whether somebody has just typed in it.
    pub(super) fn is_typed_in(&self, now: Instant) -> bool {
        self.typed_at.is_some_and(|at| now < at + TYPING)
    }

    /// Whether it has read much output and hasn't rested since.
    pub(super) fn is_bulky(&self) -> bool {
        self.read >= BULK_BYTES
    }

    /// Reads no output for as long as what it read takes at the pace that leaves room for typing, if others are typed in.
    pub(super) fn pace(&mut self, others_type: bool, now: Instant) {
        self.paced = others_type;
        if !others_type {
            return;
        }
        let read = std::mem::take(&mut self.read);
        self.rest_until = Some(now + Duration::from_micros(read * 1_000_000 / BESIDE_TYPING_BYTES_PER_S));
    }

    /// Goes on if it has rested.
    pub(super) fn wake_up(&mut self) {
        self.rest_until.take_if(|until| *until <= Instant::now());
    }

    /// The terminal can be read or written.
    pub(super) fn terminal_ready(&mut self, events: EventFlags, scratch: &mut [u8]) {
        if events.contains(EventFlags::HUP) {
            // Nobody has it open any more. The kernel says so whatever is asked, and with nothing to ask nobody asks.
            self.drop_input();
        }
        if events.contains(EventFlags::OUT) {
            self.write_input();
        }
        if events.intersects(EventFlags::IN | EventFlags::PRI | EventFlags::HUP | EventFlags::ERR) {
            self.read_output(scratch);
        }
    }

    /// A client has sent something, or is gone. One that breaks the protocol is cut off. One frame a turn: a flood of input
    /// delays no other terminal, and a keystroke isn't followed by the question whether there is another.
    pub(super) fn client_ready(&mut self, number: u32, scratch: &mut [u8]) {
        let Some(index) = self.clients.iter().position(|client| client.number == number) else { return };
        let client = &self.clients[index];
        match packet::receive(&client.socket, scratch) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok((length, _)) if length > 0 && self.frame(index, &scratch[..length]) => {}
            // What it typed before it went is still typed.
            _ => drop(self.clients.remove(index)),
        }
    }

    /// Does what one frame asks; false if it is against the protocol.
    fn frame(&mut self, index: usize, packet: &[u8]) -> bool {
        match ToCell::decode(packet) {
            Ok(ToCell::Input { client: typist, seq, bytes }) => {
                let Some(known) = self.arrived(typist, seq, bytes.len()) else { return false };
                self.typed_at = Some(Instant::now());
                let client = &mut self.clients[index];
                client.received += bytes.len() as u64;
                client.taken += known as u64;
                if client.received - client.taken > INPUT_WINDOW_BYTES {
                    return false;
                }
                self.input.push_back(Input { client: client.number, bytes: bytes[known..].to_vec(), written: 0 });
                self.write_input();
            }
            Ok(ToCell::Resize(size)) => {
                // A size that can't be set is the kernel's business; the program sees the old one.
                let resize = |terminal: &Terminal| terminal.master.resize(pty_size(size)).is_ok();
                if size != self.size && self.terminal.as_ref().is_some_and(resize) {
                    self.size = size;
                    self.happened(Event::Resized(size));
                }
            }
            Ok(ToCell::Credit { seen, upto, wakes }) => {
                let client = &mut self.clients[index];
                client.upto = upto;
                client.wakes_upto = wakes.saturating_add(WAKES_MAX);
                if self.log.head() > seen {
                    client.wake_for_output();
                }
            }
            Err(_) => return false,
        }
        true
    }

    /// Takes note of input; gives how many of its first bytes had arrived before, `None` for a gap before it.
    fn arrived(&mut self, client: u64, seq: u64, length: usize) -> Option<usize> {
        let known = self.typists.iter().position(|typist| typist.client == client);
        let mut typist = match known {
            Some(index) => self.typists.remove(index)?,
            None => Typist { client, typed: seq },
        };
        let again = typist.typed.checked_sub(seq)?.min(length as u64);
        typist.typed = typist.typed.max(seq.checked_add(length as u64)?);
        if self.typists.len() >= TYPISTS_MAX {
            self.typists.pop_front();
        }
        self.typists.push_back(typist);
        usize::try_from(again).ok()
    }

    /// How many bytes may go into the log now.
    fn room(&self) -> u64 {
        let granted = granted(self.clients.iter().map(|client| client.upto));
        let kept = self.kept.as_ref().map(|kept| kept.from + self.log.ring_bytes());
        let upto = granted.min(kept.unwrap_or(u64::MAX));
        upto.saturating_sub(self.log.head())
    }

    /// Marks the log, and tells the clients that there is something to see.
    fn happened(&mut self, event: Event) {
        self.log.mark(event);
        self.clients.iter_mut().for_each(Client::wake_for_output);
    }

    fn read_output(&mut self, scratch: &mut [u8]) {
        let before = self.log.head();
        let reads = if self.paced { 1 } else { READS_PER_TURN };
        for _ in 0..reads {
            let room = usize::try_from(self.room()).unwrap_or(usize::MAX).min(READ_BYTES_MAX);
            let Some(terminal) = self.terminal.as_ref().filter(|_| !self.drained) else { break };
            // With room for nothing else it gives what happened; data waits.
            let mut status = [0];
            let into = &mut [IoSliceMut::new(&mut status), IoSliceMut::new(&mut scratch[..room])];
            match rustix::io::readv(&terminal.bytes, into).map(|count| (count, status[0])) {
                Ok((0, _)) => self.drained = true,
                Ok((1, status)) => {
                    if status & FLUSHED != 0 {
                        self.happened(Event::Flushed);
                    }
                    if room == 0 {
                        break;
                    }
                }
                Ok((count, _)) => {
                    let count = count - 1;
                    self.log.append(&scratch[..count]);
                    // Who waits for an echo shan't wait for our finding that nothing follows it.
                    if count < ECHO_BYTES && self.exit.is_none() {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Nothing is left, and with the program gone nothing is expected.
                    self.drained = self.exit.is_some();
                    break;
                }
                // EIO: no process has the terminal open any more.
                Err(_) => self.drained = true,
            }
        }
        // Once for all reads: under a flood a client that is woken for each is on our processor, or wakes another, for each.
        self.read = self.log.head() - before;
        if self.log.head() > before {
            self.clients.iter_mut().for_each(Client::wake_for_output);
        }
    }

    fn write_input(&mut self) {
        while let (Some(terminal), Some(input)) = (&self.terminal, self.input.front_mut()) {
            match rustix::io::write(&terminal.bytes, &input.bytes[input.written..]) {
                Ok(count) => {
                    input.written += count;
                    let (client, done) = (input.client, input.written == input.bytes.len());
                    if done {
                        self.input.pop_front();
                    }
                    if let Some(client) = self.clients.iter_mut().find(|one| one.number == client) {
                        client.taken += count as u64;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The terminal is gone, and with it who would have read this.
                Err(_) => self.drop_input(),
            }
        }
        // A client that has used up much of its window needs to hear that there is room again.
        const REPORT_BYTES: u64 = INPUT_WINDOW_BYTES / 4;
        for client in &mut self.clients {
            if client.taken - client.reported >= REPORT_BYTES {
                client.wake();
            }
        }
    }

    /// Forgets what nobody will read; for the clients it is taken.
    fn drop_input(&mut self) {
        for input in std::mem::take(&mut self.input) {
            if let Some(client) = self.clients.iter_mut().find(|one| one.number == input.client) {
                client.taken += (input.bytes.len() - input.written) as u64;
            }
        }
    }

    /// Takes the terminal away from the program, and kills it if it doesn't care. A signal alone isn't enough: a shell that
    /// is just about to read misses it.
    pub(super) fn hang_up(&mut self) {
        self.terminal = None;
        self.drained = true;
        self.drop_input();
        if self.exit.is_none() && self.kill_at.is_none() {
            let _ = kill_process_group(self.leader, Signal::HUP);
            let _ = kill_process_group(self.leader, Signal::CONT);
            self.kill_at = Some(Instant::now() + HANG_UP_GRACE);
        }
    }

    pub(super) fn leader_ended(&mut self, exit: Exit, scratch: &mut [u8]) {
        self.exit = Some(exit);
        self.kill_at = None;
        // What it wrote last is still in the terminal.
        self.read_output(scratch);
    }

    /// How the program ended, once all of its output is in the log.
    pub(super) fn finished(&mut self) -> Option<Exit> {
        if self.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_at = None;
            let _ = kill_process_group(self.leader, Signal::KILL);
            let _ = kill_process(self.leader, Signal::KILL);
        }
        self.exit.filter(|_| self.drained)
    }

    /// Says good-bye to all clients.
    pub(super) fn take_leave(self, exit: Exit) {
        for client in &self.clients {
            let _ = packet::send(&client.socket, &FromCell::Ended(exit).encode(), &[]);
            // Closing a socket with something unread in it would reach the other side as an error, before our last word.
            let _ = rustix::net::shutdown(&client.socket, rustix::net::Shutdown::Read);
            let mut unread = [0; FRAME_BYTES_MAX + 1];
            while matches!(packet::receive(&client.socket, &mut unread), Ok((length, _)) if length > 0) {}
        }
    }
}

impl Client {
    /// Says that there is output, unless the client has yet to hear so several times.
    fn wake_for_output(&mut self) {
        if self.wakes < self.wakes_upto {
            self.wake();
        }
    }

    /// Sends a wake. A client that lets its few unread wakes fill the socket hears of it by its end.
    fn wake(&mut self) {
        self.reported = self.taken;
        self.wakes += 1;
        if packet::send(&self.socket, &FromCell::Wake { taken: self.taken }.encode(), &[]).is_err() {
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        }
    }
}

/// How far clients with these grants let a session write: as far as the most generous does, and freely if none cares.
fn granted(grants: impl Iterator<Item = u64>) -> u64 {
    grants.filter(|upto| *upto > 0).max().unwrap_or(u64::MAX)
}

/// Does something with the user's ids in effect, so that the terminal and the program are the user's, and takes root of
/// the cell back. Executing a program gives up the way back.
fn as_user<T>(user: &CellUser, act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    if user.uid == 0 && user.gid == 0 && user.groups.is_empty() {
        return act();
    }
    let (uid, gid, root) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid), 0);
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let assume = || -> nix::Result<()> {
        setgroups(&groups)?;
        setresgid(gid, gid, Gid::from_raw(root))?;
        setresuid(uid, uid, Uid::from_raw(root))
    };
    let result = assume().map_err(|error| format!("can't become user {}: {error}", user.name)).and_then(|()| act());
    let restore = || -> nix::Result<()> {
        setresuid(Uid::from_raw(root), Uid::from_raw(root), Uid::from_raw(root))?;
        setresgid(Gid::from_raw(root), Gid::from_raw(root), Gid::from_raw(root))?;
        setgroups(&[])
    };
    restore().map_err(|error| format!("can't be root of the cell again: {error}"))?;
    // Changing ids made this process visible to debuggers again or not, depending on the host; make it sure.
    conceal().map_err(|error| error.to_string())?;
    result
}

fn pty_size(size: Size) -> PtySize {
    PtySize { rows: size.rows, cols: size.cols, pixel_width: 0, pixel_height: 0 }
}

#[cfg(test)]
mod tests {
    use super::granted;

    #[test]
    fn the_most_generous_client_counts_and_one_that_does_not_care_never() {
        for (grants, upto) in [(&[][..], u64::MAX), (&[0, 0], u64::MAX), (&[0, 70], 70), (&[70, 0, 90], 90)] {
            assert_eq!(granted(grants.iter().copied()), upto, "{grants:?}");
        }
    }
}
