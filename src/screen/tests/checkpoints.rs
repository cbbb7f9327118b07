//! Checkpoints that come back changed.

use proptest::collection::vec;
use proptest::prelude::*;

use sandbox::control::Size;

use super::super::Screen;
use super::screen;

fn saved() -> Vec<u8> {
    let text = "\x1b[31mred\x1b[m plain 世界 \x1b]8;;http://a.b/\x1b\\link\x1b]8;;\x1b\\ and so on\r\n".repeat(20);
    let mut bytes = Vec::new();
    screen(20, 5, text.as_bytes()).save(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_checkpoint_is_refused_or_harmless(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = saved();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(screen) = Screen::load(&bytes) {
            screen.snapshot();
        }
    }

    #[test]
    fn any_bytes_are_refused_or_harmless(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(Screen::load(&bytes).is_err());
        let with_header = [b"screen\x00\x01\x50\x00\x18\x00", &[0; 13][..], &bytes[..]].concat();
        prop_assert!(Screen::load(&with_header).is_ok_and(|screen| !screen.snapshot().is_empty()));
    }
}

#[test]
fn a_checkpoint_that_is_cut_off_is_refused_or_harmless() {
    let bytes = saved();
    for end in 0..bytes.len() {
        if let Ok(screen) = Screen::load(&bytes[..end]) {
            screen.snapshot();
        }
    }
    assert!(Screen::load(&bytes[..40]).is_err());
}

#[test]
fn a_line_that_does_more_than_print_is_refused() {
    let bytes = saved();
    let place = bytes.windows(3).position(|window| window == b"red").unwrap();
    for other in [b"r\nd", b"\x1bMd", b"r\rd", b"r\td", b"\xFF\xFFd", b"\x1b7d", b"\x1b[b"] {
        let mut changed = bytes.clone();
        changed[place..place + 3].copy_from_slice(other);
        assert!(Screen::load(&changed).is_err(), "{other:?}");
    }
}

#[test]
fn what_would_keep_a_server_that_starts_is_refused_at_once() {
    let mut bytes = Vec::new();
    Screen::new(Size { cols: 2000, rows: 100 }).save(&mut bytes);
    bytes.extend(b"\x1b#8".repeat(1_000_000));
    assert!(Screen::load(&bytes).is_err_and(|error| error.to_string() == "its picture takes too long"));
    let mut bytes = saved();
    let line = b"\x1b[41m\x1b[K".repeat(100_000);
    bytes.splice(25..29, (line.len() as u32).to_le_bytes());
    bytes.splice(33..33, line);
    assert!(Screen::load(&bytes).is_err_and(|error| error.to_string() == "one of its lines is too long"));
}
