//! The cell's init, pid 1 of its namespaces: opens terminals, starts their programs, moves bytes, reaps.
//!
//! One thread, one epoll, no privilege that its shells don't have. It trusts the server no more than the server trusts it:
//! every count and buffer is bounded, and who breaks the protocol is cut off. It knows no host path and no other project.

mod program;
mod room;
mod session;
mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::EventFlags;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{WaitOptions, wait};

use self::room::Room;
use crate::alarm::{Alarm, Limit, Met};
use crate::control::{CONTROL_BYTES_MAX, Exit, Reply, Request, SESSIONS_MAX, SessionName, Size, VERSION};
use crate::packet;
use crate::spec::CellSpec;
use session::{SCRATCH_BYTES, Session};
use watch::{Source, Watch, free_number};

/// Most control connections: one server, the next one during a restart, and a few commands.
const CONNECTIONS_MAX: usize = 16;

/// How long programs have to end after a hang-up, when the cell is to stop: bash writes its history in a few milliseconds.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// What an init begins with.
pub(crate) struct Birth {
    pub(crate) spec: CellSpec,
    /// The control socket, listening.
    pub(crate) listener: OwnedFd,
    /// Hear when the cell meets a limit.
    pub(crate) alarms: Vec<Alarm>,
}

/// Runs until the cell is to stop. When it returns, its process must end, and with it every process of the cell.
pub(crate) fn run(birth: Birth) {
    if let Ok(mut init) = Init::new(birth) {
        let _ = rustix::thread::set_name(c"cell-init");
        while !init.over() {
            init.turn();
        }
    }
}

struct Init {
    watch: Watch,
    spec: CellSpec,
    listener: OwnedFd,
    /// What the listener is watched for.
    listened: EventFlags,
    alarms: Vec<Alarm>,
    room: Room,
    signals: SignalFd,
    connections: Vec<Connection>,
    sessions: Vec<Session>,
    scratch: Vec<u8>,
    /// When the cell stops at the latest, once it shall.
    stop_at: Option<Instant>,
}

/// A control connection; one that isn't open any more is dropped at the end of the turn.
struct Connection {
    /// Its number among those that are there, for [`Source`].
    number: u8,
    socket: OwnedFd,
    open: bool,
}

impl Init {
    fn new(birth: Birth) -> std::io::Result<Self> {
        let Birth { spec, listener, alarms } = birth;
        let (watch, signals) = (Watch::new()?, watch_children()?);
        watch.add(&signals, Source::Child, EventFlags::IN)?;
        for (number, alarm) in (0..).zip(&alarms) {
            if let Some((ear, events)) = alarm.interest() {
                watch.add(ear, Source::Alarm(number), events)?;
            }
        }
        let scratch = vec![0; SCRATCH_BYTES];
        let (connections, sessions, listened) = (Vec::new(), Vec::new(), EventFlags::empty());
        let room = Room::new(spec.limits.disk_bytes_max);
        Ok(Self {
            watch,
            spec,
            listener,
            listened,
            alarms,
            room,
            signals,
            connections,
            sessions,
            scratch,
            stop_at: None,
        })
    }

    fn over(&self) -> bool {
        self.stop_at.is_some_and(|at| self.sessions.is_empty() || Instant::now() >= at)
    }

    /// Waits for something to happen, and does what follows from it.
    fn turn(&mut self) {
        self.sessions.iter_mut().for_each(Session::wake_up);
        self.watch_anew();
        let left = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let happened = self.watch.wait(left);
        if !happened.is_empty() {
            self.alarms.iter_mut().for_each(Alarm::stirred);
            self.room.stirred();
        }
        for (source, events) in happened {
            match source {
                Source::Terminal(number) => {
                    if let Some(session) = numbered(&mut self.sessions, number) {
                        session.terminal_ready(events, &mut self.scratch);
                    }
                }
                Source::Client(number, client) => {
                    if let Some(session) = numbered(&mut self.sessions, number) {
                        session.client_ready(client, &mut self.scratch);
                    }
                }
                Source::Child => self.reap(),
                Source::Listener => self.accept(),
                Source::Alarm(number) => self.alarms[usize::from(number)].heard(),
                Source::Connection(number) => self.converse(number),
            }
        }
        self.let_typists_go_first();
        self.report_growth();
        self.report_limits();
        self.finish_sessions();
        self.connections.retain(|connection| connection.open);
    }

