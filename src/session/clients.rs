//! Who is attached to a session, who of them leads, and the size that follows from both: whoever changes it is told the size
//! that the session is to have, and passes that on. It moves no bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::control::Size;
use tokio::sync::Notify;

use super::Sizing;
use crate::metrics::metrics;
use crate::wire::{Member, Role};

/// The clients of a session.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// Who leads, for a look on every keystroke; 0 is nobody.
    leader: AtomicU64,
    /// Grows with every change.
    generation: AtomicU64,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    members: Vec<(Member, Arc<Notify>)>,
    last_id: u64,
    sizing: Sizing,
    /// What the session was last given.
    size: Option<Size>,
}

impl Clients {
    /// Nobody yet, with a rule for the size.
    pub(super) fn sized_by(sizing: Sizing) -> Self {
        Self { list: Mutex::new(List { sizing, ..List::default() }), ..Self::default() }
    }

    /// Adds a client to a session of this size; its bell rings whenever something changes. Gives its id.
    pub(super) fn join(&self, present: Size, role: Role, size: Option<Size>, bell: Arc<Notify>) -> (u64, Option<Size>) {
        let mut list = self.list();
        list.last_id += 1;
        list.size.get_or_insert(present);
        let id = list.last_id;
        list.members.push((Member { id, role, size }, bell));
        if list.members.len() == 1 {
            metrics().sessions_attached.inc();
        }
        if role == Role::Writer && self.leader() == 0 {
            self.leader.store(id, Ordering::Relaxed);
        }
        (id, self.changed(&mut list))
    }

    /// Removes a client. If it led, the writer that came last does.
    pub(super) fn leave(&self, id: u64) -> Option<Size> {
        let mut list = self.list();
        let before = list.members.len();
        list.members.retain(|(member, _)| member.id != id);
        if before > 0 && list.members.is_empty() {
            metrics().sessions_attached.dec();
        }
        if self.leader() == id {
            let next = list.members.iter().rev().find(|(member, _)| member.role == Role::Writer);
            self.leader.store(next.map_or(0, |(member, _)| member.id), Ordering::Relaxed);
        }
        self.changed(&mut list)
    }

    /// A client has typed.
    pub(super) fn lead(&self, id: u64) -> Option<Size> {
        if self.leader() == id {
            return None;
        }
        let mut list = self.list();
        self.leader.store(id, Ordering::Relaxed);
        self.changed(&mut list)
    }

    /// A client's own terminal has a new size.
    pub(super) fn resize(&self, id: u64, size: Size) -> Option<Size> {
        let mut list = self.list();
        if let Some((member, _)) = list.members.iter_mut().find(|(member, _)| member.id == id) {
            member.size = Some(size);
        }
        self.changed(&mut list)
    }

    /// The session gets this size until a client wants another one; where no client is asked, for good.
    pub(super) fn impose(&self, size: Size) {
        let mut list = self.list();
        list.size = Some(size);
        if let Sizing::Fixed(fixed) = &mut list.sizing {
            *fixed = size;
        }
    }

    /// Who leads; 0 is nobody.
    pub(super) fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    /// A number that is another one whenever something has changed.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// All of them.
    pub(super) fn members(&self) -> Vec<Member> {
        self.list().members.iter().map(|(member, _)| member.clone()).collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.list().members.len()
    }

    /// Rings every client's bell: there is news of the session.
    pub(super) fn ring(&self) {
        self.tell(&self.list());
    }

    /// Tells everybody; gives the session's new size, if it is to have another one.
    fn changed(&self, list: &mut List) -> Option<Size> {
        self.tell(list);
        let writers = list.members.iter().map(|(member, _)| member).filter(|member| member.role == Role::Writer);
        let leader = writers.clone().find(|member| member.id == self.leader()).and_then(|member| member.size);
        let wanted = list.sizing.wanted(leader, writers.filter_map(|member| member.size));
        let size = wanted.filter(|size| list.size != Some(*size))?;
        list.size = Some(size);
        Some(size)
    }

    fn tell(&self, list: &List) {
        self.generation.fetch_add(1, Ordering::Release);
        list.members.iter().for_each(|(_, bell)| bell.notify_one());
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Size = Size { cols: 200, rows: 50 };

    #[test]
    fn the_writer_that_typed_last_leads_and_a_viewer_never() {
        let clients = Clients::default();
        let join = |role| clients.join(Size::DEFAULT, role, None, Arc::default()).0;
        let viewer = join(Role::Viewer);
        assert_eq!(clients.leader(), 0);
        let (first, second, third) = (join(Role::Writer), join(Role::Writer), join(Role::Writer));
        assert_eq!(clients.leader(), first);
        clients.lead(second);
        assert_eq!(clients.leader(), second);
        clients.leave(first);
        assert_eq!(clients.leader(), second);
        clients.leave(second);
        assert_eq!(clients.leader(), third);
        clients.leave(third);
        assert_eq!((clients.leader(), clients.members().len()), (0, 1));
        clients.leave(viewer);
        assert!(clients.members().is_empty());
    }

    #[test]
    fn the_size_is_the_leaders() {
        let clients = Clients::default();
        let join = |role, size| clients.join(Size::DEFAULT, role, Some(size), Arc::default());
        assert_eq!(join(Role::Viewer, LARGE).1, None);
        let (first, none) = join(Role::Writer, Size::DEFAULT);
        assert_eq!(none, None, "it has this size");
        let (second, none) = join(Role::Writer, LARGE);
        assert_eq!(none, None, "the other one leads");
        assert_eq!(clients.lead(second), Some(LARGE));
        assert_eq!(clients.lead(second), None);
        let small = Size { cols: 40, rows: 10 };
        assert_eq!(clients.resize(first, small), None, "until it types");
        assert_eq!(clients.lead(first), Some(small));
        assert_eq!(clients.leave(first), Some(LARGE));
        clients.impose(small);
        assert_eq!(clients.lead(second), None);
        assert_eq!(clients.resize(second, LARGE), Some(LARGE));
    }

    #[test]
    fn the_size_fits_all_writers_or_is_nobodys_where_that_is_the_rule() {
        let smallest = Clients::sized_by(Sizing::Smallest);
        let join = |role, size| smallest.join(Size::DEFAULT, role, Some(size), Arc::default());
        let (first, size) = join(Role::Writer, LARGE);
        assert_eq!(size, Some(LARGE));
        let tiny = Size { cols: 10, rows: 5 };
        assert_eq!(join(Role::Viewer, tiny).1, None);
        let (second, size) = join(Role::Writer, Size { cols: 100, rows: 60 });
        assert_eq!(size, Some(Size { cols: 100, rows: 50 }));
        assert_eq!(smallest.lead(second), None, "whoever types");
        assert_eq!(smallest.leave(first), Some(Size { cols: 100, rows: 60 }));

        let fixed = Clients::sized_by(Sizing::Fixed(tiny));
        let (only, size) = fixed.join(Size::DEFAULT, Role::Writer, Some(LARGE), Arc::default());
        assert_eq!((size, fixed.resize(only, Size::DEFAULT)), (Some(tiny), None));
        fixed.impose(LARGE);
        assert_eq!(fixed.resize(only, tiny), None);
    }
}
