//! How sequences lie in a packed matrix, and the work lists of the kernels made from that once.

use super::{OP, hopper};
use crate::device::{Device, Tensor};
use crate::{Error, Result};

/// Where the sequences of a packed matrix begin and end.
#[derive(Clone, Debug)]
pub struct Packing {
    /// `[S + 1]` i32: sequence `s` is rows `cu_seqlens[s] .. cu_seqlens[s + 1]`.
    pub cu_seqlens: Tensor,
    lengths: Vec<usize>,
    /// What the kernels work through; nothing on the CPU.
    pub(super) work: Option<Work>,
}

impl Packing {
    /// Sequences of these lengths, one after the other. A length of 0 is an error.
    pub fn new(device: &Device, lengths: &[usize]) -> Result<Self> {
        let mut ends = vec![0i32];
        let mut total = 0usize;
        for &length in lengths {
            total += length;
            let end = i32::try_from(total).ok().filter(|_| length > 0).ok_or_else(|| {
                Error::shape(
                    OP,
                    "sequences of 1 token or more, 2^31 - 1 in all",
                    format!("{lengths:?}"),
                )
            })?;
            ends.push(end);
        }
        let cu_seqlens = Tensor::from_slice(device, &ends, &[ends.len()])?;
        let work = match device {
            Device::Cpu => None,
            _ => Some(Work::new(device, lengths)?),
        };
        Ok(Self { cu_seqlens, lengths: lengths.to_vec(), work })
    }

    /// Length of every sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Rows of the packed matrix.
    pub fn total(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// First row of every sequence.
    pub fn starts(&self) -> Vec<usize> {
        self.lengths
            .iter()
            .scan(0, |end, &n| {
                *end += n;
                Some(*end - n)
            })
            .collect()
    }
}

/// Rows up to which one block takes a whole sequence in the backward pass.
pub(super) const WHOLE: [usize; 3] = [64, 128, 256];

/// Work lists on the device: `[n, 4]` i32 tiles (first row of the sequence, its length, first row
/// of the tile within it, 0), the longest sequences first so that no long one is left for the end.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Tiles of 128 rows of all sequences.
    pub by_128: Tensor,
    /// The tiles of `by_128` that belong to sequences longer than `WHOLE`.
    pub long_by_128: Tensor,
    /// Sequences of up to `WHOLE[i]` rows, and more than `WHOLE[i - 1]`.
    pub whole: [Tensor; 3],
    /// Tiles of 64 rows of all sequences.
    pub by_64: Tensor,
    /// Length of the longest sequence.
    pub longest: usize,
    /// The launches of Hopper's kernels, where the device has them and the sequences are of few lengths.
    pub hopper: Option<Vec<hopper::Part>>,
}

impl Work {
    fn new(device: &Device, lengths: &[usize]) -> Result<Self> {
        let mut sequences = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths {
            sequences.push((start, length));
            start += length;
        }
        sequences.sort_by_key(|&(_, length)| std::cmp::Reverse(length));
        let upload = |sequences: &[(usize, usize)], rows: usize| {
            let tiles = tiles(sequences, rows);
            Tensor::from_slice(device, tiles.as_flattened(), &[tiles.len(), 4])
        };
        let longer = |rows: usize| sequences.partition_point(|&(_, length)| length > rows);
        let [a, b, c] = WHOLE.map(longer);
        let by_128 = upload(&sequences, 128)?;
        let long = tiles(&sequences[..c], 128).len();
        Ok(Self {
            long_by_128: by_128.view(0, &[long, 4])?,
            by_128,
            whole: [
                upload(&sequences[a..], usize::MAX)?,
                upload(&sequences[b..a], usize::MAX)?,
                upload(&sequences[c..b], usize::MAX)?,
            ],
            by_64: upload(&sequences, 64)?,
            longest: sequences.first().map_or(0, |&(_, length)| length),
            hopper: hopper::parts(device, lengths)?,
        })
    }
}

/// Tiles of `rows` rows of (start, length) sequences. All fit i32: [`Packing::new`] checked the sum.
fn tiles(sequences: &[(usize, usize)], rows: usize) -> Vec<[i32; 4]> {
    let of = |&(start, length): &(usize, usize)| {
        let firsts = (0..length).step_by(rows.min(length.max(1)));
        firsts.map(move |first| [start as i32, length as i32, first as i32, 0])
    };
    sequences.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::emulated::{Mode, Schedule};

    #[test]
    fn work_lists_cover_every_row_once_longest_first() {
        let device = Device::emulated(Mode::Plain, Schedule::Ascending);
        let lengths = [64, 300, 1, 65, 128, 257, 256, 129, 64];
        let packing = Packing::new(&device, &lengths).unwrap();
        let work = packing.work.as_ref().unwrap();
        let rows_of = |list: &Tensor, rows: usize| {
            let list = list.to_vec::<i32>().unwrap();
            let (tiles, _) = list.as_chunks::<4>();
            assert!(tiles.is_sorted_by_key(|t| -t[1]));
            let ranges = tiles.iter().map(|t| {
                let first = (t[0] + t[2]) as usize;
                first..first + rows.min((t[1] - t[2]) as usize)
            });
            ranges.flatten().collect::<Vec<usize>>()
        };
        let total = packing.total();
        for (list, rows) in [(&work.by_128, 128), (&work.by_64, 64)] {
            let mut rows = rows_of(list, rows);
            rows.sort_unstable();
            assert_eq!(rows, (0..total).collect::<Vec<_>>());
        }
        assert_eq!(work.whole.each_ref().map(|t| t.shape()[0]), [3, 2, 2]);
        let mut rows: Vec<usize> =
            work.whole.iter().flat_map(|list| rows_of(list, usize::MAX)).collect();
        rows.extend(rows_of(&work.long_by_128, 128));
        rows.sort_unstable();
        assert_eq!(rows, (0..total).collect::<Vec<_>>());
        assert_eq!(work.longest, 300);
    }
}
