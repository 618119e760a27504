//! NIfTI-1 and NIfTI-2 files, single or in pairs, plain or gzipped, in both byte orders.
//!
//! The rules are nibabel 5.4's wherever nibabel has one (scaling, choice of the affine, header
//! repairs); where nibabel would read something that cannot be meant (an offset inside the header,
//! a singular affine) the file is refused with the reason. Every size is checked against
//! [`ReadLimits`] before memory is asked for, and no byte of a file can make the reader panic.

mod affine;
mod dtype;
mod header;
mod read;
mod stream;
mod write;

pub use stream::header_path;
pub(crate) use stream::{is_nifti_name, strip_nifti};

use serde::{Deserialize, Serialize};

pub use dtype::Dtype;
pub use header::{Header, Placement, Version};
pub use read::{read_header, read_volume};
pub use write::{Frame, Stored, write_channels, write_labels, write_volume};

/// What a file may ask for. A file above a limit is refused before memory is allocated; the error
/// names the key to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadLimits {
    /// Most voxels of one file, all channels together (`limits.max_voxels`). 2^31.
    pub max_voxels: u64,
    /// Most bytes a byte of gzip may expand to, beyond `gz_free_bytes` (`limits.max_gz_ratio`).
    /// 200: real scans stay below 50, only constant volumes and bombs get near deflate's 1032.
    pub max_gz_ratio: u64,
    /// Expanded bytes that are allowed whatever the ratio (`limits.gz_free_bytes`). 64 MiB.
    pub gz_free_bytes: u64,
    /// Most bytes between the header and the voxels (`limits.max_extension_bytes`). 1 MiB.
    pub max_extension_bytes: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            max_voxels: 1 << 31,
            max_gz_ratio: 200,
            gz_free_bytes: 64 << 20,
            max_extension_bytes: 1 << 20,
        }
    }
}

/// How many values per voxel a caller takes. NIfTI stores channels, time points and vector
/// components in the axes after the third; a file does not say which of them they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Exactly one; a 4-D file is an error.
    Single,
    /// From 1 to this many: the axes after the third become the channel axis.
    UpTo(usize),
}

/// How to read a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadOptions {
    pub channels: Channels,
    pub limits: ReadLimits,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { channels: Channels::Single, limits: ReadLimits::default() }
    }
}
