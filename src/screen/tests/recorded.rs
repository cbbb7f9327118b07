//! Properties over what real programs printed, recorded in a terminal of 80 columns and 24 rows while keys were typed.

use sandbox::control::Size;

use super::super::Screen;
use super::{lines, restored, screen, seen};

const PROGRAMS: [(&str, &[u8]); 6] = [
    ("bash", include_bytes!("recorded/bash.vt")),
    ("curses", include_bytes!("recorded/curses.vt")),
    ("less", include_bytes!("recorded/less.vt")),
    ("less -X", include_bytes!("recorded/less-search.vt")),
    ("tmux", include_bytes!("recorded/tmux.vt")),
    ("vim", include_bytes!("recorded/vim.vt")),
];

/// Bytes from one cut to the next: a prime, so that cuts fall into every part of a sequence.
const STEP: usize = 211;

/// What a program printed, cut in two, at each of many places.
fn cuts(output: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    (0..=output.len()).step_by(STEP).map(|place| output.split_at(place))
}

#[test]
fn a_program_is_restored_wherever_it_is() {
    for (name, output) in PROGRAMS {
        for (before, after) in cuts(output) {
            let mut original = screen(80, 24, before);
            let mut other = restored(&original);
            assert!(seen::all(&original) == seen::all(&other), "{name} at {}", before.len());
            original.feed(after);
            other.feed(after);
            assert!(seen::all(&original) == seen::all(&other), "{name} from {} on", before.len());
        }
    }
}

#[test]
fn a_program_is_loaded_wherever_it_is() {
    for (name, output) in PROGRAMS {
        for (before, after) in cuts(output) {
            let mut original = screen(80, 24, before);
            let mut saved = Vec::new();
            original.save(&mut saved);
            let mut loaded = Screen::load(&saved).unwrap();
            original.feed(after);
            loaded.feed(after);
            assert!(seen::all(&original) == seen::all(&loaded), "{name} from {} on", before.len());
        }
    }
}

#[test]
fn a_program_is_restored_after_a_resize() {
    let sizes = [(40, 24), (120, 10), (80, 50), (33, 7)].map(|(cols, rows)| Size { cols, rows });
    for (name, output) in PROGRAMS {
        for ((before, after), size) in cuts(output).zip(sizes.into_iter().cycle()) {
            let mut original = screen(80, 24, before);
            original.resize(size);
            original.feed(after);
            let other = restored(&original);
            assert!(seen::all_but_breaks(&original) == seen::all_but_breaks(&other), "{name} at {}", before.len());
        }
    }
}

#[test]
fn what_scrolled_by_is_in_the_history_until_it_is_cleared() {
    let output = PROGRAMS[0].1;
    let clear = output.windows(4).position(|window| window == b"\x1b[3J").unwrap();
    let mut screen = screen(80, 24, &output[..clear]);
    let numbers: String = (1..=60).map(|number| format!("{number}\r\n")).collect();
    assert!(lines(&screen).contains(&numbers));
    assert_eq!(screen.title(), "/tmp/rec/work");
    screen.feed(&output[clear..]);
    assert!(!lines(&screen).contains(&numbers));
}
