//! What is kept of a session over all connections to it.

use sandbox::control::{SessionName, Size};

use super::end::End;
use super::link::{Link, typed_wrongly};
use super::shown::Shown;
use super::typed::Typed;
use crate::tty::{self, Output};
use crate::wire::{Ask, Channel, Hex, Resume, Role};

/// Which session to hold, as whom, and from where on.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) session: SessionName,
    /// Tells what is typed here from what others type.
    pub(super) client: Hex,
    pub(super) role: Role,
    /// This terminal's.
    pub(super) size: Size,
    /// Which of all sessions of this name it was, if it was held before.
    pub(super) life: Option<Hex>,
    /// Everything before it was shown; without it a snapshot is needed.
    pub(super) offset: Option<u64>,
}

/// A session, seen from here.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) wish: Wish,
    pub(super) shown: Shown,
    pub(super) typed: Typed,
}

impl Wish {
    /// Of a session that isn't known yet.
    pub(super) fn new(session: SessionName, client: u64, role: Role) -> Self {
        let size = tty::size().unwrap_or(Size::DEFAULT);
        Self { session, client: Hex(client), role, size, life: None, offset: None }
    }

    pub(super) fn ask(&self, channel: Channel) -> Ask {
        let &Self { ref session, client, role, size: Size { cols, rows }, life, offset } = self;
        let resume = life.zip(offset).map(|(life, offset)| Resume { life, offset });
        Ask::Attach { channel, session: session.clone(), client, role, cols, rows, resume }
    }
}

impl Kept {
    pub(super) fn new(wish: Wish, output: Output) -> Self {
        Self { wish, shown: Shown::on(output), typed: Typed::default() }
    }

    /// What to ask for now.
    pub(super) fn wish(&self) -> Wish {
        Wish { offset: self.shown.offset(), ..self.wish.clone() }
    }

    /// Goes on with a connection: what it didn't bring is sent again.
    pub(super) fn go_on(&mut self, link: &Link) -> Result<(), End> {
        self.wish.life = Some(link.life);
        let typed = link.typed();
        if self.typed.arrived(typed) { Ok(()) } else { Err(typed_wrongly(typed)) }
    }

    /// Keeps what was typed. What a viewer types is meant for nobody.
    pub(super) fn typed(&mut self, bytes: &[u8]) {
        if self.wish.role == Role::Writer {
            self.typed.push(bytes);
        }
    }

    /// This terminal has, perhaps, another size.
    pub(super) fn look_at_size(&mut self) {
        self.wish.size = tty::size().unwrap_or(self.wish.size);
    }
}
