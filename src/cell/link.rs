//! The control socket of a cell: requests out, replies in, with their descriptors. It knows no order among them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{RecvFlags, recv};
use sandbox::control::{
    CONTROL_BYTES_MAX, Exit, Label, Life, Reply, Request, SESSIONS_MAX, SessionName, Size, VERSION, VERSION_MIN,
};
use sandbox::spec::ProjectId;
use tokio::time::timeout;
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage};

use super::{ANSWER_WAIT, Error, OutOfDisk, OutOfMemory, OutOfPids};

/// Room for the control messages of one packet: two descriptors are sent, and the kernel closes what doesn't fit.
const ANCILLARY_BYTES: usize = 64;

/// A connection to a cell.
#[derive(Debug)]
pub(super) struct Link {
    socket: UnixSeqpacket,
}

/// What a cell said, checked.
#[derive(Debug)]
pub(super) enum Message {
    /// The answer to a request to open a session: it, or why not.
    Opened(SessionName, Attached),
    /// The answer to a request to find one.
    Found(SessionName, Found),
    /// The answer to a request that failed.
    Failed(String),
    /// A session's log has grown as far as was to be said.
    Grown(SessionName),
    /// A session is called something else now.
    Labelled(SessionName, Label),
    /// The kernel has killed in the cell.
    OutOfMemory(OutOfMemory),
    /// The kernel has refused the cell more processes.
    OutOfPids(OutOfPids),
    /// The cell has no room left on its disk.
    OutOfDisk(OutOfDisk),
    /// A session ended.
    Ended(SessionName, Exit),
    /// The cell ended.
    Gone,
}

/// A session with its descriptors, not yet looked at.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) started: bool,
    pub(super) size: Size,
    pub(super) life: Life,
    pub(super) typed: u64,
    pub(super) log: OwnedFd,
    pub(super) data: OwnedFd,
}

/// A session that runs already, not yet looked at.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) life: Life,
    pub(super) kept: Option<u64>,
    pub(super) log: OwnedFd,
    pub(super) checkpoint: Option<OwnedFd>,
}

impl Link {
    /// Connects and hears whose cell it is and what runs in it.
    pub(super) async fn connect(project: &ProjectId, path: &Path) -> Result<(Self, BTreeSet<SessionName>), Error> {
        Self::reach(path).await?.greeted(project).await
    }

