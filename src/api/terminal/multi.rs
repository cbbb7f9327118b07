//! A WebSocket that speaks `cloister.v1`, and the task that serves it: all sessions of one project that a client holds, each
//! on a channel. The task owns the socket and the holds and waits on all of them, so a keystroke and its echo meet no queue.
//! What the client sends is hostile: it is a frame that keeps the rules, or the end with a reason.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::discriminant;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use sandbox::control::{Label, SessionName, Size};
use sandbox::spec::ProjectId;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};

use super::hold::{Hold, Message};
use super::pulse::{End, Pulse};
use crate::cell::{Ending, Opened, OutOfDisk, OutOfMemory, OutOfPids, State, seconds};
use crate::project::{self, Projects};
use crate::session::{Attachment, Presence, Start, Who};
use crate::wire::{Ask, CHANNELS_MAX, Channel, Hex, Resume, Role, Tell, ToServer};
use crate::ws::{self, CloseCode, OUTPUT_BYTES_MAX, Received, Socket, close};

/// Most that waits to be told while the socket is full, beside what each hold has to say: a client that asks for more
/// without reading is cut off.
const TELLS_MAX: usize = 4 * CHANNELS_MAX;

type Result<T> = std::result::Result<T, End>;

/// A WebSocket with several sessions.
pub(super) struct Multi {
    socket: Socket,
    projects: Projects,
    project: ProjectId,
    holds: Vec<Hold>,
    /// Whose turn it is to be heard first.
    turn: usize,
    /// What is being asked of the cell.
    asked: JoinSet<Done>,
    /// Channels that are being attached.
    attaching: Vec<Channel>,
    tells: VecDeque<Tell>,
    /// Rings when there is news of a session.
    bell: Arc<Notify>,
    /// What the client was told of the cell.
    told: Told,
    due: Option<Pin<Box<Sleep>>>,
    pulse: Pulse,
}

/// What a client is told of a cell.
#[derive(Default)]
struct Told {
    sessions: BTreeSet<SessionName>,
    labels: BTreeMap<SessionName, Label>,
    killed: Option<OutOfMemory>,
    refused: Option<OutOfPids>,
    full: Option<OutOfDisk>,
    /// Since when it is frozen, in seconds since 1970.
    frozen: Option<u64>,
    /// For how long nothing had happened in it when it was stopped for that, in seconds.
    idle_s: Option<u64>,
}

/// Something that was asked of the cell is done.
enum Done {
    Attached(Box<Attach>, std::result::Result<Opened, project::Error>),
    Closed(std::result::Result<(), project::Error>),
    Labelled(std::result::Result<(), project::Error>),
}

/// A wish to hold a session.
struct Attach {
    channel: Channel,
    session: SessionName,
    client: Hex,
    role: Role,
    size: Size,
    resume: Option<Resume>,
}

/// What the task has to do next.
enum Turn {
    Received(Received),
    Done(Done),
    Message(usize, Message),
    Told,
    /// The connection failed while it was written to.
    Lost,
}

impl Multi {
    pub(super) fn new(socket: Socket, projects: Projects, project: ProjectId) -> Box<Self> {
        let hello = Tell::Hello { version: env!("CARGO_PKG_VERSION").to_owned(), project: project.to_string() };
        let told = Told::of(projects.state(&project));
        let mut tells = VecDeque::from([hello, told.sessions()]);
        tells.extend(told.frozen.map(|since| Tell::Frozen { since }));
        Box::new(Self {
            socket,
            projects,
            project,
            holds: Vec::new(),
            turn: 0,
            asked: JoinSet::new(),
            attaching: Vec::new(),
            tells,
            bell: Arc::default(),
            told,
            due: None,
            pulse: Pulse::default(),
        })
    }

    /// Serves the client until it leaves or the server stops. Sessions that end leave the socket open.
    pub(super) async fn serve(mut self: Box<Self>, stopped: impl Future<Output = ()>) {
        tracing::info!("connected");
        let Err(end) = self.relay(stopped).await;
        // Detached before the goodbyes: a client that lingers there must not pace a session.
        let Self { socket, holds, .. } = *self;
        holds.into_iter().for_each(Hold::detach);
        Box::pin(end.say(socket)).await;
    }

