//! A cell in an attacker's hands: what it says on its control socket, the descriptors that it hands over, what it does to a
//! log that the server reads, and what it says on a client's data socket. The server's side is real, up to the client's messages.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, recv,
    send, socket_with, socketpair,
};
use sandbox::control::{
    CONTROL_BYTES_MAX, Exit, FRAME_BYTES_MAX, FromCell, INPUT_WINDOW_BYTES, Label, Life, Reply, Request, SESSIONS_MAX,
    SessionName, Size, ToCell, VERSION,
};
use sandbox::log::{Event, LogWriter, RING_BYTES_MIN};
use sandbox::spec::ProjectId;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::hold::{Hold, Message};
use crate::cell::{Care, Cell, Coroner, Error, Freezers, Patience};
use crate::input::Input;
use crate::packet;
use crate::session::{self, Attachment, Presence, Sizing, Start, Who};
use crate::wire::{Channel, FromServer, Role};

/// How long the server may take to notice that the cell is gone, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(8);

/// How often others get a turn before the server is expected to have done what it can.
const TURNS: usize = 6;

/// Most of everything that an attacker may hold here.
const COUNT_MAX: usize = 6;

/// Most messages that a client is given at once.
const MESSAGES_MAX: usize = 64;

/// Longest message to a client in bytes: a piece of a snapshot is at least a line.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Where the numbers of a log's header lie.
const HEADER: [u64; 8] = [0, 16, 64, 128, 192, 256, 320, 328];

/// What the cell says first, and then what it and the server's clients do, one after the other.
pub(crate) fn cell(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(play(Input::new(data)));
}

async fn play(mut input: Input<'_>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (hello, keeps) = (input.byte(), input.byte().is_multiple_of(2));
    let Some((cell, control)) = connected(folder.path().join("cell.sock"), hello, keeps, &mut input).await else {
        return;
    };
    let mut attacker = Attacker { control, logs: Vec::new(), data: Vec::new() };
    let mut server = Server { cell, asked: JoinSet::new(), holds: Vec::new() };
    while !input.is_empty() {
        attacker.or_client(&mut server, &mut input);
        server.settle().await;
        attacker.hear();
    }
    drop(attacker);
    server.end().await;
}

/// Connects to a cell that says hello, or what it likes.
async fn connected(path: PathBuf, hello: u8, keeps: bool, input: &mut Input<'_>) -> Option<(Cell, OwnedFd)> {
    let listener =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    bind(&listener, &SocketAddrUnix::new(&path).expect("a short path")).expect("a new path");
    listen(&listener, 1).expect("a listener");
    let project = ProjectId::parse("demo").expect("an id");
    let greeting = async {
        let control = accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).expect("who connects");
        if hello == 0xFF {
            let _ = packet::send(&control, input.bytes(), &[]);
            let _ = rustix::net::shutdown(&control, rustix::net::Shutdown::Write);
        } else {
            let sessions = (0..3).filter(|bit| hello >> bit & 1 == 1).map(session).collect();
            let said = Reply::Hello { version: VERSION, project: project.clone(), sessions };
            packet::send_json(&control, &said, &[]).expect("there is room");
        }
        control
    };
    let coroner = Coroner::new(|| Box::pin(std::future::ready(None)));
    let freezers = Freezers::new(|| Box::pin(std::future::ready(Ok(None))));
    let (linger, patience) = (Duration::from_secs(1000), Patience::default());
    let care = Care { coroner, linger, keeps, sizing: Sizing::default(), patience, freezers };
    let connecting = Cell::connect(project.clone(), path, care, std::future::ready(None));
    let (cell, control) = tokio::join!(connecting, greeting);
    match cell {
        Ok(cell) => Some((cell, control)),
        Err(error) => {
            assert!(!matches!(error, Error::Silent), "it waits for a cell that hung up");
            None
        }
    }
}

fn session(number: u8) -> SessionName {
    SessionName::parse(["main", "a", "B-2"][usize::from(number % 3)]).expect("a name")
}

/// The cell.
struct Attacker {
    control: OwnedFd,
    logs: Vec<LogWriter>,
    data: Vec<Data>,
}

/// The cell's end of a data socket.
struct Data {
    socket: OwnedFd,
    received: u64,
    /// The most that it said was taken.
    taken: u64,
}

