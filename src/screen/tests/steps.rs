//! Single steps, each with what must come of it.

use sandbox::control::Size;

use super::super::{News, Screen};
use super::{lines, restored, screen, seen};

/// The text of the shown rows, without blanks at their ends.
fn shown(screen: &Screen) -> Vec<String> {
    let text = |row: &super::super::row::Row| -> String {
        let cells = row.cells().iter().filter(|cell| !cell.is_spacer());
        cells.flat_map(|cell| [cell.text.to_string(), cell.marks().to_owned()]).collect()
    };
    screen.model.grid().rows.iter().map(|row| text(row).trim_end().to_owned()).collect()
}

#[test]
fn text_scrolls_into_the_history() {
    let screen = screen(10, 2, b"one\r\n\x1b[31mtwo\x1b[m\r\nthree\r\nfour");
    assert_eq!(shown(&screen), ["three", "four"]);
    assert_eq!(lines(&screen), "one\r\n\x1b[31mtwo\x1b[m\r\n");
    assert_eq!((screen.history().first(), screen.history().end()), (0, 2));
}

#[test]
fn a_wrapped_line_stays_one_line() {
    let screen = screen(4, 2, b"abcdefghij\r\nxyz\r\n");
    assert_eq!(lines(&screen), "abcdefghij\r\n");
    assert_eq!(screen.history().end(), 3);
    let screen = super::screen(4, 2, b"ab  cd  efgh");
    assert_eq!(lines(&screen), "ab  ");
    assert_eq!(shown(&screen), ["cd", "efgh"]);
}

#[test]
fn erasing_the_history_moves_its_first_line() {
    let mut screen = screen(4, 2, b"1\r\n2\r\n3\r\n4\x1b[3J");
    assert_eq!((screen.history().first(), screen.history().end()), (2, 2));
    screen.feed(b"\r\n5");
    assert_eq!((screen.history().first(), screen.history().end()), (2, 3));
    assert_eq!(lines(&screen), "3\r\n");
}

#[test]
fn the_history_is_bounded_in_lines_and_bytes() {
    let mut screen = Screen::new(Size::DEFAULT);
    screen.feed("line\r\n".repeat(20_000).as_bytes());
    assert_eq!(screen.history().end() - screen.history().first(), 10_000);
    assert_eq!(screen.history().end(), 20_000 - 23);
    let colours: String = (0..70_000).map(|n| format!("\x1b[38;2;1;2;{};4:3;58:5:{}m世", n % 256, n % 253)).collect();
    screen.feed(colours.as_bytes());
    screen.feed(colours.as_bytes());
    assert!(lines(&screen).len() < 2 * 1024 * 1024 + 100_000);
    assert!(screen.history().end() - screen.history().first() > 500);
}

#[test]
fn the_alternate_screen_has_no_history() {
    let mut screen = screen(4, 2, b"a\r\nb\x1b[?1049h1\r\n2\r\n3");
    assert_eq!(shown(&screen), ["2", "3"]);
    assert_eq!(screen.history().end(), 0);
    screen.feed(b"\x1b[?1049l");
    assert_eq!(shown(&screen), ["a", "b"]);
}

#[test]
fn wide_characters_are_never_halved() {
    let cases: [(&str, &[&str]); 7] = [
        ("世界\x1b[2Gx", &[" x界"]),
        ("世界\x1b[3Gx", &["世x"]),
        ("世界\x1b[2G\x1b[X", &["  界"]),
        ("世界\x1b[2G\x1b[P", &[" 界"]),
        ("世界\x1b[2G\x1b[@", &["   界"]),
        ("a世界x", &["a世界x"]),
        ("世界a世", &["世界a", "世"]),
    ];
    for (bytes, expected) in cases {
        let shown = shown(&screen(6, 3, bytes.as_bytes()));
        assert_eq!(&shown[..expected.len()], expected, "{bytes:?}");
    }
}

#[test]
fn a_title_is_one_bounded_line() {
    let mut screen = screen(20, 5, b"\x1b]2;a\x01b\xC2\x85c\x1b\\");
    assert_eq!(screen.title(), "abc");
    screen.feed(format!("\x1b]2;{}\x07", "ä".repeat(1000)).as_bytes());
    assert_eq!(screen.title().len(), 1024);
    screen.feed(format!("\x1b]2;{}\x07x", "ä".repeat(100_000)).as_bytes());
    assert_eq!(screen.title().len(), 1024);
    (0..1000).for_each(|_| screen.feed(b"\x1b[22;0t"));
    assert_eq!(screen.model.titles.len(), 10);
}

