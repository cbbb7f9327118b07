//! What a picture costs to feed, estimated before it is: three bytes can fill a screen, a picture that comes back from a cell
//! may hold millions of them, and a server that starts doesn't wait for those. It knows no screen.

use sandbox::control::Size;

/// How often a picture may touch all cells, beside printing them: it shows and clears the other screen, and sets modes, of
/// which any might do that too.
const FILLS_MAX: usize = 200;

/// How often each row may be moved on account of each other row: by the end of each line, and by the bytes of its text, each
/// of which might be a character that begins a row.
const MOVES_MAX: usize = 100;

/// How often each column's tab stop may be looked at on account of each other column.
const STOPS_MAX: usize = 4;

/// Whether these bytes cost no more than a picture that was saved may; some ten times what such a one does.
pub(super) fn is_a_pictures(picture: &[u8], size: Size) -> bool {
    let (cols, rows) = (usize::from(size.cols), usize::from(size.rows));
    let most = FILLS_MAX * cols * rows + MOVES_MAX * rows * rows + STOPS_MAX * cols * cols;
    let mut rest = picture;
    let mut cells = 0;
    while !rest.is_empty() && cells <= most {
        let (cost, length) = next(rest, cols, rows);
        cells += cost;
        rest = &rest[length..];
    }
    cells <= most
}

/// How many cells, rows or stops what comes next touches at most, and its length.
fn next(bytes: &[u8], cols: usize, rows: usize) -> (usize, usize) {
    let fill = cols * rows;
    match bytes {
        [0x1B, b'[', sequence @ ..] => {
            let length = sequence.iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
            let cost = match sequence.get(length) {
                None | Some(b'm' | b'H' | b'G' | b'q' | b'u' | b't' | b'r') => 0,
                Some(b'K' | b'g') => cols,
                // Or a control character in its midst, which no picture has.
                Some(_) => fill,
            };
            (cost, (length + 3).min(bytes.len()))
        }
        [0x1B, b']', string @ ..] => {
            let ends = |byte: &&u8| matches!(byte, 0x07 | 0x18 | 0x1A | 0x1B);
            (0, 2 + string.iter().take_while(|byte| !ends(byte)).count())
        }
        [0x1B, b'\\' | b'7' | b'=' | b'>' | b'n' | b'o' | b'(' | b')' | b'*' | b'+', ..] => (0, 2),
        [0x1B, b'H', ..] => (cols, 2),
        [0x1B, ..] => (fill, 1),
        [0xC2, 0x80..0xA0, ..] => (fill, 2),
        [b'\n' | 0x0B | 0x0C, ..] => (rows, 1),
        [b'\t', ..] => (cols, 1),
        [0x20..=0xFF, ..] => (1 + rows / cols, 1),
        _ => (0, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_the_screen_or_moves_its_rows_all_the_time_is_no_picture() {
        for size in [(80, 24), (2000, 100), (2, 2000)] {
            let size = Size { cols: size.0, rows: size.1 };
            for bytes in
                ["\x1b#8", "\x1b[65535b", "\x1b[L", "\x1bM", "\u{85}", "\n", "\x1b[\nL", "\x1bc", "\x1b[?1049h"]
            {
                assert!(is_a_pictures(bytes.as_bytes(), size), "{bytes:?} once");
                assert!(!is_a_pictures(&bytes.as_bytes().repeat(1_000_000), size), "{bytes:?} all the time");
            }
        }
        let wide = Size { cols: 2000, rows: 1 };
        assert!(!is_a_pictures(&b"\x1b[3g\x1bH".repeat(1_000_000), wide), "each clears all stops and sets one");
        let narrow = Size { cols: 2, rows: 2000 };
        assert!(!is_a_pictures(&[b'x'; 1_000_000], narrow), "each second character moves all rows");
    }

    #[test]
    fn a_full_screen_is_a_picture() {
        for (cols, rows) in [(80, 24), (2000, 100), (100, 2000), (2, 2000), (2000, 1)] {
            let cell = "\x1b[0;1;4:3;38;2;255;255;255;48;2;1;1;1;58:2::1:1:1me\u{301}\u{302}\u{303}";
            let row = format!("{}\x1b[m\x1b[K\r\n", cell.repeat(cols.into()));
            let tabs: String = (1..=cols).map(|x| format!("\x1b[{x}G\x1bH")).collect();
            let screen = row.repeat(rows.into()) + "\x1b[3g" + &tabs;
            let picture = format!("{screen}\x1b[?1049h\x1b[2J\x1b[H{screen}\x1b[?25h\x1b[?2004h");
            assert!(is_a_pictures(picture.as_bytes(), Size { cols, rows }), "{cols} x {rows}");
        }
    }
}
