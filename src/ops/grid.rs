//! The grid of a volume whose voxels are the rows of a matrix.

/// A batch of volumes as the rows of a matrix `[batch * d * h * w, channels]`, the last axis fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoxelGrid {
    pub batch: usize,
    /// Voxels along d, h and w.
    pub dims: [usize; 3],
}

impl VoxelGrid {
    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.batch * self.voxels()
    }

    /// Voxels of one volume.
    pub fn voxels(&self) -> usize {
        self.dims.iter().product()
    }
}