    async fn relay(&mut self, stopped: impl Future<Output = ()>) -> Result<std::convert::Infallible> {
        let mut ping = Pulse::pings();
        let mut stopped = std::pin::pin!(stopped);
        let bell = self.bell.clone();
        let mut cell = self.projects.watch(&self.project);
        loop {
            tokio::select! {
                biased;
                () = stopped.as_mut() => return Err(End::restarting()),
                turn = std::future::poll_fn(|cx| self.poll_turn(cx)) => self.take(turn).await?,
                // The holds look what it is.
                () = bell.notified() => {}
                () = changed(&mut cell) => self.tell_news()?,
                _ = ping.tick() => self.pulse.ask(&mut self.socket)?,
            }
            if cell.is_none() && !self.holds.is_empty() {
                cell = self.projects.watch(&self.project);
            }
        }
    }

    /// What to do next. What is typed comes first: ^C must overtake a flood.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if let Poll::Ready(received) = self.socket.poll_receive(cx) {
            return Poll::Ready(Turn::Received(received));
        }
        if let Poll::Ready(Some(Ok(done))) = self.asked.poll_join_next(cx) {
            return Poll::Ready(Turn::Done(done));
        }
        match self.socket.poll_flushed(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Turn::Lost),
            Poll::Pending => {
                self.holds.iter_mut().for_each(|hold| hold.poll_input(cx));
                return Poll::Pending;
            }
        }
        if !self.tells.is_empty() {
            return Poll::Ready(Turn::Told);
        }
        self.poll_holds(cx)
    }

    /// The next message of a hold; each has its turn.
    fn poll_holds(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let count = self.holds.len();
        loop {
            for index in (0..count).map(|step| (self.turn + step) % count) {
                if let Poll::Ready(message) = self.holds[index].poll_message(cx) {
                    self.turn = index + 1;
                    return Poll::Ready(Turn::Message(index, message));
                }
            }
            let Some(at) = self.holds.iter().filter_map(Hold::due).min() else { return Poll::Pending };
            let due = self.due.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if due.deadline() != at {
                due.as_mut().reset(at);
            }
            match due.as_mut().poll(cx) {
                Poll::Ready(()) if Instant::now() >= at => {}
                _ => return Poll::Pending,
            }
        }
    }

    async fn take(&mut self, turn: Turn) -> Result<()> {
        match turn {
            Turn::Received(received) => self.receive(received),
            Turn::Done(done) => self.done(done),
            Turn::Message(index, message) => {
                let whole = matches!(&message, Message::Frame(frame) if frame.len() == OUTPUT_BYTES_MAX);
                self.send(index, message)?;
                if whole {
                    // There may be more where it came from, and others want a turn.
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Turn::Told => match self.tells.pop_front() {
                Some(tell) => self.send_tell(&tell),
                None => Ok(()),
            },
            Turn::Lost => Err(End::Lost),
        }
    }

    fn receive(&mut self, received: Received) -> Result<()> {
        self.pulse.heard();
        match received {
            Received::Binary(message) => {
                let frame = ToServer::decode(&message).map_err(|error| broken(&error.to_string()))?;
                self.obey(frame)
            }
            Received::Text(text) => {
                let ask = Ask::parse(&text).map_err(|error| broken(&error.to_string()))?;
                self.ask(ask)
            }
            Received::Control => Ok(()),
            Received::Closed => Err(End::Closed),
            Received::Refused(frame) => Err(End::Close(frame)),
            Received::Lost => Err(End::Lost),
        }
    }

    /// Does what a frame says. What is for a free channel was on its way when its session ended.
    fn obey(&mut self, frame: ToServer<'_>) -> Result<()> {
        match frame {
            ToServer::Input { channel, seq, bytes } => match self.hold(channel) {
                Some(hold) => hold.input(seq, bytes).map_err(End::Close),
                None => Ok(()),
            },
            ToServer::Answer { channel, bytes } => match self.hold(channel) {
                Some(hold) => {
                    hold.attachment().answer(bytes);
                    Ok(())
                }
                None => Ok(()),
            },
            ToServer::Ack { channel, offset } => match self.hold(channel) {
                Some(hold) => match hold.attachment().ack(offset) {
                    true => Ok(()),
                    false => Err(against(&format!("channel {} was never sent offset {offset}", channel.0))),
                },
                None => Ok(()),
            },
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<()> {
        match ask {
            Ask::Attach { channel, session, client, role, cols, rows, resume } => {
                self.attach(Attach { channel, session, client, role, size: Size { cols, rows }, resume })
            }
            Ask::Resize { channel, cols, rows } => match self.hold(channel) {
                Some(hold) => {
                    hold.attachment().resize(Size { cols, rows });
                    Ok(())
                }
                None => Ok(()),
            },
            Ask::Detach { channel } => match self.holds.iter().position(|hold| hold.channel == channel) {
                Some(index) => {
                    self.holds.remove(index).detach();
                    Ok(())
                }
                None => Ok(()),
            },
            Ask::Close { session } => {
                let (projects, project) = (self.projects.clone(), self.project.clone());
                self.spawn(async move { Done::Closed(projects.close(&project, &session).await) })
            }
            Ask::Label { session, label } => {
                let (projects, project) = (self.projects.clone(), self.project.clone());
                self.spawn(async move { Done::Labelled(projects.label(&project, &session, label).await) })
            }
            Ask::Ping { id } => self.tell(Tell::Pong { id }),
        }
    }

    fn attach(&mut self, attach: Attach) -> Result<()> {
        let channel = attach.channel;
        if self.hold(channel).is_some() || self.attaching.contains(&channel) {
            return Err(against(&format!("channel {} is in use", channel.0)));
        }
        if self.holds.len() + self.attaching.len() >= CHANNELS_MAX {
            let message = format!("a connection has at most {CHANNELS_MAX} channels: detach one");
            return self.tell(Tell::Refused { channel, message });
        }
        if attach.role == Role::Viewer && !self.projects.sessions(&self.project).contains(&attach.session) {
            let message = format!("session {} does not run, and a viewer starts none", attach.session);
            return self.tell(Tell::Refused { channel, message });
        }
        self.attaching.push(channel);
        let (projects, project) = (self.projects.clone(), self.project.clone());
        self.spawn(async move {
            let opened = projects.attach(&project, &attach.session, attach.size, &[], attach.client.0).await;
            Done::Attached(Box::new(attach), opened)
        })
    }

    /// Asks the cell, in a task: meanwhile the other sessions go on. Dropping the set drops what is asked.
    fn spawn(&mut self, asking: impl Future<Output = Done> + Send + 'static) -> Result<()> {
        if self.asked.len() >= CHANNELS_MAX {
            return Err(against("too much is asked at once"));
        }
        self.asked.spawn(asking);
        Ok(())
    }

    fn done(&mut self, done: Done) -> Result<()> {
        let told = match done {
            Done::Attached(attach, opened) => {
                self.attaching.retain(|channel| *channel != attach.channel);
                let channel = attach.channel;
                let told = match opened {
                    Ok(opened) => self.hold_session(*attach, opened)?,
                    Err(error) => {
                        tracing::info!(%error, "refused");
                        Tell::Refused { channel, message: error.to_string() }
                    }
                };
                self.tell(told)
            }
            Done::Closed(done) | Done::Labelled(done) => {
                done.unwrap_or_else(|error| tracing::info!(%error, "a session can't be closed or labelled"));
                Ok(())
            }
        };
        told?;
        self.tell_news()
    }

    /// Tells what has become of the cell, if that is something else than was told.
    fn tell_news(&mut self) -> Result<()> {
        let earlier = std::mem::replace(&mut self.told, Told::of(self.projects.state(&self.project)));
        if (&earlier.sessions, &earlier.labels) != (&self.told.sessions, &self.told.labels) {
            self.tell_anew(self.told.sessions())?;
        }
        if let Some(OutOfMemory { kills, limit_bytes, victim }) = self.told.killed.clone()
            && earlier.killed != self.told.killed
        {
            self.tell_anew(Tell::OutOfMemory { kills, limit_bytes, victim })?;
        }
        if let Some(OutOfPids { refusals, limit }) = self.told.refused.filter(|now| earlier.refused != Some(*now)) {
            self.tell_anew(Tell::OutOfPids { refusals, limit })?;
        }
        if let Some(OutOfDisk { times, limit_bytes }) = self.told.full.filter(|now| earlier.full != Some(*now)) {
            self.tell_anew(Tell::OutOfDisk { times, limit_bytes })?;
        }
        if earlier.frozen != self.told.frozen {
            self.tells.retain(|tell| !matches!(tell, Tell::Frozen { .. } | Tell::Thawed));
            self.tell(self.told.frozen.map_or(Tell::Thawed, |since| Tell::Frozen { since }))?;
        }
        if let Some(idle_s) = self.told.idle_s.filter(|_| earlier.idle_s.is_none()) {
            self.tell(Tell::IdleStop { idle_s })?;
        }
        Ok(())
    }

    /// Says something in place of what of the same kind is still to be said: a cell can change faster than its clients read.
    fn tell_anew(&mut self, tell: Tell) -> Result<()> {
        self.tells.retain(|earlier| discriminant(earlier) != discriminant(&tell));
        self.tell(tell)
    }

    /// Says something once there is room for it.
    fn tell(&mut self, tell: Tell) -> Result<()> {
        if self.tells.len() >= TELLS_MAX {
            return Err(against("answers pile up: read them"));
        }
        self.tells.push_back(tell);
        Ok(())
    }

    fn send(&mut self, index: usize, message: Message) -> Result<()> {
        match message {
            Message::Frame(frame) => {
                self.socket.send(ws::Message::Binary(frame.into())).map_err(|_| End::Lost)?;
                self.holds[index].attachment().sent();
                Ok(())
            }
            Message::Tell(tell) => self.send_tell(&tell),
            Message::Last(tell) => {
                self.holds.remove(index).detach();
                // Why the cell ends is said before the ends that follow from it.
                self.tell_news()?;
                while let Some(earlier) = self.tells.pop_front() {
                    self.send_tell(&earlier)?;
                }
                self.send_tell(&tell)
            }
        }
    }

    fn send_tell(&mut self, tell: &Tell) -> Result<()> {
        let text = serde_json::to_string(tell).expect("what is told has string keys");
        self.socket.send(ws::Message::Text(text.into())).map_err(|_| End::Lost)
    }

    /// Goes on where the client has everything, or with a snapshot.
    fn hold_session(&mut self, attach: Attach, opened: Opened) -> Result<Tell> {
        let Attach { channel, session, client, role, size, resume } = attach;
        let (shared, typed, started) = (opened.hold.session.clone(), opened.hold.typed, opened.started);
        let life = Hex::from(shared.life());
        let start = match resume.filter(|resume| resume.life == life) {
            Some(Resume { offset, .. }) if offset > shared.head() => {
                return Err(against(&format!("offset {offset} of session {session} is in the future")));
            }
            Some(Resume { offset, .. }) => Start::Resume(offset),
            None if started => Start::Resume(0),
            None => Start::Snapshot,
        };
        let present = opened.hold.size;
        let (bell, presence) = (self.bell.clone(), Presence::Acking);
        let who = Who { client: client.0, role, size: Some(size), bell, presence };
        match Attachment::new(opened.hold, start, who) {
            Ok(attachment) => {
                tracing::info!(%session, channel = channel.0, ?role, ?start, "attached");
                self.holds.push(Hold::new(channel, attachment));
                Ok(Tell::Attached { channel, session, life, typed, started, size: present })
            }
            Err(error) => Ok(Tell::Refused { channel, message: format!("the cell's answer can't be used: {error}") }),
        }
    }

    fn hold(&mut self, channel: Channel) -> Option<&mut Hold> {
        self.holds.iter_mut().find(|hold| hold.channel == channel)
    }
}

impl Told {
    fn of(state: Option<State>) -> Self {
        let Some(State { sessions, labels, killed, refused, full, frozen, ending, .. }) = state else {
            return Self::default();
        };
        let idle_s = if let Some(Ending::Idle(idle)) = ending { Some(idle.as_secs()) } else { None };
        Self { sessions, labels, killed, refused, full, frozen: frozen.map(seconds), idle_s }
    }

    fn sessions(&self) -> Tell {
        Tell::Sessions { sessions: self.sessions.iter().cloned().collect(), labels: self.labels.clone() }
    }
}

/// Waits until something about a cell changes.
async fn changed(cell: &mut Option<watch::Receiver<State>>) {
    let Some(state) = cell else { return std::future::pending().await };
    if state.changed().await.is_err() {
        // It is gone; whoever attaches next finds another one.
        *cell = None;
    }
}

/// The client broke a rule.
fn against(reason: &str) -> End {
    End::Close(close(CloseCode::Policy, reason))
}

/// The client sent what is no frame.
fn broken(reason: &str) -> End {
    End::Close(close(CloseCode::Protocol, reason))
}
