//! Whose size a session has. It knows the rules, `clients` who is there.

use std::fmt;
use std::str::FromStr;

use sandbox::control::Size;

/// The rule by which a session's size follows from those of its writers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sizing {
    /// That of the writer that typed last.
    #[default]
    Latest,
    /// One that all writers can show: the fewest columns of any, and the fewest rows.
    Smallest,
    /// This one, whoever is there.
    Fixed(Size),
}

impl Sizing {
    /// The size that a session is to have: `leader` is its leader's, `writers` are those of all who may type. `None` if
    /// it doesn't matter.
    pub(super) fn wanted(self, leader: Option<Size>, writers: impl Iterator<Item = Size>) -> Option<Size> {
        match self {
            Self::Latest => leader,
            Self::Smallest => {
                writers.reduce(|least, size| Size { cols: least.cols.min(size.cols), rows: least.rows.min(size.rows) })
            }
            Self::Fixed(size) => Some(size),
        }
    }
}

impl fmt::Display for Sizing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Smallest => f.write_str("smallest"),
            Self::Fixed(Size { cols, rows }) => write!(f, "{cols}x{rows}"),
        }
    }
}

impl FromStr for Sizing {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "must be \"latest\", \"smallest\", or a size like \"120x40\": 1 to 2000 each, at most 200000 cells";
        let fixed = || {
            let (cols, rows) = text.split_once('x')?;
            let size = Size { cols: cols.parse().ok()?, rows: rows.parse().ok()? };
            (size == size.clamped()).then_some(Self::Fixed(size))
        };
        match text {
            "latest" => Ok(Self::Latest),
            "smallest" => Ok(Self::Smallest),
            _ => fixed().ok_or(EXPECTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_reads_as_it_is_written() {
        let fixed = Sizing::Fixed(Size { cols: 120, rows: 40 });
        for (text, sizing) in [("latest", Sizing::Latest), ("smallest", Sizing::Smallest), ("120x40", fixed)] {
            assert_eq!((text.parse(), sizing.to_string()), (Ok(sizing), text.to_owned()));
        }
        for wrong in ["", "largest", "120", "0x24", "80x2001", "2000x2000", "80 x 24", "99999x1"] {
            assert!(wrong.parse::<Sizing>().unwrap_err().contains("120x40"), "{wrong}");
        }
    }

    #[test]
    fn the_smallest_fits_everybody() {
        let sizes = [Size { cols: 200, rows: 20 }, Size { cols: 90, rows: 50 }];
        assert_eq!(Sizing::Smallest.wanted(None, sizes.into_iter()), Some(Size { cols: 90, rows: 20 }));
        assert_eq!(Sizing::Smallest.wanted(Some(sizes[0]), std::iter::empty()), None);
    }
}
