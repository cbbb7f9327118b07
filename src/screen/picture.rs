//! A model as VT bytes. Fed to a terminal right after a reset and the history's lines, they give it the same state.
//!
//! The order is that of what depends on what. Rows come first and one after the other, as a program would print them: only
//! so do they push the history's last lines off the screen, and only so do soft wraps come about. Then what moves the cursor
//! as a side effect (margins, the other screen, origin mode), then the cursor, last what changes how text is printed.

use std::io::Write;

use super::cell::Cell;
use super::charset::{Charset, Charsets};
use super::grid::{Grid, Saved};
use super::model::Model;
use super::modes::{self, Modes};
use super::osc::FOREGROUND;
use super::paint::Painter;
use super::row::Row;

/// From how many cells on a coloured rest of a row is erased instead of printed.
const ERASED_CELLS_MIN: usize = 4;

/// Most bytes of links in the rows of one screen: a screen full of file names has 300 KiB. A program that leads every cell
/// elsewhere by a long address would make it hundreds of megabytes.
const LINKS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that bring any terminal, in the middle of whatever sequence, to a known state without history.
pub(crate) const RESET: &[u8] = b"\x18\x1bc\x1b[3J";

/// Appends a model's picture.
pub(super) fn paint(model: &Model, out: &mut Vec<u8>) {
    // The history's last lines are pushed off the screen by all of its rows.
    let fills = model.history.first() < model.history.end();
    let shown = (!model.on_alternate).then_some((model.y, model.x));
    rows(&model.primary, fills, shown, out);
    belongings(&model.primary, out);
    if model.on_alternate {
        alternate_shown(model, out);
    } else {
        alternate_hidden(model, out);
    }
    colours(model, out);
    texts(model, out);
    plain_modes(model, out);
    cursor(model, out);
}

/// The rows, without the empty ones at the end unless it `fills` the screen. Before the cursor, if it is in them, there are
/// spaces: so a prompt looks like one to whoever reads no control sequences.
fn rows(grid: &Grid, fills: bool, cursor: Option<(usize, usize)>, out: &mut Vec<u8>) {
    let mut painter = Painter::with_links(out, LINKS_BYTES_MAX);
    let used = grid.rows.iter().rposition(|row| row.wrapped || row.length(grid.width) > 0).map_or(0, |last| last + 1);
    let count = if fills { grid.rows.len() } else { used };
    for (y, row) in grid.rows.iter().enumerate().take(count) {
        let next = grid.rows.get(y + 1).filter(|_| y + 1 < count);
        match next {
            Some(next) if next.wrapped => row_that_goes_on(row, next, grid.width, &mut painter),
            _ => {
                let length = row_that_ends(row, grid.width, &mut painter);
                let before = cursor.filter(|(at, _)| *at == y).map_or(0, |(_, x)| x.min(grid.width - 1));
                if length > 0 && before > length {
                    painter.reset();
                    painter.bytes(vec![b' '; before - length]);
                }
            }
        }
        painter.reset();
        if next.is_some_and(|next| !next.wrapped) {
            painter.bytes("\r\n");
        }
    }
}

/// Prints the whole row, so that the next character begins the next.
fn row_that_goes_on(row: &Row, next: &Row, width: usize, painter: &mut Painter) {
    let limit = if next.leaves_rest(row, width) { width - 1 } else { width };
    let length = row.length(limit);
    cells(row, length, painter);
    painter.reset();
    painter.bytes(vec![b' '; limit - length]);
}

/// Gives how many cells it has printed.
fn row_that_ends(row: &Row, width: usize, painter: &mut Painter) -> usize {
    let length = row.length(width);
    let rest = rest_of_one_colour(&row.cells()[..length], width);
    // A row that goes on with the one above begins with the first character that is printed.
    let printed = if length - rest < ERASED_CELLS_MIN || row.wrapped && rest == 0 { length } else { rest };
    cells(row, printed, painter);
    if printed < length {
        painter.pen(&row.get(printed).pen());
        painter.bytes("\x1b[K");
        return width;
    } else if row.wrapped && printed == 0 {
        painter.bytes(" ");
        return 1;
    }
    printed
}

fn cells(row: &Row, length: usize, painter: &mut Painter) {
    let cells = &row.cells()[..length];
    if row.wrapped {
        painter.wrapped_cells(cells);
    } else {
        painter.cells(cells);
    }
}

/// Where the cells begin that are empty in the background's colour up to the end of the row.
fn rest_of_one_colour(cells: &[Cell], width: usize) -> usize {
    let Some(last) = cells.last().filter(|_| cells.len() == width) else { return cells.len() };
    let erased = last.pen().erased();
    cells.iter().rposition(|cell| *cell != erased).map_or(0, |printed| printed + 1)
}

/// What belongs to one screen beside its rows. The cursor is anywhere after it.
fn belongings(grid: &Grid, out: &mut Vec<u8>) {
    if !grid.tabs.is_default() {
        add(out, format_args!("\x1b[3g"));
        grid.tabs.stops(grid.width).for_each(|x| add(out, format_args!("\x1b[{}G\x1bH", x + 1)));
    }
    if !grid.keyboard.is_default() {
        let mut flags = grid.keyboard.stack.iter().chain([&grid.keyboard.flags]);
        flags.next().into_iter().for_each(|flags| add(out, format_args!("\x1b[={flags}u")));
        flags.for_each(|flags| add(out, format_args!("\x1b[>{flags}u")));
    }
    if grid.margins != (0..grid.height()) {
        add(out, format_args!("\x1b[{};{}r", grid.margins.start + 1, grid.margins.end));
    }
}

