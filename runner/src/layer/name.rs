//! Names of files in a layer: relative, without `..`, within what the kernel takes. It touches no file.

use crate::{Error, Result};

/// The kernel's PATH_MAX, without the closing NUL.
const NAME_BYTES_MAX: usize = 4095;

/// The kernel's NAME_MAX.
const COMPONENT_BYTES_MAX: usize = 255;

/// A checked name: components joined by single slashes; empty for the layer's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(Vec<u8>);

impl Name {
    /// Checks a name as it stands in an archive. `/a`, `./a` and `a/` are all `a`.
    pub(super) fn parse(raw: &[u8], depth_max: usize) -> Result<Self> {
        let mut name = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(Error::refused("names with `..` may leave the root; rebuild the image without")),
                _ if component.len() > COMPONENT_BYTES_MAX => {
                    return Err(Error::refused(format_args!(
                        "a part of the name has more than {COMPONENT_BYTES_MAX} bytes"
                    )));
                }
                _ if component.contains(&0) => return Err(Error::refused("the name contains a NUL")),
                _ => {}
            }
            depth += 1;
            if depth > 1 {
                name.push(b'/');
            }
            name.extend_from_slice(component);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::refused(format_args!("the name has more than {NAME_BYTES_MAX} bytes")));
        }
        if depth > depth_max {
            return Err(Error::refused(format_args!("more than {depth_max} folders deep")));
        }
        Ok(Self(name))
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The folder it is in.
    pub(super) fn parent(&self) -> Self {
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Self(self.0[..end].to_vec())
    }

    /// Its last component; empty for the root.
    pub(super) fn leaf(&self) -> &[u8] {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => &self.0[slash + 1..],
            None => &self.0,
        }
    }

    /// The same folder with another last component, which is one of its own, shortened.
    pub(super) fn with_leaf(&self, leaf: &[u8]) -> Self {
        let mut name = self.parent().0;
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(leaf);
        Self(name)
    }

    pub(super) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative_or_are_refused() {
        let parse = |raw: &[u8]| Name::parse(raw, 4).map(|name| name.0);
        for (raw, name) in [
            (&b"a"[..], &b"a"[..]),
            (b"/a//./b/", b"a/b"),
            (b"./", b""),
            (b"/", b""),
            (b"", b""),
            (b"...", b"..."),
            (b"\xff", b"\xff"),
        ] {
            assert_eq!(parse(raw).unwrap(), name, "{raw:?}");
        }
        for bad in [&b".."[..], b"a/..", b"../a", b"/a/../b", b"a\0b", &[b'x'; 256], b"1/2/3/4/5"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(Name::parse(&[b"x/".as_slice(); 2048].concat(), 4096).is_ok());
        assert!(Name::parse(&[b"xy/".as_slice(); 2048].concat(), 4096).is_err());
    }

    #[test]
    fn names_come_apart_and_together() {
        let name = Name::parse(b"a/b/.wh.c", 9).unwrap();
        assert_eq!((name.parent().as_bytes(), name.leaf()), (&b"a/b"[..], &b".wh.c"[..]));
        assert_eq!(name.with_leaf(b"c").as_bytes(), b"a/b/c");
        let top = Name::parse(b"x", 9).unwrap();
        assert!(top.parent().is_root());
        assert_eq!(top.with_leaf(b"y").as_bytes(), b"y");
    }
}
