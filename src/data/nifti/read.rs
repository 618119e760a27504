//! From a file to a [`Volume`]: header, checks, then voxels in slabs.

use std::path::Path;

use super::header::Header;
use super::stream::{Stream, header_path, image_path};
use super::{Channels, ReadLimits, ReadOptions};
use crate::data::volume::Volume;
use crate::{Error, Result, limits};

/// Values of one slab at most, and slices: 16 f32 are a cache line of the transposed output.
const SLAB_VALUES: usize = 1 << 20;
const SLAB_SLICES: usize = 16;

/// Reads and checks a header without touching the voxels.
///
/// Errors: [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is refused.
pub fn read_header(path: &Path, limits: &ReadLimits) -> Result<Header> {
    open(path, limits).map(|(header, _)| header)
}

fn open(path: &Path, limits: &ReadLimits) -> Result<(Header, Stream)> {
    let header_file = header_path(path)?;
    let mut stream = Stream::open(&header_file)?;
    let mut bytes = [0; 540];
    // A NIfTI-1 file may be shorter than a NIfTI-2 header: read 348 bytes, then the rest if needed.
    let (first, rest) = bytes.split_at_mut(348);
    let mut read = stream.fill(first)?;
    if read == 348 && matches!(first, [0x1c, 2, 0, 0, ..] | [0, 0, 2, 0x1c, ..]) {
        read += stream.fill(rest)?;
    }
    let header = Header::parse(bytes.get(..read).unwrap_or_default(), limits)
        .map_err(|reason| Error::data(&header_file, reason))?;
    if header.is_pair {
        stream = Stream::open(&image_path(&header_file)?)?;
    }
    Ok((header, stream))
}

/// Reads a NIfTI file as f32 `[c, d, h, w]`, with slope and intercept applied in f64.
///
/// The axes keep the file's order: `(d, h, w)` is nibabel's `[i, j, k]`. The axes after the third
/// become channels (the fourth fastest), as far as `options.channels` allows. Working memory beside
/// the result is about 12 MiB, or a few rows.
///
/// Errors: [`Error::Io`] when a file cannot be read; [`Error::Data`] with the reason when it is
/// refused (no NIfTI file, damaged, truncated, beyond a limit, a type or shape that is not a
/// volume); [`Error::OutOfMemory`] when there is no room for the voxels.
pub fn read_volume(path: &Path, options: &ReadOptions) -> Result<Volume> {
    let (header, mut stream) = open(path, &options.limits)?;
    let channels = header.channels();
    let allowed = match options.channels {
        Channels::Single => 1,
        Channels::UpTo(n) => n,
    };
    if channels > allowed {
        return Err(Error::data(
            path,
            format!(
                "shape {:?} has {channels} values per voxel (time points or channels), {allowed} \
                 are expected: say so (pre-training: model.in_chans = {channels}; a task: as many \
                 channels), or split the file into 3-D volumes",
                header.shape
            ),
        ));
    }
    let bytes = header.values().saturating_mul(header.dtype.size() as u64);
    stream.require(header.vox_offset.saturating_add(bytes), &options.limits)?;
    stream.skip_to(header.vox_offset)?;

    let dims = header.spatial_dims();
    let voxels: usize = dims.iter().product();
    let mut data = limits::zeroed(
        voxels * channels,
        &format!("{}: {} voxels", path.display(), voxels * channels),
    )?;
    for channel in data.chunks_exact_mut(voxels) {
        read_channel(&mut stream, &header, dims, channel)?;
    }
    stream.verify_end()?;
    Volume::new(data, channels, dims, header.affine, header.space_code)
}

/// Reads one channel, stored with the first axis fastest, into `out`, with the last axis fastest.
///
/// It comes in slabs of up to 16 slices `w`, so that the transposed writes fill cache lines; a
/// slice too large for a slab comes in bands of rows.
fn read_channel(
    stream: &mut Stream,
    header: &Header,
    [nd, nh, nw]: [usize; 3],
    out: &mut [f32],
) -> Result<()> {
    let slices = (SLAB_VALUES / (nd * nh)).clamp(1, SLAB_SLICES);
    let rows = if slices > 1 { nh } else { (SLAB_VALUES / nd).clamp(1, nh) };
    let mut raw = Vec::new();
    let mut slab = Vec::new();
    for w0 in (0..nw).step_by(slices) {
        let w1 = (w0 + slices).min(nw);
        for h0 in (0..nh).step_by(rows) {
            let h1 = (h0 + rows).min(nh);
            let count = nd * (h1 - h0) * (w1 - w0);
            raw.resize(count * header.dtype.size(), 0);
            stream.read_exact(&mut raw)?;
            slab.clear();
            header.dtype.decode(&raw, header.big_endian, header.scaling, &mut slab);
            let slice = nd * (h1 - h0);
            for h in h0..h1 {
                for d in 0..nd {
                    let from = (h - h0) * nd + d;
                    let to = (d * nh + h) * nw;
                    for (w, y) in (w0..w1).zip(&mut out[to + w0..to + w1]) {
                        *y = slab[(w - w0) * slice + from];
                    }
                }
            }
        }
    }
    Ok(())
}