    /// Connects, which a frozen cell allows, too.
    pub(super) async fn reach(path: &Path) -> Result<Self, Error> {
        match timeout(ANSWER_WAIT, UnixSeqpacket::connect(path)).await.map_err(|_| Error::Silent)? {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Err(Error::Gone)
            }
            connected => Ok(Self { socket: connected? }),
        }
    }

    /// Hears whose cell it is and what runs in it.
    pub(super) async fn greeted(mut self, project: &ProjectId) -> Result<(Self, BTreeSet<SessionName>), Error> {
        let hello = timeout(ANSWER_WAIT, self.reply()).await.map_err(|_| Error::Silent)?;
        let (hello, _) = hello?.ok_or(Error::Gone)?;
        match hello {
            Reply::Hello { version, .. } if !(VERSION_MIN..=VERSION).contains(&version) => {
                Err(Error::Protocol(format!(
                    "the running cell speaks version {version} of the protocol, this server {VERSION_MIN} to {VERSION}: stop it with `cloister project stop {project}`"
                )))
            }
            Reply::Hello { project: theirs, sessions, .. } if theirs == *project && sessions.len() <= SESSIONS_MAX => {
                Ok((self, sessions.into_iter().collect()))
            }
            _ => Err(Error::Protocol("the cell doesn't say that it is the project's".to_owned())),
        }
    }

    /// Sends one request, with a descriptor if it may carry one.
    pub(super) async fn send(&self, request: &Request, descriptor: Option<OwnedFd>) -> Result<(), Error> {
        let packet = serde_json::to_vec(request).map_err(io::Error::other)?;
        if packet.len() > CONTROL_BYTES_MAX {
            return Err(Error::Refused(format!("the command is too long: at most {CONTROL_BYTES_MAX} bytes")));
        }
        let mut space = [0; ANCILLARY_BYTES];
        let mut ancillary = AncillaryMessageWriter::new(&mut space);
        if let Some(descriptor) = &descriptor {
            ancillary.add_fds([descriptor.as_fd()]).map_err(io::Error::other)?;
        }
        let sending = self.socket.send_with_ancillary(&packet, &mut ancillary);
        let sent = timeout(ANSWER_WAIT, sending).await.map_err(|_| Error::Silent)?;
        sent.map(|_| ()).map_err(|_| Error::Gone)
    }

    /// Waits for the next message. Loses nothing when dropped.
    pub(super) async fn receive(&mut self) -> Result<Message, Error> {
        let Some((reply, descriptors)) = self.reply().await? else { return Ok(Message::Gone) };
        let mut descriptors = descriptors.into_iter();
        match (reply, descriptors.next(), descriptors.next(), descriptors.next()) {
            (Reply::Attached { session, started, size, life, typed }, Some(log), Some(data), None) => {
                Ok(Message::Opened(session, Attached { started, size: size.clamped(), life, typed, log, data }))
            }
            (Reply::Found { session, life, kept }, Some(log), checkpoint, None) => {
                Ok(Message::Found(session, Found { life, kept, log, checkpoint }))
            }
            (Reply::Failed { reason }, ..) => Ok(Message::Failed(one_line(reason))),
            (Reply::Ended { session, exit }, ..) => Ok(Message::Ended(session, exit)),
            (Reply::Labelled { session, label }, ..) => Ok(Message::Labelled(session, label)),
            (Reply::OutOfMemory { kills, limit_bytes }, ..) => {
                Ok(Message::OutOfMemory(OutOfMemory { kills, limit_bytes, victim: None }))
            }
            (Reply::OutOfPids { refusals, limit }, ..) => Ok(Message::OutOfPids(OutOfPids { refusals, limit })),
            (Reply::OutOfDisk { times, limit_bytes }, ..) => Ok(Message::OutOfDisk(OutOfDisk { times, limit_bytes })),
            (Reply::Grown { session }, ..) => Ok(Message::Grown(session)),
            _ => Err(Error::Protocol("the cell sent a message out of turn".to_owned())),
        }
    }

    async fn reply(&mut self) -> Result<Option<(Reply, Vec<OwnedFd>)>, Error> {
        let length = self.next_length().await?;
        if length > CONTROL_BYTES_MAX {
            return Err(Error::Protocol("the cell sent a message that is too long".to_owned()));
        }
        let (mut buffer, mut ancillary) = (vec![0; length], [0; ANCILLARY_BYTES]);
        let (info, messages) = self.socket.recv_with_ancillary(&mut buffer, &mut ancillary).await?;
        let descriptors = messages.into_messages().flat_map(|message| match message {
            OwnedAncillaryMessage::FileDescriptors(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let descriptors: Vec<OwnedFd> = descriptors.collect();
        if info.truncated() || info.ancillary_truncated() {
            return Err(Error::Protocol("the cell sent a message that is too long".to_owned()));
        }
        if info.bytes_read() == 0 {
            return Ok(None);
        }
        let reply = serde_json::from_slice(&buffer[..info.bytes_read()]);
        let reply = reply.map_err(|error| Error::Protocol(format!("the cell sent a malformed message: {error}")))?;
        Ok(Some((reply, descriptors)))
    }

    /// Waits for the next packet and gives its length, so that no buffer is held while there is none.
    async fn next_length(&self) -> io::Result<usize> {
        loop {
            let mut guard = self.socket.as_async_fd().readable().await?;
            let flags = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
            match guard.try_io(|socket| Ok(recv(socket.get_ref(), &mut [0; 1], flags)?.1)) {
                // Said once, before what is still to be read: the cell closed without having read all it was sent.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(length) => return length,
                Err(_would_block) => {}
            }
        }
    }
}

/// A cell's reason as it may stand in a log or an answer: one short line without control characters.
fn one_line(reason: String) -> String {
    const CHARACTERS_MAX: usize = 500;
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CHARACTERS_MAX).collect()
}
