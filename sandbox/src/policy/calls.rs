//! Names and numbers of system calls.

use std::collections::BTreeMap;
use std::sync::LazyLock;

#[cfg(target_arch = "aarch64")]
use syscalls::aarch64 as here;
#[cfg(target_arch = "x86_64")]
use syscalls::x86_64 as here;

/// The only ABI that is served (linux/audit.h).
#[cfg(target_arch = "x86_64")]
pub(crate) const AUDIT_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const AUDIT_ARCHITECTURE: u32 = 0xc000_00b7;

/// The calls that a table has. Not by its own iterator, which leaves the last one out.
macro_rules! table {
    ($arch:path) => {{
        use $arch as arch;
        let last = arch::Sysno::last().id().cast_unsigned();
        let all = (0..=last).filter_map(|number| Some((arch::Sysno::new(number as usize)?.name(), number)));
        all.collect::<BTreeMap<&'static str, u32>>()
    }};
}

static HERE: LazyLock<BTreeMap<&'static str, u32>> = LazyLock::new(|| table!(here));

/// The number of a call on this architecture.
pub fn number(name: &str) -> Option<u32> {
    HERE.get(name).copied()
}

/// The name of a number on this architecture.
pub fn name(number: u32) -> Option<&'static str> {
    here::Sysno::new(number as usize).map(|call| call.name())
}

/// Whether any architecture that Cloister runs on has such a call.
pub(super) fn exists(name: &str) -> bool {
    static ELSEWHERE: LazyLock<[BTreeMap<&'static str, u32>; 2]> =
        LazyLock::new(|| [table!(syscalls::x86_64), table!(syscalls::aarch64)]);
    number(name).is_some() || ELSEWHERE.iter().any(|table| table.contains_key(name))
}

#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    let tables = [table!(syscalls::x86_64), table!(syscalls::aarch64)];
    tables.into_iter().flat_map(BTreeMap::into_keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_kernels() {
        for (call, expected) in [
            ("read", libc::SYS_read),
            ("openat", libc::SYS_openat),
            ("clone3", libc::SYS_clone3),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
            ("mseal", libc::SYS_mseal),
        ] {
            assert_eq!(number(call).map(i64::from), Some(expected), "{call}");
            assert_eq!(name(expected as u32), Some(call));
        }
        assert!(number("file_setattr").is_some(), "the last one is there");
        assert_eq!(number("reed"), None);
        assert!(exists("open") && exists("fstatat") && !exists("reed"));
    }
}
