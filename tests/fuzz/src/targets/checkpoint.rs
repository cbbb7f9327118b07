//! A checkpoint that comes back from a cell as an attacker left it.

use super::screen::{keeps_its_limits, restored, same};
use crate::input::Input;
use crate::screen::{Screen, seen};
use sandbox::control::Size;

/// Either a checkpoint from its first byte on, or the changes to make in one of a screen that is fed with the rest.
pub(crate) fn checkpoint(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        b'c' => load(data),
        _ => load(&changed(&mut Input::new(data))),
    }
}

/// A real checkpoint with some of its bytes changed.
fn changed(input: &mut Input<'_>) -> Vec<u8> {
    let changes: Vec<(u16, u8)> = (0..input.byte() % 8).map(|_| (input.short(), input.byte())).collect();
    let mut screen =
        Screen::new(Size { cols: 2 + u16::from(input.byte()) % 20, rows: 2 + u16::from(input.byte()) % 6 });
    while !input.is_empty() {
        screen.feed(input.take(1000));
    }
    let mut bytes = Vec::new();
    screen.save(&mut bytes);
    for (place, byte) in changes {
        let place = usize::from(place) % bytes.len();
        bytes[place] = byte;
    }
    bytes
}

/// It is refused, or a screen like any other.
fn load(bytes: &[u8]) {
    let Ok(mut screen) = Screen::load(bytes) else { return };
    keeps_its_limits(&screen);
    let mut saved = Vec::new();
    screen.save(&mut saved);
    let again = Screen::load(&saved).expect("what was saved is loaded");
    same(&seen::all(&screen), &seen::all(&again));
    assert_eq!(screen.history().first(), again.history().first());
    // No output may have brought it about, such as lines that are broken where they needn't be: what others are shown is then
    // another one, but one that they can be shown.
    keeps_its_limits(&restored(&screen));
    screen.feed(b"\r\n\n\n\n\n\n\x1b[?1049hx\x1b[?1049l");
    screen.resize(Size { cols: 7, rows: 3 });
    screen.feed(b"\r\nafter\r\n");
    keeps_its_limits(&screen);
    keeps_its_limits(&restored(&screen));
}
