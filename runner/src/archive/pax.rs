//! PAX records (POSIX.1-2017, pax, "pax Interchange Format"): `length key=value`, of which the ones that matter here are
//! taken over. It knows no tar header.

use super::sparse::CHUNKS_MAX;
use super::{Error, Result, Time, damaged};

/// What the records of one member say; `None` leaves it to the header.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// What GNU tar says in PAX records about a sparse file.
#[derive(Default)]
pub(super) struct Sparse {
    /// The file's name; the header's is then made up.
    pub(super) name: Option<Vec<u8>>,
    /// Size of the unpacked file.
    pub(super) size: Option<u64>,
    /// Offsets and lengths by turns (formats 0.0 and 0.1).
    pub(super) numbers: Vec<u64>,
    /// The map stands before the content (format 1.0).
    pub(super) in_content: bool,
}

impl Pax {
    pub(super) fn parse(body: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        let mut rest = body;
        while !rest.is_empty() {
            let (key, value) = record(&mut rest).ok_or_else(|| damaged("malformed PAX record"))?;
            pax.take(key, value)
                .map_err(|problem| Error::refused(format_args!("PAX record {}: {problem}", super::printable(key))))?;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // An empty value takes back what was said before.
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.linkpath = text,
            b"size" => self.size = decimal_or_none(value)?,
            b"uid" => self.uid = decimal_or_none(value)?,
            b"gid" => self.gid = decimal_or_none(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.name" => self.sparse.name = text,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = decimal_or_none(value)?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.push(decimal(value)?)?,
            b"GNU.sparse.map" => {
                for part in value.split(|byte| *byte == b',').filter(|part| !part.is_empty()) {
                    self.sparse.push(decimal(part)?)?;
                }
            }
            b"GNU.sparse.major" => self.sparse.in_content = decimal(value)? == 1,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    fn push(&mut self, number: u64) -> Result<()> {
        if self.numbers.len() >= 2 * CHUNKS_MAX {
            return Err(damaged(format_args!("more than {CHUNKS_MAX} chunks")));
        }
        self.numbers.push(number);
        Ok(())
    }
}

/// Splits one record off the front.
fn record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let space = rest.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&rest[..space]).ok()?).ok()?;
    if length <= space + 1 || length > rest.len() {
        return None;
    }
    let (record, after) = rest.split_at(length);
    *rest = after;
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..]))
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64> {
    let number = || {
        digits.iter().try_fold(0_u64, |value, byte| match byte {
            b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
            _ => None,
        })
    };
    if digits.is_empty() { None } else { number() }.ok_or_else(|| damaged("not a decimal number"))
}

fn decimal_or_none(digits: &[u8]) -> Result<Option<u64>> {
    if digits.is_empty() { Ok(None) } else { decimal(digits).map(Some) }
}

/// Seconds since 1970, perhaps negative, perhaps with a fraction.
fn time(text: &[u8]) -> Result<Time> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = parts.next().unwrap_or_default();
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| damaged("a time beyond all times"))?;
    let fraction = parts.next().unwrap_or_default();
    let mut nanos = 0;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        nanos = nanos * 10 + decimal(&[digit])? as u32;
    }
    Ok(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos },
        (true, _) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_any_byte() {
        let pax = Pax::parse(b"30 SCHILY.xattr.user.k=a\n=\0\xff\n\n11 path=xy\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.k".to_vec(), b"a\n=\0\xff\n".to_vec())]);
        assert_eq!(pax.path.unwrap(), b"xy");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b\n1",
            b"99 a=b\n",
            b"0 a=b\n",
            b"2 a=b\n",
            b"5 ab\n",
            b"-6 a=b\n",
            b"99999999999999999999 a=b\n",
            b"10 size=x\n",
            b"12 mtime=1-\n",
            b"9 uid=-1\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
    }

    #[test]
    fn times_may_have_fractions_and_lie_before_1970() {
        assert_eq!(time(b"12.0345678912").unwrap(), Time { seconds: 12, nanos: 34_567_891 });
        assert_eq!(time(b"-1").unwrap(), Time { seconds: -1, nanos: 0 });
        assert_eq!(time(b"-0.25").unwrap(), Time { seconds: -1, nanos: 750_000_000 });
    }
}
