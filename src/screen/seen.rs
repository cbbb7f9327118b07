//! Everything that a program or a user can see of a screen, as text that two screens are compared by.

use std::fmt::Write;

use sandbox::control::Size;

use super::Screen;
use super::cell::{Cell, Colour, Style};
use super::grid::Grid;
use super::history::Joint;
use super::row::Row;

/// All of it, one fact a line. What the history has is told line by line.
pub(crate) fn all(screen: &Screen) -> String {
    let mut out = now(screen);
    for (index, (line, bytes)) in screen.model.history.stored().enumerate() {
        if index == 0 {
            // What it went on from may be forgotten: that shows in how it is written, and nobody can see it.
            let mut alone = Screen::new(Size { cols: 2000, rows: 2 });
            alone.feed(&bytes);
            out += &rows(&alone.model.primary);
            continue;
        }
        let joint = if line.joint == Joint::None { "" } else { " wrapped" };
        writeln!(out, "history {:?}{joint}", String::from_utf8_lossy(&bytes)).unwrap();
    }
    writeln!(out, "lines {:?}", lines_from(screen, screen.history().first() + 1)).unwrap();
    out
}

/// All of it, but of the history only what doesn't depend on how wide the screen was when lines were broken: text and
/// colours, but no background, which a terminal gives to the whole row when it breaks a line, and no blanks, one of which
/// may be the coloured cell that a wide character left.
pub(crate) fn all_but_breaks(screen: &Screen) -> String {
    let mut wide = Screen::new(Size { cols: 2000, rows: 2000 });
    wide.feed(lines(screen).as_bytes());
    let mut lines: Vec<Vec<Cell>> = Vec::new();
    for row in &wide.model.primary.rows {
        // What is wrapped here goes on from the row above, be it with nothing but blanks.
        if !row.wrapped || lines.is_empty() {
            lines.push(Vec::new());
        }
        let style = |cell: &Cell| Style { bg: Colour::DEFAULT, ..cell.style };
        let text = row.cells().iter().filter(|cell| cell.text != ' ' || !cell.marks().is_empty());
        let line = lines.last_mut().expect("just pushed");
        line.extend(text.map(|cell| Cell { style: style(cell), ..cell.clone() }));
    }
    // Rows below all that was written.
    while lines.pop_if(|line| line.is_empty()).is_some() {}
    now(screen) + &lines.into_iter().map(|line| cells(&Row::of(line, false, false)) + "\n").collect::<String>()
}

/// All lines of the history.
pub(crate) fn lines(screen: &Screen) -> String {
    lines_from(screen, 0)
}

fn lines_from(screen: &Screen, from: u64) -> String {
    let mut out = Vec::new();
    assert_eq!(screen.history().lines(from, usize::MAX, &mut out), screen.history().end());
    String::from_utf8(out).unwrap()
}

fn now(screen: &Screen) -> String {
    let model = &screen.model;
    let mut out = format!(
        "{:?} cursor {} {} on_alternate {}\n{:?}\n{:?}\n{:?} mouse {} {} style {} keys {}\n{:?} {:?} {:?}\n{:?}\npending {:?}\n",
        screen.size(),
        model.x,
        model.y,
        model.on_alternate,
        model.pen,
        model.charsets,
        model.modes,
        model.mouse,
        model.mouse_encoding,
        model.cursor_style,
        model.modify_other_keys,
        model.title,
        model.titles,
        model.directory,
        model.palette,
        String::from_utf8_lossy(screen.parser.pending()),
    );
    for (name, grid) in [("primary", &model.primary), ("alternate", &model.alternate)] {
        let stops: Vec<_> = grid.tabs.stops(grid.width).collect();
        writeln!(out, "{name} {:?} tabs {stops:?} {:?} {:?}", grid.margins, grid.saved, grid.keyboard).unwrap();
        out += &rows(grid);
    }
    out
}

fn rows(grid: &Grid) -> String {
    let above = |y: usize| grid.rows.get(y.wrapping_sub(1));
    let wrapped = |(y, row): (usize, &Row)| match above(y).is_some_and(|above| row.leaves_rest(above, grid.width)) {
        true => " wrapped short",
        false if row.wrapped => " wrapped",
        false => "",
    };
    grid.rows.iter().enumerate().map(|(y, row)| format!("{}{}\n", cells(row), wrapped((y, row)))).collect()
}

fn cells(row: &Row) -> String {
    let mut out = String::from("|");
    let mut last = Cell::BLANK;
    for cell in &row.cells()[..row.length(usize::MAX)] {
        if !cell.looks_like(&last) {
            write!(out, "<{:?} {:?} {:?}>", cell.style, cell.underline(), cell.link()).unwrap();
        }
        last = cell.clone();
        write!(out, "{}{}", cell.text.escape_debug(), cell.marks()).unwrap();
    }
    out
}
