//! Properties over generated streams.

use proptest::collection::vec;
use proptest::prelude::*;
use sandbox::control::Size;

use super::super::Screen;
use super::{restored, screen, seen};

/// A number as programs give them: small, absent or absurd.
fn parameter() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0..14u32).prop_map(|n| n.to_string()),
        1 => Just(String::new()),
        1 => Just("65536".to_owned()),
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[ -~]{1,12}",
        2 => "[a-c世界한あ€é😀]{1,6}",
        1 => "(e\u{301}|a\u{308}\u{323}|世\u{fe0f}|\u{301}|👨\u{200d}👩| \u{302}){1,3}",
        1 => "[l-x`~#]{1,6}",
        1 => "[ ]{1,14}",
    ]
    .prop_map(String::into_bytes)
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => Just("\r\n"),
        2 => Just("\n"),
        1 => prop::sample::select(vec!["\r", "\x08", "\t", "\x0b", "\x0e", "\x0f", "\x07", "\x18", "\x1a", "\0", "\x7f"]),
    ]
    .prop_map(|text| text.as_bytes().to_vec())
}

fn sgr() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        (0..60u32).prop_map(|n| n.to_string()),
        (90..108u32).prop_map(|n| n.to_string()),
        (0..7u32).prop_map(|n| format!("4:{n}")),
        (0..256u32).prop_map(|n| format!("38;5;{n}")),
        (0..256u32).prop_map(|n| format!("48;5;{n}")),
        (0..256u32).prop_map(|n| format!("58:5:{n}")),
        (0..256u32).prop_map(|n| format!("38;2;{n};1;2")),
        (0..256u32).prop_map(|n| format!("48:2::{n}:3:4")),
        (0..256u32).prop_map(|n| format!("58:2:{n}:3:4")),
        Just(String::new()),
    ];
    vec(one, 1..4).prop_map(|all| format!("\x1b[{}m", all.join(";")).into_bytes())
}

fn csi() -> impl Strategy<Value = Vec<u8>> {
    let lasts = prop::sample::select(b"ABCDEFGHIJKLMPSTXZ@`abdefgrsu".to_vec());
    (vec(parameter(), 0..3), lasts)
        .prop_map(|(parameters, last)| format!("\x1b[{}{}", parameters.join(";"), char::from(last)).into_bytes())
}

fn mode() -> impl Strategy<Value = Vec<u8>> {
    let private = vec![
        1, 2, 5, 6, 6, 7, 7, 9, 12, 25, 45, 47, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1047, 1048,
        1049, 1049, 2004, 2026, 2031, 2048,
    ];
    prop_oneof![
        4 => (prop::sample::select(private), prop::sample::select(vec!['h', 'l']))
            .prop_map(|(mode, on)| format!("\x1b[?{mode}{on}")),
        1 => prop::sample::select(vec!["\x1b[4h", "\x1b[4l", "\x1b[20h", "\x1b[20l"]).prop_map(str::to_owned),
        1 => (0..40u32, prop::sample::select(vec!['>', '=', '<'])).prop_map(|(n, kind)| format!("\x1b[{kind}{n}u")),
        1 => (0..8u32).prop_map(|n| format!("\x1b[{n} q")),
        1 => (0..3u32).prop_map(|n| format!("\x1b[>4;{n}m")),
    ]
    .prop_map(String::into_bytes)
}