    /// Has everything watched for what matters now; where that fails it is tried again in the next turn.
    fn watch_anew(&mut self) {
        let mut events = EventFlags::empty();
        events.set(EventFlags::IN, self.connections.len() < CONNECTIONS_MAX);
        if self.watch.change(&self.listener, Source::Listener, self.listened, events).is_ok() {
            self.listened = events;
        }
        for session in &mut self.sessions {
            let _ = session.watch(&self.watch);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let look = self.alarms.iter().filter_map(Alarm::deadline);
        self.sessions
            .iter()
            .filter_map(Session::deadline)
            .chain(self.stop_at)
            .chain(look)
            .chain(self.room.deadline())
            .min()
    }

    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        let hello = Reply::Hello {
            version: VERSION,
            project: self.spec.project.clone(),
            sessions: self.sessions.iter().map(|session| session.name().clone()).collect(),
        };
        let number = free_number(self.connections.iter().map(|connection| connection.number));
        let open = self.watch.add(&socket, Source::Connection(number), EventFlags::IN).is_ok();
        let mut connection = Connection { number, socket, open };
        connection.send(&hello, &[]);
        for session in self.sessions.iter().filter(|session| !session.label().is_none()) {
            connection.send(&labelled(session), &[]);
        }
        self.connections.push(connection);
    }

    /// Serves one request of a connection; whoever sends none or a wrong one is hung up on.
    fn converse(&mut self, number: u8) {
        let asks = |connection: &Connection| connection.number == number;
        let Some(connection) = self.connections.iter().position(asks) else { return };
        let from = &mut self.connections[connection];
        let (request, mut descriptors) = match packet::receive_json::<Request>(&from.socket, CONTROL_BYTES_MAX) {
            Ok(Some(request)) => request,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Ok(None) => {
                from.open = false;
                return;
            }
            Err(error) => {
                from.send(&Reply::Failed { reason: format!("the request is malformed: {error}") }, &[]);
                from.open = false;
                return;
            }
        };
        match request {
            Request::Open { session, size, command, client, kept } => {
                self.open(connection, session, size.clamped(), &command, client, kept);
            }
            Request::Join { session } => self.join(connection, session),
            Request::Find { session } => self.find(connection, session),
            Request::Keep { session, life, from, until } => {
                let session = self.sessions.iter_mut().find(|running| *running.name() == session);
                if let Some(session) = session.filter(|session| session.life() == life) {
                    session.keep(from, until, descriptors.pop());
                }
            }
            Request::Label { session, label } => {
                if let Some(session) = self.sessions.iter_mut().find(|running| *running.name() == session) {
                    session.set_label(label);
                    let labelled = labelled(session);
                    self.connections.iter_mut().for_each(|connection| connection.send(&labelled, &[]));
                }
            }
            Request::Close { session } => {
                if let Some(session) = self.sessions.iter_mut().find(|running| *running.name() == session) {
                    session.hang_up();
                }
            }
            Request::Stop => {
                self.stop_at = Some(Instant::now() + STOP_GRACE);
                self.sessions.iter_mut().for_each(Session::hang_up);
            }
        }
    }

    fn open(&mut self, connection: usize, name: SessionName, size: Size, command: &[String], client: u64, kept: bool) {
        let attached = match self.position(&name) {
            Some(index) => self.attach(connection, index, false, client),
            None => self.start(name, size, command).and_then(|()| {
                let index = self.sessions.len() - 1;
                let session = &mut self.sessions[index];
                if kept {
                    session.keep(0, session.log_bytes() / 4, None);
                }
                self.attach(connection, index, true, client)
            }),
        };
        self.say_failed(connection, attached);
    }

    fn join(&mut self, connection: usize, name: SessionName) {
        let attached = match self.position(&name) {
            Some(index) => self.attach(connection, index, false, 0),
            None => Err("it has ended".to_owned()),
        };
        self.say_failed(connection, attached);
    }

    fn position(&self, name: &SessionName) -> Option<usize> {
        self.sessions.iter().position(|session| session.name() == name)
    }

    /// Attaches a client and tells it so.
    fn attach(&mut self, connection: usize, index: usize, started: bool, client: u64) -> Result<(), String> {
        let session = &mut self.sessions[index];
        let socket = session.attach(&self.watch)?;
        let (size, life, typed) = (session.size(), session.life(), session.typed(client));
        let reply = Reply::Attached { session: session.name().clone(), started, size, life, typed };
        self.connections[connection].send(&reply, &[session.log().as_fd(), socket.as_fd()]);
        Ok(())
    }