impl Attacker {
    /// Does something, or has a client do it.
    fn or_client(&mut self, server: &mut Server, input: &mut Input<'_>) {
        match input.byte() % 17 {
            0 => {
                let (kinds, said) = (input.byte(), input.bytes());
                self.say_raw(said, &[kinds & 7, kinds >> 3 & 7], input);
            }
            1 => self.attach(input),
            2 => self.find(input),
            3 => self.say(&Reply::Grown { session: session(input.byte()) }),
            4 => self.say(&Reply::Ended { session: session(input.byte()), exit: Exit::Code(input.byte()) }),
            5 => self.say(&Reply::Failed { reason: String::from_utf8_lossy(input.bytes()).into_owned() }),
            6 => self.print(input),
            7 => self.mark(input),
            8 => self.poke(input),
            9 => self.wake(input),
            10 => server.open(input),
            11 => server.close(input),
            12 => self.label(input),
            13 => self.say(&Reply::OutOfMemory { kills: input.byte().into(), limit_bytes: u64::MAX }),
            14 => self.say(&Reply::OutOfPids { refusals: input.byte().into(), limit: u64::MAX }),
            15 => self.say(&Reply::OutOfDisk { times: input.byte().into(), limit_bytes: u64::MAX }),
            _ => server.client(input),
        }
    }

    fn say(&self, reply: &Reply) {
        let _ = packet::send_json(&self.control, reply, &[]);
    }

    fn say_raw(&mut self, said: &[u8], kinds: &[u8], input: &mut Input<'_>) {
        let descriptors: Vec<OwnedFd> = kinds.iter().filter_map(|kind| self.descriptor(*kind, input)).collect();
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        if !said.is_empty() {
            let _ = packet::send(&self.control, said, &descriptors);
        }
    }

    /// Something to hand over, right or wrong.
    fn descriptor(&mut self, kind: u8, input: &mut Input<'_>) -> Option<OwnedFd> {
        match kind {
            1 => Some(self.log(None)),
            2 => Some(self.data_socket()),
            3 => Some(std::fs::File::open("/dev/null").expect("it is there").into()),
            4 => Some(memory(input.bytes(), true)),
            5 => Some(memory(input.bytes(), false)),
            6 => self.logs.first().map(|log| duplicate(log.file())),
            _ => None,
        }
    }

    /// A new log, or one that was handed over before.
    fn log(&mut self, old: Option<u8>) -> OwnedFd {
        if let Some(log) = old.and_then(|old| pick(&mut self.logs, old)) {
            return duplicate(log.file());
        }
        let mut log = LogWriter::create(RING_BYTES_MIN).expect("memory");
        log.mark(Event::Resized(Size { cols: 20, rows: 5 }));
        let file = duplicate(log.file());
        self.logs.push(log);
        self.logs.drain(..self.logs.len().saturating_sub(COUNT_MAX));
        file
    }