fn other() -> impl Strategy<Value = Vec<u8>> {
    let fixed = vec![
        "\x1b7",
        "\x1b8",
        "\x1bD",
        "\x1bE",
        "\x1bM",
        "\x1bH",
        "\x1b=",
        "\x1b>",
        "\x1b(0",
        "\x1b(B",
        "\x1b)0",
        "\x1b(A",
        "\x1b*0",
        "\x1bn",
        "\x1bo",
        "\x1b#8",
        "\x1b[!p",
        "\x1bc",
        "\x1b[3J",
        "\x1b[2J",
        "\x1b[22;0t",
        "\x1b[23;0t",
        "\x1b[3g",
        "\u{9b}2C",
        "\u{85}",
    ];
    let osc = vec![
        "8;;http://a.b/",
        "8;id=x;http://a.b/c",
        "8;;",
        "8;;",
        "0;Titel ü",
        "2;one\ttwo",
        "2;",
        "4;1;rgb:ff/00/7f;2;#abc",
        "10;#102030",
        "11;rgb:1/2/3;#fff",
        "12;rgb:ffff/0000/8000",
        "104",
        "104;1",
        "110",
        "112",
        "7;file://host/a%20b/c",
        "7;file:///",
        "52;c;aGVsbG8=",
        "133;A",
        "nonsense",
    ];
    prop_oneof![
        4 => prop::sample::select(fixed).prop_map(|text| text.as_bytes().to_vec()),
        3 => (prop::sample::select(osc), prop::sample::select(vec!["\x07", "\x1b\\"]))
            .prop_map(|(text, end)| format!("\x1b]{text}{end}").into_bytes()),
        1 => prop::sample::select(vec!["\x1bP1$q", "\x1b_G", "\x1b[", "\x1b", "\x1b]2;ab", "\x1b[38;5", "\x1b(", "\x1b[?1;"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..4),
        1 => vec(0x80..=0xFFu8, 1..4),
    ]
}

/// A stream in pieces, among them sequences that aren't finished.
fn stream(pieces: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![8 => text(), 5 => control(), 3 => sgr(), 5 => csi(), 2 => mode(), 3 => other()];
    vec(piece, 0..pieces).prop_map(|pieces| pieces.concat())
}

/// Many plain lines among other things.
fn plain_stream() -> impl Strategy<Value = Vec<u8>> {
    let lines = vec("([ -~]{0,9}|[ a]{0,12})\r\n", 0..25).prop_map(|lines| lines.concat().into_bytes());
    vec(prop_oneof![6 => lines, 1 => sgr(), 1 => text(), 1 => csi(), 1 => control(), 1 => mode(), 1 => other()], 0..12)
        .prop_map(|pieces| pieces.concat())
}

fn size() -> impl Strategy<Value = Size> {
    (1..12u16, 1..7u16).prop_map(|(cols, rows)| Size { cols, rows })
}

/// More than one row: on one alone it isn't seen that a wide character that didn't fit left the last cell empty.
fn sizes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Size>> {
    vec((1..12u16, 2..7u16).prop_map(|(cols, rows)| Size { cols, rows }), count)
}

/// Asserts equality so that the difference is seen.
#[track_caller]
fn same(left: &str, right: &str) {
    let differs = left.lines().zip(right.lines()).find(|(left, right)| left != right);
    assert!(left == right, "differs: {differs:#?}\n--- left\n{left}\n--- right\n{right}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_restores_everything(size in size(), before in stream(40), after in stream(20)) {
        let mut original = screen(size.cols, size.rows, &before);
        let mut other = restored(&original);
        same(&seen::all(&original), &seen::all(&other));
        original.feed(&after);
        other.feed(&after);
        same(&seen::all(&original), &seen::all(&other));
    }

    #[test]
    fn a_snapshot_restores_a_resized_screen(
        sizes in sizes(2..6),
        steps in vec(stream(15), 5),
        after in stream(20),
    ) {
        let mut original = Screen::new(sizes[0]);
        for (bytes, size) in steps.iter().zip(&sizes[1..]) {
            original.feed(bytes);
            original.resize(*size);
        }
        let mut other = restored(&original);
        same(&seen::all_but_breaks(&original), &seen::all_but_breaks(&other));
        original.feed(&after);
        other.feed(&after);
        same(&seen::all_but_breaks(&original), &seen::all_but_breaks(&other));
    }

    #[test]
    fn pieces_dont_matter(size in size(), bytes in stream(40), cuts in vec(1..9usize, 1..5)) {
        let whole = screen(size.cols, size.rows, &bytes);
        let mut pieced = Screen::new(size);
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            pieced.feed(piece);
            rest = behind;
        }
        same(&seen::all(&whole), &seen::all(&pieced));
    }

    #[test]
    fn plain_lines_become_the_same_history_however_they_get_there(size in size(), bytes in plain_stream(), cut in 1..60usize) {
        let whole = screen(size.cols, size.rows, &bytes);
        for cut in [1, cut] {
            let mut pieced = Screen::new(size);
            bytes.chunks(cut).for_each(|piece| pieced.feed(piece));
            same(&seen::all(&whole), &seen::all(&pieced));
        }
        same(&seen::all(&whole), &seen::all(&restored(&whole)));
    }

    #[test]
    fn a_checkpoint_restores_everything(sizes in sizes(2..3), before in stream(40), after in stream(20)) {
        let mut original = screen(sizes[0].cols, sizes[0].rows, &before);
        original.resize(sizes[1]);
        original.feed(&after);
        let mut saved = Vec::new();
        original.save(&mut saved);
        let loaded = Screen::load(&saved).unwrap();
        same(&seen::all(&original), &seen::all(&loaded));
        prop_assert_eq!(original.history().first(), loaded.history().first());
    }

    #[test]
    fn history_comes_in_pieces_too(size in size(), bytes in stream(60), bytes_max in 0..60usize) {
        let screen = screen(size.cols, size.rows, &bytes);
        let (mut pieces, mut from) = (Vec::new(), screen.history().first());
        while from < screen.history().end() {
            let begin = pieces.len();
            let next = screen.history().lines(from, bytes_max, &mut pieces);
            prop_assert!(next > from);
            prop_assert!(pieces.len() - begin <= bytes_max || next == from + 1);
            from = next;
        }
        prop_assert_eq!(String::from_utf8(pieces).unwrap(), super::lines(&screen));
    }

    #[test]
    fn any_bytes_do(bytes in vec(any::<u8>(), 0..2000), sizes in sizes(1..4)) {
        let mut screen = Screen::new(sizes[0]);
        for (bytes, size) in bytes.chunks(500).zip(sizes.iter().cycle()) {
            screen.feed(bytes);
            screen.resize(*size);
        }
        same(&seen::all_but_breaks(&screen), &seen::all_but_breaks(&restored(&screen)));
    }
}