    fn say_failed(&mut self, connection: usize, attached: Result<(), String>) {
        if let Err(reason) = attached {
            self.connections[connection].send(&Reply::Failed { reason }, &[]);
        }
    }

    fn find(&mut self, connection: usize, name: SessionName) {
        let connection = &mut self.connections[connection];
        let Some(session) = self.sessions.iter().find(|session| *session.name() == name) else {
            return connection.send(&Reply::Failed { reason: "it has ended".to_owned() }, &[]);
        };
        let (kept, checkpoint) = session.kept().unzip();
        let descriptors: Vec<BorrowedFd<'_>> =
            [session.log().as_fd()].into_iter().chain(checkpoint.flatten()).collect();
        connection.send(&Reply::Found { session: name, life: session.life(), kept }, &descriptors);
    }

    fn start(&mut self, name: SessionName, size: Size, command: &[String]) -> Result<(), String> {
        if self.stop_at.is_some() {
            return Err("the cell is stopping: try again".to_owned());
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(format!("the cell has {SESSIONS_MAX} sessions already: close one"));
        }
        let number = free_number(self.sessions.iter().map(Session::number));
        let mut session = Session::start(number, name, size, &self.spec, command)?;
        session.watch(&self.watch).map_err(|error| format!("its terminal can't be watched: {error}"))?;
        self.sessions.push(session);
        Ok(())
    }

    /// Collects every process that ended, session leader or orphan.
    fn reap(&mut self) {
        while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code as u8),
                (None, Some(signal)) => Exit::Signal(signal as u8),
                (None, None) => continue,
            };
            if let Some(session) = self.sessions.iter_mut().find(|session| session.leader() == pid) {
                session.leader_ended(exit, &mut self.scratch);
            }
        }
    }

    /// Makes a session that floods rest while another one is typed in: else each key waits at every step of its way for a
    /// processor that the flood has.
    fn let_typists_go_first(&mut self) {
        for index in 0..self.sessions.len() {
            if !self.sessions[index].is_bulky() {
                continue;
            }
            let now = Instant::now();
            let mut others = self.sessions.iter().enumerate().filter(|(other, _)| *other != index);
            let others_type = others.any(|(_, other)| other.is_typed_in(now));
            self.sessions[index].pace(others_type, now);
        }
    }

    fn report_growth(&mut self) {
        for session in self.sessions.iter_mut().filter_map(|session| session.has_grown().then(|| session.name())) {
            let grown = Reply::Grown { session: session.clone() };
            self.connections.iter_mut().for_each(|connection| connection.send(&grown, &[]));
        }
    }

    fn report_limits(&mut self) {
        for Met { limit, times, value } in self.alarms.iter_mut().filter_map(Alarm::news) {
            let met = match limit {
                Limit::Memory => Reply::OutOfMemory { kills: times, limit_bytes: value },
                Limit::Pids => Reply::OutOfPids { refusals: times, limit: value },
            };
            self.connections.iter_mut().for_each(|connection| connection.send(&met, &[]));
        }
        if let Some((times, limit_bytes)) = self.room.news() {
            let full = Reply::OutOfDisk { times, limit_bytes };
            self.connections.iter_mut().for_each(|connection| connection.send(&full, &[]));
        }
    }

    /// Takes leave of sessions whose program ended and whose output is all in the log.
    fn finish_sessions(&mut self) {
        let mut index = 0;
        while index < self.sessions.len() {
            match self.sessions[index].finished() {
                Some(exit) => {
                    let session = self.sessions.remove(index);
                    let ended = Reply::Ended { session: session.name().clone(), exit };
                    session.take_leave(exit);
                    self.connections.iter_mut().for_each(|connection| connection.send(&ended, &[]));
                }
                None => index += 1,
            }
        }
    }
}

fn numbered(sessions: &mut [Session], number: u8) -> Option<&mut Session> {
    sessions.iter_mut().find(|session| session.number() == number)
}

fn labelled(session: &Session) -> Reply {
    Reply::Labelled { session: session.name().clone(), label: session.label().clone() }
}

/// Turns SIGCHLD, which the launcher has blocked already, into something that can be polled.
fn watch_children() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

impl Connection {
    /// Sends a reply. Who lets replies pile up until the socket is full is hung up on.
    fn send(&mut self, reply: &Reply, descriptors: &[BorrowedFd<'_>]) {
        self.open &= packet::send_json(&self.socket, reply, descriptors).is_ok();
    }
}
