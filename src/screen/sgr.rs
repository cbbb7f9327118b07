//! What SGR makes of the pen (ECMA-48, with colours and underlines as xterm and kitty have them).

use super::cell::{Attributes, Colour, Pen, Style};
use super::csi::Csi;

/// Changes the pen.
pub(super) fn sgr(csi: &Csi, pen: &mut Pen) {
    let values = csi.values();
    let mut rest = values;
    while let [number, behind @ ..] = rest {
        let begin = values.len() - behind.len();
        let length = (begin..values.len()).take_while(|index| csi.is_subparameter(*index)).count();
        let (subparameters, others) = behind.split_at(length);
        rest = others;
        let attributes = &mut pen.style.attributes;
        match *number {
            0 => *pen = Pen::new(Style::DEFAULT, Colour::DEFAULT, pen.link().cloned()),
            number @ (1..=3 | 5 | 7..=9 | 53) => attributes.set(attribute(number)),
            4 => attributes.set_underline(subparameters.first().copied().filter(|style| *style <= 5).unwrap_or(1)),
            21 => attributes.set_underline(2),
            22 => attributes.clear(attribute(1) | attribute(2)),
            24 => attributes.set_underline(0),
            number @ (23 | 25 | 27..=29) => attributes.clear(attribute(number - 20)),
            number @ 30..=37 => pen.style.fg = Colour::index(number as u8 - 30),
            number @ 90..=97 => pen.style.fg = Colour::index(number as u8 - 82),
            number @ 40..=47 => pen.style.bg = Colour::index(number as u8 - 40),
            number @ 100..=107 => pen.style.bg = Colour::index(number as u8 - 92),
            39 => pen.style.fg = Colour::DEFAULT,
            49 => pen.style.bg = Colour::DEFAULT,
            55 => attributes.clear(attribute(53)),
            59 => pen.set_underline(Colour::DEFAULT),
            target @ (38 | 48 | 58) => {
                let colour = if length > 0 { joined_colour(subparameters) } else { next_colour(&mut rest) };
                match (target, colour) {
                    (38, Some(colour)) => pen.style.fg = colour,
                    (48, Some(colour)) => pen.style.bg = colour,
                    (_, Some(colour)) => pen.set_underline(colour),
                    (_, None) => {}
                }
            }
            _ => {}
        }
    }
}

/// The attribute that an SGR number sets.
fn attribute(number: u16) -> u16 {
    match number {
        1 => Attributes::BOLD,
        2 => Attributes::DIM,
        3 => Attributes::ITALIC,
        5 => Attributes::BLINK,
        7 => Attributes::INVERSE,
        8 => Attributes::HIDDEN,
        9 => Attributes::STRIKE,
        _ => Attributes::OVERLINE,
    }
}

/// The colour in the subparameters of 38, 48 or 58. A colour space may come before red.
fn joined_colour(values: &[u16]) -> Option<Colour> {
    match *values {
        [5, index, ..] => Some(Colour::index(index as u8)),
        [2, red, green, blue] | [2, _, red, green, blue, ..] => Some(Colour::rgb(red as u8, green as u8, blue as u8)),
        _ => None,
    }
}

/// The colour in the parameters behind 38, 48 or 58.
fn next_colour(rest: &mut &[u16]) -> Option<Colour> {
    let (colour, behind) = match *rest {
        [5, index, behind @ ..] => (Some(Colour::index(*index as u8)), behind),
        [2, red, green, blue, behind @ ..] => (Some(Colour::rgb(*red as u8, *green as u8, *blue as u8)), behind),
        // Cut off or unknown: what follows can't be told apart.
        [2 | 5, ..] => (None, &[][..]),
        [_, behind @ ..] => (None, behind),
        [] => (None, &[][..]),
    };
    *rest = behind;
    colour
}
