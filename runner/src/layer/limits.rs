//! How much of a layer is believed.

/// Bounds of one layer; what is beyond is refused by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members. A full desktop distribution has 400,000; every one costs an inode of the host.
    pub entries_max: u64,
    /// Bytes once uncompressed, and also of all files with their holes. The largest images in use (compilers for
    /// graphics processors, machine learning) have layers of about ten GiB.
    pub bytes_max: u64,
    /// Uncompressed bytes for each compressed one, beyond the first [`RATIO_FREE_BYTES`]. Programs and texts reach 4 to
    /// 10; a bomb of zeros has 1,000 and more.
    pub ratio_max: u64,
    /// Folders in folders. Package managers that nest reach 60; every level costs a descriptor when it is removed.
    pub depth_max: usize,
    /// Bytes of the names of all folders, which are kept in memory until their times can be set.
    pub folder_names_bytes_max: usize,
}

/// What may be uncompressed before the ratio counts: small layers of zeros are no harm.
pub(super) const RATIO_FREE_BYTES: u64 = 1 << 30;

/// Users and groups a cell has: its files can belong to no others.
pub(super) const IDS: u64 = 65_536;

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 1_000_000,
            bytes_max: 32 << 30,
            ratio_max: 200,
            depth_max: 256,
            folder_names_bytes_max: 64 << 20,
        }
    }
}