/// DECSET 1049 saves the primary screen's cursor, clears the other in the pen's colour and shows it: the only way there
/// that every terminal knows.
fn alternate_shown(model: &Model, out: &mut Vec<u8>) {
    saved(&model.primary.saved, "\x1b[?1049h", out);
    out.extend_from_slice(b"\x1b[2J\x1b[H");
    rows(&model.alternate, false, Some((model.y, model.x)), out);
    belongings(&model.alternate, out);
    if model.alternate.saved != Saved::default() {
        saved(&model.alternate.saved, "\x1b7", out);
    }
}

fn alternate_hidden(model: &Model, out: &mut Vec<u8>) {
    let hidden = &model.alternate;
    let visit = hidden.saved != Saved::default() || !hidden.keyboard.is_default();
    if visit {
        out.extend_from_slice(b"\x1b[?1049h");
        belongings(&Grid { keyboard: hidden.keyboard.clone(), ..Grid::new(hidden.width) }, out);
        saved(&hidden.saved, "\x1b7", out);
        out.extend_from_slice(b"\x1b[?1049l");
    }
    if visit || model.primary.saved != Saved::default() {
        saved(&model.primary.saved, "\x1b7", out);
    }
}

/// Makes the cursor be what was saved, saves it with `save` and makes the pen a new one.
fn saved(saved: &Saved, save: &str, out: &mut Vec<u8>) {
    add(out, format_args!("\x1b[{};{}H", saved.y + 1, saved.x + 1));
    let mut painter = Painter::new(out);
    painter.pen(&saved.pen);
    painter.bytes(designations(&saved.charsets));
    painter.bytes(save);
    painter.reset();
    if saved.charsets != Charsets::default() {
        out.extend_from_slice(b"\x1b(B\x1b)B\x1b*B\x1b+B\x0f");
    }
}

/// What designates these character sets, in a terminal that has ASCII in all four.
fn designations(charsets: &Charsets) -> String {
    let mut designations = String::new();
    for (introducer, set) in ['(', ')', '*', '+'].into_iter().zip(charsets.sets) {
        if set != Charset::Ascii {
            designations.extend(['\x1b', introducer, set.name()]);
        }
    }
    designations + ["", "\x0e", "\x1bn", "\x1bo"][charsets.active]
}

/// A reset leaves colours alone, so they are reset first.
fn colours(model: &Model, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\");
    for (index, [red, green, blue]) in &model.palette {
        match index.checked_sub(FOREGROUND) {
            None => add(out, format_args!("\x1b]4;{index}")),
            Some(special) => add(out, format_args!("\x1b]{}", 10 + special)),
        }
        add(out, format_args!(";rgb:{red:02x}/{green:02x}/{blue:02x}\x1b\\"));
    }
}

fn texts(model: &Model, out: &mut Vec<u8>) {
    for title in &model.titles {
        add(out, format_args!("\x1b]2;{title}\x1b\\\x1b[22;2t"));
    }
    add(out, format_args!("\x1b]2;{}\x1b\\", model.title));
    if let Some(directory) = &model.directory {
        out.extend_from_slice(b"\x1b]7;file://");
        for byte in directory.bytes() {
            match byte {
                b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(byte),
                _ => add(out, format_args!("%{byte:02X}")),
            }
        }
        out.extend_from_slice(b"\x1b\\");
    }
}

/// The modes that neither move the cursor nor change what is printed before the end.
fn plain_modes(model: &Model, out: &mut Vec<u8>) {
    for (number, mode) in modes::PRIVATE {
        let later = mode == Modes::ORIGIN || mode == Modes::SYNCHRONIZED;
        // xterm.js keeps a hidden cursor hidden over a reset.
        let always = mode == Modes::SHOW_CURSOR;
        if !later && (always || model.modes.has(mode) != Modes::DEFAULT.has(mode)) {
            let on = if model.modes.has(mode) { 'h' } else { 'l' };
            add(out, format_args!("\x1b[?{number}{on}"));
        }
    }
    for number in [model.mouse, model.mouse_encoding] {
        if number != 0 {
            add(out, format_args!("\x1b[?{number}h"));
        }
    }
    if model.cursor_style != 0 {
        add(out, format_args!("\x1b[{} q", model.cursor_style));
    }
    if model.modify_other_keys != 0 {
        add(out, format_args!("\x1b[>4;{}m", model.modify_other_keys));
    }
    // xterm.js keeps this one over a reset.
    add(out, format_args!("\x1b[20{}", if model.modes.has(Modes::NEWLINE) { 'h' } else { 'l' }));
}

fn cursor(model: &Model, out: &mut Vec<u8>) {
    let (row, width) = (&model.grid().rows[model.y], model.width());
    let mut top = 0;
    if model.modes.has(Modes::ORIGIN) {
        out.extend_from_slice(b"\x1b[?6h");
        top = model.margins().start;
    }
    // To have the cursor behind the last column, that is printed again.
    let x = if model.x < width { model.x } else { width - 1 - usize::from(row.is_spacer(width - 1)) };
    add(out, format_args!("\x1b[{};{}H", model.y - top + 1, x + 1));
    let mut painter = Painter::new(out);
    if model.x == width {
        let cells: Vec<Cell> = (x..width).map(|x| row.get(x).clone()).collect();
        painter.cells(&cells);
    }
    painter.bytes(if model.modes.has(Modes::INSERT) { "\x1b[4h" } else { "" });
    painter.bytes(designations(&model.charsets));
    painter.pen(&model.pen);
    painter.bytes(if model.modes.has(Modes::SYNCHRONIZED) { "\x1b[?2026h" } else { "" });
}

fn add(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes every byte");
}
