//! What init waits for: descriptors, each with the word whose it is. It doesn't know what is done about them.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io;

/// Most events of one turn; who comes after them is first in the next.
const EVENTS_MAX: usize = 64;

/// Whose a descriptor is, in the order in which they are served: a keystroke's echo is what somebody waits for, and who joins
/// comes after all that happened to those who are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The terminal of the session with this number.
    Terminal(u8),
    /// A session's client, by its number in it.
    Client(u8, u32),
    Child,
    Listener,
    /// The alarm at this place in their list.
    Alarm(u8),
    /// The control connection with this number.
    Connection(u8),
}

/// An epoll set: what a turn costs doesn't grow with the sessions that are silent.
pub(super) struct Watch {
    epoll: OwnedFd,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Watches a descriptor until it is closed.
    pub(super) fn add(&self, what: impl AsFd, source: Source, events: EventFlags) -> io::Result<()> {
        epoll::add(&self.epoll, what, source.encode(), events)
    }

    /// Watches a descriptor for other events than before. With no event it isn't watched at all: else the kernel would go on
    /// to say that the other side has hung up.
    pub(super) fn change(
        &self,
        what: impl AsFd,
        source: Source,
        before: EventFlags,
        events: EventFlags,
    ) -> io::Result<()> {
        match (before.is_empty(), events.is_empty()) {
            _ if before == events => Ok(()),
            (true, _) => self.add(what, source, events),
            (_, true) => epoll::delete(&self.epoll, what),
            _ => epoll::modify(&self.epoll, what, source.encode(), events),
        }
    }

    /// Waits until something happens, at most `timeout`, rounded up to a millisecond. Gives what happened in the order in which
    /// it is to be served; an event may be of somebody who is gone by its turn.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Vec<(Source, EventFlags)> {
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        let mut events = Vec::with_capacity(EVENTS_MAX);
        // An interrupted or failed wait finds nothing; the next turn asks again.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
        let mut ready: Vec<_> =
            events.iter().filter_map(|event: &Event| Some((Source::decode(event.data)?, event.flags))).collect();
        ready.sort_unstable_by_key(|(source, _)| *source);
        ready
    }
}

impl Source {
    /// The kind, the session or connection, and the client: 16, 16 and 32 bits.
    fn encode(self) -> EventData {
        let (kind, number, client) = match self {
            Self::Terminal(session) => (0_u64, session, 0),
            Self::Client(session, client) => (1, session, client),
            Self::Child => (2, 0, 0),
            Self::Listener => (3, 0, 0),
            Self::Alarm(number) => (4, number, 0),
            Self::Connection(connection) => (5, connection, 0),
        };
        EventData::new_u64(kind << 48 | u64::from(number) << 32 | u64::from(client))
    }

    fn decode(data: EventData) -> Option<Self> {
        let data = data.u64();
        let (number, client) = ((data >> 32) as u8, data as u32);
        Some(match data >> 48 {
            0 => Self::Terminal(number),
            1 => Self::Client(number, client),
            2 => Self::Child,
            3 => Self::Listener,
            4 => Self::Alarm(number),
            5 => Self::Connection(number),
            _ => return None,
        })
    }
}

/// The smallest number that none of `taken` has; there is one as long as these are fewer than 256.
pub(super) fn free_number(taken: impl Iterator<Item = u8> + Clone) -> u8 {
    (0..=u8::MAX).find(|number| taken.clone().all(|other| other != *number)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_comes_back_as_it_was() {
        let sources = [
            Source::Terminal(0),
            Source::Terminal(u8::MAX),
            Source::Client(0, u32::MAX),
            Source::Client(u8::MAX, 0),
            Source::Child,
            Source::Listener,
            Source::Alarm(0),
            Source::Alarm(1),
            Source::Connection(u8::MAX),
        ];
        for source in sources {
            assert_eq!(Source::decode(source.encode()), Some(source));
        }
        assert!(sources.is_sorted(), "in the order of their service");
    }

    #[test]
    fn what_is_asked_last_is_what_is_waited_for() {
        let watch = Watch::new().unwrap();
        let (one, other) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&other, b"x").unwrap();
        let now = Some(Duration::ZERO);
        watch.change(&one, Source::Terminal(7), EventFlags::empty(), EventFlags::IN).unwrap();
        watch.add(&other, Source::Client(7, 1), EventFlags::OUT).unwrap();
        let found = [(Source::Terminal(7), EventFlags::IN), (Source::Client(7, 1), EventFlags::OUT)];
        assert_eq!(watch.wait(now), found);
        watch.change(&one, Source::Terminal(7), EventFlags::IN, EventFlags::PRI).unwrap();
        assert_eq!(watch.wait(now), found[1..]);
        watch.change(&one, Source::Terminal(7), EventFlags::PRI, EventFlags::empty()).unwrap();
        drop(other);
        assert_eq!(watch.wait(now), [], "hung up, and nobody asked");
        watch.change(&one, Source::Terminal(7), EventFlags::empty(), EventFlags::PRI).unwrap();
        assert_eq!(watch.wait(now), [(Source::Terminal(7), EventFlags::HUP)]);
    }

    #[test]
    fn numbers_are_used_again() {
        assert_eq!(free_number([].into_iter()), 0);
        assert_eq!(free_number([1, 0, 3].into_iter()), 2);
    }
}
