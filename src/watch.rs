//! Waiting for a descriptor, as async code does it. It reads and writes nothing.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor, which its owner must keep as it is. Call it within a runtime; an error is the kernel's.
pub(crate) fn watched<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "the replacement trusts its caller in what types that exchange their descriptor could break; none of ours does"
    )]
    AsyncFd::with_interest(owner, interest)
}
