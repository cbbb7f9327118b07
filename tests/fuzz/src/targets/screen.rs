//! What a program prints, at a terminal that is restored and resized at any moment.

use sandbox::control::Size;

use crate::input::Input;
use crate::screen::{Screen, seen};

/// Most lines of a history, and what all of them may take in bytes: the lines themselves, and a whole row's blanks or a
/// line's end behind each.
const LINES_MAX: u64 = 10_000;
const HISTORY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest title in bytes.
const TITLE_BYTES_MAX: usize = 1024;

/// Most bytes of a checkpoint that is read back.
const CHECKPOINT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most bytes that a program prints here before the first cut, however often it repeats itself.
const REPEATED_BYTES_MAX: usize = 128 * 1024;

/// Three bytes fill a large screen, and it isn't to be filled for seconds.
const LARGE_BYTES_MAX: usize = 200;

/// Two sizes, two cuts, how often the first part is repeated, and then all that a program prints: the first size up to the
/// first cut, where the screen is restored and loaded; the second size behind the second cut.
pub(crate) fn screen(data: &[u8]) {
    let mut input = Input::new(data);
    let (first, second) = (size(input.byte(), input.byte()), size(input.byte(), input.byte()));
    let (cut, turn, again) = (input.short(), input.short(), input.byte());
    let mut printed = input.rest();
    let cells = u32::from(first.cols) * u32::from(first.rows);
    if cells > 10_000 {
        printed = &printed[..printed.len().min(LARGE_BYTES_MAX)];
    }
    let repeats = if again > 0xF0 && cells < 1000 { 1 << (again - 0xF0) } else { 1 };
    let (before, rest) = printed.split_at(usize::from(cut) % (printed.len() + 1));
    let (after, last) = rest.split_at(usize::from(turn) % (rest.len() + 1));

    let mut original = Screen::new(first);
    for _ in 0..(REPEATED_BYTES_MAX / before.len().max(1)).clamp(1, repeats) {
        original.feed(before);
    }
    keeps_its_limits(&original);
    let mut loaded = loaded(&original);
    let mut restored = restored(&original);
    same(&seen::all(&original), &seen::all(&loaded));
    same(&seen::all(&original), &seen::all(&restored));

    // However it is cut into pieces.
    original.feed(after);
    loaded.feed(after);
    after.chunks(3).for_each(|piece| restored.feed(piece));
    same(&seen::all(&original), &seen::all(&loaded));
    same(&seen::all(&original), &seen::all(&restored));

    for screen in [&mut original, &mut loaded] {
        screen.resize(second);
        screen.feed(last);
    }
    same(&seen::all(&original), &seen::all(&loaded));
    keeps_its_limits(&original);
    // Of a history that is full, the lines that are broken anew may be too many; of one long line that a program has repeated, too.
    if repeats == 1 && rows(&seen::lines(&original), second) < LINES_MAX as usize {
        same(&seen::all_but_breaks(&original), &seen::all_but_breaks(&self::restored(&original)));
    }
}

/// Most rows that lines can take: each begins one, and where a wide character doesn't fit a cell is left.
fn rows(lines: &str, size: Size) -> usize {
    let filled = usize::from(size.cols).saturating_sub(1).max(1);
    lines.split("\r\n").map(|line| 1 + line.len() / filled).sum()
}

/// Small ones find what there is to find sooner; a row alone doesn't show that a wide character didn't fit.
fn size(cols: u8, rows: u8) -> Size {
    let cols = match cols {
        0xFF => 2000,
        0xF0.. => 80,
        _ => 1 + u16::from(cols) % 20,
    };
    let rows = match rows {
        0xF0.. => 24,
        _ => 2 + u16::from(rows) % 8,
    };
    Size { cols, rows }
}

/// The screen of a server that begins with the checkpoint of the one before.
fn loaded(original: &Screen) -> Screen {
    let mut saved = Vec::new();
    original.save(&mut saved);
    assert!(saved.len() <= CHECKPOINT_BYTES_MAX, "a checkpoint of {} bytes", saved.len());
    Screen::load(&saved).expect("what was saved is loaded")
}

/// The screen of a client that was given a snapshot.
pub(super) fn restored(original: &Screen) -> Screen {
    let mut screen = Screen::new(original.size());
    screen.feed(&original.snapshot());
    screen
}

pub(super) fn keeps_its_limits(screen: &Screen) {
    let (size, history) = (screen.size(), screen.history());
    assert_eq!(size, size.clamped());
    let lines = history.end() - history.first();
    assert!(lines <= LINES_MAX, "{lines} lines");
    let bytes = seen::lines(screen).len();
    let blanks = lines as usize * usize::from(size.cols.max(2));
    assert!(bytes <= HISTORY_BYTES_MAX + blanks, "a history of {bytes} bytes");
    assert!(screen.title().len() <= TITLE_BYTES_MAX && !screen.title().contains(char::is_control));
    assert!(!screen.cwd().is_some_and(|folder| folder.contains(char::is_control)));
}

/// Asserts equality so that the difference is seen.
#[track_caller]
pub(super) fn same(left: &str, right: &str) {
    let differs = left.lines().zip(right.lines()).find(|(left, right)| left != right);
    assert!(left == right, "differs: {differs:#?}\n--- left\n{left}\n--- right\n{right}");
}