    fn data_socket(&mut self) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (theirs, socket) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets");
        self.data.push(Data { socket, received: 0, taken: 0 });
        self.data.drain(..self.data.len().saturating_sub(COUNT_MAX));
        theirs
    }

    /// Answers a request as a cell should, but for the numbers.
    fn attach(&mut self, input: &mut Input<'_>) {
        let (session, how) = (session(input.byte()), input.byte());
        let size = Size { cols: 1 + u16::from(how & 15), rows: 5 };
        let typed = if how & 0x10 == 0 { 0 } else { input.long() };
        let log = self.log((how & 0x20 != 0).then_some(how));
        let reply = Reply::Attached { session, started: how & 0x40 == 0, size, life: Life((how >> 7).into()), typed };
        let data = self.data_socket();
        let _ = packet::send_json(&self.control, &reply, &[log.as_fd(), data.as_fd()]);
    }

    fn label(&self, input: &mut Input<'_>) {
        let session = session(input.byte());
        if let Ok(label) = Label::try_from(String::from_utf8_lossy(input.bytes()).into_owned()) {
            self.say(&Reply::Labelled { session, label });
        }
    }

    fn find(&mut self, input: &mut Input<'_>) {
        let (session, how) = (session(input.byte()), input.byte());
        let kept = match how & 3 {
            0 => None,
            1 => Some(input.long()),
            _ => Some(u64::from(how >> 4)),
        };
        let checkpoint = (how & 4 == 0).then(|| memory(input.bytes(), true));
        let log = self.log((how & 8 != 0).then_some(how));
        let descriptors: Vec<_> = [Some(&log), checkpoint.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        let reply = Reply::Found { session, life: Life((how >> 7).into()), kept };
        let _ = packet::send_json(&self.control, &reply, &descriptors);
    }

    fn print(&mut self, input: &mut Input<'_>) {
        let (log, again, text) = (input.byte(), input.byte(), input.bytes());
        if let Some(log) = pick(&mut self.logs, log) {
            (0..=again).for_each(|_| log.append(text));
        }
    }

    fn mark(&mut self, input: &mut Input<'_>) {
        let (log, event) = (input.byte(), input.byte());
        if let Some(log) = pick(&mut self.logs, log) {
            log.mark(match event {
                0..0x80 => Event::Flushed,
                _ => Event::Resized(Size { cols: u16::from(event & 15), rows: u16::from(event >> 4 & 7) }),
            });
        }
    }

    /// Puts a number into a log's header: any, or one near the log's head.
    fn poke(&mut self, input: &mut Input<'_>) {
        let (log, place, number) = (input.byte(), input.byte(), input.long());
        if let Some(log) = pick(&mut self.logs, log) {
            let number = if place & 0x80 == 0 { number } else { log.head().wrapping_add_signed((number as i8).into()) };
            let mark = u64::from(place >> 3 & 7) * 16;
            let at = HEADER[usize::from(place % 8)];
            let at = if at >= 320 { at + mark } else { at };
            rustix::io::pwrite(log.file(), &number.to_le_bytes(), at).expect("memory");
        }
    }

    /// Says something on a data socket, mostly that input was taken.
    fn wake(&mut self, input: &mut Input<'_>) {
        let (data, how) = (input.byte(), input.byte());
        let Some(data) = pick(&mut self.data, data) else { return };
        let taken = match how {
            0..0x40 => data.received,
            0x40..0x80 => data.taken.saturating_add((how & 15).into()),
            0x80..0xC0 => input.long(),
            _ => {
                let _ = send(&data.socket, input.bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                return;
            }
        };
        data.taken = data.taken.max(taken);
        let frame = FromCell::Wake { taken };
        let _ = send(&data.socket, &frame.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// What the server says keeps the rules.
    fn hear(&mut self) {
        let mut packet = vec![0; CONTROL_BYTES_MAX];
        while let Some(length) = received(&self.control, &mut packet) {
            serde_json::from_slice::<Request>(&packet[..length]).expect("a request");
        }
        for data in &mut self.data {
            while let Some(length) = received(&data.socket, &mut packet[..=FRAME_BYTES_MAX]) {
                if let ToCell::Input { bytes, .. } = ToCell::decode(&packet[..length]).expect("a frame") {
                    data.received += bytes.len() as u64;
                }
            }
            assert!(data.received <= data.taken.saturating_add(INPUT_WINDOW_BYTES), "more input than the window takes");
        }
    }
}

/// The server and its clients.
struct Server {
    cell: Cell,
    asked: JoinSet<Result<Option<session::Hold>, Error>>,
    holds: Vec<Hold>,
}

impl Server {
    fn open(&mut self, input: &mut Input<'_>) {
        let (cell, session, client) = (self.cell.clone(), session(input.byte()), input.byte());
        self.asked.spawn(async move {
            if client == 0 {
                return cell.join(&session).await;
            }
            let opened = cell.open(&session, Size::DEFAULT, &[], client.into()).await?;
            Ok(Some(opened.hold))
        });
    }

    fn close(&mut self, input: &mut Input<'_>) {
        let (cell, what) = (self.cell.clone(), input.byte());
        self.asked.spawn(async move {
            match what {
                0xFF => cell.stop().await?,
                0xFE => drop(cell.resize(&session(what), Size { cols: 9, rows: 9 }).await?),
                _ => cell.close(&session(what)).await?,
            }
            Ok(None)
        });
    }

    /// A client does something.
    fn client(&mut self, input: &mut Input<'_>) {
        let (hold, what) = (input.byte(), input.byte());
        let Some(hold) = pick(&mut self.holds, hold) else { return };
        match what % 8 {
            0 => drop(hold.input(input.long(), input.bytes())),
            1 => {
                let (next, typed) = (hold.attachment().next_seq(), input.bytes());
                let _ = hold.input(next, &typed.repeat(1 << (what >> 4)));
            }
            2 => hold.attachment().answer(input.bytes()),
            3 => drop(hold.attachment().ack(input.long())),
            4 => hold.attachment().resize(Size { cols: input.short(), rows: input.short() }),
            5 => hold.attachment().start_over(),
            6 => {
                self.holds.remove(usize::from(what) % self.holds.len()).detach();
            }
            _ => hold.attachment().impose(Size { cols: 7, rows: 4 }),
        }
    }

    /// Does what it can, and gives its clients what there is for them.
    async fn settle(&mut self) {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        while let Some(done) = self.asked.try_join_next() {
            if let Ok(Some(hold)) = done.expect("no task fails") {
                self.attach(hold);
            }
        }
        let mut index = 0;
        while index < self.holds.len() {
            match messages(&mut self.holds[index]).await {
                true => index += 1,
                false => self.holds.remove(index).detach(),
            }
        }
        assert!(self.cell.state().sessions.len() <= SESSIONS_MAX);
    }

    fn attach(&mut self, hold: session::Hold) {
        let start = match hold.typed % 3 {
            0 => Start::Resume(0),
            1 => Start::Snapshot,
            _ => Start::Resume(hold.session.head()),
        };
        let (role, size) = (Role::Writer, Some(Size { cols: 30, rows: 6 }));
        let who = Who { client: 7, role, size, bell: Arc::default(), presence: Presence::Acking };
        if let Ok(attachment) = Attachment::new(hold, start, who) {
            self.holds.push(Hold::new(Channel(1), attachment));
            self.holds.drain(..self.holds.len().saturating_sub(COUNT_MAX));
        }
    }

    /// The cell is gone: everybody hears of it.
    async fn end(mut self) {
        for hold in &mut self.holds {
            let told = async { while messages(hold).await {} };
            timeout(PATIENCE, told).await.expect("a client hears that the cell is gone");
        }
        timeout(PATIENCE, self.cell.gone()).await.expect("the driver notices that the cell is gone").expect("it ended");
        let asked = async { while self.asked.join_next().await.is_some() {} };
        timeout(PATIENCE, asked).await.expect("who asked is answered");
    }
}

/// Takes what there is for a client, which acknowledges all of it; whether the session goes on.
async fn messages(hold: &mut Hold) -> bool {
    for _ in 0..MESSAGES_MAX {
        let polled = std::future::poll_fn(|cx| match hold.poll_message(cx) {
            Poll::Ready(message) => Poll::Ready(Some(message)),
            Poll::Pending => Poll::Ready(None),
        });
        match polled.await {
            Some(Message::Frame(frame)) => {
                assert!(frame.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", frame.len());
                if let FromServer::Output { offset, bytes, .. } = FromServer::decode(&frame).expect("a frame") {
                    assert!(hold.attachment().ack(offset + bytes.len() as u64), "it was sent that much");
                }
            }
            Some(Message::Tell(tell)) => drop(serde_json::to_vec(&tell).expect("it is JSON")),
            Some(Message::Last(_)) => return false,
            None => break,
        }
    }
    tokio::task::yield_now().await;
    true
}

fn pick<T>(list: &mut [T], number: u8) -> Option<&mut T> {
    let count = list.len();
    list.get_mut(usize::from(number).checked_rem(count)?)
}

fn received(socket: &OwnedFd, packet: &mut [u8]) -> Option<usize> {
    let (length, _) = recv(socket, packet, RecvFlags::DONTWAIT).ok()?;
    (length > 0).then_some(length)
}

fn duplicate(file: &OwnedFd) -> OwnedFd {
    file.try_clone().expect("a descriptor")
}

/// Memory with these bytes, sealed as a checkpoint's or not.
fn memory(bytes: &[u8], sealed: bool) -> OwnedFd {
    let file = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memory");
    rustix::io::pwrite(&file, bytes, 0).expect("memory");
    if sealed {
        let contents = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
        fcntl(&file, FcntlArg::F_ADD_SEALS(contents | SealFlag::F_SEAL_SEAL)).expect("seals");
    }
    file
}
