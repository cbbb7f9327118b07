//! The progressive keyboard protocol of one screen (<https://sw.kovidgoyal.net/kitty/keyboard-protocol/>): flags in use, and
//! those to go back to. What the flags mean is between the program and the client's keyboard.

/// Most flags kept to go back to; the oldest go first, as the protocol wants.
const STACK_MAX: usize = 16;

/// The flags that the protocol defines.
const FLAGS: u16 = 0b1_1111;

/// The keyboard's protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keyboard {
    pub(super) flags: u8,
    pub(super) stack: Vec<u8>,
}

impl Keyboard {
    pub(super) fn is_default(&self) -> bool {
        self.flags == 0 && self.stack.is_empty()
    }

    /// `CSI > flags u`
    pub(super) fn push(&mut self, flags: u16) {
        if self.stack.len() == STACK_MAX {
            self.stack.remove(0);
        }
        self.stack.push(self.flags);
        self.flags = (flags & FLAGS) as u8;
    }

    /// `CSI < count u`
    pub(super) fn pop(&mut self, count: u16) {
        for _ in 0..usize::from(count).min(STACK_MAX + 1) {
            self.flags = self.stack.pop().unwrap_or(0);
        }
    }

    /// `CSI = flags ; mode u`
    pub(super) fn set(&mut self, flags: u16, mode: u16) {
        let flags = (flags & FLAGS) as u8;
        match mode {
            1 => self.flags = flags,
            2 => self.flags |= flags,
            3 => self.flags &= !flags,
            _ => {}
        }
    }
}