#[test]
fn a_working_directory_is_a_path() {
    let cases: [(&str, Option<&str>); 8] = [
        ("file:///workspace", Some("/workspace")),
        ("file://host/a%20b/%C3%BC", Some("/a b/ü")),
        ("file://host", None),
        ("http://host/a", None),
        ("file:///a%0Ab", None),
        ("file:///a%FF", None),
        ("file:///a%2", None),
        ("file:///a%+1", None),
    ];
    for (url, expected) in cases {
        let screen = screen(20, 5, format!("\x1b]7;{url}\x1b\\").as_bytes());
        assert_eq!(screen.cwd(), expected, "{url}");
        assert_eq!(restored(&screen).cwd(), expected, "{url}");
    }
}

#[test]
fn news_are_told_once() {
    let mut screen = screen(20, 5, b"\x07\x07\x1b]2;a\x07\x1b]7;file:///a\x07");
    assert_eq!(screen.take_news(), News { bells: 2, title: true, cwd: true });
    screen.feed(b"\x1b]2;a\x07\x1b]7;file:///a\x07");
    assert_eq!(screen.take_news(), News::default());
}

#[test]
fn memory_is_bounded_whatever_is_printed() {
    let mut screen = Screen::new(Size { cols: 80, rows: 24 });
    screen.feed(b"e");
    screen.feed("\u{301}".repeat(100_000).as_bytes());
    screen.feed(format!("\x1b]52;c;{}", "a".repeat(1_000_000)).as_bytes());
    assert!(screen.snapshot().len() < 8000);
    screen.feed(format!("\x07\x1bPq{}", "#".repeat(1_000_000)).as_bytes());
    assert!(screen.snapshot().len() < 8000);
    screen.feed(format!("\x1b\\\x1b[{}", "1;".repeat(1_000_000)).as_bytes());
    assert!(screen.snapshot().len() < 8000);
    screen.feed(format!("m{}", "\x1b[>31u".repeat(100_000)).as_bytes());
    assert!(screen.snapshot().len() < 8000);
    assert_eq!(seen::all(&screen), seen::all(&restored(&screen)));
}

#[test]
fn a_new_screen_is_small() {
    let screen = Screen::new(Size { cols: 2000, rows: 2000 });
    assert_eq!(screen.model.primary.rows.iter().map(|row| row.cells().len()).sum::<usize>(), 0);
    assert_eq!(screen.model.alternate.rows.len(), 0);
}

#[test]
fn a_narrower_screen_breaks_lines_and_a_wider_one_joins_them() {
    let mut screen = screen(8, 4, b"abcdefgh\r\n\x1b[32m12345\x1b[m\r\n$ ");
    screen.resize(Size { cols: 4, rows: 4 });
    assert_eq!(lines(&screen), "abcd");
    assert_eq!(shown(&screen), ["efgh", "1234", "5", "$"]);
    screen.resize(Size { cols: 8, rows: 4 });
    assert_eq!(lines(&screen), "abcd\r\n");
    assert_eq!(shown(&screen), ["efgh", "12345", "$", ""]);
    assert_eq!((screen.model.x, screen.model.y), (2, 2));
}

#[test]
fn a_lower_screen_keeps_the_cursor_and_loses_nothing() {
    let mut screen = screen(8, 4, b"1\r\n2\r\n3\r\n4\x1b[2;1H");
    screen.resize(Size { cols: 8, rows: 3 });
    assert_eq!(lines(&screen), "1\r\n");
    assert_eq!(shown(&screen), ["2", "3", "4"]);
    assert_eq!(screen.model.y, 0);
    screen.resize(Size { cols: 8, rows: 5 });
    assert_eq!(shown(&screen), ["2", "3", "4", "", ""]);
}

#[test]
fn a_hidden_primary_screen_is_resized_around_its_saved_cursor() {
    let mut screen = screen(8, 4, b"1\r\n2\r\n3\r\n$ \x1b[?1049hvi\x1b[4;3H");
    screen.resize(Size { cols: 8, rows: 2 });
    screen.feed(b"\x1b[?1049l");
    assert_eq!(lines(&screen), "1\r\n2\r\n");
    assert_eq!(shown(&screen), ["3", "$"]);
    assert_eq!((screen.model.x, screen.model.y), (2, 1));
}

#[test]
fn addresses_in_every_cell_make_no_picture_larger_than_they_may() {
    let link = |letter: &str| format!("\x1b]8;;http://a.b/{}\x1b\\x", letter.repeat(4000));
    let screen = screen(80, 24, (link("a") + &link("b")).repeat(900).as_bytes());
    let mut picture = Vec::new();
    screen.picture(&mut picture);
    assert!((4_000_000..5_000_000).contains(&picture.len()), "{}", picture.len());
    let shown = |screen: &Screen| -> String { shown(screen).concat() };
    assert_eq!(shown(&restored(&screen)), shown(&screen));
}
