//! What a screen promises, tried with generated streams, recorded programs and hostile bytes.

mod checkpoints;
mod generated;
mod recorded;
mod steps;

use sandbox::control::Size;

use super::Screen;
use super::seen::{self, lines};

fn screen(cols: u16, rows: u16, bytes: &[u8]) -> Screen {
    let mut screen = Screen::new(Size { cols, rows });
    screen.feed(bytes);
    screen
}

/// The screen of another terminal that was fed with a snapshot.
fn restored(original: &Screen) -> Screen {
    let Size { cols, rows } = original.size();
    screen(cols, rows, &original.snapshot())
}
