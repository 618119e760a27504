//! Class probabilities of a whole volume, which may be larger than the memory: they wait in a file.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::segment::{Decision, Slab};
use crate::{Error, Result};

/// `[channels, d, h, w]` f32 in a temporary file: 8.8 GB for 14 classes over 512 x 512 x 600 voxels.
pub struct Probabilities {
    path: PathBuf,
    file: File,
    channels: usize,
    dims: [usize; 3],
    /// The bytes of a slab on their way.
    bytes: Vec<u8>,
}

impl Probabilities {
    /// An empty file in `folder`. Errors: [`Error::Io`], also when the disk has no room for it.
    pub fn new(folder: &Path, channels: usize, dims: [usize; 3]) -> Result<Self> {
        let path = folder.join(format!(".probabilities.{}.tmp", std::process::id()));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(Error::io(&path, "create"))?;
        if cfg!(unix) {
            // Without a name it is gone with the process, however that ends.
            fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
        }
        Ok(Self { path, file, channels, dims, bytes: Vec::new() })
    }

    /// Voxels of a channel.
    fn voxels(&self) -> u64 {
        self.dims.iter().map(|&n| n as u64).product()
    }

    /// Keeps the values `[channels, h, w]` of a slab.
    ///
    /// Errors: [`Error::Io`]; [`Error::Shape`] when the slab has another size.
    pub fn put(&mut self, slab: Slab, values: &[f32]) -> Result<()> {
        let n = slab.column.slab();
        if values.len() != self.channels * n {
            let expected = format!("{} x {n} values", self.channels);
            return Err(Error::shape("probabilities", expected, values.len().to_string()));
        }
        let width = slab.column.size[1];
        for (c, channel) in values.chunks_exact(n).enumerate() {
            let rows: Vec<(usize, usize)> = slab.rows(self.dims).collect();
            // Rows of a column as wide as the volume follow each other.
            let together = if width == self.dims[2] { rows.len() } else { 1 };
            for group in rows.chunks(together) {
                let Some(&(to, from)) = group.first() else { continue };
                self.bytes.clear();
                let run = &channel[from..from + group.len() * width];
                self.bytes.extend(run.iter().flat_map(|v| v.to_le_bytes()));
                let at = 4 * (c as u64 * self.voxels() + to as u64);
                let seek = self.file.seek(SeekFrom::Start(at));
                let written = seek.and_then(|_| self.file.write_all(&self.bytes));
                written.map_err(Error::io(&self.path, "write"))?;
            }
        }
        Ok(())
    }

    /// One channel `[d, h, w]`. Errors: [`Error::Io`]; [`Error::OutOfMemory`].
    pub fn channel(&mut self, c: usize) -> Result<Vec<f32>> {
        let n = self.voxels();
        let mut values = Vec::new();
        let count = usize::try_from(n).ok().filter(|&n| values.try_reserve_exact(n).is_ok());
        let count = count.ok_or_else(|| {
            Error::OutOfMemory(format!("no room for the probabilities of {:?} voxels", self.dims))
        })?;
        let io = |e| Error::io(&self.path, "read")(e);
        self.file.seek(SeekFrom::Start(4 * c as u64 * n)).map_err(io)?;
        while values.len() < count {
            let room = (count - values.len()).min(1 << 20);
            self.bytes.resize(4 * room, 0);
            self.file.read_exact(&mut self.bytes).map_err(io)?;
            let (chunks, _) = self.bytes.as_chunks::<4>();
            values.extend(chunks.iter().map(|&b| f32::from_le_bytes(b)));
        }
        Ok(values)
    }
}

impl Drop for Probabilities {
    fn drop(&mut self) {
        if !cfg!(unix) {
            // Nothing depends on it; a leftover has a name that says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Scores `[outputs, n]` to probabilities, in place.
pub fn to_probabilities(scores: &mut [f32], n: usize, decision: Decision) {
    match decision {
        Decision::Regions => {
            for x in scores {
                *x = 1.0 / (1.0 + libm::expf(-*x));
            }
        }
        Decision::Classes => {
            let outputs = scores.len() / n.max(1);
            for i in 0..n {
                let at = |c: usize| c * n + i;
                let max = (0..outputs).map(|c| scores[at(c)]).fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0;
                for c in 0..outputs {
                    let e = libm::expf(scores[at(c)] - max);
                    scores[at(c)] = e;
                    sum += e;
                }
                for c in 0..outputs {
                    scores[at(c)] /= sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::window::Column;

    #[test]
    fn probabilities_add_up_to_one() {
        let mut scores = vec![1.0, 100.0, -3.0, 0.5, -100.0, -3.0];
        to_probabilities(&mut scores, 3, Decision::Classes);
        for i in 0..3 {
            assert!((scores[i] + scores[3 + i] - 1.0).abs() < 1e-6);
        }
        assert_eq!((scores[1], scores[4]), (1.0, 0.0));
    }

    #[test]
    fn slabs_of_columns_become_channels() {
        let folder = tempfile::tempdir().unwrap();
        let dims = [2, 3, 5];
        let mut kept = Probabilities::new(folder.path(), 2, dims).unwrap();
        let value = |c: usize, d: usize, h: usize, w: usize| (((c * 2 + d) * 3 + h) * 5 + w) as f32;
        // A column as wide as the volume and two that are not.
        for (first, size) in [([0, 0], [1, 5]), ([1, 0], [2, 3]), ([1, 3], [2, 2])] {
            for d in [1, 0] {
                let slab = Slab { d, column: Column { first, size } };
                let mut values = Vec::new();
                for c in 0..2 {
                    for h in first[0]..first[0] + size[0] {
                        values.extend((first[1]..first[1] + size[1]).map(|w| value(c, d, h, w)));
                    }
                }
                kept.put(slab, &values).unwrap();
                assert!(kept.put(slab, &values[1..]).is_err());
            }
        }
        for c in [1, 0] {
            let want: Vec<f32> = (0..30).map(|i| (c * 30 + i) as f32).collect();
            assert_eq!(kept.channel(c).unwrap(), want);
        }
        assert!(kept.channel(2).is_err());
        drop(kept);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
