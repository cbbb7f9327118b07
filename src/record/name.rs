//! A recording's name: of which session it is, and when it began. Names order by time. It knows no folder.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use sandbox::control::SessionName;

const EXTENSION: &str = ".cast";

/// Most recordings of one session that begin in the same second.
const NUMBER_MAX: u8 = 99;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// `<session>-<YYYYmmddTHHMMSSZ>.cast`, with `-2`, `-3` … behind the time if there was one of this name already.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    // In the order in which names are compared.
    stamp: String,
    number: u8,
    session: SessionName,
}

impl Name {
    /// The name of a recording that begins now.
    pub(super) fn new(session: SessionName, now: SystemTime) -> Self {
        Self { stamp: stamp(now), number: 1, session }
    }

    /// The next one, if this is taken.
    pub(super) fn next(self) -> Option<Self> {
        (self.number < NUMBER_MAX).then(|| Self { number: self.number + 1, ..self })
    }

    /// Checks a name as it came from an address or a folder: only those that [`fmt::Display`] gives are names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (rest, last) = text.strip_suffix(EXTENSION)?.rsplit_once('-')?;
        let (session, stamp, number) = match last.parse() {
            Ok(number) => {
                let (session, stamp) = rest.rsplit_once('-')?;
                (session, stamp, number)
            }
            Err(_) => (rest, last, 1),
        };
        let session = SessionName::parse(session)?;
        let name = Self { stamp: stamp.to_owned(), number, session };
        (is_stamp(stamp) && (1..=NUMBER_MAX).contains(&number) && name.to_string() == text).then_some(name)
    }

    /// The session.
    pub(crate) fn session(&self) -> &SessionName {
        &self.session
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stamp, number, session } = self;
        match number {
            1 => write!(f, "{session}-{stamp}{EXTENSION}"),
            _ => write!(f, "{session}-{stamp}-{number}{EXTENSION}"),
        }
    }
}

/// A time as `YYYYmmddTHHMMSSZ`.
fn stamp(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / SECONDS_PER_DAY);
    let second = seconds % SECONDS_PER_DAY;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

fn is_stamp(text: &str) -> bool {
    const FORM: &[u8] = b"00000000T000000Z";
    let fits = |(byte, form): (u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form };
    text.len() == FORM.len() && text.bytes().zip(FORM).all(fits)
}

/// The date of a day since 1970, in years that begin in March, so that the leap day is a year's last (Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(day: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_BEFORE_1970: u64 = 719_468;
    let day = day + DAYS_BEFORE_1970;
    let (era, day) = (day / DAYS_PER_ERA, day % DAYS_PER_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_795_522_205, "20261124T121005Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn only_what_would_be_made_is_a_name() {
        for (text, session) in [
            ("main-20261124T120000Z.cast", "main"),
            ("main-20261124T120000Z-2.cast", "main"),
            ("a-b_c-20261124T120000Z-99.cast", "a-b_c"),
            ("a-20261124T120000Z-20261124T120001Z.cast", "a-20261124T120000Z"),
        ] {
            let name = Name::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((name.session().as_str(), name.to_string().as_str()), (session, text));
        }
        for text in [
            "",
            ".cast",
            "main.cast",
            "main-20261124T120000Z",
            "main-20261124T120000Z.cast.tmp",
            "-20261124T120000Z.cast",
            ".-20261124T120000Z.cast",
            "../main-20261124T120000Z.cast",
            "a/b-20261124T120000Z.cast",
            "main-20261124t120000z.cast",
            "main-2026112XT120000Z.cast",
            "main-20261124T120000Z-1.cast",
            "main-20261124T120000Z-02.cast",
            "main-20261124T120000Z-+2.cast",
            "main-20261124T120000Z-100.cast",
            "main-20261124T120000Z-2-3.cast",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_order_by_time() {
        let name = |text| Name::parse(text).expect("a name");
        let ordered = ["b-20261124T120000Z.cast", "a-20261124T120000Z-2.cast", "a-20261124T120001Z.cast"].map(name);
        assert!(ordered.is_sorted());
        let first = ordered[2].clone();
        assert_eq!(first.next().map(|name| name.to_string()).as_deref(), Some("a-20261124T120001Z-2.cast"));
    }
}
