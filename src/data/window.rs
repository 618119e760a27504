//! Boxes of voxels that lie within a volume.

use super::Prepared;

/// The middle of an image, `[channels, roi]`. It is at least as large as `roi`.
pub fn centre(image: &Prepared, roi: [usize; 3]) -> Vec<f32> {
    let dims = image.dims();
    window(image, [0, 1, 2].map(|a| dims[a].saturating_sub(roi[a]) / 2), roi)
}

/// The box of `roi` voxels from `start` on, `[channels, roi]`.
pub fn window(image: &Prepared, start: [usize; 3], roi: [usize; 3]) -> Vec<f32> {
    let dims = image.dims();
    let mut voxels = Vec::with_capacity(image.channels() * roi.iter().product::<usize>());
    for channel in image.voxels().chunks_exact(dims.iter().product()) {
        voxels.extend(cut(channel, dims, start, roi));
    }
    voxels
}

/// The box of `roi` voxels from `start` on, of one channel of `dims` voxels.
pub fn cut<T: Copy>(volume: &[T], dims: [usize; 3], start: [usize; 3], roi: [usize; 3]) -> Vec<T> {
    let mut out = Vec::with_capacity(roi.iter().product());
    for d in start[0]..start[0] + roi[0] {
        for h in start[1]..start[1] + roi[1] {
            let row = (d * dims[1] + h) * dims[2] + start[2];
            out.extend_from_slice(&volume[row..row + roi[2]]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_cut_where_it_begins() {
        let dims = [2, 3, 4];
        let volume: Vec<usize> = (0..24).collect();
        assert_eq!(cut(&volume, dims, [0, 0, 0], dims), volume);
        assert_eq!(cut(&volume, dims, [1, 1, 2], [1, 2, 2]), [18, 19, 22, 23]);
    }
}
